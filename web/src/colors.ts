/** A colour per class, told apart on photos and by most people who see colours differently. */
import { classes } from "./session";

const COLORS = [
  "#ff5d5d",
  "#2f9bff",
  "#ffb020",
  "#22c07a",
  "#b46cff",
  "#ff7ac6",
  "#00c2d1",
  "#9acd32",
  "#ff8a3d",
  "#7c8cff",
  "#d4b483",
  "#c0c7d1",
];

export function colorOf(name: string): string {
  const at = classes.value.findIndex((one) => one.name === name);
  return COLORS[(at < 0 ? COLORS.length - 1 : at) % COLORS.length] as string;
}
