/** Which key does what; the table of the help dialog is made of the same list. */
import type { TextKey } from "./i18n";

export type Command =
  | "draw"
  | "nextSuggestion"
  | "accept"
  | "reject"
  | "acceptAll"
  | "next"
  | "previous"
  | "best"
  | "sheet"
  | "nothing"
  | "undo"
  | "redo"
  | "copy"
  | "remove"
  | "hide"
  | "help"
  | "cancel"
  | "zoomIn"
  | "zoomOut"
  | "fit"
  | { class: number; also: boolean }
  | { nudge: [number, number]; resize: boolean };

interface Pressed {
  key: string;
  code: string;
  shiftKey: boolean;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
}

const LETTERS: Record<string, Command> = {
  w: "draw",
  x: "reject",
  a: "acceptAll",
  d: "next",
  f: "previous",
  b: "best",
  s: "sheet",
  n: "nothing",
  z: "undo",
  c: "copy",
  h: "hide",
};

const NAMED: Record<string, Command> = {
  Tab: "nextSuggestion",
  Enter: "accept",
  Delete: "remove",
  Backspace: "remove",
  Escape: "cancel",
  "?": "help",
  "+": "zoomIn",
  "=": "zoomIn",
  "-": "zoomOut",
  "0": "fit",
};

const ARROWS: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** The command of a key, or null; keys with Ctrl or Alt stay the browser's, but for undo and redo. */
export function commandOf(pressed: Pressed): Command | null {
  const letter = pressed.key.toLowerCase();
  if (pressed.ctrlKey || pressed.metaKey) {
    if (letter === "z") return pressed.shiftKey ? "redo" : "undo";
    return letter === "y" ? "redo" : null;
  }
  if (pressed.altKey) return null;
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(pressed.code)?.[1];
  if (digit) return { class: Number(digit), also: pressed.shiftKey };
  const arrow = ARROWS[pressed.key];
  if (arrow) return { nudge: arrow, resize: pressed.shiftKey };
  if (pressed.shiftKey && letter === "z") return "redo";
  if (pressed.shiftKey && pressed.key === "Tab") return null;
  return NAMED[pressed.key] ?? LETTERS[letter] ?? null;
}

/** Rows of the help: keys, and the text that says what they do. */
export const HELP: [string[], TextKey][] = [
  [["1", "…", "9"], "key.class"],
  [["W"], "key.draw"],
  [["Tab"], "key.nextSuggestion"],
  [["Enter"], "key.accept"],
  [["X"], "key.reject"],
  [["A"], "key.acceptAll"],
  [["D"], "key.next"],
  [["F"], "key.previous"],
  [["B"], "key.best"],
  [["S"], "key.sheet"],
  [["N"], "key.nothing"],
  [["Z"], "key.undo"],
  [["Shift", "Z"], "key.redo"],
  [["C"], "key.copy"],
  [["Delete"], "key.remove"],
  [["← ↑ ↓ →"], "key.nudge"],
  [["Shift", "← ↑ ↓ →"], "key.resize"],
  [["H"], "key.hide"],
  [["Space"], "key.pan"],
  [["+", "−", "0"], "key.zoom"],
  [["F6"], "key.areas"],
  [["Esc"], "key.cancel"],
  [["?"], "key.help"],
];
