/** The open photo: its boxes or names, what is chosen, and the suggestions for it. */
import { computed, signal } from "@preact/signals";
import { type Renaming, renamedContent, renamedItems, renamedNames } from "./renaming";
import { matched, type Offer, shown } from "./suggestions";
import type { Box, Content, NamedBox, Photo, Suggestion } from "./types";

/** A labelled box with an id of this page, so that it stays the same one while it moves. */
export interface Label extends NamedBox {
  id: number;
}

export const photo = signal<Photo | null>(null);
export const labels = signal<readonly Label[]>([]);
export const names = signal<readonly string[]>([]);
export const empty = signal(false);
export const selected = signal<number | null>(null);
/** Chosen by a click or a key, so that dragging inside moves it; a box just drawn is not, drawing goes on. */
export const grabbed = signal(false);
export const offers = signal<readonly Offer[]>([]);
export const guesses = signal<readonly Suggestion[]>([]);
export const active = signal<number | null>(null);
export const rejected = signal<readonly NamedBox[]>([]);
export const threshold = signal(0.3);
/** A doubtful place that is being looked at. */
export const highlight = signal<Box | null>(null);

export const visibleOffers = computed(() =>
  shown(offers.value, labels.value, rejected.value, threshold.value),
);
export const selectedLabel = computed(() => labels.value.find(({ id }) => id === selected.value) ?? null);
export const activeOffer = computed(() => visibleOffers.value.find(({ id }) => id === active.value) ?? null);

let lastId = 0;

export function label(box: Box, name: string): Label {
  lastId += 1;
  return { id: lastId, box, name };
}

/** What the server takes. */
export function content(): Content {
  if (photo.value?.names !== undefined) return { names: [...names.value], empty: empty.value };
  return { boxes: labels.value.map(({ box, name }) => ({ box, name })), empty: empty.value };
}

/** Show what is said of the photo; a box that was there keeps its id, and the selection with it. */
export function showContent(said: Content): void {
  const old = [...labels.value];
  labels.value = (said.boxes ?? []).map(({ box, name }) => {
    const at = old.findIndex((one) => one.name === name && one.box.every((value, k) => value === box[k]));
    return at >= 0 ? (old.splice(at, 1)[0] as Label) : label(box, name);
  });
  names.value = said.names ?? [];
  empty.value = said.empty;
  if (!selectedLabel.value) selected.value = null;
}

export function contentOf(from: Photo): Content {
  const said: Content = { empty: from.state === "empty" };
  if (from.boxes) said.boxes = from.boxes;
  if (from.names) said.names = from.names;
  return said;
}

/** Boxes and suggestions keep their ids, and what is chosen stays so. */
export function rename(how: Renaming): void {
  if (photo.value) {
    const { suggestions, ...rest } = photo.value;
    const items = renamedItems(suggestions.items, how);
    photo.value = { ...renamedContent(rest, how), suggestions: { ...suggestions, items } };
  }
  labels.value = renamedItems(labels.value, how);
  names.value = renamedNames(names.value, how);
  offers.value = renamedItems(offers.value, how);
  guesses.value = renamedItems(guesses.value, how);
  rejected.value = renamedItems(rejected.value, how);
}

/** A photo is opened: nothing is chosen, and its suggestions are new. */
export function showPhoto(from: Photo, pending: Content | null): void {
  selected.value = null;
  grabbed.value = false;
  active.value = null;
  highlight.value = null;
  labels.value = [];
  offers.value = [];
  photo.value = from;
  showContent(pending ?? contentOf(from));
  offers.value = matched(from.suggestions, []);
  guesses.value = from.suggestions.items;
  rejected.value = readRejected(from.photo);
}

const KEPT = "sppnet:rejected:";

export function readRejected(name: string): NamedBox[] {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT + name) ?? "[]");
  } catch {
    return [];
  }
}

/** A rejected suggestion stays away from this photo as long as the tab is open. */
export function reject(offer: NamedBox): void {
  rejected.value = [...rejected.value, { box: offer.box, name: offer.name }];
  if (!photo.value) return;
  try {
    sessionStorage.setItem(KEPT + photo.value.photo, JSON.stringify(rejected.value));
  } catch {
    // a full storage: rejected until the page is loaded again
  }
}
