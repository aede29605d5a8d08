/** From photo to photo: opening, the next and the last one, the best one, doubtful places. */
import { effect, signal, untracked } from "@preact/signals";
import { ApiError, api, imageOf } from "./api";
import * as open from "./document";
import * as editing from "./editing";
import { t } from "./i18n";
import { attempt, say, sayError } from "./messages";
import { doubts, learning, listed, me, people, photos } from "./session";
import { difference, matched } from "./suggestions";
import type { Doubt, Photo, Suggestions } from "./types";

let fitsHeard = 0;
const PATIENCE = 1500;

/** Large enough for most windows; the photo in full is fetched when somebody zooms in. */
export const SIDE = 2048;
/** The photo that was asked for and is not here yet; until then nothing is edited. */
export const opening = signal<{ name: string; index: number } | null>(null);
/** Counts how often a photo was opened, so that the window fits it anew. */
export const opened = signal(0);

let waiting: { found: Suggestions; labelled: number | undefined } | null = null;

/** A photo is `unreadable` if the server says so; `stopped`: no answer, or another one was asked for. */
type Outcome = "open" | "unreadable" | "stopped";

export async function openPhoto(name: string): Promise<boolean> {
  return (await tryPhoto(name)) === "open";
}

/** Open the first of these that can be read: a damaged photo bars no way. */
async function openFirstOf(names: Iterable<string>): Promise<Outcome | "none"> {
  let outcome: Outcome | "none" = "none";
  for (const name of names) {
    outcome = await tryPhoto(name);
    if (outcome !== "unreadable") break;
  }
  return outcome;
}

async function tryPhoto(name: string): Promise<Outcome> {
  editing.rememberForCopy();
  const asked = { name, index: photos.value.findIndex((item) => item?.photo === name) };
  opening.value = asked;
  const fits = fitsHeard;
  const found = await editing.fetchPhoto(name).catch((error: unknown) => {
    sayError(error);
    return error instanceof ApiError && !error.passing ? "unreadable" : "stopped";
  });
  if (opening.value !== asked) return "stopped";
  opening.value = null;
  if (typeof found === "string") return found;
  show(found);
  // told while the photo was on its way: its suggestions may be newer than those that came with it
  if (fits !== fitsHeard) void refreshSuggestions();
  setTimeout(askIfOld, PATIENCE, name);
  return "open";
}

function show(found: Photo): void {
  waiting = null;
  news.value = "";
  editing.drawing.value = false;
  editing.unnamed.value = null;
  open.showPhoto(found, editing.pendingOf(found.photo));
  opened.value += 1;
  history.replaceState(null, "", `#${encodeURIComponent(found.photo)}`);
  void tellWhere();
  preloadNeighbour();
}

/** The server tells when it has looked at the photo; whoever began to listen too late asks. */
function askIfOld(name: string): void {
  const photo = open.photo.value;
  const model = learning.value?.model;
  if (photo?.photo === name && model && photo.suggestions.model !== model) void refreshSuggestions();
}

export async function tellWhere(): Promise<void> {
  const name = open.photo.value?.photo;
  if (name) await api.presence(name, me).catch(() => null);
}

function preloadNeighbour(): void {
  const name = neighbour(1);
  if (name) new Image().src = imageOf(name, SIDE);
}

/** The photo of the list that comes after the open one, or before it; keys may be faster than photos. */
export function neighbour(step: 1 | -1): string | null {
  const [first] = neighbours(step);
  return first ?? null;
}

function* neighbours(step: 1 | -1): Generator<string> {
  const at = opening.value?.index ?? open.photo.value?.index ?? -1;
  const list = listed.value;
  const beyond = step > 0 ? list.filter((index) => index > at) : list.filter((index) => index < at).reverse();
  for (const index of beyond) {
    const name = photos.value[index]?.photo;
    if (name === undefined) return;
    yield name;
  }
}

export async function go(step: 1 | -1): Promise<void> {
  if ((await openFirstOf(neighbours(step))) === "none") say(t(step > 0 ? "say.lastPhoto" : "say.firstPhoto"));
}

/** Where nobody has been yet: the first photo without labels, or else the first one. */
export async function openFirst(): Promise<void> {
  const all = photos.value.filter((item) => item !== undefined);
  const todo = all.filter(({ state }) => state === "unlabelled");
  const others = all.filter(({ state }) => state !== "unlabelled");
  await openFirstOf([...todo, ...others].map(({ photo }) => photo));
}

/** The photo that teaches most; not one that somebody else is looking at. */
export async function goBest(): Promise<void> {
  const best = await attempt(() => api.next(10));
  const taken = new Set(people.value.filter(({ who }) => who !== me).map(({ photo }) => photo));
  taken.add(open.photo.value?.photo ?? "");
  if (!best) return;
  const free = best.photos.filter((one) => !taken.has(one));
  const names = free.length > 0 ? free : best.photos.slice(0, 1);
  if ((await openFirstOf(names)) === "none") say(t("say.allLabelled"));
}

export async function loadDoubts(): Promise<void> {
  const found = await attempt(() => api.doubtful(40));
  if (found) doubts.value = found.doubts;
}

export async function goToDoubt(doubt: Doubt): Promise<void> {
  if (open.photo.value?.photo !== doubt.photo && !(await openPhoto(doubt.photo))) return;
  const same = (box: readonly number[]) =>
    doubt.box?.every((value, at) => Math.abs(value - (box[at] ?? 0)) < 1);
  editing.select(open.labels.value.find(({ box }) => same(box)) ?? null);
  open.highlight.value = doubt.box;
}

export function dismiss(doubt: Doubt): void {
  doubts.value = (doubts.value ?? []).filter((one) => one !== doubt);
  open.highlight.value = null;
}

/** What the last fit changed, in words; beside the name of the photo. */
export const news = signal("");

/** After a fit: ask again for the open photo, and show the answer once no box is being dragged. */
export async function refreshSuggestions(labelled?: number): Promise<void> {
  fitsHeard += 1;
  const name = open.photo.value?.photo;
  if (!name) return;
  const found = await api.suggestions(name).catch(() => null);
  if (!found || open.photo.value?.photo !== name) return;
  waiting = { found, labelled };
  if (!editing.dragging.value) showWaiting();
}

effect(() => {
  if (!editing.dragging.value) untracked(showWaiting);
});

function showWaiting(): void {
  const photo = open.photo.value;
  if (!waiting || !photo) return;
  const { found, labelled } = waiting;
  waiting = null;
  const before = open.visibleOffers.value;
  open.photo.value = { ...photo, suggestions: found };
  open.offers.value = matched(found, open.offers.value);
  open.guesses.value = found.items;
  const { come, gone } = difference(before, open.visibleOffers.value);
  const learnt = labelled === undefined ? "" : t("news.learnt", { n: labelled });
  const changed = come + gone > 0 ? t("news.suggestions", { come, gone }) : "";
  if (learnt || changed) news.value = [learnt, changed].filter(Boolean).join(" ");
}
