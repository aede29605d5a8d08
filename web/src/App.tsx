/** The whole page: list, photo, panel; above, how far it is; one sentence at a time below. */
import { useSignal } from "@preact/signals";
import { Dialogs } from "./dialogs";
import * as open from "./document";
import { discard, drawing, hidden, isClassify, refused, saveAgain, trouble } from "./editing";
import { news, opening } from "./going";
import { language, number, t } from "./i18n";
import { Icon } from "./icons";
import { hush, message } from "./messages";
import { PhotoList } from "./PhotoList";
import { Side } from "./Side";
import { Stage } from "./Stage";
import { classes, me, people, session } from "./session";
import { ClassStrip, Tools } from "./Tools";
import { panes, TopBar } from "./TopBar";

export function App() {
  const pane = useSignal<keyof typeof panes | null>(null);
  document.documentElement.lang = language.value === "zh" ? "zh-Hans" : language.value;
  const toggle = (one: keyof typeof panes) => {
    pane.value = pane.value === one ? null : one;
  };
  if (!session.value) return <p class="starting">{t("starting")}</p>;
  return (
    <div class={`app ${pane.value ? panes[pane.value] : ""}`}>
      <TopBar toggle={toggle} />
      <PhotoList />
      <main class={opening.value ? "is-opening" : ""}>
        <Caption />
        <Stage />
        <Banner />
        <ClassStrip />
        <Tools />
      </main>
      <Side />
      {pane.value && (
        <button
          type="button"
          class="shade"
          aria-label={t("close")}
          onClick={() => toggle(pane.value ?? "side")}
        />
      )}
      <Messages />
      <Dialogs />
    </div>
  );
}

/** Name and place of the photo, and who else is here. */
function Caption() {
  const photo = open.photo.value;
  const here = people.value.filter((one) => one.who !== me && one.photo === photo?.photo);
  return (
    <div class="caption">
      <bdi class="row-name">{photo?.photo ?? ""}</bdi>
      {photo && (
        <span class="hint">
          {t("caption.place", { n: number(photo.index + 1), total: number(session.value?.photos ?? 0) })}
          <span class="wide-only">{` · ${photo.width} × ${photo.height}`}</span>
        </span>
      )}
      {open.empty.value && <span class="badge">{t("state.empty")}</span>}
      {isClassify() &&
        open.names.value.map((name) => (
          <bdi class="badge is-name" key={name}>
            {name}
          </bdi>
        ))}
      {hidden.value && <span class="badge">{t("caption.hidden")}</span>}
      {here.map(({ who, author }) => (
        <span class="badge is-person" key={who}>
          <Icon name="person" />
          {t("people.here", { name: author || t("people.somebody") })}
        </span>
      ))}
      <span class="news" role="status" key={news.value}>
        {news.value}
      </span>
    </div>
  );
}

/** What to do now, where it is not plain; and an edit that the server has not taken. */
function Banner() {
  const name = trouble.value === "refused" ? refused.value : null;
  if (trouble.value === "offline" || name !== null)
    return (
      <div class="banner is-error" role="alert">
        <span>{name === null ? t("trouble.offline") : t("trouble.refused", { name })}</span>
        <button type="button" onClick={saveAgain}>
          {t("trouble.again")}
        </button>
        {name !== null && (
          <button type="button" onClick={() => void discard(name)}>
            {t("trouble.discard")}
          </button>
        )}
      </div>
    );
  const hint = drawing.value
    ? t("hint.draw")
    : open.photo.value && classes.value.length === 0
      ? t(isClassify() ? "hint.firstClass" : "hint.firstBox")
      : null;
  return hint && <div class="banner">{hint}</div>;
}

function Messages() {
  const now = message.value;
  return (
    <div class="messages" role="status" aria-live="polite">
      {now && (
        <button type="button" key={now.id} class={`message is-${now.kind}`} onClick={hush}>
          {now.text}
        </button>
      )}
    </div>
  );
}
