"""How labels lie in the tables of a label store: the schema, and what a row says. No torch.

A file of its own: the schema is what other programs may read; the store says how it is changed.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping

from sppnet.storage.labels import LabelBox, PhotoLabels

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
