import { beforeEach, describe, expect, it } from "vitest";
import * as open from "../src/document";
import { dragging, drawing, select, setBox } from "../src/editing";
import { type Draft, Gestures } from "../src/gestures";
import { currentClass, session } from "../src/session";
import type { Photo, Session } from "../src/types";
import type { View } from "../src/view";

let view: View;
let draft: Draft | null;
let gestures: Gestures;

const PHOTO: Photo = {
  photo: "p",
  index: 0,
  width: 400,
  height: 300,
  revision: 0,
  state: "unlabelled",
  boxes: [],
  can_undo: false,
  can_redo: false,
  suggestions: {
    model: "",
    withheld: false,
    items: [{ box: [300, 200, 380, 280], name: "b", score: 1, confidence: 0.9 }],
  },
};

beforeEach(() => {
  view = { scale: 2, x: 10, y: 10 };
  draft = null;
  session.value = { task: "detect", folder: "f" } as Session;
  currentClass.value = "a";
  drawing.value = false;
  open.showPhoto(PHOTO, null);
  gestures = new Gestures({
    view: () => view,
    setView: (to) => {
      view = to;
    },
    size: () => ({ width: 820, height: 620 }),
    smallestScale: () => 0.5,
    setDraft: (to) => {
      draft = to;
    },
  });
});

type Point = [number, number];
const on = (x: number, y: number): Point => [x * 2 + 10, y * 2 + 10];

function drag(from: Point, to: Point, button = 0, touch = false): void {
  gestures.down(1, { x: from[0], y: from[1] }, button, touch);
  gestures.move(1, { x: (from[0] + to[0]) / 2, y: (from[1] + to[1]) / 2 });
  gestures.move(1, { x: to[0], y: to[1] });
  gestures.up(1);
}

const boxes = () => open.labels.value.map(({ box }) => box);

describe("dragging", () => {
  it("draws", () => {
    drag(on(20, 20), on(120, 80));
    expect(boxes()).toEqual([[20, 20, 120, 80]]);
    expect(draft).toBeNull();
  });
  it("draws inside a box that was just drawn, and at the edge", () => {
    drag(on(20, 20), on(120, 80));
    drag(on(50, 40), on(90, 60));
    drag(on(350, 250), on(500, 400));
    expect(boxes()).toEqual([
      [20, 20, 120, 80],
      [50, 40, 90, 60],
      [350, 250, 400, 300],
    ]);
  });
  it("moves a box that was clicked", () => {
    drag(on(20, 20), on(120, 80));
    drag(on(60, 50), on(60, 50));
    drag(on(60, 50), on(70, 55));
    expect(boxes()).toEqual([[30, 25, 130, 85]]);
  });
  it("with W draws inside a box that was clicked", () => {
    drag(on(20, 20), on(120, 80));
    drag(on(60, 50), on(60, 50));
    drawing.value = true;
    drag(on(60, 50), on(70, 60));
    expect(boxes()[1]).toEqual([60, 50, 70, 60]);
  });
  it("resizes by a corner without a jump", () => {
    drag(on(20, 20), on(120, 80));
    const [x, y] = on(120, 80);
    drag([x + 3, y + 3], [x + 23, y + 13]);
    expect(boxes()).toEqual([[20, 20, 130, 85]]);
  });
  it("with the space bar or the middle button moves the view", () => {
    gestures.space = true;
    drag([100, 100], [150, 120]);
    gestures.space = false;
    drag([100, 100], [110, 110], 1);
    expect(view).toEqual({ scale: 2, x: 70, y: 40 });
    expect(boxes()).toEqual([]);
  });
  it("draws a tiny box when zoomed in", () => {
    view = { scale: 20, x: 0, y: 0 };
    drag([200, 200], [240, 260]);
    expect(boxes()).toEqual([[10, 10, 12, 13]]);
  });
  it("by accident, of two pixels, is a click", () => {
    drag([100, 100], [102, 100]);
    expect(boxes()).toEqual([]);
  });
});

describe("a click", () => {
  it("chooses the smallest, then what is around it, or a suggestion, or nothing", () => {
    drag(on(20, 20), on(120, 80));
    drag(on(50, 40), on(90, 60));
    select(null);
    const [outer, inner] = open.labels.value.map(({ id }) => id);
    const click = (x: number, y: number) => drag(on(x, y), on(x, y));
    click(70, 50);
    expect(open.selected.value).toBe(inner);
    click(70, 50);
    expect(open.selected.value).toBe(outer);
    click(340, 240);
    expect(open.selected.value).toBeNull();
    expect(open.activeOffer.value?.name).toBe("b");
    click(200, 150);
    expect(open.activeOffer.value).toBeNull();
  });
});

describe("two fingers", () => {
  it("zoom about their middle and do not draw", () => {
    gestures.down(1, { x: 300, y: 300 }, 0, true);
    gestures.down(2, { x: 500, y: 300 }, 0, true);
    const before = (400 - view.x) / view.scale;
    gestures.move(1, { x: 200, y: 300 });
    gestures.move(2, { x: 600, y: 300 });
    expect(view.scale).toBeCloseTo(4);
    expect((400 - view.x) / view.scale).toBeCloseTo(before);
    gestures.up(1);
    gestures.move(2, { x: 700, y: 500 });
    gestures.up(2);
    expect(boxes()).toEqual([]);
  });
});

describe("another photo that is opened during a gesture", () => {
  const next = (more: Partial<Photo> = {}) => open.showPhoto({ ...PHOTO, photo: "q", ...more }, null);

  it("does not get the box that was being drawn", () => {
    const [x, y] = on(20, 20);
    gestures.down(1, { x, y }, 0, false);
    gestures.move(1, { x: x + 100, y: y + 100 });
    next({ state: "empty" });
    gestures.move(1, { x: x + 120, y: y + 120 });
    expect([draft, gestures.active, dragging.value]).toEqual([null, false, false]);
    gestures.up(1);
    expect(open.content()).toEqual({ boxes: [], empty: true });
  });

  it("stays empty when a box of the last one was being moved", () => {
    drag(on(20, 20), on(120, 120));
    select(open.labels.value[0] ?? null);
    const [x, y] = on(70, 70);
    gestures.down(1, { x, y }, 0, false);
    gestures.move(1, { x: x + 40, y: y + 40 });
    next({ state: "empty" });
    gestures.up(1);
    expect(open.content()).toEqual({ boxes: [], empty: true });
  });

  it("is drawn on as soon as the pointer goes down anew", () => {
    gestures.down(1, { x: 50, y: 50 }, 0, false);
    next();
    drag(on(20, 20), on(120, 120));
    expect(boxes()).toEqual([[20, 20, 120, 120]]);
  });
});

it("a box that has gone is not changed, and nothing else is", () => {
  open.showPhoto({ ...PHOTO, state: "empty" }, null);
  setBox(12345, [0, 0, 10, 10]);
  expect(open.empty.value).toBe(true);
});
