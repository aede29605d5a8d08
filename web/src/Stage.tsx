/** The photo in its window, with boxes, suggestions and the box that is being drawn. */
import { signal, untracked, useComputed, useSignal, useSignalEffect } from "@preact/signals";
import type { TargetedPointerEvent } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { imageOf } from "./api";
import { colorOf } from "./colors";
import * as open from "./document";
import { drawing, hidden, isClassify, nameDrawn, unnamed } from "./editing";
import type { Size } from "./geometry";
import { cursorAt, type Draft, Gestures } from "./gestures";
import { opened, opening, SIDE } from "./going";
import { percent, t } from "./i18n";
import type { Box } from "./types";
import { around, fitted, pan, toPhoto, toScreen, type View, zoomAt } from "./view";

export const view = signal<View>({ scale: 1, x: 0, y: 0 });
const frame = signal<Size>({ width: 1, height: 1 });
const draft = signal<Draft | null>(null);
const hovered = signal<{ x: number; y: number } | null>(null);

const smallestScale = () =>
  open.photo.value ? Math.min(fitted(open.photo.value, frame.value).scale, 1) * 0.6 : 0.01;

/** Where the pointer is, in pixels of the photo; null if it is elsewhere. */
export function pointed(): [number, number] | null {
  return hovered.value && toPhoto(view.value, hovered.value.x, hovered.value.y);
}

/** What is seen of the photo, in its pixels. */
export function seen(): Box {
  const { width, height } = open.photo.value ?? frame.value;
  const [x1, y1] = toPhoto(view.value, 0, 0);
  const [x2, y2] = toPhoto(view.value, frame.value.width, frame.value.height);
  return [Math.max(0, x1), Math.max(0, y1), Math.min(width, x2), Math.min(height, y2)];
}

export function zoom(factor: number): void {
  const { width, height } = frame.value;
  view.value = zoomAt(view.value, factor, width / 2, height / 2, smallestScale());
}

let whole: View | null = null;

export function fitPhoto(): void {
  if (!open.photo.value) return;
  whole = fitted(open.photo.value, frame.value);
  view.value = whole;
}

/** After another size of the window; whoever has zoomed in stays there, and no photo moves under a box being drawn. */
function fitAgain(): void {
  if (view.peek() === whole && !gestures.active) fitPhoto();
}

export const gestures = new Gestures({
  view: () => view.value,
  setView: (to) => {
    view.value = to;
  },
  size: () => frame.value,
  smallestScale,
  setDraft: (to) => {
    draft.value = to;
  },
});

export function Stage() {
  const element = useRef<HTMLDivElement>(null);
  useFrameSize(element);
  useWheel(element);
  // not whenever the photo changes: an edit must not take the zoom away
  useSignalEffect(() => {
    if (opened.value === 0) return;
    untracked(() => gestures.cancel());
    untracked(fitPhoto);
  });
  useSignalEffect(() => {
    if (frame.value.width > 1) untracked(fitAgain);
  });
  useSignalEffect(() => {
    const photo = open.photo.peek();
    if (open.highlight.value && photo) view.value = around(open.highlight.value, photo, frame.peek());
  });
  const cursor = useComputed(() =>
    hovered.value ? cursorAt(view.value, hovered.value, gestures.space) : "crosshair",
  );
  const photo = open.photo.value;
  return (
    <div
      ref={element}
      class={`stage ${drawing.value ? "is-drawing" : ""}`}
      id="stage"
      // biome-ignore lint/a11y/noNoninteractiveTabindex: an application of its own keys needs the focus
      tabIndex={0}
      role="application"
      aria-label={photo ? t("stage.label", { name: photo.photo }) : t("stage.none")}
      aria-describedby="stage-keys"
      style={{ cursor: cursor.value }}
      {...pointerHandlers(element)}
    >
      {photo && <PhotoImage key={photo.photo} />}
      {photo && !hidden.value && !isClassify() && <Overlay />}
      {unnamed.value && <NameField box={unnamed.value} />}
      <span id="stage-keys" class="unseen">
        {t("stage.keys")}
      </span>
    </div>
  );
}

function useFrameSize(element: { current: HTMLDivElement | null }): void {
  useEffect(() => {
    const target = element.current;
    if (!target) return;
    const watch = new ResizeObserver(() => {
      frame.value = { width: target.clientWidth, height: target.clientHeight };
    });
    watch.observe(target);
    return () => watch.disconnect();
  }, []);
}

/** The wheel zooms at the cursor; a pinch on a trackpad comes as a wheel with Ctrl. */
function useWheel(element: { current: HTMLDivElement | null }): void {
  useEffect(() => {
    const target = element.current;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      const factor = Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018));
      const at = position(event, target);
      const photo = open.photo.value;
      if (!photo) return;
      view.value = pan(zoomAt(view.value, factor, at.x, at.y, smallestScale()), 0, 0, photo, frame.value);
    };
    // as a property of an element the listener would be passive in some browsers, and the page would scroll
    target?.addEventListener("wheel", wheel, { passive: false });
    return () => target?.removeEventListener("wheel", wheel);
  }, []);
}

function position(event: MouseEvent, target: HTMLElement | null): { x: number; y: number } {
  const bounds = target?.getBoundingClientRect() ?? { left: 0, top: 0 };
  return { x: event.clientX - bounds.left, y: event.clientY - bounds.top };
}

// Where the window was when the pointer went down: a line that appears above it moves no corner.
let held = { left: 0, top: 0 };

function pointerHandlers(element: { current: HTMLDivElement | null }) {
  type Event = TargetedPointerEvent<HTMLDivElement>;
  const at = (event: Event) => {
    if (!gestures.active && element.current) held = element.current.getBoundingClientRect();
    return { x: event.clientX - held.left, y: event.clientY - held.top };
  };
  const up = (event: Event) => {
    gestures.up(event.pointerId);
    fitAgain();
  };
  return {
    onPointerDown: (event: Event) => {
      if (opening.value || (event.target as HTMLElement).closest(".name-field")) return;
      event.preventDefault();
      element.current?.focus({ preventScroll: true });
      element.current?.setPointerCapture(event.pointerId);
      gestures.down(event.pointerId, at(event), event.button, event.pointerType === "touch");
    },
    onPointerMove: (event: Event) => {
      hovered.value = at(event);
      gestures.move(event.pointerId, at(event));
    },
    onPointerUp: up,
    onPointerCancel: up,
    onPointerLeave: () => {
      hovered.value = null;
    },
  };
}

function PhotoImage() {
  const photo = open.photo.value;
  const full = useSignal(false);
  const { scale, x, y } = view.value;
  const longest = Math.max(photo?.width ?? 0, photo?.height ?? 0);
  const pixels = longest * scale * devicePixelRatio;
  useFullSize(full, longest > SIDE && pixels > SIDE * 1.25);
  const coarse = scale * devicePixelRatio > 4;
  if (!photo) return null;
  return (
    <img
      class={coarse ? "photo is-coarse" : "photo"}
      src={imageOf(photo.photo, full.value ? 0 : SIDE)}
      width={photo.width}
      height={photo.height}
      alt=""
      draggable={false}
      style={{ transform: `translate(${x}px, ${y}px) scale(${scale})` }}
    />
  );
}

/** Whoever zooms into a large photo gets all of its pixels, once they are here. */
function useFullSize(full: { value: boolean }, wanted: boolean): void {
  const name = open.photo.value?.photo ?? "";
  useEffect(() => {
    if (!wanted || full.value) return;
    const image = new Image();
    image.src = imageOf(name, 0);
    let here = true;
    image.decode().then(
      () => {
        if (here) full.value = true;
      },
      () => undefined,
    );
    return () => {
      here = false;
    };
  }, [wanted, name]);
}

function Overlay() {
  const { width, height } = frame.value;
  const guides = drawing.value && hovered.value && !draft.value ? hovered.value : null;
  const doubt = open.highlight.value;
  return (
    <svg class="overlay" width={width} height={height} aria-hidden="true">
      <Offers />
      <Labels />
      {doubt && <rect class="doubt" {...rectOf(grown(toScreen(view.value, doubt), 5))} />}
      {draft.value?.id === null && <DrawnBox box={draft.value.box} />}
      {guides && <path class="guides" d={`M0 ${guides.y}H${width}M${guides.x} 0V${height}`} />}
    </svg>
  );
}

function rectOf([x1, y1, x2, y2]: Box) {
  return { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
}

const grown = ([x1, y1, x2, y2]: Box, by: number): Box => [x1 - by, y1 - by, x2 + by, y2 + by];

/** Boxes out of sight are not drawn: of 500, often twenty are left when somebody works. */
function inSight([x1, y1, x2, y2]: Box): boolean {
  return x2 >= 0 && y2 >= 0 && x1 <= frame.value.width && y1 <= frame.value.height;
}

function Labels() {
  const chosen = open.selected.value;
  const crowded = open.labels.value.length > 60;
  const drawn = open.labels.value.map((label) => {
    const box = toScreen(view.value, draft.value?.id === label.id ? draft.value.box : label.box);
    return { ...label, box, width: box[2] - box[0] };
  });
  // the chosen one last, above the others
  drawn.sort((a, b) => Number(a.id === chosen) - Number(b.id === chosen));
  return (
    <g>
      {drawn
        .filter(({ box }) => inSight(box))
        .map(({ id, box, name, width }) => (
          <g key={id} class={id === chosen ? "label is-chosen" : "label"}>
            <rect class="halo" {...rectOf(box)} />
            <rect class="outline" {...rectOf(box)} stroke={colorOf(name)} fill={colorOf(name)} />
            {(id === chosen || width > (crowded ? 60 : 22)) && (
              <Tag box={box} text={name} color={colorOf(name)} />
            )}
            {id === chosen && <Handles box={box} />}
          </g>
        ))}
    </g>
  );
}

function Offers() {
  const active = open.active.value;
  const best = open.visibleOffers.value[0]?.id;
  return (
    <g>
      {open.visibleOffers.value.map((offer) => {
        const box = toScreen(view.value, offer.box);
        if (!inSight(box)) return null;
        const state =
          offer.id === active ? "is-active" : offer.id === best && active === null ? "is-next" : "";
        const color = colorOf(offer.name);
        return (
          <g key={offer.id} class={`offer ${state} ${offer.fresh ? "is-fresh" : ""}`}>
            <rect class="halo" {...rectOf(box)} />
            <rect class="outline" {...rectOf(box)} stroke={color} fill={color} />
            <Tag box={box} text={`${offer.name} ${percent(offer.confidence)}`} color={color} hollow />
          </g>
        );
      })}
    </g>
  );
}

function DrawnBox({ box }: { box: Box }) {
  const screen = toScreen(view.value, box);
  const size = `${Math.round(box[2] - box[0])} × ${Math.round(box[3] - box[1])}`;
  return (
    <g class="draft">
      <rect class="halo" {...rectOf(screen)} />
      <rect class="outline" {...rectOf(screen)} />
      <text x={screen[2] - 4} y={screen[3] + 15} text-anchor="end">
        {size}
      </text>
    </g>
  );
}

const measure = document.createElement("canvas").getContext?.("2d");
const widths = new Map<string, number>();

function textWidth(text: string): number {
  let width = widths.get(text);
  if (width === undefined) {
    if (measure) measure.font = "600 12px system-ui, sans-serif";
    width = measure?.measureText(text).width ?? text.length * 7;
    widths.set(text, width);
  }
  return width;
}

/** The name on the upper side of a box; inside it where there is no room above. */
function Tag({
  box,
  text,
  color,
  hollow = false,
}: {
  box: Box;
  text: string;
  color: string;
  hollow?: boolean;
}) {
  const shownText = text.length > 28 ? `${text.slice(0, 27)}…` : text;
  const width = textWidth(shownText) + 10;
  const x = Math.min(Math.max(box[0] - 1, 0), Math.max(0, frame.value.width - width));
  const y = box[1] >= 19 ? box[1] - 19 : Math.max(box[1], 0);
  return (
    <g class={hollow ? "tag is-hollow" : "tag"} transform={`translate(${x} ${y})`}>
      <rect width={width} height="18" rx="4" fill={hollow ? "#0b0f19" : color} stroke={color} />
      <text x="5" y="13" fill={hollow ? color : "#0b0f19"}>
        {shownText}
      </text>
    </g>
  );
}

function Handles({ box: [x1, y1, x2, y2] }: { box: Box }) {
  const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2];
  const corners = [
    [x1, y1],
    [x2, y1],
    [x1, y2],
    [x2, y2],
  ];
  const sides =
    x2 - x1 > 40 && y2 - y1 > 40
      ? [
          [x, y1],
          [x, y2],
          [x1, y],
          [x2, y],
        ]
      : [];
  return (
    <g class="handles">
      {[...corners, ...sides].map(([cx, cy], at) => (
        <circle key={at} cx={cx} cy={cy} r={at < 4 ? 5 : 4} />
      ))}
    </g>
  );
}

/** The first box asks what it is; a box has no name before. */
function NameField({ box }: { box: Box }) {
  const [x1, , , y2] = toScreen(view.value, box);
  const left = Math.min(Math.max(8, x1), Math.max(8, frame.value.width - 268));
  const top = Math.min(Math.max(8, y2 + 8), Math.max(8, frame.value.height - 64));
  const field = useRef<HTMLInputElement>(null);
  const screen = useMemo(() => ({ left: `${left}px`, top: `${top}px` }), [left, top]);
  // before the next key is pressed: it belongs to the name
  useLayoutEffect(() => field.current?.focus(), []);
  const submit = (event: Event) => {
    event.preventDefault();
    nameDrawn(field.current?.value ?? "");
    document.getElementById("stage")?.focus();
  };
  return (
    <form class="name-field" style={screen} onSubmit={submit}>
      <input
        ref={field}
        name="name"
        autocomplete="off"
        placeholder={t("name.placeholder")}
        aria-label={t("name.placeholder")}
        onKeyDown={(event) => {
          if (event.key === "Escape") {
            unnamed.value = null;
            document.getElementById("stage")?.focus();
          }
        }}
      />
      <button type="submit" class="primary">
        {t("name.add")}
      </button>
    </form>
  );
}
