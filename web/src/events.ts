/** What the server tells by itself: learning, edits of others, who is where, jobs. */
import { api } from "./api";
import * as open from "./document";
import { fetchPhoto, pendingOf, renameClass, saveNow, take } from "./editing";
import { refreshSuggestions } from "./going";
import { say } from "./messages";
import type { Renaming } from "./renaming";
import {
  addPoint,
  changeItem,
  curve,
  expected,
  job,
  keptBy,
  learning,
  loadPhotos,
  people,
  session,
  showClasses,
  showSession,
} from "./session";
import type { ClassCount, Expected, Job, Learning, Person, PhotoItem } from "./types";

type Handlers = { [name: string]: (data: never) => void };

const HANDLERS: Handlers = {
  state: (data: Learning) => {
    const failed = data.phase === "failed" && learning.value?.phase !== "failed";
    learning.value = data;
    if (failed && data.message) say(data.message, "error");
  },
  photo: (data: PhotoItem & { author?: string }) => void photoChanged(data),
  model: (data: { key?: string; labelled?: number }) =>
    void refreshSuggestions(data.key === "learnt" ? data.labelled : undefined),
  expected: (data: Expected | null) => {
    expected.value = data;
    if (data) curve.value = addPoint(curve.value, data);
  },
  renamed: (data: Renaming) => renameClass(data),
  classes: (data: ClassCount[]) => showClasses(data),
  presence: (data: Person[]) => {
    people.value = data;
  },
  job: (data: Job) => {
    job.value = data;
  },
};

async function photoChanged(data: PhotoItem & { author?: string }): Promise<void> {
  const { photo, state, boxes, revision } = data;
  changeItem(photo, { state, boxes, revision });
  const mine = open.photo.value;
  if (mine?.photo !== photo || revision <= mine.revision || pendingOf(photo)) return;
  const newer = await fetchPhoto(photo).catch(() => null);
  if (newer && newer.revision > (open.photo.value?.revision ?? 0)) take(newer);
}

/** Listen for as long as the page is open; the browser connects again by itself. */
export function listen(): EventSource {
  const source = new EventSource("/api/events");
  let lost = false;
  for (const [name, handle] of Object.entries(HANDLERS)) {
    source.addEventListener(name, (event) =>
      handle(JSON.parse((event as MessageEvent<string>).data) as never),
    );
  }
  source.addEventListener("error", () => {
    lost = true;
  });
  source.addEventListener("open", () => {
    if (lost) void catchUp();
    lost = false;
  });
  return source;
}

/** Others may have edited the open photo, or renamed its classes, which makes no new revision. */
async function reloadOpen(): Promise<void> {
  const name = open.photo.value?.photo;
  if (!name || pendingOf(name)) return;
  const newer = await fetchPhoto(name).catch(() => null);
  if (newer && newer.revision >= (open.photo.value?.revision ?? 0)) take(newer);
}

/** The server was away: what it told meanwhile is asked for. */
export async function catchUp(): Promise<void> {
  const now = await api.session().catch(() => null);
  // other photos are served at this address now: what is not sent yet waits for its own
  if (now && keptBy(now) !== keptBy(session.value)) return location.reload();
  if (now) showSession(now);
  saveNow();
  await reloadOpen();
  await loadPhotos().catch(() => null);
  await refreshSuggestions();
}
