/** Keys of the whole page, carried out; fields and dialogs keep theirs. */

import { asked, classAsked } from "./dialogs";
import * as open from "./document";
import * as editing from "./editing";
import { go, goBest, opening } from "./going";
import { type Command, commandOf } from "./keys";
import { fitPhoto, gestures, pointed, seen, zoom } from "./Stage";

const AREAS = ["photos", "stage", "side"];

export function listenToKeys(): void {
  addEventListener("keydown", down);
  addEventListener("keyup", (event) => {
    if (event.code === "Space") gestures.space = false;
  });
  addEventListener("blur", () => {
    gestures.space = false;
  });
}

function down(event: KeyboardEvent): void {
  if (event.key === "F6") return nextArea(event);
  const target = event.target as HTMLElement;
  if (editing.conflict.value || asked.value || classAsked.value !== null || isField(target)) return;
  const onStage = target.id === "stage" || target === document.body;
  if (event.code === "Space" && onStage) {
    gestures.space = true;
    event.preventDefault();
    return;
  }
  // on a button, Enter presses it and Tab goes on; the arrows scroll lists
  if (!onStage && ["Tab", "Enter", "ArrowUp", "ArrowDown"].includes(event.key)) return;
  const command = commandOf(event);
  if (command && carryOut(command)) event.preventDefault();
}

function isField(target: HTMLElement): boolean {
  if (target instanceof HTMLInputElement) return target.type !== "range";
  return target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement;
}

/** F6 goes from the list to the photo to the panel, as in many programs; Shift-F6 back. */
function nextArea(event: KeyboardEvent): void {
  event.preventDefault();
  const at = AREAS.findIndex((id) => document.getElementById(id)?.contains(document.activeElement));
  const next = AREAS[(at + (event.shiftKey ? -1 : 1) + AREAS.length) % AREAS.length] ?? "stage";
  const area = document.getElementById(next);
  const inside = area?.querySelector<HTMLElement>('[aria-current="true"], button, input');
  (next === "stage" ? area : inside)?.focus();
}

/** False if the key has nothing to do here, and stays the browser's. */
export function carryOut(command: Command): boolean {
  // what is pressed while the next photo is on its way is not meant for the one that is still seen
  if (opening.value && !ON_THE_WAY.has(command)) return true;
  if (typeof command === "object") {
    if ("nudge" in command) return editing.nudge(...command.nudge, command.resize);
    return useClass(command.class, command.also);
  }
  if (command === "nextSuggestion") return !editing.isClassify() && editing.activate(1);
  if (command === "cancel") return cancel();
  SIMPLE[command]();
  return true;
}

const ON_THE_WAY = new Set<Command>(["next", "previous", "best", "help"]);

type Simple = Exclude<Command, object | "nextSuggestion" | "cancel">;

const SIMPLE: Record<Simple, () => void> = {
  draw: () => {
    if (editing.isClassify()) return;
    editing.drawing.value = true;
    editing.hidden.value = false;
    document.getElementById("stage")?.focus();
  },
  accept,
  reject: () => {
    if (!editing.isClassify()) editing.rejectOffer(pointed());
  },
  acceptAll: () => {
    if (!editing.isClassify()) editing.acceptAll();
  },
  next: () => void go(1),
  previous: () => void go(-1),
  best: () => void goBest(),
  sheet: () => {
    if (!editing.isClassify()) asked.value = "sheet";
  },
  nothing: editing.nothingHere,
  undo: () => void editing.travel("undo"),
  redo: () => void editing.travel("redo"),
  copy: () => {
    if (!editing.isClassify()) editing.copyLast();
  },
  remove: () => editing.removeBox(pointed()),
  hide: () => {
    editing.hidden.value = !editing.hidden.value;
  },
  help: () => {
    asked.value = "help";
  },
  zoomIn: () => zoom(1.25),
  zoomOut: () => zoom(0.8),
  fit: fitPhoto,
};

function accept(): void {
  if (editing.drawing.value) return editing.placeBox(seen());
  if (!editing.isClassify()) return editing.accept();
  const best = open.guesses.value[0];
  if (best && !open.photo.value?.suggestions.withheld) nameAndGoOn(best.name, false);
}

function useClass(place: number, also: boolean): boolean {
  const name = editing.classAt(place);
  if (name === null) return false;
  if (editing.isClassify()) nameAndGoOn(name, also);
  else editing.useClass(name);
  return true;
}

/** Whole photos are named one after the other: a key names, and the next one comes. */
function nameAndGoOn(name: string, also: boolean): void {
  editing.namePhoto(name, also);
  if (!also) void go(1);
}

function cancel(): boolean {
  gestures.cancel();
  editing.drawing.value = false;
  editing.unnamed.value = null;
  editing.select(null);
  open.active.value = null;
  open.highlight.value = null;
  return true;
}
