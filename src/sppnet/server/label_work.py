"""The thread that learns after edits, looks at the open photo, and measures what to expect."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from sppnet.errors import NothingUsableError, OutputError, SppnetError, count_of, failure_text
from sppnet.labelling.base import StoppedError
from sppnet.server.answers import EventHub, hide_folders
from sppnet.server.board import CURVE, EXPECTED, Board, Withheld
from sppnet.storage.labels import PhotoLabels

SETTLE = 0.3  # seconds after the last edit at which it is learnt
BUDGET = 3.0  # seconds of one fit; photos beyond it wait for the next, at once
LONG_BUDGET = 20.0  # the same where nobody has edited for a minute, as after a start
LOOK = 1.0  # seconds between looks at what the background and other processes did
QUIET, LONG_QUIET = 2.0, 20.0  # seconds without edits after which it is measured what to expect
KEEP_EVERY = 60.0  # seconds without edits, and since the last time, before what is learnt is kept
SHARE_NEW = 0.05  # of the labelled photos that must be new before it is measured after `QUIET`
MEASURED_PHOTOS = 40  # photos that are held out in turn, at most
OPENING_SECONDS = 300.0  # how long a request waits for the session


class Session(Protocol):
    """What ``LabelSession`` and ``ClassSession`` have in common."""

    photos: tuple[str, ...]

    @property
    def state(self) -> Any:
        """A ``SessionState``."""

    def close(self) -> None:
        """End."""

    def undo(
        self, photo: str, *, expected: int | None = None, author: str | None = None
    ) -> PhotoLabels:
        """Take the last edit back."""

    def redo(
        self, photo: str, *, expected: int | None = None, author: str | None = None
    ) -> PhotoLabels:
        """Take the last undo back."""

    def set_empty(
        self, photo: str, *, expected: int | None = None, author: str | None = None
    ) -> PhotoLabels:
        """Say that nothing is there."""

    def rename_class(self, name: str, new: str, *, author: str | None = None) -> None:
        """Rename a class."""

    def merge_classes(self, name: str, into: str, *, author: str | None = None) -> None:
        """Merge a class into another."""

    def refit(self, budget_seconds: float = 5.0, *, full: bool = False) -> Any:
        """Learn what was edited."""

    def evaluate(self, most_photos: int = 100, *, stop: Callable[[], bool] = lambda: False) -> Any:
        """Measure what to expect."""

    def suggest(self, photo: str) -> Any:
        """Find things in a photo, or its classes."""

    def next(self, count: int = 10) -> list[str]:
        """Choose photos."""

    def doubtful(self, count: int = 40, most_photos: int = 1000) -> Sequence[Any]:
        """Doubt labels."""

    def keep(self) -> bool:
        """Write what was learnt."""

    def save_model(self, path: str | Path) -> Path:
        """Write the model."""


class LabelWork:
    """Keeps a session learning, and tells the pages.

    Args:
        open_session: Opens it; called in the thread, so that the page is there before torch is.
        board: Photos and labels.
        withheld: Photos on which nothing is suggested.
        hub: Where changes are told.
        settle: Seconds after the last edit at which it is learnt.
    """

    def __init__(
        self,
        open_session: Callable[[], Session],
        board: Board,
        withheld: Withheld,
        hub: EventHub,
        *,
        settle: float = SETTLE,
    ) -> None:
        self._open, self.board, self.withheld, self.hub = open_session, board, withheld, hub
        self.settle = settle
        self._hidden = (board.store.photos_folder, board.store.folder)
        self.failure: Exception | None = None  # of opening the session
        self.suggest: Callable[[str], Any] = lambda photo: None  # noqa: ARG005 (the desk's)
        self.on_failure: Callable[[], None] = lambda: None
        self._session: Session | None = None
        self._opened, self._stopping = threading.Event(), threading.Event()
        self._wake = threading.Condition()
        self._edits, self._learnt, self._edited_at = 0, 0, 0.0
        self._seen = 0  # number of the store's last edit that was learnt
        self._wants_full = self._is_full = self._has_nothing = False
        self._bug = ""  # what went wrong in this thread, until the next fit
        self._open_photo = self._looked_at = ""
        self._kept_at = time.monotonic()
        self._measured = (0, 0)  # edits and labelled photos when it was last measured
        self._last_state: dict[str, Any] = {}
        self._last_model = ""
        self._thread = threading.Thread(target=self._run, name="sppnet-label-work", daemon=True)

    def start(self) -> None:
        """Begin; the session is opened meanwhile."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is under way, and close the session; all edits are on the disk already."""
        self._stopping.set()
        self._notify()
        if self._thread.is_alive():
            self._thread.join()
        if self._session is not None:
            self._session.close()

    @property
    def is_stopping(self) -> bool:
        """Whether the server ends."""
        return self._stopping.is_set()

    @property
    def session(self) -> Session:
        """The session; waits until it is open.

        Raises:
            SppnetError: If it cannot be opened, or is not yet.
        """
        self._opened.wait(OPENING_SECONDS)
        if self.failure is not None:
            raise self.failure
        if self._session is None:
            raise OutputError("the session is not open yet", code="E_NOT_READY")
        return self._session

    @property
    def is_open(self) -> bool:
        """Whether the session answers at once."""
        return self._session is not None

    @property
    def is_training_fully(self) -> bool:
        """Whether a training from nothing is under way; whoever needs the model waits long."""
        return self._is_full

    def edited(self, photo: str) -> None:
        """Hear of an edit: it is learnt soon."""
        self.withheld.edited(photo)
        with self._wake:
            self._edits += 1
            self._edited_at = time.monotonic()
            self._wake.notify()

    def refit(self, *, full: bool) -> None:
        """Learn at once; from nothing if ``full``."""
        with self._wake:
            self._wants_full |= full
            self._edits += 1
            self._edited_at = 0.0
            self._wake.notify()

    def look_at(self, photo: str) -> None:
        """Hear which photo is open: what is found there is kept new."""
        with self._wake:
            self._open_photo = photo
            self._wake.notify()

    def state(self) -> dict[str, Any]:
        """What the session is doing, as the page is told."""
        state = self._state()
        return {**state, "message": hide_folders(state["message"], self._hidden)}

    def _state(self) -> dict[str, Any]:
        if self._session is None:
            counts = {
                "labelled": self.board.store.count_labelled(),
                "photos": len(self.board.photos),
            }
            phase, message = "queued", ""
            if self.failure is not None:
                phase, message = "failed", failure_text(self.failure)
            return {"phase": phase, "seconds_left": 0.0, "message": message, "waiting": 0,
                    **counts, "model": ""}  # fmt: skip
        state = asdict(self._session.state)
        if self._has_nothing and state["phase"] == "failed":  # nothing to learn from is no failure
            state |= {"phase": "idle", "message": ""}
        if self._bug:
            return {**state, "phase": "failed", "message": self._bug}
        if state["phase"] in ("idle", "queued"):
            state["phase"] = "queued" if self._edits > self._learnt else state["phase"]
        return state

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        try:
            self._session = self._open()
        except Exception as error:
            self.failure = error
            self._opened.set()
            with suppress(Exception):  # where the store fails, too
                self._tell_state()
            self.on_failure()
            return
        self._opened.set()
        while not self._stopping.is_set():
            try:
                self._step(self._session)
            except Exception as error:  # whatever it is, the thread must live
                self._learnt, self._measured = self._edits, (self._edits, 0)
                with suppress(Exception):  # the store may fail, which telling reads
                    self._tell_failed(error)
                self._stopping.wait(LOOK)

    def _step(self, session: Session) -> None:
        """One piece of work, or a rest."""
        quiet = time.monotonic() - self._edited_at
        is_new = self._edits > self._learnt
        if is_new and quiet >= self.settle:
            self._learn(session)
        elif not is_new and self._is_stale(session):
            self._look()
        elif not is_new and self._is_measure_due(session, quiet):
            self._measure(session)
        elif not is_new and min(quiet, time.monotonic() - self._kept_at) > KEEP_EVERY:
            self._kept_at = time.monotonic()
            session.keep()
        else:
            with self._wake:
                self._wake.wait(max(0.01, self.settle - quiet) if is_new else LOOK)
            self._see_others()
        self._tell_state()

    def _see_others(self) -> None:
        """Learn what another process edited, and at the beginning what is labelled already."""
        if self.board.store.changed_since(self._seen)[0] and not self._edits > self._learnt:
            with self._wake:
                self._edits += 1

    def _learn(self, session: Session) -> None:
        edits, full, self._wants_full = self._edits, self._wants_full, False
        self._is_full, self._has_nothing, self._bug = full, False, ""
        self._seen = self.board.store.changed_since(self._seen)[1]
        budget = BUDGET if time.monotonic() - self._edited_at < 60 else LONG_BUDGET
        left = 0.0 if full else budget
        self._tell("state", {**self.state(), "phase": "fitting", "seconds_left": left})
        try:
            state = session.refit(budget, full=full)
            self._learnt = edits if not state.waiting else self._learnt
        except NothingUsableError:
            self._learnt, self._has_nothing = edits, True  # there is no box yet
        except SppnetError:
            self._learnt = edits  # the state says why
        finally:
            self._is_full = False
        self._look()

    def _is_stale(self, session: Session) -> bool:
        """Whether there is a model that the pages do not know, or that did not see the photo."""
        model, photo = session.state.model, self._open_photo
        is_seen = not photo or self._looked_at == photo + model
        return bool(model) and not (is_seen and model == self._last_model)

    def _look(self) -> None:
        """Find things in the open photo, then tell which model there is."""
        photo, session = self._open_photo, self.session
        model = session.state.model
        if photo and model:
            self._looked_at = photo + model
            with suppress(SppnetError, ValueError):  # the page shows why it cannot be used
                self.suggest(photo)
        self._tell_model(photo)

    def _tell_model(self, photo: str) -> None:
        """Tell the pages that there is another model."""
        state = self.session.state
        if not state.model:
            return
        is_new, self._last_model = state.model != self._last_model, state.model
        key = "learnt" if is_new else "ready"
        words = {
            "learnt": f"learnt from {count_of(state.labelled, 'photo')}",
            "ready": "suggestions are ready",
        }
        data = {"model": state.model, "changed": words[key], "key": key, "photo": photo,
                "labelled": state.labelled}  # fmt: skip
        self._tell("model", data)

    def _is_measure_due(self, session: Session, quiet: float) -> bool:
        """Whether so much is new, and it has been quiet for so long, that it is worth measuring."""
        edits, labelled = self._measured
        if self._edits == edits or not session.state.model:
            return False
        new = self.board.store.count_labelled() - labelled
        return quiet > LONG_QUIET or (quiet > QUIET and abs(new) >= max(1, SHARE_NEW * labelled))

    def _measure(self, session: Session) -> None:
        edits, labelled = self._edits, self.board.store.count_labelled()
        try:
            found = session.evaluate(MEASURED_PHOTOS, stop=lambda: self._is_interrupted(edits))
        except NothingUsableError:
            self._measured = edits, labelled  # too few photos
            return
        except SppnetError as error:
            self._measured = edits, labelled
            self._tell_failed(error)
            return
        except StoppedError:
            return
        self._measured = edits, labelled
        self._keep(asdict(found), labelled)

    def _keep(self, found: dict[str, Any], labelled: int) -> None:
        """Keep what was measured, and add it to the curve."""
        found.pop("ap_per_class", None)
        self.board.keep_fact(EXPECTED, {**found, "labelled": labelled})
        curve = [point for point in self.curve() if point["labelled"] != labelled]
        point = {name: found[name] for name in ("recall", "precision", "ap50")}
        self.board.keep_fact(CURVE, [*curve, {"labelled": labelled, **point}][-500:])
        self._tell("expected", self.expected())

    def _is_interrupted(self, edits: int) -> bool:
        return self._stopping.is_set() or self._edits != edits

    def expected(self) -> dict[str, Any] | None:
        """What to expect of the next photo, as it was measured last; None if it never was."""
        found = self.board.recall_fact(EXPECTED)
        if found is None:
            return None
        agreement = self.withheld.agreement()
        more = {"agreement": agreement.share, "agreement_photos": agreement.photos}
        return {"labelled": self.board.store.count_labelled(), **found, **more}

    def curve(self) -> list[dict[str, Any]]:
        """What was measured over time."""
        return self.board.recall_fact(CURVE) or []

    def _tell_failed(self, error: Exception) -> None:
        self._bug = failure_text(error)
        self._tell_state()

    def _tell_state(self) -> None:
        state = self.state()
        if state != self._last_state:
            self._last_state = state
            self._tell("state", state)

    def _tell(self, event: str, data: Any) -> None:
        if event == "state":
            self._last_state = data
        self.hub.publish(event, data)
