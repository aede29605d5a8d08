/** A class gets another name, or becomes one with another: what holds the old name gets the new one. */
import type { Content } from "./types";

export interface Renaming {
  name: string;
  new: string;
}

export function renamedItems<T extends { name: string }>(items: readonly T[], how: Renaming): T[] {
  return items.map((item) => (item.name === how.name ? { ...item, name: how.new } : item));
}

/** Names of a whole photo: each is said once, also where two classes became one. */
export function renamedNames(names: readonly string[], how: Renaming): string[] {
  return [...new Set(names.map((name) => (name === how.name ? how.new : name)))];
}

/** The same object if the class is not in it. */
export function renamedContent<T extends Pick<Content, "boxes" | "names">>(said: T, how: Renaming): T {
  const isIn = said.boxes?.some(({ name }) => name === how.name) || said.names?.includes(how.name);
  if (!isIn) return said;
  const to = { ...said };
  if (said.boxes) to.boxes = renamedItems(said.boxes, how);
  if (said.names) to.names = renamedNames(said.names, how);
  return to;
}
