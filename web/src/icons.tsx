/** Drawn for this page, 20 x 20; decoration, so unseen by screen readers. */

const PATHS = {
  previous: "M12.5 4.5 7 10l5.5 5.5",
  next: "M7.5 4.5 13 10l-5.5 5.5",
  best: "M10 2.8l1.7 4.6 4.8.2-3.8 3 1.3 4.7-4-2.7-4 2.7 1.3-4.7-3.8-3 4.8-.2z",
  check: "M4 10.5l4 4 8-9",
  all: "M2.5 10.5l3.5 3.5 7-8M10.5 14l7-8",
  cross: "M5 5l10 10M15 5L5 15",
  undo: "M7 4.5L3.5 8 7 11.5M3.5 8h8a4.5 4.5 0 0 1 0 9H9",
  redo: "M13 4.5L16.5 8 13 11.5M16.5 8h-8a4.5 4.5 0 0 0 0 9H11",
  none: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14M5 15L15 5",
  copy: "M7 7h9v9H7zM4 13V4h9",
  trash: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6",
  eye: "M2 10s3-5.5 8-5.5 8 5.5 8 5.5-3 5.5-8 5.5S2 10 2 10zM10 7.7a2.3 2.3 0 1 0 0 4.6 2.3 2.3 0 0 0 0-4.6",
  draw: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4M10 7v6M7 10h6",
  list: "M4 5h12M4 10h12M4 15h12",
  panel: "M3 4h14v12H3zM12 4v12",
  help: "M7.5 7.5a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1.9-1.1 1.8M10 14.6v.1M10 2.5a7.5 7.5 0 1 0 0 15 7.5 7.5 0 0 0 0-15",
  save: "M10 3v9M6.5 8.5L10 12l3.5-3.5M4 14v3h12v-3",
  edit: "M4 16l.8-3.4L13 4.4l2.6 2.6-8.2 8.2z",
  plus: "M10 4v12M4 10h12",
  grid: "M3.5 3.5h5.5v5.5H3.5zM11 3.5h5.5v5.5H11zM3.5 11h5.5v5.5H3.5zM11 11h5.5v5.5H11z",
  curve: "M3 3v14h14M5.5 13.5c2.5 0 3-6 10.5-7",
  search: "M9 3.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11M13 13l4 4",
  person: "M10 4a3 3 0 1 0 0 6 3 3 0 0 0 0-6M4 16.5c.6-3 3-4.5 6-4.5s5.4 1.5 6 4.5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
