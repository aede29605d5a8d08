"""What each request of the label page does: plain values in, JSON values out, no HTTP."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from sppnet.errors import InputError
from sppnet.server.answers import BadValueError, Event, EventHub, NotFoundError, has_controls
from sppnet.server.board import LAST_PHOTO, Board, Withheld, is_withheld
from sppnet.server.files import PhotoDesk
from sppnet.server.label_work import LabelWork, Session
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import PhotoLabels

MOST_BOXES, MOST_NAME, MOST_AUTHOR = 5000, 200, 80  # boxes of a photo; letters of names
MOST_SHOWN = 300  # suggestions for a photo
MOST_KEPT = 200  # photos whose suggestions are in memory; those of the others are in the store
PRESENCE_SECONDS = 30.0
DOUBTED_PHOTOS = 200  # labelled photos that are held out in turn to doubt labels
MOST_PEOPLE = 100
Json = dict[str, Any]


class LabelDesk:
    """Everything between the page and a session.

    Args:
        folder: The photos.
        store: Their labels; closed by :meth:`close`.
        photos: Names of the photos.
        task: ``detect`` or ``classify``.
        open_session: Opens the session; called in a thread of its own.
        author: Recorded with edits that name none.
        version: Of the package, shown by the page.
    """

    def __init__(
        self,
        folder: Path,
        store: LabelStore,
        photos: Sequence[str],
        task: str,
        open_session: Callable[[], Session],
        author: str = "",
        version: str = "",
    ) -> None:
        self.folder, self.store, self.task, self.author = folder, store, task, author
        self.version = version
        self.hub = EventHub()
        self.board = Board(store, photos)
        self.withheld = Withheld(self.board)
        self.work = LabelWork(open_session, self.board, self.withheld, self.hub)
        self.work.suggest = self.suggest
        self.pictures = PhotoDesk(folder, store.folder / "thumbs")
        self._suggested: dict[str, tuple[str, list[Json]]] = {}
        self._people: dict[str, tuple[float, str, str]] = {}
        self._told: list[Json] = []  # who the pages were told is there
        self._last_job: Json | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to open the session."""
        self.work.start()

    def close(self) -> None:
        """End the work and close the store."""
        self.hub.close()
        self.work.stop()
        self.store.close()

    def describe(self) -> Json:
        """What the page shows first."""
        return {
            "folder": self.folder.absolute().name,
            "store": self.store.fact("id"),
            "task": self.task,
            "photos": len(self.board.photos),
            "classes": self.board.classes(),
            "state": self.work.state(),
            "expected": self.work.expected(),
            "curve": self.work.curve(),
            "version": self.version,
            "last_photo": self._last_photo(),
        }

    def first_events(self) -> list[Event]:
        """What a page that begins to listen hears at once."""
        events: list[Event] = [("state", self.work.state()), ("presence", self._present())]
        return events if self._last_job is None else [*events, ("job", self._last_job)]

    def list_photos(self, offset: int, limit: int) -> Json:
        """A part of the list of photos."""
        return {"total": len(self.board.photos), "items": self.board.items(offset, limit)}

    def photo(self, photo: str) -> Json:
        """A photo with its labels, and the suggestions that are known already.

        Raises:
            NotFoundError: If there is no such photo.
            InputError: If it is no image.
        """
        made = self._describe(self.store.labels(self.board.known(photo)))
        self.work.look_at(photo)
        if self._last_photo() != photo:
            self.board.keep_fact(LAST_PHOTO, photo)
        return made

    def edit(self, photo: str, body: Any, expected: int, author: str) -> Json:
        """Replace what is said about a photo.

        Raises:
            ConflictError: If somebody else edited it meanwhile.
            BadValueError: If the body says nothing sensible.
        """
        session = self.work.session
        boxes, names, is_empty = _read_edit(body, self.task)
        more: Json = {"expected": expected, "author": author or self.author}
        self.board.known(photo)
        if is_empty:
            made = session.set_empty(photo, **more)
        elif self.task == "detect":
            made = cast(Any, session).set_boxes(photo, boxes, names, **more)
        else:
            made = cast(Any, session).set_names(photo, names, **more)
        return self._edited(made)

    def step(self, photo: str, kind: str, expected: int, author: str) -> Json:
        """Undo or redo.

        Raises:
            ConflictError: If somebody else edited the photo meanwhile.
            UsageError: If there is nothing to undo or redo.
        """
        session = self.work.session
        step = session.undo if kind == "undo" else session.redo
        made = step(self.board.known(photo), expected=expected, author=author or self.author)
        return self._edited(made)

    def suggestions(self, photo: str) -> Json:
        """What is suggested for a photo by the model that there is; computed if need be.

        Raises:
            InputError: If the photo cannot be decoded.
        """
        self.suggest(self.board.known(photo))
        return self._shown(self.store.labels(photo))

    def suggest(self, photo: str) -> None:
        """Find things in a photo, and remember them."""
        found = self.work.session.suggest(photo)
        items = _items(found)
        with self._lock:
            self._suggested.pop(photo, None)
            self._suggested[photo] = (found.model, items)
            while len(self._suggested) > MOST_KEPT:
                del self._suggested[next(iter(self._suggested))]
        self.withheld.keep(photo, found.model, items)

    def next(self, count: int) -> Json:
        """The photos that teach most; in order while there is no session that could tell."""
        _check_count(count, 1000)
        if self.work.is_open and not self.work.is_training_fully:
            return {"photos": self.work.session.next(count)}
        photos = self.board.unlabelled()
        return {"photos": [photo for photo, _ in zip(photos, range(count), strict=False)]}

    def surest(self, count: int) -> Json:
        """The photos whose suggestions are least in doubt, with these, to look through at once.

        Raises:
            NotFoundError: If whole photos are named.
        """
        _check_count(count, 100)
        if self.task != "detect":
            raise NotFoundError("there is no such request")
        if not self.work.is_open or self.work.is_training_fully:
            return {"photos": []}
        hidden = [photo for photo in self.board.unlabelled() if is_withheld(photo)]
        names = cast(Any, self.work.session).surest(count, hidden)
        shown = []
        for name in names:
            with suppress(InputError):  # it may have gone meanwhile
                self.suggest(name)
                shown.append(self._describe(self.store.labels(name)))
        return {"photos": shown}

    def doubtful(self, count: int) -> Json:
        """Labels to look at again."""
        _check_count(count, 1000)
        doubts = self.work.session.doubtful(count, DOUBTED_PHOTOS)
        return {"doubts": [asdict(doubt) for doubt in doubts]}

    def refit(self, body: Any) -> Json:
        """Learn now."""
        is_full = body.get("full", False) if isinstance(body, dict) else None
        if not isinstance(is_full, bool):
            raise BadValueError("full must be true or false")
        self.work.refit(full=is_full)
        return {**self.work.state(), "phase": "queued"}

    def change_class(self, kind: str, body: Any, author: str) -> Json:
        """Rename a class, or merge it into another.

        Raises:
            UsageError: If there is no such class, or another has the new name.
        """
        session = self.work.session
        other = "new" if kind == "rename" else "into"
        name, new = (_read_name(body, key) for key in ("name", other))
        change = session.rename_class if kind == "rename" else session.merge_classes
        change(name, new, author=author or self.author)
        with self._lock:
            self._suggested.clear()
        self.withheld.rename(name, new)
        self.hub.publish("renamed", {"name": name, "new": new})
        self.work.edited("")
        return {"classes": self._tell_classes()}

    def presence(self, body: Any, author: str) -> None:
        """Hear who looks at which photo."""
        photo, who = (_read_name(body, key) for key in ("photo", "who"))
        self.board.known(photo)
        self._present()  # who left makes room
        with self._lock:
            if who in self._people or len(self._people) < MOST_PEOPLE:
                self._people[who] = (time.monotonic(), author or self.author, photo)
        present = self._present()
        with self._lock:
            is_new, self._told = present != self._told, present
        if is_new:
            self.hub.publish("presence", present)

    def tell_job(self, job: Json) -> None:
        """Tell the pages how far a run over the other photos is, now and when they come."""
        self._last_job = job
        self.hub.publish("job", job)

    def conflict(self, photo: str, offered: PhotoLabels | None) -> Json:
        """Both versions of a photo that two people edited."""
        return {
            "current": self._describe(self.store.labels(photo)),
            "offered": {} if offered is None else self._labels(offered),
        }

    def _present(self) -> list[Json]:
        old = time.monotonic() - PRESENCE_SECONDS
        with self._lock:
            self._people = {who: seen for who, seen in self._people.items() if seen[0] > old}
            return [
                {"who": who, "author": author, "photo": photo}
                for who, (_, author, photo) in sorted(self._people.items())
            ]

    def _last_photo(self) -> str | None:
        photo = self.board.recall_fact(LAST_PHOTO)
        return photo if photo in self.board.places else None

    def _edited(self, labels: PhotoLabels) -> Json:
        """Tell everybody of an edit."""
        self.work.edited(labels.photo)
        self.board.refresh()
        item = self.board.item(labels.photo)
        self.hub.publish("photo", {**item, "author": labels.author})
        self._tell_classes()
        return self._describe(labels)

    def _tell_classes(self) -> list[Json]:
        classes = self.board.classes()
        self.hub.publish("classes", classes)
        return classes

    def _describe(self, labels: PhotoLabels) -> Json:
        width, height = self.pictures.size_of(labels.photo)
        undo, redo = self.store.can_step(labels.photo)
        return {
            "photo": labels.photo,
            "index": self.board.places[labels.photo],
            "width": width,
            "height": height,
            **self._labels(labels),
            "can_undo": undo,
            "can_redo": redo,
            "suggestions": self._shown(labels),
        }

    def _labels(self, labels: PhotoLabels) -> Json:
        said: Json = {"revision": labels.revision, "state": labels.state}
        if self.task == "classify":
            return {**said, "names": list(labels.names)}
        boxes = [{"box": list(box.corners), "name": box.name} for box in labels.boxes]
        return {**said, "boxes": boxes}

    def _shown(self, labels: PhotoLabels) -> Json:
        """Suggestions that are known, unless they are hidden."""
        model, items = self._suggested.get(labels.photo) or self._kept(labels.photo)
        if self.withheld.hides(labels):
            return {"model": model, "withheld": True, "items": []}
        return {"model": model, "withheld": False, "items": items}

    def _kept(self, photo: str) -> tuple[str, list[Json]]:
        """What an earlier session found."""
        found, model = self.store.suggestions(photo)
        items = [
            {"box": list(each.corners), "name": each.name, "score": each.score,
             "confidence": each.confidence}
            for each in found[:MOST_SHOWN]
        ]  # fmt: skip
        return model or "", items


def _items(found: Any) -> list[Json]:
    """Suggestions as the page has them, best first."""
    there = getattr(found, "there", found.sureness)  # whole photos have none
    columns = [found.names, found.scores.tolist(), found.sureness.tolist(), there.tolist()]
    rows = [dict(zip(("name", "score", "confidence", "there"), row, strict=True))
            for row in zip(*columns, strict=True)]  # fmt: skip
    boxes = getattr(found, "boxes", None)  # whole photos have none
    if boxes is not None:
        rows = [{"box": box, **row} for box, row in zip(boxes.tolist(), rows, strict=True)]
    return rows[:MOST_SHOWN]


def _read_edit(body: Any, task: str) -> tuple[list[Any], list[str], bool]:
    """Boxes, their names, and whether nothing is there, of the body of an edit."""
    if not isinstance(body, dict):
        raise BadValueError("the body must be an object")
    is_empty, key = body.get("empty", False), "boxes" if task == "detect" else "names"
    rows = body.get(key, [] if is_empty is True else None)  # an empty body unlabels nothing
    if not isinstance(is_empty, bool) or not isinstance(rows, list):
        raise BadValueError(f"empty must be true or false, {key} must be a list")
    if len(rows) > MOST_BOXES:
        raise BadValueError(f"a photo must have at most {MOST_BOXES} boxes, got {len(rows)}")
    if is_empty and rows:
        raise BadValueError("a photo with nothing on it must have no boxes and no names")
    if task == "classify":
        return [], [_check_name(name) for name in rows], is_empty
    boxes = [_read_box(row) for row in rows]
    return boxes, [_read_name(row, "name") for row in rows], is_empty


def _read_box(row: Any) -> list[float]:
    box = row.get("box") if isinstance(row, Mapping) else None
    if not isinstance(box, list) or len(box) != 4:
        raise BadValueError("a box must have four corners: x1, y1, x2, y2")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in box):
        raise BadValueError("the corners of a box must be numbers")
    if not all(abs(x) < 1e9 for x in box):
        raise BadValueError("the corners of a box must be finite")
    return [float(x) for x in box]


def _read_name(body: Any, key: str) -> str:
    if not isinstance(body, Mapping):
        raise BadValueError("the body must be an object")
    return _check_name(body.get(key), 4096 if key == "photo" else MOST_NAME, key)


def _check_name(name: Any, most: int = MOST_NAME, key: str = "name") -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > most:
        raise BadValueError(f"{key} must be a text of 1 to {most} letters")
    if has_controls(name):
        raise BadValueError(f"{key} must have no control characters")
    return name


def _check_count(count: int, most: int) -> None:
    if not 0 <= count <= most:
        raise BadValueError(f"count must be in 0..{most}, got {count}")
