/** Windows over the page: keys, the curve, a class, and two versions of one photo. */
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { api, thumbOf } from "./api";
import { Chart } from "./Chart";
import { colorOf } from "./colors";
import * as open from "./document";
import { conflict, decide, renameClass } from "./editing";
import { openPhoto } from "./going";
import { number, percent, t } from "./i18n";
import { Icon } from "./icons";
import { HELP } from "./keys";
import { attempt } from "./messages";
import { Sheet } from "./Sheet";
import { classes, curve, expected, renameAdded, showClasses } from "./session";
import type { Content, Photo } from "./types";

export const asked = signal<"help" | "curve" | "sheet" | null>(null);
/** The class that is being renamed or merged. */
export const classAsked = signal<string | null>(null);

export function Dialogs() {
  return (
    <>
      {asked.value === "help" && <Help />}
      {asked.value === "curve" && <Curve />}
      {asked.value === "sheet" && (
        <Modal title={t("sheet.title")} close={closeAsked} wide>
          <Sheet />
        </Modal>
      )}
      {classAsked.value !== null && <ClassDialog key={classAsked.value} name={classAsked.value} />}
      {conflict.value && <Conflict current={conflict.value.current} mine={conflict.value.mine} />}
    </>
  );
}

const closeAsked = () => {
  asked.value = null;
};

interface ModalProps {
  title: string;
  close?: () => void;
  wide?: boolean;
  children: ComponentChildren;
}

/** The browser's own modal window: it keeps the focus inside and gives it back. */
function Modal({ title, close, wide = false, children }: ModalProps) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    element.current?.showModal();
    return () => before?.focus?.();
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: a click beside the window closes it; the key is Escape
    <dialog
      ref={element}
      class={wide ? "is-wide" : ""}
      aria-label={title}
      onCancel={(event) => {
        event.preventDefault();
        close?.();
      }}
      onClick={(event) => {
        if (event.target === element.current) close?.();
      }}
    >
      <div class="dialog">
        <header>
          <h2>{title}</h2>
          {close && (
            <button type="button" class="quiet" aria-label={t("close")} onClick={close}>
              <Icon name="cross" />
            </button>
          )}
        </header>
        {children}
      </div>
    </dialog>
  );
}

function Help() {
  return (
    <Modal title={t("help.title")} close={closeAsked}>
      <dl class="keys">
        {HELP.map(([keys, text]) => (
          <div key={text}>
            <dt>
              {keys.map((one) => (
                <kbd key={one}>{one}</kbd>
              ))}
            </dt>
            <dd>{t(text)}</dd>
          </div>
        ))}
      </dl>
      <p class="hint">{t("help.pointer")}</p>
    </Modal>
  );
}

function Curve() {
  const now = expected.value;
  return (
    <Modal title={t("curve.title")} close={closeAsked}>
      <Chart points={curve.value} />
      {now ? (
        <p class="hint">{t("curve.how", { photos: number(now.photos), objects: number(now.objects) })}</p>
      ) : (
        <p class="hint">{t("top.noOutlook")}</p>
      )}
      {now && now.agreement !== null && (
        <p>{t("curve.agreement", { share: percent(now.agreement), n: number(now.agreement_photos) })}</p>
      )}
      <p class="hint">{t("curve.withheld")}</p>
    </Modal>
  );
}

function ClassDialog({ name }: { name: string }) {
  const field = useRef<HTMLInputElement>(null);
  const into = useRef<HTMLSelectElement>(null);
  const close = () => {
    classAsked.value = null;
  };
  const others = classes.value.filter((one) => one.name !== name);
  const counted = classes.value.some((one) => one.name === name && one.count > 0);
  const done = async (to: string, how: "rename" | "merge") => {
    if (to === "" || to === name) return close();
    const answer = counted ? await attempt(() => api[how](name, to)) : null;
    // a class that has no box yet is known here only, and so is its new name
    if (answer || !counted) renameClass({ name, new: to });
    if (!counted && how === "rename") renameAdded(name, to);
    showClasses(answer?.classes ?? classes.value.filter((one) => one.count > 0));
    close();
    const photo = open.photo.value?.photo;
    if (answer && photo) await openPhoto(photo);
  };
  return (
    <Modal title={t("classes.edit", { name })} close={close}>
      <form
        class="line"
        onSubmit={(event) => {
          event.preventDefault();
          void done(field.current?.value.trim() ?? "", "rename");
        }}
      >
        <label>
          {t("classes.rename")}
          <input ref={field} defaultValue={name} />
        </label>
        <button type="submit" class="primary">
          {t("classes.renameDo")}
        </button>
      </form>
      {others.length > 0 && (
        <form
          class="line"
          onSubmit={(event) => {
            event.preventDefault();
            void done(into.current?.value ?? "", "merge");
          }}
        >
          <label>
            {t("classes.merge")}
            <select ref={into}>
              {others.map((one) => (
                <option key={one.name}>{one.name}</option>
              ))}
            </select>
          </label>
          <button type="submit">{t("classes.mergeDo")}</button>
        </form>
      )}
    </Modal>
  );
}

function Conflict({ current, mine }: { current: Photo; mine: Content }) {
  const theirs = open.contentOf(current);
  return (
    <Modal title={t("conflict.title", { name: current.photo })}>
      <p>{t("conflict.what")}</p>
      <div class="versions">
        <Version title={t("conflict.mine")} photo={current} said={mine} />
        <Version title={t("conflict.theirs")} photo={current} said={theirs} />
      </div>
      <div class="row-of-buttons">
        <button type="button" onClick={() => decide("mine")}>
          {t("conflict.keepMine")}
        </button>
        <button type="button" onClick={() => decide("theirs")}>
          {t("conflict.keepTheirs")}
        </button>
        <button type="button" class="primary" onClick={() => decide("both")}>
          {t("conflict.keepBoth")}
        </button>
      </div>
    </Modal>
  );
}

/** One of two versions: a small photo with its boxes. */
function Version({ title, photo, said }: { title: string; photo: Photo; said: Content }) {
  const words = said.empty ? t("state.empty") : said.names ? said.names.join(", ") : null;
  const boxes = said.boxes ?? [];
  return (
    <figure>
      <svg viewBox={`0 0 ${photo.width} ${photo.height}`} aria-hidden="true">
        <image href={thumbOf(photo.photo)} width={photo.width} height={photo.height} />
        {boxes.map(({ box: [x1, y1, x2, y2], name }) => (
          <rect
            key={`${x1} ${y1} ${x2} ${y2} ${name}`}
            x={x1}
            y={y1}
            width={x2 - x1}
            height={y2 - y1}
            stroke={colorOf(name)}
          />
        ))}
      </svg>
      <figcaption>
        <strong>{title}</strong> {words ?? t("state.boxes", { n: number(boxes.length) })}
      </figcaption>
    </figure>
  );
}
