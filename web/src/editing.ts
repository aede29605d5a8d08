/** What a person does to the open photo; each change is shown at once and saved at once. */
import { computed, signal } from "@preact/signals";
import { ApiError, api } from "./api";
import * as open from "./document";
import { boxAt, boxBetween, mergeBoxes, moveBox } from "./geometry";
import { t } from "./i18n";
import { attempt, say } from "./messages";
import { type Renaming, renamedContent, renamedItems } from "./renaming";
import { type Kept, Saver, type Trouble } from "./saving";
import { addClass, changeItem, classes, currentClass, keptBy, photos, renameAdded, session } from "./session";
import { following, nameAt, together } from "./suggestions";
import type { Box, Content, NamedBox, Photo } from "./types";

export const waiting = signal(0);
export const trouble = signal<Trouble | null>(null);
/** The photos whose edits the server has not taken, and why. */
export const troubles = signal<ReadonlyMap<string, Trouble>>(new Map());
/** A photo whose edit the server refuses. */
export const refused = computed(() => [...troubles.value].find(([, why]) => why === "refused")?.[0] ?? null);
/** Two versions of a photo that somebody has to choose between. */
export const conflict = signal<{ current: Photo; mine: Content } | null>(null);
/** A box that was drawn before there was a class to give it. */
export const unnamed = signal<Box | null>(null);
export const drawing = signal(false);
export const hidden = signal(false);
/** A pointer is dragging a box: suggestions wait until it is let go. */
export const dragging = signal(false);

let saver: Saver | null = null;
let copied: readonly NamedBox[] = [];
let renamings = 0;
/** A class that was asked for since the last box: the next one has it, whatever is suggested there. */
let meant = false;

/** Edits of this store are saved from now on; those that an earlier visit left are sent first. */
export function startSaving(store: string): string[] {
  const put: typeof api.put = async (...edit) => {
    if ([...troubles.value.values()].includes("offline")) await checkStore(store);
    return api.put(...edit);
  };
  saver = new Saver(put, localStorage, `sppnet:pending:${store}:`, {
    saved,
    conflict: (current, mine) => {
      conflict.value ??= { current, mine };
    },
    refused: (name, error) => say(error.status === 404 ? t("say.gone", { name }) : error.message, "error"),
    changed: () => {
      waiting.value = saver?.waiting ?? 0;
      trouble.value = saver?.trouble ?? null;
      troubles.value = saver?.troubles ?? new Map();
    },
  });
  return saver.resume();
}

/** A server that comes back may serve other photos, which these edits are not for. */
async function checkStore(store: string): Promise<void> {
  if (keptBy(await api.session()) === store) return;
  location.reload();
  throw new ApiError(0, "E_OFFLINE", "");
}

export const pendingOf = (name: string) => saver?.pending(name) ?? null;
export const saveNow = () => saver?.flushAll();
export const saveAgain = () => saver?.again();

/** An edit that the server refuses is let go: the photo is as it is there. */
export async function discard(name: string): Promise<void> {
  saver?.discard(name);
  const found = await attempt(() => fetchPhoto(name));
  if (!found || pendingOf(name)) return;
  if (open.photo.value?.photo === name) take(found);
  else saved(found, true);
}

function saved(answer: Photo, clean: boolean): void {
  const count = answer.boxes?.length ?? answer.names?.length ?? 0;
  changeItem(answer.photo, { state: answer.state, boxes: count, revision: answer.revision }, answer.index);
  if (open.photo.value?.photo !== answer.photo) return;
  const { suggestions, ...rest } = answer;
  const before = open.photo.value.suggestions;
  // suggestions that were withheld come with the answer to the first label
  const now = before.withheld && !suggestions.withheld ? suggestions : before;
  open.photo.value = { ...rest, suggestions: now };
  if (clean && conflict.value?.current.photo === answer.photo) conflict.value = null;
}

function save(): void {
  if (open.photo.value) send(open.photo.value, open.content());
}

/** Boxes for photos that may not be open, such as those of a sheet; true once the server has them all. */
export async function labelPhotos(said: ReadonlyMap<Photo, readonly NamedBox[]>): Promise<boolean> {
  const sent: Promise<boolean>[] = [];
  for (const [photo, boxes] of said) {
    const content = { boxes: boxes.map(({ box, name }) => ({ box, name })), empty: false };
    send(photo, content);
    if (open.photo.value?.photo === photo.photo) open.showContent(content);
    if (saver) sent.push(saver.flush(photo.photo));
  }
  return (await Promise.all(sent)).every(Boolean);
}

function send(photo: Photo, said: Content): void {
  const count = said.boxes?.length ?? said.names?.length ?? 0;
  const state = said.empty ? "empty" : count > 0 ? "labelled" : "unlabelled";
  changeItem(photo.photo, { state, boxes: count }, photo.index);
  saver?.edit(photo.photo, photo.revision, said);
}

function change(labels: readonly open.Label[]): void {
  open.labels.value = labels;
  open.empty.value = false;
  save();
}

/**
 * A drawn box gets the class that was asked for, else the one that the detector sees there, else that of
 * the last box; without any, the page asks for one.
 */
export function addBox(box: Box): void {
  drawing.value = false;
  const asks = meant || currentClass.value === null;
  const seen = asks ? null : nameAt(open.offers.value, open.rejected.value, box);
  meant = false;
  if (seen !== null) currentClass.value = seen;
  if (currentClass.value === null) unnamed.value = box;
  else select(append(box, currentClass.value), false);
}

function append(box: Box, name: string): open.Label {
  const label = open.label(box, name);
  change([...open.labels.value, label]);
  return label;
}

export function nameDrawn(name: string): void {
  const box = unnamed.value;
  unnamed.value = null;
  if (!box || name.trim() === "") return;
  addClass(name.trim());
  meant = true;
  addBox(box);
}

/** For the keyboard alone: a box in the middle of what is seen, to be moved and resized by arrows. */
export function placeBox(seen: Box): void {
  const photo = open.photo.value;
  if (!photo) return;
  const [width, height] = [(seen[2] - seen[0]) / 8, (seen[3] - seen[1]) / 8];
  const [x, y] = [(seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2];
  addBox(boxBetween(x - width, y - height, x + width, y + height, photo));
}

export function select(label: open.Label | null, grab = true): void {
  open.selected.value = label?.id ?? null;
  open.grabbed.value = label !== null && grab;
  if (label) open.active.value = null;
}

/** Nothing for a box that has gone meanwhile, as when another photo was opened. */
export function setBox(id: number, box: Box): void {
  if (!open.labels.value.some((label) => label.id === id)) return;
  change(open.labels.value.map((label) => (label.id === id ? { ...label, box } : label)));
}

/** The chosen box; without one, that under the pointer, so that it takes no click. */
export function removeBox(at: [number, number] | null = null): void {
  const label = open.selectedLabel.value ?? (at && boxAt(open.labels.value, ...at, 0, null));
  const id = label?.id;
  if (id === undefined) return;
  open.selected.value = null;
  change(open.labels.value.filter((label) => label.id !== id));
}

/** An arrow moves the box by one pixel of the photo, or its lower right corner with Shift. */
export function nudge(dx: number, dy: number, resize: boolean): boolean {
  const [photo, label] = [open.photo.value, open.selectedLabel.value];
  if (!photo || !label) return false;
  const [x1, y1, x2, y2] = label.box;
  const box = resize
    ? boxBetween(x1, y1, Math.max(x1 + 1, x2 + dx), Math.max(y1 + 1, y2 + dy), photo)
    : moveBox(label.box, dx, dy, photo);
  setBox(label.id, box);
  return true;
}

/** A class for what is chosen: the box, or the suggestion, which is thereby corrected and accepted. */
export function useClass(name: string): void {
  currentClass.value = name;
  const label = open.selectedLabel.value;
  if (label) change(open.labels.value.map((one) => (one.id === label.id ? { ...one, name } : one)));
  else if (open.activeOffer.value) accept(name);
  else meant = true;
}

export const chosenOffer = () => open.activeOffer.value ?? open.visibleOffers.value[0] ?? null;

export function activate(step: number): boolean {
  const next = following(open.visibleOffers.value, open.active.value, step);
  if (next) open.selected.value = null;
  open.active.value = next?.id ?? null;
  return next !== null;
}

export function accept(name?: string): void {
  const offer = chosenOffer();
  if (!offer) return;
  const next = after(offer.id);
  append(offer.box, name ?? offer.name);
  open.active.value = open.visibleOffers.value.some(({ id }) => id === next) ? next : null;
}

/** The chosen suggestion, or that under the pointer, or the surest. */
export function rejectOffer(at: [number, number] | null = null): void {
  const under = open.activeOffer.value ? null : at && boxAt(open.visibleOffers.value, ...at, 0, null);
  if (under) return open.reject(under);
  const offer = chosenOffer();
  if (!offer) return;
  const next = after(offer.id);
  open.reject(offer);
  open.active.value = open.visibleOffers.value.some(({ id }) => id === next) ? next : null;
}

function after(id: number): number | null {
  const next = following(open.visibleOffers.value, id);
  return next && next.id !== id ? next.id : null;
}

export function acceptAll(): void {
  const { offers, labels, rejected, threshold } = open;
  const taken = together(offers.value, labels.value, rejected.value, threshold.value);
  const accepted = taken.map(({ box, name }) => open.label(box, name));
  if (accepted.length > 0) change([...labels.value, ...accepted]);
  open.active.value = null;
}

/** Nothing that is looked for is on this photo; boxes that are there are taken away. */
export function nothingHere(): void {
  if (!open.photo.value) return;
  select(null);
  open.labels.value = [];
  open.names.value = [];
  open.empty.value = true;
  save();
}

/** Photos are named whole: one class, or several with `also`. */
export function namePhoto(name: string, also: boolean): void {
  const has = open.names.value.includes(name);
  const others = open.names.value.filter((one) => one !== name);
  currentClass.value = name;
  open.names.value = also ? (has ? others : [...others, name]) : [name];
  open.empty.value = false;
  save();
}

/** What the photo that is left has, for C on the next one. */
export function rememberForCopy(): void {
  if (open.labels.value.length > 0) copied = open.labels.value;
}

/** The boxes of the last photo, where they do not coincide with one that is there. */
export function copyLast(): void {
  const photo = open.photo.value;
  if (!photo || copied.length === 0) return say(t("say.nothingToCopy"));
  const moved = copied.map(({ box, name }) => ({ name, box: boxBetween(...box, photo) }));
  const all = mergeBoxes(moved, open.labels.value);
  const fresh = all.slice(open.labels.value.length).map(({ box, name }) => open.label(box, name));
  change([...open.labels.value, ...fresh]);
}

/** Undo and redo are the server's, so that they know what was done before a restart and by others. */
export function travel(direction: "undo" | "redo"): Promise<void> {
  const name = open.photo.value?.photo;
  // one after the other: the second of two quick ones needs the revision that the first one gives
  if (name) steps = steps.then(() => travelOnce(direction, name));
  return steps;
}

let steps: Promise<void> = Promise.resolve();

async function travelOnce(direction: "undo" | "redo", name: string): Promise<void> {
  if (open.photo.value?.photo !== name || !(await saver?.flush(name))) return;
  const photo = open.photo.value;
  if (photo?.photo !== name) return;
  if (!(direction === "undo" ? photo.can_undo : photo.can_redo)) return say(t(`say.no.${direction}`));
  await attempt(async () => {
    try {
      take(await api[direction](name, photo.revision));
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 409) throw error;
      take(await fetchPhoto(name));
      say(t("say.changedElsewhere"));
    }
  });
}

/** Here or in another tab, a class got another name; the server has it, so nothing is saved. */
export function renameClass(how: Renaming): void {
  renamings += 1;
  open.rename(how);
  copied = renamedItems(copied, how);
  saver?.rename(how);
  const met = conflict.value;
  if (met)
    conflict.value = { current: renamedContent(met.current, how), mine: renamedContent(met.mine, how) };
  if (currentClass.value === how.name) currentClass.value = how.new;
  renameAdded(how.name, null);
}

/** A photo as it is now: what was asked for while it was being saved or renamed is asked for once more. */
export async function fetchPhoto(name: string): Promise<Photo> {
  const before = renamings;
  const found = await api.photo(name);
  const known = photos.value[found.index];
  const isOld = known?.photo === name && known.revision > found.revision;
  return isOld || before !== renamings ? api.photo(name) : found;
}

/** A newer version of the open photo is shown, unless something of ours is on its way. */
export function take(newer: Photo): void {
  if (open.photo.value?.photo !== newer.photo || saver?.pending(newer.photo)) return;
  saved(newer, true);
  open.showContent(open.contentOf(newer));
}

/** What a person chose where two versions met. */
export function decide(choice: "mine" | "theirs" | "both"): void {
  const met = conflict.value;
  if (!met) return;
  const { current, mine } = met;
  const theirs = open.contentOf(current);
  const chosen: Kept["content"] | null =
    choice === "theirs" ? null : choice === "mine" ? mine : bothOf(mine, theirs);
  conflict.value = null;
  saver?.resolve(current.photo, current.revision, chosen);
  saver?.again();
  if (open.photo.value?.photo !== current.photo) return;
  saved(current, false);
  open.showContent(chosen ?? theirs);
}

function bothOf(mine: Content, theirs: Content): Content {
  if (theirs.names) return { names: [...new Set([...theirs.names, ...(mine.names ?? [])])], empty: false };
  return { boxes: mergeBoxes(mine.boxes ?? [], theirs.boxes ?? []), empty: false };
}

export const classAt = (place: number) => classes.value[place - 1]?.name ?? null;
export const isClassify = () => session.value?.task === "classify";
