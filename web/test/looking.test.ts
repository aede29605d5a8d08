import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { api } from "../src/api";
import * as open from "../src/document";
import * as editing from "../src/editing";
import { acceptSheet, cells, left, loadSheet, right, SHEET, toggle } from "../src/looking";
import { photos, session } from "../src/session";
import type { Box, Content, Photo, Session } from "../src/types";
import { photoWith } from "./photos";

const A: Box = [0, 0, 100, 100];
const NEAR_A: Box = [4, 4, 100, 100];
const B: Box = [200, 0, 260, 80];

let server: Photo[];
let put: [string, number, Content][];

const ITEMS = [
  { box: A, name: "ace", score: 1, confidence: 0.9 },
  { box: NEAR_A, name: "ten", score: 0, confidence: 0.8 },
  { box: B, name: "ten", score: 0, confidence: 0.2 },
];
const photo = (name: string, more: Partial<Photo> = {}) => photoWith(ITEMS, { photo: name, ...more });

const names = () => cells.value?.map((cell) => cell.photo.photo);

beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
  session.value = { task: "detect", folder: "f", store: "s", classes: [] } as unknown as Session;
  photos.value = [];
  left.value = new Set();
  open.threshold.value = 0.5;
  editing.startSaving("s");
  put = [];
  server = ["a", "b", "c"].map((name) => photo(name));
  vi.spyOn(api, "surest").mockImplementation(async (count) => ({
    photos: server.filter(({ photo: name }) => !put.some(([one]) => one === name)).slice(0, count),
  }));
  vi.spyOn(api, "put").mockImplementation(async (name, revision, content) => {
    put.push([name, revision, content]);
    return photo(name, { ...content, revision: revision + 1, state: "labelled" } as Partial<Photo>);
  });
  open.showPhoto(photo("z"), null);
});
afterEach(() => {
  vi.restoreAllMocks();
  photos.value = [];
  session.value = null;
  cells.value = null;
});

it("what is right is accepted together, what was taken out stays to do and does not come again", async () => {
  await loadSheet();
  expect(names()).toEqual(["a", "b", "c"]);
  toggle("a");
  toggle("b");
  toggle("a");
  expect(right().map((cell) => cell.photo.photo)).toEqual(["a", "c"]);
  await acceptSheet();
  // of two that nearly coincide the surer one, and nothing below the slider
  const said = { boxes: [{ box: A, name: "ace" }], empty: false };
  expect(put).toEqual([
    ["a", 3, said],
    ["c", 3, said],
  ]);
  expect(names()).toEqual([]);
  expect(api.surest).toHaveBeenLastCalledWith(SHEET + 1);
});

it("photos with nothing above the slider, labels, or an edit on its way are not shown", async () => {
  const low = photo("b").suggestions.items.filter(({ confidence }) => confidence < 0.5);
  server[1] = photo("b", { suggestions: { model: "1", withheld: false, items: low } });
  server[2] = photo("c", { state: "labelled" });
  await loadSheet();
  expect(names()).toEqual(["a"]);
});

it("what was rejected on a photo is not accepted for it", async () => {
  open.showPhoto(photo("a"), null);
  editing.rejectOffer();
  await loadSheet();
  expect(cells.value?.[0]?.offers.map(({ name }) => name)).toEqual(["ten"]);
});

it("the open photo shows what was accepted for it", async () => {
  open.showPhoto(photo("a"), null);
  server = [photo("a")];
  await loadSheet();
  await acceptSheet();
  expect(open.labels.value.map(({ name }) => name)).toEqual(["ace"]);
  expect(open.photo.value?.revision).toBe(4);
});

it("of two sheets that are asked for the later one counts", async () => {
  const first = loadSheet();
  server = [photo("d")];
  await Promise.all([first, loadSheet()]);
  expect(names()).toEqual(["d"]);
});
