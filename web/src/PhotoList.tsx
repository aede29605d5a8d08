/** All photos of the folder, however many: only the rows in sight are in the page. */
import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { thumbOf } from "./api";
import * as open from "./document";
import { isClassify } from "./editing";
import { loadDoubts, openPhoto } from "./going";
import { number, t } from "./i18n";
import { Icon } from "./icons";
import { doubts, type Filter, filter, listed, me, people, photos, search } from "./session";
import type { PhotoItem } from "./types";
import { rowsInSight, scrollTo } from "./virtual";

const ROW = 56;
const FILTERS: Filter[] = ["all", "unlabelled", "labelled", "doubtful"];

export function PhotoList() {
  return (
    <nav class="photos" id="photos" aria-label={t("photos.title")}>
      <div class="search">
        <Icon name="search" />
        <input
          type="search"
          placeholder={t("photos.search")}
          aria-label={t("photos.search")}
          value={search.value}
          onInput={(event) => {
            search.value = event.currentTarget.value;
          }}
        />
      </div>
      <Filters />
      <Rows />
    </nav>
  );
}

function Filters() {
  const choose = (kind: Filter) => {
    filter.value = kind;
    if (kind === "doubtful" && doubts.value === null) void loadDoubts();
  };
  return (
    <fieldset class="filters">
      <legend class="unseen">{t("photos.filter")}</legend>
      {FILTERS.map((kind) => (
        <button type="button" key={kind} aria-pressed={filter.value === kind} onClick={() => choose(kind)}>
          {t(`photos.${kind}`)}
        </button>
      ))}
    </fieldset>
  );
}

function Rows() {
  const box = useRef<HTMLUListElement>(null);
  const scroll = useSignal(0);
  const height = useSignal(600);
  const total = listed.value.length;
  const place = useComputed(() => listed.value.indexOf(open.photo.value?.index ?? -1));
  useEffect(() => {
    const target = box.current;
    if (!target) return;
    const watch = new ResizeObserver(() => {
      height.value = target.clientHeight;
    });
    watch.observe(target);
    return () => watch.disconnect();
  }, []);
  useSignalEffect(() => {
    if (place.value >= 0 && box.current)
      box.current.scrollTop = scrollTo(place.value, scroll.peek(), height.peek(), ROW);
  });
  const { first, last } = rowsInSight(scroll.value, height.value, ROW, total);
  return (
    <ul
      class="rows"
      ref={box}
      tabIndex={-1}
      onScroll={(event) => {
        scroll.value = event.currentTarget.scrollTop;
      }}
    >
      <li class="rows-height" aria-hidden="true" style={{ height: `${total * ROW}px` }} />
      {listed.value.slice(first, last).map((index, at) => (
        <Row key={index} index={index} top={(first + at) * ROW} place={first + at + 1} total={total} />
      ))}
      {total === 0 && <li class="none">{t("photos.none")}</li>}
    </ul>
  );
}

function Row({ index, top, place, total }: { index: number; top: number; place: number; total: number }) {
  const item = photos.value[index];
  const current = open.photo.value?.index === index;
  const here = people.value.filter(({ who, photo }) => who !== me && photo === item?.photo);
  return (
    <li class="row" style={{ transform: `translateY(${top}px)` }} aria-setsize={total} aria-posinset={place}>
      <button
        type="button"
        disabled={!item}
        aria-current={current ? "true" : undefined}
        onClick={() => item && void openPhoto(item.photo)}
      >
        {item ? (
          <img src={thumbOf(item.photo)} alt="" loading="lazy" width="60" height="44" />
        ) : (
          <span class="thumb" />
        )}
        <span class="row-text">
          <bdi class="row-name">{item?.photo ?? "…"}</bdi>
          {item && <State item={item} />}
        </span>
        {here.map(({ who, author }) => (
          <span class="person" key={who} title={t("people.here", { name: author || t("people.somebody") })}>
            {(author || "?").slice(0, 1).toUpperCase()}
          </span>
        ))}
      </button>
    </li>
  );
}

function State({ item }: { item: PhotoItem }) {
  const words =
    item.state === "empty"
      ? t("state.empty")
      : item.state === "unlabelled"
        ? t("state.unlabelled")
        : isClassify()
          ? t("state.named")
          : t("state.boxes", { n: number(item.boxes) });
  return (
    <span class={`state is-${item.state}`}>
      <span class="dot" aria-hidden="true" />
      {words}
    </span>
  );
}
