/** Above: the folder, how far the labelling is and what to expect, the ways on and out. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { api, download, setAuthor } from "./api";
import { asked } from "./dialogs";
import { isClassify, trouble, waiting } from "./editing";
import { goBest } from "./going";
import { LANGUAGES, type Language, language, number, percent, setLanguage, t } from "./i18n";
import { Icon } from "./icons";
import { attempt } from "./messages";
import { expected, job, learning, me, people, session } from "./session";
import type { Expected } from "./types";

export const panes = { photos: "is-photos", side: "is-side" } as const;

export function TopBar({ toggle }: { toggle: (pane: keyof typeof panes) => void }) {
  const others = new Map(people.value.filter(({ who }) => who !== me).map((one) => [one.who, one]));
  return (
    <header class="top">
      <button
        type="button"
        class="quiet narrow-only"
        aria-label={t("photos.title")}
        onClick={() => toggle("photos")}
      >
        <Icon name="list" />
      </button>
      <h1>
        <bdi>{session.value?.folder ?? "sppnet label"}</bdi>
      </h1>
      <Progress />
      <SaveState />
      {[...others.values()].slice(0, 4).map(({ who, author, photo }) => (
        <span
          class="person"
          key={who}
          title={t("people.at", { name: author || t("people.somebody"), photo })}
        >
          {(author || "?").slice(0, 1).toUpperCase()}
        </span>
      ))}
      <button
        type="button"
        class="primary best"
        onClick={goBest}
        aria-label={t("top.best")}
        title={`${t("top.best")} (B)`}
      >
        <Icon name="best" />
        <span class="wide-only">{t("top.best")}</span>
      </button>
      {!isClassify() && (
        <button
          type="button"
          class="quiet"
          aria-label={t("key.sheet")}
          title={`${t("key.sheet")} (S)`}
          onClick={() => {
            asked.value = "sheet";
          }}
        >
          <Icon name="grid" />
        </button>
      )}
      <Menu />
      <button
        type="button"
        class="quiet"
        aria-label={t("top.help")}
        title={`${t("top.help")} (?)`}
        onClick={() => {
          asked.value = "help";
        }}
      >
        <Icon name="help" />
      </button>
      <button
        type="button"
        class="quiet narrow-only"
        aria-label={t("side.title")}
        onClick={() => toggle("side")}
      >
        <Icon name="panel" />
      </button>
    </header>
  );
}

function Progress() {
  const state = learning.value;
  const done = state?.labelled ?? 0;
  const total = state?.photos ?? session.value?.photos ?? 0;
  return (
    <button
      type="button"
      class="progress"
      title={t("top.curve")}
      aria-label={`${t("top.labelled", { done: number(done), total: number(total) })}. ${outlook(expected.value)}. ${t("top.curve")}`}
      onClick={() => {
        asked.value = "curve";
      }}
    >
      <span class="progress-text">
        <strong>{t("top.labelled", { done: number(done), total: number(total) })}</strong>
        <span class="outlook">{outlook(expected.value)}</span>
        <Phase />
      </span>
      <progress max={Math.max(1, total)} value={done} aria-hidden="true" />
    </button>
  );
}

/** "expected: finds 83 % (±6), 9 of 10 right" */
export function outlook(now: Expected | null): string {
  if (!now || now.recall === null) return t("top.noOutlook");
  const spread = now.recall_spread === null ? "" : ` (±${Math.round(now.recall_spread * 100)})`;
  const right = now.precision === null ? "" : t("top.right", { n: Math.round(now.precision * 10) });
  return t("top.outlook", { recall: percent(now.recall) + spread }) + right;
}

function Phase() {
  const state = learning.value;
  if (!state || state.phase === "idle") return null;
  const seconds = state.seconds_left;
  const left = seconds && seconds >= 1 ? ` ${t("seconds", { n: Math.round(seconds) })}` : "";
  const failed = state.phase === "failed";
  return (
    <span class={`phase is-${state.phase}`} title={failed ? (state.message ?? "") : undefined}>
      {t(`phase.${state.phase}`) + (failed ? "" : left)}
    </span>
  );
}

function SaveState() {
  const kind = trouble.value ?? (waiting.value > 0 ? "saving" : "saved");
  return (
    <span class={`saving is-${kind}`} role="status">
      <span class="dot" aria-hidden="true" />
      <span>{t(`saving.${kind}`, { n: number(waiting.value) })}</span>
    </span>
  );
}

const LAYOUTS = ["voc", "coco", "yolo", "label-studio", "csv"] as const;
const CLASS_LAYOUTS = ["csv", "folders"] as const;

function Menu() {
  const shown = useSignal(false);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const outside = (event: Event) => {
      if (!box.current?.contains(event.target as Node)) shown.value = false;
    };
    addEventListener("pointerdown", outside);
    return () => removeEventListener("pointerdown", outside);
  }, []);
  const close = (event: KeyboardEvent) => {
    if (event.key !== "Escape") return;
    shown.value = false;
    box.current?.querySelector("button")?.focus();
    event.stopPropagation();
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: Escape closes it from every button inside
    <div class="menu" ref={box} onKeyDown={close}>
      <button
        type="button"
        class="quiet"
        aria-expanded={shown.value}
        aria-controls="menu"
        aria-label={t("menu.title")}
        onClick={() => {
          shown.value = !shown.value;
        }}
      >
        <Icon name="save" />
        <span class="wide-only">{t("menu.title")}</span>
      </button>
      {shown.value && <MenuContent close={() => (shown.value = false)} />}
    </div>
  );
}

function MenuContent({ close }: { close: () => void }) {
  const fetched = (path: string) => {
    close();
    void attempt(() => download(path));
  };
  const layouts = session.value?.task === "classify" ? CLASS_LAYOUTS : LAYOUTS;
  return (
    <div class="menu-content" id="menu">
      <h2>{t("menu.labels")}</h2>
      <div class="chips">
        {layouts.map((layout) => (
          <button type="button" key={layout} onClick={() => fetched(`/api/export?layout=${layout}`)}>
            {t(`layout.${layout}`)}
          </button>
        ))}
      </div>
      <h2>{t("menu.model")}</h2>
      <button type="button" onClick={() => fetched("/api/model?format=folder")}>
        {t("menu.folder")}
      </button>
      <button type="button" onClick={() => fetched("/api/model?format=onnx")}>
        {t("menu.onnx")}
      </button>
      <h2>{t("menu.others")}</h2>
      <RunOthers />
      <h2>{t("menu.you")}</h2>
      <You />
    </div>
  );
}

function RunOthers() {
  const now = job.value;
  const running = now !== null && now.url === null && now.error === null;
  const error = typeof now?.error === "string" ? now.error : now?.error?.message;
  return (
    <>
      <button type="button" disabled={running} onClick={() => attempt(api.run)}>
        {t("menu.run")}
      </button>
      {running && (
        <label class="job">
          {t("menu.running", { done: number(now.done), total: number(now.total) })}
          <progress max={Math.max(1, now.total)} value={now.done} />
        </label>
      )}
      {now?.url && (
        <a class="button" href={now.url} target="_blank" rel="noreferrer">
          {t("menu.report")}
        </a>
      )}
      {error && <p class="hint is-error">{error}</p>}
    </>
  );
}

const NAME = "sppnet:author";

/** Under which name edits are kept, and in which language the page speaks. */
function You() {
  return (
    <div class="you">
      <label>
        {t("menu.name")}
        <input
          value={localStorage.getItem(NAME) ?? ""}
          maxLength={60}
          onChange={(event) => {
            localStorage.setItem(NAME, event.currentTarget.value.trim());
            setAuthor(event.currentTarget.value.trim());
          }}
        />
      </label>
      <label>
        {t("menu.language")}
        <select
          value={language.value}
          onChange={(event) => setLanguage(event.currentTarget.value as Language)}
        >
          {Object.entries(LANGUAGES).map(([tag, name]) => (
            <option key={tag} value={tag} lang={tag}>
              {name}
            </option>
          ))}
        </select>
      </label>
    </div>
  );
}

export function recallAuthor(): void {
  setAuthor(localStorage.getItem(NAME) ?? "");
}
