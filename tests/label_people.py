"""A session that learns nothing and a client of the label server, for its tests."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.testclient import TestClient

from sppnet.errors import NothingUsableError, OutputError
from sppnet.labelling.base import StoppedError
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import EMPTY, LABELLED, UNLABELLED, LabelBox, PhotoLabels

PORT = 8123
WRITES = {"X-Sppnet": "1"}


class Column(list):
    """A list that gives itself where a tensor is asked."""

    def tolist(self) -> list:
        return list(self)


@dataclass
class StandInSession:
    """Keeps labels as a session does; its model is a number, and fits take as long as is asked."""

    store: LabelStore
    photos: tuple[str, ...]
    fit_seconds: float = 0.0
    fits: list[bool] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    measured: int = 0
    kept: int = 0
    stopped: int = 0
    failure: str = ""
    blocker: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> Any:
        return State("failed" if self.failure else "idle", 0.0, self.failure, 0,
                     self.store.count_labelled(), len(self.photos),
                     f"warm {len(self.fits)}" if self.fits else "")  # fmt: skip

    def close(self) -> None:
        pass

    def set_boxes(self, photo, boxes, labels, *, expected=None, author="") -> PhotoLabels:
        made = [LabelBox(tuple(box), name) for box, name in zip(boxes, labels, strict=True)]
        state = LABELLED if made else UNLABELLED
        return self.store.put(photo, made, state=state, expected=expected, author=author)

    def set_names(self, photo, names, *, expected=None, author="") -> PhotoLabels:
        state = LABELLED if names else UNLABELLED
        more = {"expected": expected, "author": author}
        return self.store.put(photo, [], state=state, names=names, **more)

    def set_empty(self, photo, *, expected=None, author="") -> PhotoLabels:
        return self.store.put(photo, [], state=EMPTY, expected=expected, author=author)

    def undo(self, photo, *, expected=None, author="") -> PhotoLabels:
        return self.store.undo(photo, expected, author)

    def redo(self, photo, *, expected=None, author="") -> PhotoLabels:
        return self.store.redo(photo, expected, author)

    def rename_class(self, name, new, *, author="") -> None:
        self.store.rename_class(name, new, author)

    def merge_classes(self, name, into, *, author="") -> None:
        self.store.merge_classes(name, into, author)

    def refit(self, budget_seconds=5.0, *, full=False) -> Any:  # noqa: ARG002
        if not any(each.boxes for each in self.store.every()):
            self.failure = "no photo with a box to learn from"
            raise NothingUsableError(self.failure)
        if self.failure.startswith("no photo"):
            self.failure = ""
        self.blocker.wait(self.fit_seconds)
        self.fits.append(full)
        if self.failure:
            raise OutputError(self.failure)
        return self.state

    def suggest(self, photo) -> Any:
        self.looked_at.append(photo)
        model = self.state.model
        rows = Column([[1.0, 2.0, 11.0, 12.0]] if model else [])
        few = Column([0.9] if model else [])
        names = ("cat",) if model else ()
        return SimpleNamespace(
            model=model, names=names, scores=few, confidence=few, sureness=few, boxes=rows
        )

    def evaluate(self, most_photos=100, *, stop=lambda: False) -> Any:  # noqa: ARG002
        end = time.monotonic() + self.fit_seconds
        while time.monotonic() < end:
            if stop():
                self.stopped += 1
                raise StoppedError
            time.sleep(0.005)
        self.measured += 1
        return Expected(2, 3, 0.5, 0.75, 0.1, float("nan"))

    def next(self, count=10) -> list[str]:
        return list(reversed(self.photos))[:count]

    def surest(self, count=12, without=()) -> list[str]:
        said = {each.photo for each in self.store.every() if each.state != UNLABELLED}
        left = [photo for photo in self.photos if photo not in said | set(without)]
        return left[:count] if self.state.model else []

    def doubtful(self, count=40, most_photos=1000) -> list[Any]:  # noqa: ARG002
        return []

    def export(self, layout, out, *, copy_photos=True) -> Path:  # noqa: ARG002
        out.write_text(layout)
        return out

    def keep(self) -> bool:
        self.kept += 1
        return True

    def save_model(self, path) -> Path:
        if not self.fits:
            raise NothingUsableError("nothing was learnt yet: label a photo and refit")
        path.mkdir(parents=True)
        (path / "manifest.json").write_text("{}")
        return path


@dataclass(frozen=True)
class State:
    """As ``SessionState``."""

    phase: str
    seconds_left: float
    message: str
    waiting: int
    labelled: int
    photos: int
    model: str


@dataclass(frozen=True)
class Expected:
    """As ``Expectation``."""

    photos: int
    objects: int
    ap50: float
    recall: float
    recall_spread: float
    precision: float


class Person:
    """Sends what the page sends.

    Args:
        client: Of the server.
        name: In ``X-Author``.
    """

    def __init__(self, client: TestClient, name: str = "Ann") -> None:
        self.client, self.name = client, name

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=headers)

    def write(self, method: str, path: str, body: Any = None, revision: int | None = None) -> Any:
        headers = {**WRITES, "X-Author": self.name}
        if revision is not None:
            headers["If-Match"] = f'"{revision}"'
        return self.client.request(method, path, json=body or {}, headers=headers)

    def draw(self, photo: str, revision: int, *boxes: Any, name: str = "cat") -> Any:
        rows = [{"box": list(box), "name": name} for box in boxes]
        return self.write("PUT", f"/api/photo/{photo}", {"boxes": rows, "empty": False}, revision)


def wait_for(fact: Any, seconds: float = 20.0) -> Any:
    """Wait until something is true, and give it."""
    end = time.monotonic() + seconds
    while not (value := fact()):
        if time.monotonic() > end:
            raise AssertionError("it never came true")
        time.sleep(0.01)
    return value
