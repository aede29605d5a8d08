/**
 * Every change goes to the server; until it has answered, the change lies in the browser's storage.
 *
 * One entry per photo: the newest content and the revision that it was made on. A failed request is made
 * again, more and more slowly; a conflict or a refusal waits for a person.
 */
import type { ApiError } from "./api";
import { type Renaming, renamedContent } from "./renaming";
import type { Content, Photo } from "./types";

export type Trouble = "offline" | "conflict" | "refused";

interface Entry {
  content: Content;
  base: number;
  version: number;
  trouble: Trouble | null;
  attempts: number;
  timer: ReturnType<typeof setTimeout> | null;
  sending: Promise<void> | null;
}

export interface Kept {
  photo: string;
  base: number;
  content: Content;
}

export interface SavingEvents {
  /** The server has it; `clean` is false if something was changed meanwhile. */
  saved(photo: Photo, clean: boolean): void;
  conflict(current: Photo, mine: Content): void;
  refused(photo: string, error: ApiError): void;
  /** Something changed in what `waiting` or `trouble` say. */
  changed(): void;
}

type Put = (photo: string, base: number, content: Content) => Promise<Photo>;

const PAUSE = 150;
const LONGEST_PAUSE = 8000;

export class Saver {
  private entries = new Map<string, Entry>();

  constructor(
    private readonly put: Put,
    private readonly storage: Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">,
    private readonly prefix: string,
    private readonly events: SavingEvents,
  ) {}

  /** Keep a change and send it soon; several within the pause are sent as one. */
  edit(photo: string, base: number, content: Content): void {
    const old = this.entries.get(photo);
    const entry: Entry = old ?? {
      content,
      base,
      version: 0,
      trouble: null,
      attempts: 0,
      timer: null,
      sending: null,
    };
    entry.content = content;
    entry.version += 1;
    if (entry.trouble === "refused") entry.trouble = null;
    this.entries.set(photo, entry);
    this.store(photo, entry);
    if (entry.trouble !== "conflict" && !entry.sending) this.later(photo, entry, PAUSE);
    this.events.changed();
  }

  /** Take up what an earlier visit could not send. */
  resume(): string[] {
    const kept = this.stored();
    for (const { photo, base, content } of kept) this.edit(photo, base, content);
    return kept.map(({ photo }) => photo);
  }

  /** Send now; true once the server has everything of this photo. */
  async flush(photo: string): Promise<boolean> {
    for (let entry = this.entries.get(photo); entry; entry = this.entries.get(photo)) {
      if (entry.trouble === "conflict") return false;
      await this.send(photo, entry);
      if (entry.trouble) return false;
    }
    return true;
  }

  flushAll(): void {
    for (const photo of this.entries.keys()) void this.flush(photo);
  }

  /** A person chose between two versions: `content` goes on top of `base`, or theirs stays (null). */
  resolve(photo: string, base: number, content: Content | null): void {
    const entry = this.entries.get(photo);
    if (!entry) return;
    if (content === null) return this.drop(photo, entry);
    Object.assign(entry, { base, content, trouble: null, version: entry.version + 1 });
    this.store(photo, entry);
    this.later(photo, entry, 0);
    this.events.changed();
  }

  /** Send what waits for a person once more; a conflict that still is one comes up again. */
  again(): void {
    for (const [photo, entry] of this.entries) {
      if (entry.trouble) this.later(photo, entry, 0);
      entry.trouble = null;
    }
  }

  /** What waits here does not bring the old name of a class back; what is on its way is sent again. */
  rename(how: Renaming): void {
    for (const [photo, entry] of this.entries) {
      const content = renamedContent(entry.content, how);
      if (content === entry.content) continue;
      entry.content = content;
      entry.version += 1;
      this.store(photo, entry);
    }
  }

  pending(photo: string): Content | null {
    return this.entries.get(photo)?.content ?? null;
  }

  /** A person lets an edit go that the server does not take. */
  discard(photo: string): void {
    const entry = this.entries.get(photo);
    if (entry) this.drop(photo, entry);
  }

  get waiting(): number {
    return this.entries.size;
  }

  /** What is wrong with the photos whose edits the server has not taken. */
  get troubles(): ReadonlyMap<string, Trouble> {
    const found = new Map<string, Trouble>();
    for (const [photo, { trouble }] of this.entries) if (trouble) found.set(photo, trouble);
    return found;
  }

  get trouble(): Trouble | null {
    const all = [...this.troubles.values()];
    return all.find((one) => one === "conflict") ?? all[0] ?? null;
  }

  private later(photo: string, entry: Entry, pause: number): void {
    if (entry.timer) clearTimeout(entry.timer);
    entry.timer = setTimeout(() => void this.flush(photo), pause);
  }

  private send(photo: string, entry: Entry): Promise<void> {
    if (entry.timer) clearTimeout(entry.timer);
    entry.timer = null;
    entry.sending ??= this.request(photo, entry).finally(() => {
      entry.sending = null;
    });
    return entry.sending;
  }

  private async request(photo: string, entry: Entry): Promise<void> {
    const { version, content, base } = entry;
    try {
      this.accepted(photo, entry, version, await this.put(photo, base, content));
    } catch (error) {
      this.failed(photo, entry, error as ApiError);
    }
  }

  private accepted(photo: string, entry: Entry, version: number, answer: Photo): void {
    const clean = entry.version === version;
    if (this.entries.get(photo) !== entry) return this.events.saved(answer, true); // let go meanwhile
    Object.assign(entry, { base: answer.revision, trouble: null, attempts: 0 });
    if (clean) this.drop(photo, entry);
    else this.store(photo, entry);
    this.events.saved(answer, clean);
    this.events.changed();
  }

  private failed(photo: string, entry: Entry, error: ApiError): void {
    const current = (error.body as { current?: Photo } | null)?.current;
    if (error.status === 409 && current) {
      // an answer that was lost on its way: the server has what we have
      if (sameContent(current, entry.content)) return this.accepted(photo, entry, entry.version, current);
      entry.trouble = "conflict";
      this.events.conflict(current, entry.content);
    } else if (error.passing || error.status === undefined) {
      entry.trouble = "offline";
      entry.attempts += 1;
      this.later(photo, entry, Math.min(500 * 2 ** entry.attempts, LONGEST_PAUSE));
    } else {
      entry.trouble = "refused";
      // there is no such photo any more: to keep the edit would be to be asked about it for ever
      if (error.status === 404) this.drop(photo, entry);
      this.events.refused(photo, error);
    }
    this.events.changed();
  }

  private drop(photo: string, entry: Entry): void {
    if (entry.timer) clearTimeout(entry.timer);
    this.entries.delete(photo);
    this.storage.removeItem(this.prefix + photo);
    this.events.changed();
  }

  private store(photo: string, entry: Entry): void {
    try {
      this.storage.setItem(this.prefix + photo, JSON.stringify({ base: entry.base, content: entry.content }));
    } catch {
      // a full storage: the edit still lies in memory and is on its way to the server
    }
  }

  private stored(): Kept[] {
    const keys = Array.from({ length: this.storage.length }, (_, at) => this.storage.key(at));
    return keys.filter((key) => key?.startsWith(this.prefix)).flatMap((key) => this.read(key as string));
  }

  private read(key: string): Kept[] {
    try {
      const { base, content } = JSON.parse(this.storage.getItem(key) ?? "");
      return [{ photo: key.slice(this.prefix.length), base, content }];
    } catch {
      this.storage.removeItem(key);
      return [];
    }
  }
}

/** Whether a photo of the server says what an edit says. */
export function sameContent(photo: Pick<Photo, "boxes" | "names" | "state">, content: Content): boolean {
  const empty = photo.state === "empty";
  const plain = (boxes: Content["boxes"]) => (boxes ?? []).map(({ box, name }) => [...box, name]);
  return (
    empty === content.empty &&
    JSON.stringify(plain(photo.boxes)) === JSON.stringify(plain(content.boxes)) &&
    JSON.stringify(photo.names ?? []) === JSON.stringify(content.names ?? [])
  );
}
