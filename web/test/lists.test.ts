import { expect, it } from "vitest";
import { addClass, addPoint, classes, passes, session, showSession } from "../src/session";
import type { Expected, PhotoItem, Session } from "../src/types";
import { rowsInSight, scrollTo } from "../src/virtual";

it("of 20,000 rows only those in sight are drawn", () => {
  const { first, last } = rowsInSight(560_000, 600, 56, 20_000);
  expect(first).toBe(9996);
  expect(last).toBe(10_015);
  expect(rowsInSight(0, 600, 56, 3)).toEqual({ first: 0, last: 3 });
  expect(rowsInSight(9e9, 600, 56, 10)).toEqual({ first: 10, last: 10 });
});

it("the open photo is scrolled to only if it is out of sight", () => {
  expect(scrollTo(5, 100, 600, 56)).toBe(100);
  expect(scrollTo(50, 100, 600, 56)).toBe(51 * 56 - 600 + 56);
  expect(scrollTo(0, 100, 600, 56)).toBe(0);
});

it("filters by state, doubt and name", () => {
  const item: PhotoItem = { photo: "cam1/IMG_7.jpg", state: "empty", boxes: 0, revision: 1 };
  const none = new Set<string>();
  expect(passes(item, "all", "img", none)).toBe(true);
  expect(passes(item, "all", "cat", none)).toBe(false);
  expect(passes(item, "labelled", "", none)).toBe(true);
  expect(passes(item, "unlabelled", "", none)).toBe(false);
  expect(passes(item, "doubtful", "", none)).toBe(false);
  expect(passes(item, "doubtful", "", new Set([item.photo]))).toBe(true);
  expect(passes(undefined, "all", "", none)).toBe(true);
  expect(passes(undefined, "labelled", "", none)).toBe(false);
});

it("the curve has one point for each number of photos, in order", () => {
  const at = (photos: number, recall: number) => ({ photos, recall, precision: 0.5, ap50: 0.4 }) as Expected;
  const curve = [at(10, 0.5), at(5, 0.2), at(10, 0.6)].reduce(addPoint, [] as never[]);
  expect(curve.map(({ labelled, recall }) => [labelled, recall])).toEqual([
    [5, 0.2],
    [10, 0.6],
  ]);
});

it("a point of the curve lies at the photos that were labelled, not at those that were measured", () => {
  const measured = { photos: 8, labelled: 20, recall: 0.5, precision: 0.5, ap50: 0.4 } as Expected;
  expect(addPoint([], measured).map(({ labelled }) => labelled)).toEqual([20]);
});

it("what is kept in the browser belongs to the store of labels, not to the name of the folder", () => {
  const at = (store?: string) => ({ folder: "photos", store, classes: [], curve: [] }) as unknown as Session;
  localStorage.clear();
  showSession(at("one"));
  addClass("ace");
  expect(localStorage.getItem("sppnet:classes:one")).toBe('["ace"]');
  showSession(at("two"));
  expect(classes.value).toEqual([]);
  showSession(at());
  addClass("ten");
  expect(localStorage.getItem("sppnet:classes:photos")).toBe('["ten"]');
  session.value = null;
});
