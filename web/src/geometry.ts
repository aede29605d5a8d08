/** Boxes on a photo: moving, resizing, overlap, and which one lies under a point. */
import type { Box, NamedBox } from "./types";

export interface Size {
  width: number;
  height: number;
}

/** The side or corner that is dragged: "n", "se", ... */
export type Handle = "n" | "s" | "e" | "w" | "ne" | "nw" | "se" | "sw";

/** The smallest side of a box in pixels of the photo. */
export const SMALLEST = 1;

const round = (value: number) => Math.round(value * 10) / 10;
const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);

/** The box between two corners, inside the photo and with sides of at least one pixel. */
export function boxBetween(x1: number, y1: number, x2: number, y2: number, size: Size): Box {
  const [left, right] = span(x1, x2, size.width);
  const [top, bottom] = span(y1, y2, size.height);
  return [left, top, right, bottom];
}

function span(a: number, b: number, length: number): [number, number] {
  let low = clamp(Math.min(a, b), 0, length);
  let high = clamp(Math.max(a, b), 0, length);
  if (high - low < SMALLEST) {
    low = clamp(low, 0, Math.max(0, length - SMALLEST));
    high = Math.min(length, low + SMALLEST);
  }
  return [round(low), round(high)];
}

/** A box moved by (dx, dy); it stops at the edge of the photo and keeps its size. */
export function moveBox(box: Box, dx: number, dy: number, size: Size): Box {
  const x = clamp(dx, -box[0], Math.max(0, size.width - box[2]));
  const y = clamp(dy, -box[1], Math.max(0, size.height - box[3]));
  return [round(box[0] + x), round(box[1] + y), round(box[2] + x), round(box[3] + y)];
}

/** A box whose side or corner was dragged to (x, y); dragged past the other side, it turns over. */
export function resizeBox(box: Box, handle: Handle, x: number, y: number, size: Size): Box {
  let [x1, y1, x2, y2] = box;
  if (handle.includes("w")) x1 = x;
  if (handle.includes("e")) x2 = x;
  if (handle.includes("n")) y1 = y;
  if (handle.includes("s")) y2 = y;
  return boxBetween(x1, y1, x2, y2, size);
}

export const area = (box: Box) => Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);

/** Intersection over union. */
export function iou(a: Box, b: Box): number {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const shared = width * height;
  return shared / (area(a) + area(b) - shared);
}

/**
 * The box under a point, the smallest first, so that a box inside a box can be reached. A second click
 * at the same place gives the next larger one.
 */
export function boxAt<T extends { id: number; box: Box }>(
  boxes: readonly T[],
  x: number,
  y: number,
  margin: number,
  current: number | null,
): T | null {
  const under = boxes
    .filter(
      ({ box }) =>
        x >= box[0] - margin && x <= box[2] + margin && y >= box[1] - margin && y <= box[3] + margin,
    )
    .sort((a, b) => area(a.box) - area(b.box));
  if (under.length === 0) return null;
  const at = under.findIndex(({ id }) => id === current);
  return under[(at + 1) % under.length] ?? null;
}

/** The side or corner of a box within reach of a point; all lengths in one unit. */
export function handleAt(box: Box, x: number, y: number, reach: number): Handle | null {
  // inside a tiny box the handles leave its middle free, to move it by
  const insideX = Math.min(reach, Math.max(2, (box[2] - box[0]) / 4));
  const insideY = Math.min(reach, Math.max(2, (box[3] - box[1]) / 4));
  if (x < box[0] - reach || x > box[2] + reach || y < box[1] - reach || y > box[3] + reach) return null;
  const row = y <= box[1] + insideY ? "n" : y >= box[3] - insideY ? "s" : "";
  const column = x <= box[0] + insideX ? "w" : x >= box[2] - insideX ? "e" : "";
  return (row + column || null) as Handle | null;
}

/** Their boxes, and those of mine that nearly coincide with none of theirs. */
export function mergeBoxes(mine: readonly NamedBox[], theirs: readonly NamedBox[]): NamedBox[] {
  const known = (one: NamedBox) =>
    theirs.some((other) => other.name === one.name && iou(other.box, one.box) >= 0.8);
  return [...theirs, ...mine.filter((one) => !known(one))];
}
