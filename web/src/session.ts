/** What is known of the folder: classes, photos, how far the learning is, who else is here. */
import { computed, signal } from "@preact/signals";
import { api } from "./api";
import type {
  ClassCount,
  CurvePoint,
  Doubt,
  Expected,
  Job,
  Learning,
  Person,
  PhotoItem,
  Session,
} from "./types";

export const session = signal<Session | null>(null);
export const classes = signal<readonly ClassCount[]>([]);
export const currentClass = signal<string | null>(null);
export const learning = signal<Learning | null>(null);
export const expected = signal<Expected | null>(null);
export const curve = signal<readonly CurvePoint[]>([]);
export const people = signal<readonly Person[]>([]);
export const job = signal<Job | null>(null);
export const doubts = signal<readonly Doubt[] | null>(null);
export const me = `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`;

/** Photos in the folder's order; places that have not been asked for yet are undefined. */
export const photos = signal<readonly (PhotoItem | undefined)[]>([]);
export type Filter = "all" | "unlabelled" | "labelled" | "doubtful";
export const filter = signal<Filter>("all");
export const search = signal("");

/** Indices of the photos in the list, by filter and search. */
export const listed = computed(() => {
  const wanted = search.value.trim().toLowerCase();
  const doubtful = new Set((doubts.value ?? []).map((one) => one.photo));
  const all = photos.value;
  const found: number[] = [];
  for (let at = 0; at < all.length; at += 1)
    if (passes(all[at], filter.value, wanted, doubtful)) found.push(at);
  return found;
});

export function passes(
  item: PhotoItem | undefined,
  kind: Filter,
  wanted: string,
  doubtful: ReadonlySet<string>,
): boolean {
  if (!item) return kind === "all" && wanted === "";
  if (wanted && !item.photo.toLowerCase().includes(wanted)) return false;
  if (kind === "unlabelled") return item.state === "unlabelled";
  if (kind === "labelled") return item.state !== "unlabelled";
  return kind !== "doubtful" || doubtful.has(item.photo);
}

const PAGE = 2000;

/** Ask for the whole list, page after page; the rows that are there are shown meanwhile. */
export async function loadPhotos(): Promise<void> {
  let all: (PhotoItem | undefined)[] = [];
  for (let offset = 0, total = 1; offset < total; ) {
    const page = await api.photos(offset, offset === 0 ? 500 : PAGE);
    total = page.total;
    all = offset === 0 ? new Array(total).fill(undefined) : [...all];
    page.items.forEach((item, at) => {
      all[offset + at] = item;
    });
    photos.value = all;
    if (page.items.length === 0) return;
    offset += page.items.length;
  }
}

/** Somebody's edit: the row and the counts of the list follow. */
export function changeItem(name: string, change: Partial<PhotoItem>, index?: number): void {
  const at = index ?? photos.value.findIndex((item) => item?.photo === name);
  const old = photos.value[at];
  if (at < 0 || (old && old.photo !== name)) return;
  const all = [...photos.value];
  all[at] = { photo: name, state: "unlabelled", boxes: 0, revision: 0, ...old, ...change };
  photos.value = all;
}

/**
 * What this browser keeps of the labels: by the id of their store, since another folder of the same name
 * may be served at the same address.
 */
export const keptBy = (from: Session | null) => from?.store ?? from?.folder ?? "";

const ownClasses = () => `sppnet:classes:${keptBy(session.value)}`;

/** Classes as the server counts them, then those that were added here and have no box yet. */
export function showClasses(counted: readonly ClassCount[]): void {
  const known = new Set(counted.map(({ name }) => name));
  const added = readAdded().filter((name) => !known.has(name));
  classes.value = [...counted, ...added.map((name) => ({ name, count: 0 }))];
  const still = classes.value.some(({ name }) => name === currentClass.value);
  if (!still) currentClass.value = classes.value[0]?.name ?? null;
}

function readAdded(): string[] {
  try {
    return JSON.parse(localStorage.getItem(ownClasses()) ?? "[]");
  } catch {
    return [];
  }
}

export function addClass(name: string): void {
  if (!classes.value.some((one) => one.name === name)) {
    keepAdded([...readAdded(), name]);
    classes.value = [...classes.value, { name, count: 0 }];
  }
  currentClass.value = name;
}

/** A class without boxes is known to this browser only, so that is where it changes its name. */
export function renameAdded(name: string, to: string | null): void {
  const others = readAdded().filter((one) => one !== name);
  keepAdded(to === null ? others : [...others, to]);
}

function keepAdded(all: string[]): void {
  localStorage.setItem(ownClasses(), JSON.stringify([...new Set(all)]));
}

/** A point of the curve for each number of labelled photos; the newest estimate of a number counts. */
export function addPoint(known: readonly CurvePoint[], now: Expected): CurvePoint[] {
  const { recall, precision, ap50 } = now;
  const point = { labelled: now.labelled ?? now.photos, recall, precision, ap50 };
  return [...known.filter(({ labelled }) => labelled !== point.labelled), point].sort(
    (a, b) => a.labelled - b.labelled,
  );
}

export function showSession(from: Session): void {
  session.value = from;
  learning.value = from.state;
  expected.value = from.expected;
  curve.value = from.curve;
  showClasses(from.classes);
}
