import { describe, expect, it } from "vitest";
import { difference, following, matched, nameAt, shown, together } from "../src/suggestions";
import type { Box, Suggestions } from "../src/types";

const found = (...items: [Box, string, number][]): Suggestions => ({
  model: "1",
  withheld: false,
  items: items.map(([box, name, confidence]) => ({ box, name, score: 0, confidence })),
});

const A: Box = [0, 0, 100, 100];
const NEAR_A: Box = [4, 4, 100, 100];
const B: Box = [200, 0, 260, 80];

describe("after a fit", () => {
  const before = matched(found([A, "ace", 0.9], [B, "ten", 0.4]), []);
  it("a suggestion that is found again keeps its id", () => {
    const now = matched(found([B, "ten", 0.8], [NEAR_A, "ace", 0.7]), before);
    expect(now.map(({ id }) => id)).toEqual([before[1]?.id, before[0]?.id]);
    expect(now.some(({ fresh }) => fresh)).toBe(false);
  });
  it("another class at the same place is another suggestion", () => {
    const now = matched(found([A, "king", 0.9]), before);
    expect(before.map(({ id }) => id)).not.toContain(now[0]?.id);
    expect(now[0]?.fresh).toBe(true);
    expect(difference(before, now)).toEqual({ come: 1, gone: 2 });
  });
  it("two at one place do not share an id", () => {
    const now = matched(found([A, "ace", 0.9], [NEAR_A, "ace", 0.8]), before);
    expect(new Set(now.map(({ id }) => id)).size).toBe(2);
  });
});

describe("shown are those", () => {
  const offers = matched(found([A, "ace", 0.9], [B, "ten", 0.4]), []);
  const names = (list: { name: string }[]) => list.map(({ name }) => name);
  it("that reach the slider", () => {
    expect(names(shown(offers, [], [], 0.5))).toEqual(["ace"]);
    expect(names(shown(offers, [], [], 0.4))).toEqual(["ace", "ten"]);
  });
  it("where something is, whichever class it may be", () => {
    const items = [
      { box: A, name: "jack", score: 0, confidence: 0.3, there: 0.9 },
      { box: A, name: "king", score: 0, confidence: 0.25 },
    ];
    const torn = matched({ model: "1", withheld: false, items }, []);
    expect(names(shown(torn, [], [], 0.5))).toEqual(["jack"]);
    expect(names(shown(torn, [], [], 0.2))).toEqual(["jack", "king"]);
  });
  it("that no label covers", () => {
    expect(names(shown(offers, [{ box: NEAR_A, name: "ace" }], [], 0))).toEqual(["ten"]);
    expect(names(shown(offers, [{ box: NEAR_A, name: "king" }], [], 0))).toEqual(["ten"]);
    const half: Box = [0, 0, 100, 55];
    expect(names(shown(offers, [{ box: half, name: "king" }], [], 0))).toEqual(["ace", "ten"]);
    expect(names(shown(offers, [{ box: half, name: "ace" }], [], 0))).toEqual(["ten"]);
  });
  it("that nobody rejected", () => {
    expect(names(shown(offers, [], [{ box: NEAR_A, name: "ace" }], 0))).toEqual(["ten"]);
    expect(names(shown(offers, [], [{ box: NEAR_A, name: "king" }], 0))).toEqual(["ace", "ten"]);
  });
});

describe("accepted together are", () => {
  const offers = matched(found([A, "ace", 0.9], [NEAR_A, "ten", 0.8], [B, "ten", 0.4]), []);
  const names = (threshold: number) => together(offers, [], [], threshold).map(({ name }) => name);
  it("all that are shown, and of two that nearly coincide the surer one", () => {
    expect(names(0)).toEqual(["ace", "ten"]);
    expect(names(0.5)).toEqual(["ace"]);
    expect(together(offers, [{ box: A, name: "king" }], [], 0.5)).toEqual([]);
  });
});

describe("a drawn box is named", () => {
  const offers = matched(found([B, "ten", 0.1], [NEAR_A, "ten", 0.3], [A, "ace", 0.6]), []);
  it("by the surest that shows the same", () => {
    expect(nameAt(offers, [], NEAR_A)).toBe("ace");
    expect(nameAt(offers, [], B)).toBe("ten");
    expect(nameAt(offers, [{ box: A, name: "ace" }], NEAR_A)).toBe("ten");
  });
  it("by none that is beside it", () => {
    expect(nameAt(offers, [], [80, 80, 200, 200])).toBeNull();
    expect(nameAt([], [], A)).toBeNull();
  });
});

it("Tab goes around", () => {
  const offers = matched(found([A, "ace", 0.9], [B, "ten", 0.4]), []);
  const [first, second] = offers.map(({ id }) => id);
  expect(following(offers, null)?.id).toBe(first);
  expect(following(offers, first ?? 0)?.id).toBe(second);
  expect(following(offers, second ?? 0)?.id).toBe(first);
  expect(following(offers, null, -1)?.id).toBe(second);
  expect(following([], null)).toBeNull();
});
