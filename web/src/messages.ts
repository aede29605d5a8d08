/** One sentence at a time for the person: what changed, and what went wrong. */
import { signal } from "@preact/signals";
import { ApiError } from "./api";
import { t } from "./i18n";

export interface Message {
  text: string;
  kind: "news" | "error";
  id: number;
}

export const message = signal<Message | null>(null);

let last = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

export function say(text: string, kind: Message["kind"] = "news"): void {
  last += 1;
  message.value = { text, kind, id: last };
  clearTimeout(timer);
  timer = setTimeout(hush, kind === "error" ? 12_000 : 5000);
}

export function hush(): void {
  message.value = null;
}

/** An error as the sentence that the server wrote, or as that of a server that does not answer. */
export function sayError(error: unknown): void {
  if (error instanceof ApiError) say(error.status === 0 ? t("error.offline") : error.message, "error");
  else say(error instanceof Error ? error.message : String(error), "error");
}

/** Runs something that asks the server; its refusal becomes a message. */
export async function attempt<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    sayError(error);
    return null;
  }
}
