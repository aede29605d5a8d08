/** Beside the photo: classes, suggestions with their slider, the boxes, doubtful labels. */
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { colorOf } from "./colors";
import { classAsked } from "./dialogs";
import * as open from "./document";
import * as editing from "./editing";
import { dismiss, goToDoubt, loadDoubts } from "./going";
import { number, percent, t } from "./i18n";
import { Icon, type IconName } from "./icons";
import { addClass, classes, currentClass, doubts, expected } from "./session";
import type { ClassCount, Doubt } from "./types";

export function Side() {
  const classify = editing.isClassify();
  return (
    <aside class="side" id="side" aria-label={t("side.title")}>
      <Classes />
      {classify ? <Guesses /> : <Suggestions />}
      {!classify && <Boxes />}
      <Doubts />
    </aside>
  );
}

function Section({ title, count, children }: { title: string; count?: number; children: ComponentChildren }) {
  return (
    <section>
      <h2>
        {title}
        {count !== undefined && <span class="count">{number(count)}</span>}
      </h2>
      {children}
    </section>
  );
}

function Classes() {
  return (
    <Section title={t("classes.title")}>
      <ul class="classes">
        {classes.value.map((one, at) => (
          <ClassRow key={one.name} one={one} place={at + 1} />
        ))}
      </ul>
      <AddClass />
    </Section>
  );
}

function ClassRow({ one, place }: { one: ClassCount; place: number }) {
  const named = editing.isClassify() && open.names.value.includes(one.name);
  const use = (event: MouseEvent) =>
    editing.isClassify() ? editing.namePhoto(one.name, event.shiftKey) : editing.useClass(one.name);
  return (
    <li>
      <button
        type="button"
        class="class"
        aria-pressed={editing.isClassify() ? named : currentClass.value === one.name}
        onClick={use}
      >
        <span class="swatch" style={{ background: colorOf(one.name) }} aria-hidden="true" />
        <bdi class="class-name">{one.name}</bdi>
        <span class="count">{number(one.count)}</span>
        {place <= 9 && <kbd>{place}</kbd>}
      </button>
      <button
        type="button"
        class="quiet"
        aria-label={t("classes.edit", { name: one.name })}
        title={t("classes.edit", { name: one.name })}
        onClick={() => {
          classAsked.value = one.name;
        }}
      >
        <Icon name="edit" />
      </button>
    </li>
  );
}

function AddClass() {
  const name = useSignal("");
  const add = (event: Event) => {
    event.preventDefault();
    if (name.value.trim()) addClass(name.value.trim());
    name.value = "";
  };
  return (
    <form class="add" onSubmit={add}>
      <input
        value={name.value}
        placeholder={t("classes.new")}
        aria-label={t("classes.new")}
        onInput={(event) => {
          name.value = event.currentTarget.value;
        }}
      />
      <button type="submit" class="quiet" aria-label={t("classes.add")} title={t("classes.add")}>
        <Icon name="plus" />
      </button>
    </form>
  );
}

function Suggestions() {
  const offers = open.visibleOffers.value;
  const withheld = open.photo.value?.suggestions.withheld ?? false;
  return (
    <Section title={t("suggestions.title")} count={offers.length}>
      <Slider />
      {withheld || offers.length === 0 ? (
        <p class="hint">{whyNone(withheld)}</p>
      ) : (
        <div class="row-of-buttons">
          <Action
            icon="check"
            text={t("suggestions.accept")}
            keyName="Enter"
            onClick={() => editing.accept()}
          />
          <Action
            icon="cross"
            text={t("suggestions.reject")}
            keyName="X"
            onClick={() => editing.rejectOffer()}
          />
          <Action icon="all" text={t("suggestions.all")} keyName="A" onClick={editing.acceptAll} />
        </div>
      )}
      <Agreement />
      <ol class="offers">
        {offers.slice(0, 100).map((offer) => (
          <li key={offer.id}>
            <button
              type="button"
              aria-pressed={offer.id === open.active.value}
              onClick={() => {
                editing.select(null);
                open.active.value = offer.id;
              }}
            >
              <span
                class="swatch is-dashed"
                style={{ borderColor: colorOf(offer.name) }}
                aria-hidden="true"
              />
              <bdi class="class-name">{offer.name}</bdi>
              <span class="count">{percent(offer.confidence)}</span>
            </button>
          </li>
        ))}
      </ol>
    </Section>
  );
}

function whyNone(withheld: boolean): string {
  if (withheld) return t("suggestions.withheld");
  const below = open.offers.value.filter(({ there }) => there < open.threshold.value).length;
  if (below > 0) return t("suggestions.below", { n: number(below) });
  return t(open.offers.value.length > 0 ? "suggestions.done" : "suggestions.none");
}

/** Against trusting the suggestions too much: how they did where nobody saw them. */
function Agreement() {
  const now = expected.value;
  // of one or two photos it would say nothing
  if (!now || now.agreement === null || now.agreement_photos < 3) return null;
  const values = { share: percent(now.agreement), n: number(now.agreement_photos) };
  return <p class="hint">{t("suggestions.agreement", values)}</p>;
}

function Action(props: { icon: IconName; text: string; keyName: string; onClick: () => void }) {
  return (
    <button type="button" class="action" onClick={props.onClick} title={`${props.text} (${props.keyName})`}>
      <Icon name={props.icon} />
      {props.text}
    </button>
  );
}

function Slider() {
  return (
    <label class="slider">
      <span>{t("suggestions.slider", { share: percent(open.threshold.value) })}</span>
      <input
        type="range"
        min="0"
        max="1"
        step="0.01"
        value={open.threshold.value}
        aria-valuetext={percent(open.threshold.value)}
        onInput={(event) => {
          open.threshold.value = event.currentTarget.valueAsNumber;
          localStorage.setItem("sppnet:threshold", event.currentTarget.value);
        }}
      />
    </label>
  );
}

/** Of whole photos: names with their probability. */
function Guesses() {
  const { value } = open.guesses;
  const withheld = open.photo.value?.suggestions.withheld ?? false;
  return (
    <Section title={t("suggestions.title")}>
      {withheld && <p class="hint">{t("suggestions.withheld")}</p>}
      {!withheld && value.length === 0 && <p class="hint">{t("suggestions.none")}</p>}
      <ol class="guesses">
        {value.slice(0, 8).map((guess) => (
          <li key={guess.name}>
            <button type="button" onClick={(event) => editing.namePhoto(guess.name, event.shiftKey)}>
              <bdi class="class-name">{guess.name}</bdi>
              <meter min="0" max="1" value={guess.confidence} aria-hidden="true" />
              <span class="count">{percent(guess.confidence)}</span>
            </button>
          </li>
        ))}
      </ol>
    </Section>
  );
}

function Boxes() {
  const { value } = open.labels;
  const places = (box: readonly number[]) => box.map((side) => Math.round(side));
  return (
    <Section title={t("boxes.title")} count={value.length}>
      {open.empty.value && <p class="hint">{t("boxes.empty")}</p>}
      <ul class="boxes">
        {value.map((label) => {
          const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = places(label.box);
          return (
            <li key={label.id}>
              <button
                type="button"
                aria-pressed={label.id === open.selected.value}
                aria-label={t("boxes.one", {
                  name: label.name,
                  x: x1,
                  y: y1,
                  width: x2 - x1,
                  height: y2 - y1,
                })}
                onClick={() => editing.select(label)}
              >
                <span class="swatch" style={{ background: colorOf(label.name) }} aria-hidden="true" />
                <bdi class="class-name">{label.name}</bdi>
                <span class="count">{`${x2 - x1} × ${y2 - y1}`}</span>
              </button>
              <button
                type="button"
                class="quiet"
                aria-label={t("boxes.remove", { name: label.name })}
                title={t("boxes.remove", { name: label.name })}
                onClick={() => {
                  editing.select(label);
                  editing.removeBox();
                }}
              >
                <Icon name="trash" />
              </button>
            </li>
          );
        })}
      </ul>
    </Section>
  );
}

function Doubts() {
  const busy = useSignal(false);
  const look = async () => {
    busy.value = true;
    await loadDoubts();
    busy.value = false;
  };
  const found = doubts.value;
  return (
    <Section title={t("doubts.title")} {...(found ? { count: found.length } : {})}>
      <p class="hint">{found?.length === 0 ? t("doubts.none") : t("doubts.hint")}</p>
      <button type="button" class="action" disabled={busy.value} onClick={look}>
        <Icon name="search" />
        {t(busy.value ? "doubts.busy" : found ? "doubts.again" : "doubts.look")}
      </button>
      <ol class="doubts">
        {(found ?? []).map((doubt) => (
          <li key={`${doubt.photo} ${doubt.kind} ${doubt.box} ${doubt.name}`}>
            <button type="button" onClick={() => goToDoubt(doubt)}>
              <bdi class="row-name">{doubt.photo}</bdi>
              <span class="hint">{sentence(doubt)}</span>
            </button>
            <button
              type="button"
              class="quiet"
              aria-label={t("doubts.right")}
              title={t("doubts.right")}
              onClick={() => dismiss(doubt)}
            >
              <Icon name="check" />
            </button>
          </li>
        ))}
      </ol>
    </Section>
  );
}

function sentence(doubt: Doubt): string {
  const values = { name: doubt.name, instead: doubt.instead ?? "", share: percent(doubt.probability) };
  if (doubt.kind === "missing") return t("doubts.missing", values);
  return t(doubt.instead && doubt.instead !== doubt.name ? "doubts.instead" : "doubts.label", values);
}
