/** Which rows of a long list are drawn. */
export interface Rows {
  first: number;
  last: number;
}

/** Rows that a window of `height` shows at `scroll`, and a few beside them. */
export function rowsInSight(scroll: number, height: number, row: number, total: number, spare = 4): Rows {
  const first = Math.max(0, Math.floor(scroll / row) - spare);
  const last = Math.min(total, Math.ceil((scroll + height) / row) + spare);
  return { first: Math.min(first, total), last };
}

/** Where to scroll so that a row is seen; unchanged if it is. */
export function scrollTo(index: number, scroll: number, height: number, row: number): number {
  const [top, bottom] = [index * row, (index + 1) * row];
  if (top < scroll) return Math.max(0, top - row);
  if (bottom > scroll + height) return bottom - height + row;
  return scroll;
}
