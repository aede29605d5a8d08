import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { ApiError, api } from "../src/api";
import * as open from "../src/document";
import { go, goBest, openFirst, opening, openPhoto } from "../src/going";
import { message } from "../src/messages";
import { filter, photos, search } from "../src/session";
import type { Photo, PhotoState } from "../src/types";

const NAMES = ["a", "b", "c", "d"];
const DAMAGED = new ApiError(422, "E_IMAGE", "b is damaged");
const OFFLINE = new ApiError(0, "E_OFFLINE", "");

let broken: Record<string, ApiError>;
let asked: string[];

function photo(name: string): Photo {
  return {
    photo: name,
    index: NAMES.indexOf(name),
    width: 40,
    height: 30,
    revision: 0,
    state: "unlabelled",
    boxes: [],
    can_undo: false,
    can_redo: false,
    suggestions: { model: "", withheld: false, items: [] },
  };
}

function list(...states: PhotoState[]): void {
  photos.value = NAMES.map((name, at) => ({
    photo: name,
    state: states[at] ?? "unlabelled",
    boxes: 0,
    revision: 0,
  }));
}

beforeEach(() => {
  broken = { b: DAMAGED };
  asked = [];
  filter.value = "all";
  search.value = "";
  list();
  vi.useFakeTimers();
  vi.spyOn(api, "presence").mockResolvedValue(null);
  vi.spyOn(api, "photo").mockImplementation(async (name) => {
    asked.push(name);
    const failure = broken[name];
    if (failure) throw failure;
    return photo(name);
  });
  open.showPhoto(photo("a"), null);
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  photos.value = [];
});

it("a photo that cannot be read is stepped over, both ways, and named", async () => {
  await go(1);
  expect([open.photo.value?.photo, message.value?.text]).toEqual(["c", "b is damaged"]);
  await go(-1);
  expect(open.photo.value?.photo).toBe("a");
});

it("a server that does not answer steps over nothing", async () => {
  broken = { b: OFFLINE };
  await go(1);
  expect([asked, open.photo.value?.photo]).toEqual([["b"], "a"]);
});

it("a photo that is asked for meanwhile is the one that is opened", async () => {
  const first = go(1);
  const second = openPhoto("d");
  await Promise.all([first, second]);
  expect([asked, open.photo.value?.photo, opening.value]).toEqual([["b", "d"], "d", null]);
});

it("if nothing beyond can be read, the open photo stays", async () => {
  broken = { b: DAMAGED, c: DAMAGED, d: DAMAGED };
  await go(1);
  expect([asked, open.photo.value?.photo]).toEqual([["b", "c", "d"], "a"]);
});

it("the page begins with the first photo to do that can be read, or else with any", async () => {
  list("labelled");
  await openFirst();
  expect(open.photo.value?.photo).toBe("c");
  broken = { b: DAMAGED, c: DAMAGED, d: DAMAGED };
  await openFirst();
  expect([asked.slice(2), open.photo.value?.photo]).toEqual([["b", "c", "d", "a"], "a"]);
});

it("of the best photos the first one that can be read is opened", async () => {
  vi.spyOn(api, "next").mockResolvedValue({ photos: ["a", "b", "d", "c"] });
  await goBest();
  expect([asked, open.photo.value?.photo]).toEqual([["b", "d"], "d"]);
});
