/** Where the photo lies in its window: screen = photo * scale + (x, y). */
import type { Size } from "./geometry";
import type { Box } from "./types";

export interface View {
  scale: number;
  x: number;
  y: number;
}

export const LARGEST_SCALE = 40;

/** The photo as large as the window lets it be, in its middle. */
export function fitted(photo: Size, frame: Size, margin = 12): View {
  const room = {
    width: Math.max(1, frame.width - 2 * margin),
    height: Math.max(1, frame.height - 2 * margin),
  };
  const scale = Math.min(room.width / photo.width, room.height / photo.height, LARGEST_SCALE);
  return {
    scale,
    x: (frame.width - photo.width * scale) / 2,
    y: (frame.height - photo.height * scale) / 2,
  };
}

/** Zoomed by a factor; the pixel under (px, py) stays where it is. */
export function zoomAt(view: View, factor: number, px: number, py: number, smallest: number): View {
  const scale = Math.min(Math.max(view.scale * factor, smallest), LARGEST_SCALE);
  const ratio = scale / view.scale;
  return { scale, x: px - (px - view.x) * ratio, y: py - (py - view.y) * ratio };
}

/** Moved, but with at least a strip of the photo left in the window. */
export function pan(view: View, dx: number, dy: number, photo: Size, frame: Size, strip = 48): View {
  const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);
  return {
    scale: view.scale,
    x: clamp(view.x + dx, strip - photo.width * view.scale, frame.width - strip),
    y: clamp(view.y + dy, strip - photo.height * view.scale, frame.height - strip),
  };
}

export function toPhoto(view: View, px: number, py: number): [number, number] {
  return [(px - view.x) / view.scale, (py - view.y) / view.scale];
}

export function toScreen(view: View, box: Box): Box {
  return [
    box[0] * view.scale + view.x,
    box[1] * view.scale + view.y,
    box[2] * view.scale + view.x,
    box[3] * view.scale + view.y,
  ];
}

/** The view in which a box has room around it; used to show a doubtful label. */
export function around(box: Box, photo: Size, frame: Size): View {
  const whole = fitted(photo, frame);
  const side = Math.max(box[2] - box[0], box[3] - box[1], 1) * 2.5;
  const scale = Math.max(whole.scale, Math.min(frame.width / side, frame.height / side, 8));
  if (scale === whole.scale) return whole;
  return {
    scale,
    x: frame.width / 2 - ((box[0] + box[2]) / 2) * scale,
    y: frame.height / 2 - ((box[1] + box[3]) / 2) * scale,
  };
}
