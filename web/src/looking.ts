/** Many photos at once, those whose suggestions are least in doubt: one key accepts all that are right. */
import { signal } from "@preact/signals";
import { api } from "./api";
import * as open from "./document";
import { labelPhotos, pendingOf } from "./editing";
import { attempt } from "./messages";
import { matched, type Offer, together } from "./suggestions";
import type { Photo } from "./types";

export const SHEET = 12;
const MOST = 40; // photos that the server looks at

export interface Cell {
  photo: Photo;
  offers: readonly Offer[];
}

/** What is looked through; null while it is on its way. */
export const cells = signal<readonly Cell[] | null>(null);
/** Photos that are not right as they are: they stay unlabelled, and no later sheet of this tab shows them. */
export const left = signal<ReadonlySet<string>>(new Set());

let asked = 0;

export async function loadSheet(): Promise<void> {
  asked += 1;
  const mine = asked;
  cells.value = null;
  const found = await attempt(() => api.surest(Math.min(MOST, SHEET + left.value.size)));
  if (mine !== asked) return;
  const fresh = (found?.photos ?? []).filter(({ photo, state }) => state === "unlabelled" && isFree(photo));
  const made = fresh.map((photo) => ({
    photo,
    offers: together(
      matched(photo.suggestions, []),
      [],
      open.readRejected(photo.photo),
      open.threshold.value,
    ),
  }));
  cells.value = made.filter(({ offers }) => offers.length > 0).slice(0, SHEET);
}

const isFree = (name: string) => !left.value.has(name) && !pendingOf(name);

export function toggle(name: string): void {
  const now = new Set(left.value);
  if (!now.delete(name)) now.add(name);
  left.value = now;
}

/** The photos of the sheet that will be accepted. */
export const right = () => (cells.value ?? []).filter(({ photo }) => !left.value.has(photo.photo));

/** Accept them, and go on with the next sheet once the server has them. */
export async function acceptSheet(): Promise<void> {
  const chosen = right();
  cells.value = null;
  await labelPhotos(new Map(chosen.map(({ photo, offers }) => [photo, offers])));
  await loadSheet();
}
