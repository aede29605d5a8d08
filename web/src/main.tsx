/** Starts the page: the session, the photo where one left, edits that were not sent, events, keys. */
import { render } from "preact";
import { App } from "./App";
import { api } from "./api";
import * as open from "./document";
import { saveNow, startSaving } from "./editing";
import { listen } from "./events";
import { openPhoto, tellWhere } from "./going";
import { attempt, sayError } from "./messages";
import { keptBy, loadPhotos, photos, session, showSession } from "./session";
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
  const asked = decodeURIComponent(location.hash.slice(1));
  const opened = (asked && (await attempt(() => openPhoto(asked)))) || (await openLast());
  if (!opened) {
    await list;
    await openFirst();
  }
  document.getElementById("stage")?.focus();
}

async function openLast(): Promise<boolean> {
  const last = session.value?.last_photo;
  return last ? openPhoto(last) : false;
}

async function openFirst(): Promise<void> {
  const first = photos.value.find((item) => item?.state === "unlabelled") ?? photos.value[0];
  if (first) await openPhoto(first.photo);
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
