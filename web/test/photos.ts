import type { Photo, Suggestions } from "../src/types";

/** A photo that nobody has labelled, with suggestions, as the server tells of it. */
export function photoWith(items: Suggestions["items"], more: Partial<Photo> = {}): Photo {
  return {
    photo: "p",
    index: 0,
    width: 400,
    height: 300,
    revision: 3,
    state: "unlabelled",
    boxes: [],
    can_undo: false,
    can_redo: false,
    suggestions: { model: "1", withheld: false, items },
    ...more,
  };
}
