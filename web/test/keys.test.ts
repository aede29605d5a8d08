import { describe, expect, it } from "vitest";
import { commandOf } from "../src/keys";

const press = (key: string, more: Partial<Parameters<typeof commandOf>[0]> = {}) =>
  commandOf({ key, code: "", shiftKey: false, ctrlKey: false, metaKey: false, altKey: false, ...more });

describe("a key", () => {
  it.each([
    ["w", "draw"],
    ["Tab", "nextSuggestion"],
    ["Enter", "accept"],
    ["x", "reject"],
    ["a", "acceptAll"],
    ["d", "next"],
    ["f", "previous"],
    ["n", "nothing"],
    ["z", "undo"],
    ["c", "copy"],
    ["h", "hide"],
    ["?", "help"],
    ["Delete", "remove"],
    ["Escape", "cancel"],
    ["q", null],
  ])("%s", (key, command) => expect(press(key)).toBe(command));

  it("is the same with caps lock", () => expect(press("A")).toBe("acceptAll"));
  it("goes by its place for digits, whatever the layout", () => {
    expect(press("&", { code: "Digit1" })).toEqual({ class: 1, also: false });
    expect(press("3", { code: "Numpad3" })).toEqual({ class: 3, also: false });
    expect(press("0", { code: "Digit0" })).toBe("fit");
  });
  it("is redo with shift", () => {
    expect(press("Z", { shiftKey: true })).toBe("redo");
    expect(press("z", { ctrlKey: true })).toBe("undo");
    expect(press("Z", { ctrlKey: true, shiftKey: true })).toBe("redo");
    expect(press("y", { metaKey: true })).toBe("redo");
  });
  it("stays the browser's with Ctrl or Alt, and Shift-Tab", () => {
    expect(press("a", { ctrlKey: true })).toBeNull();
    expect(press("d", { altKey: true })).toBeNull();
    expect(press("Tab", { shiftKey: true })).toBeNull();
  });
  it("moves and resizes", () => {
    expect(press("ArrowLeft")).toEqual({ nudge: [-1, 0], resize: false });
    expect(press("ArrowDown", { shiftKey: true })).toEqual({ nudge: [0, 1], resize: true });
  });
});
