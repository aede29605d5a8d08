"""What is said about a photo, and how it lies in the tables of a label store. No torch."""

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sppnet.errors import UsageError, count_of

UNLABELLED, LABELLED, EMPTY = "unlabelled", "labelled", "empty"
STATES = (UNLABELLED, LABELLED, EMPTY)


@dataclass(frozen=True)
class LabelBox:
    """A box that a person drew.

    Args:
        corners: (x1, y1, x2, y2) in pixels of the upright photo, half-open.
        name: Its class.
        extra: Whatever else is known of it, such as VOC's ``difficult``; JSON values.
    """

    corners: tuple[float, float, float, float]
    name: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhotoLabels:
    """What is said about a photo at one revision.

    Args:
        photo: Path from the folder of the photos, with ``/``.
        revision: 0 for a photo that nobody has touched; every edit, undo and redo adds one.
        state: ``unlabelled``, ``labelled``, or ``empty`` (somebody said that no things are here).
        boxes: The boxes.
        extra: Whatever else is known of the photo; JSON values.
        author: Who made this revision, if they said.
        kind: ``edit``, ``undo``, ``redo``, or how an import calls itself.
        names: Classes of the whole photo, where photos are named and no boxes are drawn.
    """

    photo: str
    revision: int = 0
    state: str = UNLABELLED
    boxes: tuple[LabelBox, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    author: str = ""
    kind: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuggestedBox:
    """A box that a model found; it is no label.

    Args:
        corners: (x1, y1, x2, y2) in pixels.
        name: Its class.
        score: As the detector gives it.
        confidence: Probability that it is right, 0..1; None if that is not known.
    """

    corners: tuple[float, float, float, float]
    name: str
    score: float
    confidence: float | None = None


class ConflictError(UsageError):
    """Somebody else edited the photo meanwhile; nothing was written.

    Args:
        current: What the store holds now.
        offered: What was to be written, with the revision that it was based on.
    """

    default_code = "E_CONFLICT"

    def __init__(self, current: PhotoLabels, offered: PhotoLabels) -> None:
        rule = f"is at revision {current.revision}, the edit was made on {offered.revision}"
        super().__init__(rule, path=current.photo)
        self.current, self.offered = current, offered


def check_name(name: str) -> None:
    """Refuse a name that no class can have; ValueError."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"names of classes must not be empty, got {name!r}")


def check_edit(edit: PhotoLabels) -> None:
    """Refuse an edit that says nothing sensible; ValueError."""
    parts = edit.photo.split("/")
    if not all(parts) or ".." in parts or "\\" in edit.photo or Path(edit.photo).is_absolute():
        raise ValueError(f"photo must be a path below the photos' folder, got {edit.photo!r}")
    if edit.state not in STATES:
        raise ValueError(f"state must be one of {', '.join(STATES)}, got {edit.state!r}")
    if (edit.state == LABELLED) != bool(edit.boxes or edit.names):
        raise ValueError(f"photos are labelled if they have boxes, got {edit.state!r} with "
                         f"{count_of(len(edit.boxes), 'box')}")  # fmt: skip
    for name in edit.names:
        check_name(name)
    for number, box in enumerate(edit.boxes):
        x1, y1, x2, y2 = box.corners
        if not (-1e9 < x1 < x2 < 1e9 and -1e9 < y1 < y2 < 1e9):
            raise ValueError(f"boxes must have x1 < x2 and y1 < y2, got {box.corners} in row "
                             f"{number}")  # fmt: skip
        check_name(box.name)


FORMAT_VERSION = 1
# `boxes` is a JSON list of [x1, y1, x2, y2, number of the class, whatever else is known]; a class
# of the whole photo has four nulls for corners.
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE classes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, merged_into INTEGER REFERENCES classes
);
CREATE TABLE class_edits (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, class INTEGER NOT NULL, before TEXT, after TEXT,
    author TEXT NOT NULL, made REAL NOT NULL
);
CREATE TABLE revisions (
    edit INTEGER PRIMARY KEY AUTOINCREMENT,
    photo TEXT NOT NULL, revision INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
    boxes TEXT NOT NULL, extra TEXT NOT NULL, author TEXT NOT NULL, made REAL NOT NULL,
    back INTEGER, forward INTEGER, UNIQUE (photo, revision)
);
CREATE TABLE suggestions (
    photo TEXT PRIMARY KEY, model TEXT NOT NULL, made REAL NOT NULL, boxes TEXT NOT NULL
);
CREATE VIEW latest AS SELECT * FROM revisions AS r WHERE revision = (
    SELECT max(revision) FROM revisions AS other WHERE other.photo = r.photo
);
"""


def rows_text(edit: PhotoLabels, number_of: Callable[[str], int]) -> str:
    """Write the boxes and the classes of a photo as the text of a row.

    Args:
        edit: What is said about the photo.
        number_of: Gives the number of a class.

    Example:
        >>> rows_text(PhotoLabels("a.jpg", names=("cat",)), {"cat": 3}.__getitem__)
        '[[null, null, null, null, 3, {}]]'
    """
    boxes: list[list[object]] = [
        [*map(float, box.corners), number_of(box.name), dict(box.extra)] for box in edit.boxes
    ]
    return json.dumps(boxes + [[*[None] * 4, number_of(name), {}] for name in edit.names])


def labels_of(row: sqlite3.Row, names: Mapping[int, str]) -> PhotoLabels:
    """Read what a row of ``revisions`` says.

    Args:
        row: The row.
        names: By number, the name of a class that counts.
    """
    rows = json.loads(row["boxes"])
    boxes = tuple(
        LabelBox((x1, y1, x2, y2), names[number], extra)
        for x1, y1, x2, y2, number, extra in rows
        if x1 is not None
    )
    # two classes that were merged are one
    whole = dict.fromkeys(names[number] for x1, _, _, _, number, _ in rows if x1 is None)
    extra = json.loads(row["extra"])
    kept = (row["photo"], row["revision"], row["state"], boxes, extra)
    return PhotoLabels(*kept, row["author"], row["kind"], tuple(whole))
