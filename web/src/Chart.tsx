/** How the detector got better: what it finds, and how much of that is right, by labelled photos. */
import { percent, t } from "./i18n";
import type { CurvePoint } from "./types";

const WIDTH = 520;
const HEIGHT = 240;
const LEFT = 46;
const BOTTOM = 28;
const SERIES = ["recall", "precision", "ap50"] as const;

export function Chart({ points }: { points: readonly CurvePoint[] }) {
  const most = Math.max(1, ...points.map(({ labelled }) => labelled));
  const x = (labelled: number) => LEFT + (labelled / most) * (WIDTH - LEFT - 12);
  const y = (share: number) => 8 + (1 - share) * (HEIGHT - BOTTOM - 8);
  return (
    <>
      <svg class="chart" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={t("curve.title")}>
        {[0, 0.25, 0.5, 0.75, 1].map((share) => (
          <g key={share} class="grid">
            <path d={`M${LEFT} ${y(share)}H${WIDTH - 12}`} />
            <text x={LEFT - 6} y={y(share) + 4} text-anchor="end">
              {percent(share)}
            </text>
          </g>
        ))}
        <text x={WIDTH - 12} y={HEIGHT - 6} text-anchor="end">
          {t("curve.photos", { n: most })}
        </text>
        {SERIES.map((name) => (
          <Line key={name} name={name} places={placesOf(points, name, x, y)} />
        ))}
      </svg>
      <ul class="legend">
        {SERIES.map((name) => (
          <li key={name} class={`is-${name}`}>
            {t(`curve.${name}`)} <strong>{lastOf(points, name)}</strong>
          </li>
        ))}
      </ul>
    </>
  );
}

type Place = [number, number];

function placesOf(
  points: readonly CurvePoint[],
  name: (typeof SERIES)[number],
  x: (labelled: number) => number,
  y: (share: number) => number,
): Place[] {
  return points.flatMap((point) => {
    const share = point[name];
    return share === null ? [] : [[x(point.labelled), y(share)] as Place];
  });
}

function Line({ name, places }: { name: string; places: Place[] }) {
  return (
    <g class={`line is-${name}`}>
      <polyline points={places.map((place) => place.join(",")).join(" ")} />
      {places.map(([cx, cy]) => (
        <circle key={cx} cx={cx} cy={cy} r="3" />
      ))}
    </g>
  );
}

function lastOf(points: readonly CurvePoint[], name: (typeof SERIES)[number]): string {
  const share = points.at(-1)?.[name];
  return share === null || share === undefined ? "–" : percent(share);
}
