/** Pointers on the photo: draw, move, resize, drag the view, pinch; a click chooses. */
import * as open from "./document";
import { addBox, dragging, drawing, hidden, isClassify, select, setBox } from "./editing";
import { boxAt, boxBetween, type Handle, handleAt, moveBox, resizeBox, type Size } from "./geometry";
import type { Box } from "./types";
import { pan, toPhoto, toScreen, type View, zoomAt } from "./view";

/** What the window shows and can change. */
export interface Frame {
  view(): View;
  setView(view: View): void;
  size(): Size;
  smallestScale(): number;
  /** A box that is being drawn or changed, in pixels of the photo. */
  setDraft(draft: Draft | null): void;
}

export interface Draft {
  id: number | null;
  box: Box;
}

interface Point {
  x: number;
  y: number;
}

type Gesture =
  | { kind: "press"; start: Point; from: Point; touch: boolean }
  | { kind: "draw"; from: Point; box: Box | null }
  | { kind: "move"; id: number; from: Point; start: Box; box: Box }
  | { kind: "resize"; id: number; handle: Handle; offset: Point; start: Box; box: Box }
  | { kind: "pan" }
  | { kind: "pinch"; distance: number; middle: Point };

const DRAG = { mouse: 3, touch: 8 };
const REACH = { mouse: 7, touch: 18 };

export class Gestures {
  private pointers = new Map<number, Point>();
  private gesture: Gesture | null = null;
  /** The photo that the gesture began on; it means nothing on another one. */
  private photo: string | undefined;
  /** The space bar is held: dragging moves the view. */
  space = false;

  constructor(private readonly frame: Frame) {}

  get active(): boolean {
    return this.gesture !== null;
  }

  down(id: number, at: Point, button: number, touch: boolean): void {
    this.leave();
    this.pointers.set(id, at);
    this.photo = open.photo.value?.photo;
    if (this.pointers.size === 2) return this.startPinch();
    if (this.pointers.size > 2) return;
    if (button === 1 || this.space) this.gesture = { kind: "pan" };
    else if (button === 0) this.press(at, touch);
    dragging.value = this.gesture?.kind === "move" || this.gesture?.kind === "resize" || drawing.value;
  }

  private press(at: Point, touch: boolean): void {
    const from = this.point(at);
    const label = open.selectedLabel.value;
    if (drawing.value || isClassify() || !label || hidden.value) {
      this.gesture = { kind: "press", start: at, from, touch };
      return;
    }
    const screen = toScreen(this.frame.view(), label.box);
    const handle = handleAt(screen, at.x, at.y, touch ? REACH.touch : REACH.mouse);
    const start = label.box;
    if (handle) this.gesture = this.resizing(label.id, handle, from, start);
    else if (open.grabbed.value && inside(screen, at))
      this.gesture = { kind: "move", id: label.id, from, start, box: start };
    else this.gesture = { kind: "press", start: at, from, touch };
  }

  private resizing(id: number, handle: Handle, from: Point, start: Box): Gesture {
    // the side does not jump to the pointer: how far beside it the pointer went down stays
    const offset = {
      x: from.x - (handle.includes("w") ? start[0] : start[2]),
      y: from.y - (handle.includes("n") ? start[1] : start[3]),
    };
    return { kind: "resize", id, handle, offset, start, box: start };
  }

  /** A key may open another photo while a pointer is down. */
  private leave(): void {
    if (this.gesture && this.photo !== open.photo.value?.photo) this.cancel();
  }

  move(id: number, at: Point): void {
    this.leave();
    const before = this.pointers.get(id);
    if (!before || !this.gesture) return;
    this.pointers.set(id, at);
    const photo = open.photo.value;
    if (!photo) return;
    const gesture = this.gesture;
    if (gesture.kind === "pan") {
      this.frame.setView(pan(this.frame.view(), at.x - before.x, at.y - before.y, photo, this.frame.size()));
    } else if (gesture.kind === "pinch") this.pinch(gesture, photo);
    else if (gesture.kind === "press") this.maybeDraw(gesture, at);
    else this.shape(gesture, this.point(at), photo);
  }

  private maybeDraw(gesture: Gesture & { kind: "press" }, at: Point): void {
    const far = Math.hypot(at.x - gesture.start.x, at.y - gesture.start.y);
    if (far < (gesture.touch ? DRAG.touch : DRAG.mouse)) return;
    this.gesture = isClassify() ? { kind: "pan" } : { kind: "draw", from: gesture.from, box: null };
    dragging.value = !isClassify();
    hidden.value = false;
  }

  private shape(gesture: Gesture & { kind: "draw" | "move" | "resize" }, to: Point, photo: Size): void {
    if (gesture.kind === "draw") gesture.box = boxBetween(gesture.from.x, gesture.from.y, to.x, to.y, photo);
    else if (gesture.kind === "move")
      gesture.box = moveBox(gesture.start, to.x - gesture.from.x, to.y - gesture.from.y, photo);
    else {
      const { handle, offset, start } = gesture;
      gesture.box = resizeBox(start, handle, to.x - offset.x, to.y - offset.y, photo);
    }
    if (gesture.box)
      this.frame.setDraft({ id: gesture.kind === "draw" ? null : gesture.id, box: gesture.box });
  }

  up(id: number): void {
    this.leave();
    const gesture = this.gesture;
    this.pointers.delete(id);
    if (gesture?.kind === "pinch") {
      // the finger that is left does not begin to draw
      if (this.pointers.size === 0) this.end();
      return;
    }
    this.end();
    if (!gesture) return;
    if (gesture.kind === "press") this.click(gesture);
    else if (gesture.kind === "draw" && gesture.box) this.drawn(gesture.box);
    else if (gesture.kind === "move" || gesture.kind === "resize") this.changed(gesture);
  }

  private changed(gesture: Gesture & { kind: "move" | "resize" }): void {
    if (gesture.box.some((side, at) => side !== gesture.start[at])) setBox(gesture.id, gesture.box);
    // not moved at all: a click, which goes on to the box around this one
    else if (gesture.kind === "move") this.click({ from: gesture.from, touch: false });
  }

  /** Escape, or another photo: the box is as it was. */
  cancel(): void {
    this.pointers.clear();
    this.end();
  }

  private end(): void {
    this.gesture = null;
    this.frame.setDraft(null);
    dragging.value = false;
  }

  private drawn(box: Box): void {
    const { scale } = this.frame.view();
    const far = Math.max(box[2] - box[0], box[3] - box[1]) * scale;
    if (far >= DRAG.mouse) addBox(box);
  }

  private click(gesture: { from: Point; touch: boolean }): void {
    if (isClassify() || drawing.value) return;
    const { x, y } = gesture.from;
    const margin = (gesture.touch ? 10 : 3) / this.frame.view().scale;
    const label = boxAt(open.labels.value, x, y, margin, open.selected.value);
    const offer = boxAt(open.visibleOffers.value, x, y, margin, open.active.value);
    select(label);
    open.active.value = label ? null : (offer?.id ?? null);
  }

  private startPinch(): void {
    const [a, b] = this.two();
    this.frame.setDraft(null);
    dragging.value = false;
    this.gesture = { kind: "pinch", distance: apart(a, b), middle: between(a, b) };
  }

  private pinch(gesture: Gesture & { kind: "pinch" }, photo: Size): void {
    if (this.pointers.size < 2) return;
    const [a, b] = this.two();
    const middle = between(a, b);
    const distance = apart(a, b);
    const { frame } = this;
    const { x, y } = gesture.middle;
    const zoomed = zoomAt(frame.view(), distance / gesture.distance, x, y, frame.smallestScale());
    frame.setView(pan(zoomed, middle.x - x, middle.y - y, photo, frame.size()));
    Object.assign(gesture, { distance, middle });
  }

  private two(): [Point, Point] {
    const [a, b] = [...this.pointers.values()];
    return [a ?? { x: 0, y: 0 }, b ?? { x: 0, y: 0 }];
  }

  private point(at: Point): Point {
    const [x, y] = toPhoto(this.frame.view(), at.x, at.y);
    return { x, y };
  }
}

const apart = (a: Point, b: Point) => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
const between = (a: Point, b: Point): Point => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
const inside = (box: Box, at: Point) => at.x > box[0] && at.x < box[2] && at.y > box[1] && at.y < box[3];

const CURSORS: Record<Handle, string> = {
  n: "ns",
  s: "ns",
  e: "ew",
  w: "ew",
  ne: "nesw",
  sw: "nesw",
  nw: "nwse",
  se: "nwse",
};

/** The cursor over a point of the window. */
export function cursorAt(view: View, at: Point, space: boolean): string {
  if (space || isClassify()) return "grab";
  const label = open.selectedLabel.value;
  if (!label || drawing.value) return "crosshair";
  const screen = toScreen(view, label.box);
  const handle = handleAt(screen, at.x, at.y, REACH.mouse);
  if (handle) return `${CURSORS[handle]}-resize`;
  return open.grabbed.value && inside(screen, at) ? "move" : "crosshair";
}
