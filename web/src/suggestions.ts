/** Which suggestions are shown, and what becomes of them when the model was fitted again. */
import { iou } from "./geometry";
import type { Box, NamedBox, Suggestion, Suggestions } from "./types";

/** A suggestion of the open photo; `id` stays with it while the model finds it again. */
export interface Offer {
  id: number;
  box: Box;
  name: string;
  confidence: number;
  /** How likely something is there, whichever class. */
  there: number;
  /** It was not there, or was another, before the last fit. */
  fresh: boolean;
}

// Overlap from which on two boxes of one class show the same thing, and two of different classes.
const SAME = 0.5;
const COINCIDE = 0.7;

let lastId = 0;

/** Suggestions with ids; one that the earlier ones had keeps its id, so that the chosen one stays chosen. */
export function matched(found: Suggestions, before: readonly Offer[]): Offer[] {
  const left = [...before];
  return found.items.filter(hasBox).map(({ box, name, confidence, there = confidence }) => {
    const at = left.findIndex((old) => old.name === name && iou(old.box, box) >= SAME);
    const old = at >= 0 ? left.splice(at, 1)[0] : undefined;
    if (!old) lastId += 1;
    return { id: old?.id ?? lastId, box, name, confidence, there, fresh: before.length > 0 && !old };
  });
}

function hasBox(item: Suggestion): item is Suggestion & { box: Box } {
  return item.box !== undefined;
}

/** Those of places where something is as surely as the slider says, that nobody rejected, and that no label covers. */
export function shown(
  offers: readonly Offer[],
  boxes: readonly NamedBox[],
  rejected: readonly NamedBox[],
  threshold: number,
): Offer[] {
  return offers.filter(
    (offer) =>
      offer.there >= threshold && !boxes.some((box) => covers(box, offer)) && !isRejected(offer, rejected),
  );
}

/** Those that are accepted together: all that are shown; of two that nearly coincide, the surer one. */
export function together(
  offers: readonly Offer[],
  boxes: readonly NamedBox[],
  rejected: readonly NamedBox[],
  threshold: number,
): Offer[] {
  const taken: Offer[] = [];
  for (const offer of shown(offers, boxes, rejected, threshold))
    if (!taken.some((one) => covers(one, offer))) taken.push(offer);
  return taken;
}

function covers(label: NamedBox, offer: Offer): boolean {
  return iou(label.box, offer.box) >= (label.name === offer.name ? SAME : COINCIDE);
}

function isRejected(offer: Offer, rejected: readonly NamedBox[]): boolean {
  return rejected.some((one) => one.name === offer.name && iou(one.box, offer.box) >= SAME);
}

/** What the detector takes a drawn box for: the surest that shows the same, however low the slider is. */
export function nameAt(offers: readonly Offer[], rejected: readonly NamedBox[], box: Box): string | null {
  const same = offers.filter((offer) => iou(offer.box, box) >= SAME && !isRejected(offer, rejected));
  const surest = same.reduce<Offer | null>(
    (best, one) => (best && best.confidence >= one.confidence ? best : one),
    null,
  );
  return surest?.name ?? null;
}

/** The one after `current` in the order of confidence, the first if none is chosen; null if there is none. */
export function following(offers: readonly Offer[], current: number | null, step = 1): Offer | null {
  if (offers.length === 0) return null;
  const at = offers.findIndex(({ id }) => id === current);
  if (at < 0) return (step > 0 ? offers[0] : offers.at(-1)) ?? null;
  return offers[(at + step + offers.length) % offers.length] ?? null;
}

/** How many came and how many went, for the word on what changed. */
export function difference(before: readonly Offer[], now: readonly Offer[]): { come: number; gone: number } {
  const old = new Set(before.map(({ id }) => id));
  const ids = new Set(now.map(({ id }) => id));
  return {
    come: now.filter(({ id }) => !old.has(id)).length,
    gone: before.filter(({ id }) => !ids.has(id)).length,
  };
}
