/** Starts the page: the session, the photo where one left, edits that were not sent, events, keys. */
import { render } from "preact";
import { App } from "./App";
import { api } from "./api";
import * as open from "./document";
import { saveNow, startSaving } from "./editing";
import { listen } from "./events";
import { openFirst, openPhoto, tellWhere } from "./going";
import { sayError } from "./messages";
import { keptBy, loadPhotos, session, showSession } from "./session";
import { listenToKeys } from "./shortcuts";
import { recallAuthor } from "./TopBar";
import "./style.css";

const PRESENCE = 10_000;

async function start(): Promise<void> {
  recallAuthor();
  const kept = Number(localStorage.getItem("sppnet:threshold") ?? Number.NaN);
  if (kept >= 0 && kept <= 1) open.threshold.value = kept;
  showSession(await persistently(api.session));
  document.title = `${session.value?.folder} – sppnet label`;
  startSaving(keptBy(session.value));
  listenToKeys();
  listen();
  const list = loadPhotos().catch(sayError);
  const asked = askedFor();
  const opened = (asked && (await openPhoto(asked))) || (await openLast());
  if (!opened) {
    await list;
    await openFirst();
  }
  document.getElementById("stage")?.focus();
}

/** The photo that the address names; an address that somebody cut short names none. */
function askedFor(): string {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

async function openLast(): Promise<boolean> {
  const last = session.value?.last_photo;
  return last ? openPhoto(last) : false;
}

/** The page may be here before the server has read the folder. */
async function persistently<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      sayError(error);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") saveNow();
});
setInterval(() => {
  if (document.visibilityState === "visible") void tellWhere();
}, PRESENCE);

render(<App />, document.getElementById("page") as HTMLElement);
void start();
