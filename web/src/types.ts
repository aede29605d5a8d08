/** What the server sends and takes; boxes are x1, y1, x2, y2 in pixels of the upright photo, half-open. */

export type Box = [number, number, number, number];
export type Task = "detect" | "classify";
export type PhotoState = "unlabelled" | "labelled" | "empty";

export interface NamedBox {
  box: Box;
  name: string;
}

export interface Suggestion {
  box?: Box;
  name: string;
  score: number;
  confidence: number;
  /** How likely something is there, whichever class; what an earlier session left has none. */
  there?: number;
}

export interface Suggestions {
  model: string;
  /** One photo in twenty has none until it is labelled, so that agreement is measured and not suggested. */
  withheld: boolean;
  items: Suggestion[];
}

export interface Photo {
  photo: string;
  index: number;
  width: number;
  height: number;
  revision: number;
  state: PhotoState;
  boxes?: NamedBox[];
  names?: string[];
  can_undo: boolean;
  can_redo: boolean;
  suggestions: Suggestions;
}

/** What is said of one photo: boxes or names, or that nothing is there. */
export interface Content {
  boxes?: NamedBox[];
  names?: string[];
  empty: boolean;
}

export interface PhotoItem {
  photo: string;
  state: PhotoState;
  boxes: number;
  revision: number;
}

export interface Learning {
  phase: "idle" | "queued" | "fitting" | "failed";
  seconds_left: number | null;
  message: string | null;
  waiting: number;
  labelled: number;
  photos: number;
  model: string | number | null;
}

export interface Expected {
  photos: number;
  /** Photos that were labelled by then; servers of earlier versions do not say. */
  labelled?: number;
  objects: number;
  ap50: number | null;
  recall: number | null;
  recall_spread: number | null;
  precision: number | null;
  agreement: number | null;
  agreement_photos: number;
}

export interface CurvePoint {
  labelled: number;
  recall: number | null;
  precision: number | null;
  ap50: number | null;
}

export interface ClassCount {
  name: string;
  count: number;
}

export interface Session {
  folder: string;
  /** The id of the store of labels; servers of earlier versions have none. */
  store?: string;
  task: Task;
  photos: number;
  classes: ClassCount[];
  state: Learning;
  expected: Expected | null;
  curve: CurvePoint[];
  version: string;
  last_photo: string | null;
}

export interface Doubt {
  photo: string;
  kind: "label" | "missing";
  box: Box | null;
  name: string;
  instead: string | null;
  probability: number;
}

export interface Person {
  who: string;
  author: string;
  photo: string;
}

export interface Job {
  job: string;
  done: number;
  total: number;
  seconds_left: number | null;
  url: string | null;
  error: string | { message: string } | null;
}
