import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { ApiError, api } from "../src/api";
import * as open from "../src/document";
import * as editing from "../src/editing";
import { catchUp } from "../src/events";
import { openPhoto } from "../src/going";
import { photos, session, showClasses } from "../src/session";
import type { Box, Photo, Session } from "../src/types";

const SESSION = { task: "detect", folder: "f", store: "s", classes: [], curve: [] } as unknown as Session;

/** A photo with as many boxes as it has revisions. */
function photo(revision: number, more: Partial<Photo> = {}): Photo {
  const box: Box = [0, 0, 10, 10];
  return {
    photo: "p",
    index: 0,
    width: 400,
    height: 300,
    revision,
    state: "labelled",
    boxes: Array.from({ length: revision }, () => ({ box, name: "ace" })),
    can_undo: true,
    can_redo: false,
    suggestions: { model: "", withheld: false, items: [] },
    ...more,
  };
}

const answers = (...all: Photo[]) => {
  const get = vi.spyOn(api, "photo");
  for (const one of all) get.mockResolvedValueOnce(one);
  return get;
};

beforeEach(() => {
  localStorage.clear();
  session.value = SESSION;
  photos.value = [{ photo: "p", state: "labelled", boxes: 3, revision: 3 }];
  showClasses([{ name: "ace", count: 3 }]);
  editing.startSaving("s");
  vi.spyOn(api, "presence").mockResolvedValue(null);
  open.showPhoto(photo(3), null);
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  photos.value = [];
  session.value = null;
});

it("two quick undos are sent one after the other, each with the revision of the last answer", async () => {
  const undo = vi
    .spyOn(api, "undo")
    .mockImplementation(async (_, revision) => photo(revision + 1, { boxes: [] }));
  await Promise.all([editing.travel("undo"), editing.travel("undo")]);
  expect(undo.mock.calls).toEqual([
    ["p", 3],
    ["p", 4],
  ]);
  expect(open.photo.value?.revision).toBe(5);
});

it("an undo is for the photo that was open when the key was pressed", async () => {
  const undo = vi.spyOn(api, "undo").mockResolvedValue(photo(4));
  const both = [editing.travel("undo"), editing.travel("undo")];
  open.showPhoto(photo(1, { photo: "q", index: 1 }), null);
  await Promise.all(both);
  expect(undo).not.toHaveBeenCalled();
});

it("a photo that was saved while it was asked for is asked for once more", async () => {
  const get = answers(photo(2), photo(3));
  expect(await openPhoto("p")).toBe(true);
  expect(open.photo.value?.revision).toBe(3);
  expect(get).toHaveBeenCalledTimes(2);
});

it("a photo whose class was renamed while it was asked for is asked for once more", async () => {
  const get = answers(photo(3), photo(3, { boxes: [{ box: [0, 0, 10, 10], name: "one" }] }));
  const opened = openPhoto("p");
  editing.renameClass({ name: "ace", new: "one" });
  await opened;
  expect(open.labels.value.map(({ name }) => name)).toEqual(["one"]);
  expect(get).toHaveBeenCalledTimes(2);
});

it("after the server was away, the open photo is as it is there", async () => {
  vi.spyOn(api, "session").mockResolvedValue(SESSION);
  const items = [{ photo: "p", state: "labelled" as const, boxes: 5, revision: 5 }];
  vi.spyOn(api, "photos").mockResolvedValue({ total: 1, items });
  vi.spyOn(api, "suggestions").mockResolvedValue(photo(5).suggestions);
  answers(photo(5));
  await catchUp();
  expect([open.photo.value?.revision, open.labels.value.length]).toEqual([5, 5]);
});

it("edits that wait are not sent to other photos that are served at the same address", async () => {
  vi.useFakeTimers();
  const put = vi.spyOn(api, "put").mockResolvedValue(photo(4));
  const reload = vi.spyOn(location, "reload").mockReturnValue();
  vi.spyOn(api, "session").mockResolvedValue({ ...SESSION, store: "other" });
  editing.startSaving("s");
  editing.nothingHere();
  await catchUp();
  expect(reload).toHaveBeenCalledOnce();
  expect(put).not.toHaveBeenCalled();
});

it("nor are those that the server did not take before it served others", async () => {
  vi.useFakeTimers();
  const put = vi.spyOn(api, "put").mockRejectedValue(new ApiError(0, "E_OFFLINE", ""));
  const reload = vi.spyOn(location, "reload").mockReturnValue();
  const asked = vi.spyOn(api, "session").mockResolvedValue({ ...SESSION, store: "other" });
  editing.nothingHere();
  await vi.advanceTimersByTimeAsync(5000);
  expect(put).toHaveBeenCalledOnce();
  expect(reload).toHaveBeenCalled();
  put.mockResolvedValue(photo(4));
  asked.mockResolvedValue(SESSION);
  await vi.advanceTimersByTimeAsync(9000);
  expect(put).toHaveBeenCalledTimes(2);
  expect(editing.waiting.value).toBe(0);
});

it("an edit that the server refuses can be let go, and the photo is as it is there", async () => {
  vi.useFakeTimers();
  vi.spyOn(api, "put").mockRejectedValue(new ApiError(422, "E_VALUE", "no"));
  editing.startSaving("s");
  editing.nothingHere();
  await vi.advanceTimersByTimeAsync(1000);
  expect([editing.refused.value, editing.trouble.value]).toEqual(["p", "refused"]);
  answers(photo(3));
  await editing.discard("p");
  expect([editing.refused.value, editing.waiting.value]).toEqual([null, 0]);
  expect([open.labels.value.length, open.empty.value]).toEqual([3, false]);
  expect(photos.value[0]?.state).toBe("labelled");
});
