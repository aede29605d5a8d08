import { expect, it } from "vitest";
import { around, fitted, pan, toPhoto, toScreen, zoomAt } from "../src/view";

const PHOTO = { width: 6000, height: 5000 };
const FRAME = { width: 800, height: 600 };

it("fits the photo into the middle of the window", () => {
  const view = fitted(PHOTO, FRAME, 0);
  expect(view.scale).toBeCloseTo(0.12);
  expect(toScreen(view, [0, 0, 6000, 5000])).toEqual([40, 0, 760, 600]);
});

it("zooming keeps the pixel under the cursor", () => {
  let view = fitted(PHOTO, FRAME);
  const before = toPhoto(view, 123, 456);
  for (const factor of [1.3, 4, 0.7, 9]) view = zoomAt(view, factor, 123, 456, 0.01);
  const after = toPhoto(view, 123, 456);
  expect(after[0]).toBeCloseTo(before[0], 6);
  expect(after[1]).toBeCloseTo(before[1], 6);
});

it("stops at the largest and the smallest scale, and still keeps the pixel", () => {
  const view = fitted(PHOTO, FRAME);
  const large = zoomAt(view, 1e9, 400, 300, 0.05);
  expect(large.scale).toBe(40);
  expect(toPhoto(large, 400, 300)[0]).toBeCloseTo(toPhoto(view, 400, 300)[0], 6);
  expect(zoomAt(view, 1e-9, 400, 300, 0.05).scale).toBe(0.05);
});

it("never loses the photo out of the window", () => {
  const view = pan(fitted(PHOTO, FRAME), 1e6, -1e6, PHOTO, FRAME);
  const [x1, , , y2] = toScreen(view, [0, 0, 6000, 5000]);
  expect(x1).toBe(800 - 48);
  expect(y2).toBeCloseTo(48);
});

it("shows a small box with room around it", () => {
  const view = around([3000, 3000, 3100, 3050], PHOTO, FRAME);
  const [x1, y1, x2, y2] = toScreen(view, [3000, 3000, 3100, 3050]);
  expect((x1 + x2) / 2).toBeCloseTo(400);
  expect((y1 + y2) / 2).toBeCloseTo(300);
  expect(x2 - x1).toBeGreaterThan(200);
});
