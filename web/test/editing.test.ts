import { beforeEach, describe, expect, it } from "vitest";
import * as open from "../src/document";
import * as editing from "../src/editing";
import { addClass, classes, currentClass, session, showClasses } from "../src/session";
import type { Box, Photo, Session } from "../src/types";
import { photoWith } from "./photos";

const A: Box = [0, 0, 100, 100];
const B: Box = [200, 0, 260, 80];

const ITEMS = [
  { box: A, name: "ace", score: 1, confidence: 0.9 },
  { box: B, name: "ten", score: 0, confidence: 0.6 },
  { box: [300, 200, 320, 220] as Box, name: "ten", score: 0, confidence: 0.1 },
];
const photo = (more: Partial<Photo> = {}) => photoWith(ITEMS, more);

const said = () => open.labels.value.map(({ box, name }) => [name, ...box]);

beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
  session.value = { task: "detect", folder: "f" } as Session;
  showClasses([
    { name: "ace", count: 2 },
    { name: "ten", count: 1 },
  ]);
  open.threshold.value = 0.5;
  open.showPhoto(photo(), null);
});

describe("suggestions", () => {
  it("are accepted one after the other, the surest first", () => {
    editing.accept();
    expect(said()).toEqual([["ace", ...A]]);
    expect(open.activeOffer.value?.name).toBe("ten");
    editing.accept();
    expect(said()).toEqual([
      ["ace", ...A],
      ["ten", ...B],
    ]);
    editing.accept();
    expect(said()).toHaveLength(2);
  });
  it("are corrected by a class key", () => {
    editing.activate(1);
    editing.useClass("ten");
    expect(said()).toEqual([["ten", ...A]]);
  });
  it("are rejected for good, also when the photo is opened again", () => {
    editing.rejectOffer();
    open.showPhoto(photo(), null);
    expect(open.visibleOffers.value.map(({ name }) => name)).toEqual(["ten"]);
    expect(said()).toEqual([]);
  });
  it("above the slider are accepted at once", () => {
    editing.acceptAll();
    expect(said().map(([name]) => name)).toEqual(["ace", "ten"]);
  });
});

describe("what the pointer is on", () => {
  it("is rejected or removed without a click", () => {
    editing.rejectOffer([230, 40]);
    expect(open.visibleOffers.value.map(({ name }) => name)).toEqual(["ace"]);
    editing.acceptAll();
    editing.removeBox([350, 250]); // nothing is there
    expect(said()).toHaveLength(1);
    editing.removeBox([50, 50]);
    expect(said()).toEqual([]);
  });
  it("stays where something was chosen", () => {
    editing.activate(1);
    editing.rejectOffer([230, 40]);
    expect(open.visibleOffers.value.map(({ name }) => name)).toEqual(["ten"]);
    editing.acceptAll();
    editing.addBox([0, 150, 50, 290]);
    editing.removeBox([230, 40]);
    expect(said()).toEqual([["ten", ...B]]);
  });
});

describe("boxes", () => {
  it("get the class in use, and another by a key", () => {
    currentClass.value = "ten";
    editing.addBox([0, 150, 50, 290]);
    expect(said()[0]?.[0]).toBe("ten");
    editing.useClass("ace");
    expect(said()[0]?.[0]).toBe("ace");
  });
  it("get the class that the detector sees there, also below the slider", () => {
    currentClass.value = "ten";
    editing.addBox([5, 5, 100, 100]);
    expect([said()[0]?.[0], currentClass.value]).toEqual(["ace", "ace"]);
    editing.addBox([300, 201, 320, 220]);
    expect(said()[1]?.[0]).toBe("ten");
    editing.addBox([0, 150, 50, 290]); // nothing is seen there: as the last one
    expect(said()[2]?.[0]).toBe("ten");
  });
  it("get the class that was asked for, once", () => {
    editing.useClass("ten");
    editing.addBox(A);
    expect(said()[0]?.[0]).toBe("ten");
    open.showPhoto(photo(), null);
    editing.addBox(A);
    expect(said()[0]?.[0]).toBe("ace");
  });
  it("do not get a class that was rejected there", () => {
    currentClass.value = "ten";
    editing.rejectOffer();
    editing.addBox(A);
    expect(said()[0]?.[0]).toBe("ten");
  });
  it("without any class ask for a name", () => {
    classes.value = [];
    currentClass.value = null;
    editing.addBox(A);
    expect(said()).toEqual([]);
    editing.nameDrawn(" king ");
    expect(said()).toEqual([["king", ...A]]);
    expect(currentClass.value).toBe("king");
  });
  it("are nudged inside the photo", () => {
    editing.addBox(A);
    editing.nudge(-5, 2, false);
    editing.nudge(10, 0, true);
    expect(said()).toEqual([["ace", 0, 2, 110, 102]]);
    editing.removeBox();
    expect(editing.nudge(1, 0, false)).toBe(false);
  });
  it("of the last photo are copied, but not twice", () => {
    editing.addBox(A);
    editing.addBox([390, 290, 400, 300]);
    editing.rememberForCopy();
    open.showPhoto(photo({ photo: "q", width: 395, boxes: [{ box: A, name: "ace" }] }), null);
    editing.copyLast();
    expect(said()).toEqual([
      ["ace", ...A],
      ["ace", 390, 290, 395, 300],
    ]);
  });
  it("go when nothing is here, and that goes when there is a box", () => {
    editing.addBox(A);
    editing.nothingHere();
    expect(open.content()).toEqual({ boxes: [], empty: true });
    editing.addBox(A);
    expect(open.content().empty).toBe(false);
  });
});

describe("whole photos", () => {
  it("have one name, or several with shift", () => {
    open.showPhoto({ ...photo(), names: [] }, null);
    editing.namePhoto("ace", false);
    editing.namePhoto("ten", false);
    expect(open.content()).toEqual({ names: ["ten"], empty: false });
    editing.namePhoto("ace", true);
    editing.namePhoto("ten", true);
    expect(open.content()).toEqual({ names: ["ace"], empty: false });
  });
});

it("a pending edit is what is shown, not what the server still has", () => {
  open.showPhoto(photo(), { boxes: [{ box: B, name: "ten" }], empty: false });
  expect(said()).toEqual([["ten", ...B]]);
});

it("a class that was added stays after the server counted", () => {
  addClass("king");
  showClasses([{ name: "ace", count: 3 }]);
  expect(classes.value.map(({ name, count }) => [name, count])).toEqual([
    ["ace", 3],
    ["king", 0],
  ]);
});

describe("a class that was renamed elsewhere", () => {
  const RENAMING = { name: "ace", new: "one" };

  it("has its new name in boxes, suggestions, and what is copied", () => {
    editing.addBox(A);
    const id = open.selected.value;
    editing.rememberForCopy();
    open.reject({ box: [300, 0, 310, 10], name: "ace" });
    editing.renameClass(RENAMING);
    expect(said()).toEqual([["one", ...A]]);
    expect(open.selectedLabel.value?.id).toBe(id);
    expect(open.offers.value.map(({ name }) => name)).toEqual(["one", "ten", "ten"]);
    expect(open.guesses.value.map(({ name }) => name)).toEqual(["one", "ten", "ten"]);
    expect(open.rejected.value.map(({ name }) => name)).toEqual(["one"]);
    expect(currentClass.value).toBe("one");
    open.showPhoto(photo({ photo: "q" }), null);
    editing.copyLast();
    expect(said()).toEqual([["one", ...A]]);
  });
  it("does not come back among those that were added here", () => {
    addClass("king");
    editing.renameClass({ name: "king", new: "ten" });
    showClasses([{ name: "ten", count: 1 }]);
    expect(classes.value.map(({ name }) => name)).toEqual(["ten"]);
  });
  it("is named once where two became one", () => {
    open.showPhoto({ ...photo(), names: ["ace", "one"] }, null);
    editing.renameClass(RENAMING);
    expect(open.content()).toEqual({ names: ["one"], empty: false });
  });
});
