/** Requests to the server that this page came from; there is no other address in the page. */
import type { ClassCount, Content, Doubt, Photo, PhotoItem, Session, Suggestions } from "./types";

/** A refusal of the server, or its silence (status 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly body: unknown = null,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later without anybody doing something. */
  get passing(): boolean {
    return this.status === 0 || this.status >= 500;
  }
}

let author = "";

/** The name under which edits are made from now on. */
export function setAuthor(name: string): void {
  author = name;
}

export const pathOf = (photo: string) => photo.split("/").map(encodeURIComponent).join("/");
export const thumbOf = (photo: string) => `/thumb/${pathOf(photo)}`;
export const imageOf = (photo: string, side: number) => `/image/${pathOf(photo)}?side=${side}`;

async function answer(method: string, path: string, body?: unknown, match?: number): Promise<Response> {
  const headers: Record<string, string> = {};
  if (method !== "GET") headers["X-Sppnet"] = "1";
  if (method !== "GET" && author) headers["X-Author"] = encodeURIComponent(author);
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (match !== undefined) headers["If-Match"] = `"${match}"`;
  const init: RequestInit = { method, headers };
  if (body !== undefined) init.body = JSON.stringify(body);
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch {
    throw new ApiError(0, "E_OFFLINE", "");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response: Response): Promise<ApiError> {
  const body = await response.json().catch(() => null);
  const error = (body as { error?: { code?: string; message?: string } } | null)?.error;
  return new ApiError(
    response.status,
    error?.code ?? "E_HTTP",
    error?.message ?? `HTTP ${response.status}`,
    body,
  );
}

async function json<T>(method: string, path: string, body?: unknown, match?: number): Promise<T> {
  const response = await answer(method, path, body, match);
  return (response.status === 204 ? null : await response.json()) as T;
}

export const api = {
  session: () => json<Session>("GET", "/api/session"),
  photos: (offset: number, limit: number) =>
    json<{ total: number; items: PhotoItem[] }>("GET", `/api/photos?offset=${offset}&limit=${limit}`),
  photo: (name: string) => json<Photo>("GET", `/api/photo/${pathOf(name)}`),
  put: (name: string, revision: number, content: Content) =>
    json<Photo>("PUT", `/api/photo/${pathOf(name)}`, content, revision),
  undo: (name: string, revision: number) =>
    json<Photo>("POST", `/api/photo/${pathOf(name)}/undo`, undefined, revision),
  redo: (name: string, revision: number) =>
    json<Photo>("POST", `/api/photo/${pathOf(name)}/redo`, undefined, revision),
  suggestions: (name: string) => json<Suggestions>("GET", `/api/photo/${pathOf(name)}/suggestions`),
  next: (count: number) => json<{ photos: string[] }>("GET", `/api/next?count=${count}`),
  surest: (count: number) => json<{ photos: Photo[] }>("GET", `/api/surest?count=${count}`),
  doubtful: (count: number) => json<{ doubts: Doubt[] }>("GET", `/api/doubtful?count=${count}`),
  refit: (full: boolean) => json<unknown>("POST", "/api/refit", { full }),
  rename: (name: string, to: string) =>
    json<{ classes: ClassCount[] }>("POST", "/api/classes/rename", { name, new: to }),
  merge: (name: string, into: string) =>
    json<{ classes: ClassCount[] }>("POST", "/api/classes/merge", { name, into }),
  presence: (photo: string, who: string) => json<null>("POST", "/api/presence", { photo, who }),
  run: () => json<{ job: string }>("POST", "/api/run", {}),
};

/** Fetches a file and hands it to the browser's downloads; a refusal is an ApiError, not a broken file. */
export async function download(path: string): Promise<void> {
  const response = await answer("GET", path);
  const named = /filename\*?=(?:UTF-8'')?"?([^";]+)/i.exec(response.headers.get("Content-Disposition") ?? "");
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = decodeURIComponent(named?.[1] ?? "download");
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
