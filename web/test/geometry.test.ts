import { describe, expect, it } from "vitest";
import { boxAt, boxBetween, handleAt, iou, mergeBoxes, moveBox, resizeBox } from "../src/geometry";
import type { Box } from "../src/types";

const PHOTO = { width: 200, height: 100 };

describe("a drawn box", () => {
  it.each([
    ["down and right", [10, 20, 50, 60], [10, 20, 50, 60]],
    ["up and left", [50, 60, 10, 20], [10, 20, 50, 60]],
    ["over the edges", [-30, -5, 260, 130], [0, 0, 200, 100]],
    ["a point", [30, 40, 30, 40], [30, 40, 31, 41]],
    ["a point in the last corner", [200, 100, 200, 100], [199, 99, 200, 100]],
    ["outside", [300, 300, 400, 400], [199, 99, 200, 100]],
    ["fractions", [10.04, 20.06, 50.14, 60.16], [10, 20.1, 50.1, 60.2]],
  ])("%s", (_, [x1 = 0, y1 = 0, x2 = 0, y2 = 0], box) => {
    expect(boxBetween(x1, y1, x2, y2, PHOTO)).toEqual(box);
  });
});

describe("moving and resizing", () => {
  it("keeps the size at the edge of the photo", () => {
    expect(moveBox([10, 10, 50, 40], -99, 99, PHOTO)).toEqual([0, 70, 40, 100]);
  });
  it("takes one side or two", () => {
    expect(resizeBox([10, 10, 50, 40], "e", 90, 0, PHOTO)).toEqual([10, 10, 90, 40]);
    expect(resizeBox([10, 10, 50, 40], "nw", 5, 6, PHOTO)).toEqual([5, 6, 50, 40]);
  });
  it("turns over past the other side", () => {
    expect(resizeBox([10, 10, 50, 40], "e", 2, 0, PHOTO)).toEqual([2, 10, 10, 40]);
  });
});

describe("what lies under a point", () => {
  const boxes = [
    { id: 1, box: [0, 0, 100, 100] as Box },
    { id: 2, box: [40, 40, 60, 60] as Box },
    { id: 3, box: [30, 30, 80, 80] as Box },
  ];
  it("is the smallest box, then the one around it, then the first again", () => {
    const seen = [null, 2, 3, 1].map((current) => boxAt(boxes, 50, 50, 0, current)?.id);
    expect(seen).toEqual([2, 3, 1, 2]);
  });
  it("is nothing beside all boxes", () => {
    expect(boxAt(boxes, 150, 50, 3, null)).toBeNull();
    expect(boxAt(boxes, 102, 50, 3, null)?.id).toBe(1);
  });
  it.each([
    [10, 10, "nw"],
    [100, 12, "ne"],
    [50, 103, "s"],
    [7, 60, "w"],
    [50, 60, null],
    [200, 60, null],
  ])("at (%d, %d) is the handle %s", (x, y, handle) => {
    expect(handleAt([10, 10, 100, 100], x, y, 7)).toBe(handle);
  });
  it("leaves the middle of a tiny box to move it by", () => {
    expect(handleAt([10, 10, 22, 22], 16, 16, 7)).toBeNull();
    expect(handleAt([10, 10, 22, 22], 23, 23, 7)).toBe("se");
  });
});

describe("overlap", () => {
  it.each<[Box, Box, number]>([
    [[0, 0, 10, 10], [0, 0, 10, 10], 1],
    [[0, 0, 10, 10], [5, 0, 15, 10], 1 / 3],
    [[0, 0, 10, 10], [10, 0, 20, 10], 0],
    [[0, 0, 10, 10], [20, 20, 30, 30], 0],
  ])("of %j and %j", (a, b, overlap) => {
    expect(iou(a, b)).toBeCloseTo(overlap);
  });
});

it("merging keeps all of theirs and what only I have", () => {
  const theirs = [{ box: [0, 0, 10, 10] as Box, name: "a" }];
  const mine = [
    { box: [0, 0, 10, 10.5] as Box, name: "a" },
    { box: [0, 0, 10, 10] as Box, name: "b" },
    { box: [50, 50, 60, 60] as Box, name: "a" },
  ];
  expect(mergeBoxes(mine, theirs)).toEqual([theirs[0], mine[1], mine[2]]);
});
