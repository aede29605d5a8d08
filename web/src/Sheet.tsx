/** The window with many photos at once. */
import { useEffect, useRef } from "preact/hooks";
import { imageOf } from "./api";
import { colorOf } from "./colors";
import { number, percent, t } from "./i18n";
import { acceptSheet, type Cell, cells, left, loadSheet, right, toggle } from "./looking";

const SIDE = 640;

export function Sheet() {
  const button = useRef<HTMLButtonElement>(null);
  const shown = cells.value;
  useEffect(() => void loadSheet(), []);
  useEffect(() => button.current?.focus(), [shown]);
  if (shown === null) return <p class="hint">{t("sheet.busy")}</p>;
  if (shown.length === 0) return <p class="hint">{t("sheet.none")}</p>;
  return (
    <>
      <p class="hint">{t("sheet.hint")}</p>
      <ul class="sheet">
        {shown.map((cell) => (
          <SheetCell key={cell.photo.photo} cell={cell} />
        ))}
      </ul>
      <button type="button" class="primary" ref={button} onClick={() => void acceptSheet()}>
        {t(right().length > 0 ? "sheet.accept" : "sheet.next", { n: number(right().length) })}
      </button>
    </>
  );
}

/** A photo with what would be accepted; a click takes it out, another one in again. */
function SheetCell({ cell: { photo, offers } }: { cell: Cell }) {
  const isOut = left.value.has(photo.photo);
  const found = offers.map(({ name, confidence }) => `${name} ${percent(confidence)}`).join(", ");
  const letters = Math.max(photo.width, photo.height) / 16;
  return (
    <li>
      <button
        type="button"
        class={isOut ? "is-out" : ""}
        aria-pressed={!isOut}
        aria-label={`${photo.photo}: ${found}`}
        title={photo.photo}
        onClick={() => toggle(photo.photo)}
        onKeyDown={(event) => {
          if (event.key !== "Enter") return;
          event.preventDefault(); // Space takes out; Enter accepts the others, wherever the focus is
          void acceptSheet();
        }}
      >
        <svg viewBox={`0 0 ${photo.width} ${photo.height}`} aria-hidden="true">
          <image href={imageOf(photo.photo, SIDE)} width={photo.width} height={photo.height} />
          {offers.map(({ id, box: [x1, y1, x2, y2], name }) => (
            <g key={id}>
              <rect x={x1} y={y1} width={x2 - x1} height={y2 - y1} stroke={colorOf(name)} />
              <text x={x1 + letters / 4} y={y1 + letters} font-size={letters} fill={colorOf(name)}>
                {name}
              </text>
            </g>
          ))}
        </svg>
      </button>
    </li>
  );
}
