"""Labels of photos that lose nothing: every edit is on the disk before the call returns.

One SQLite file in WAL mode; an edit adds a revision of its photo and removes none. No torch.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from sppnet.errors import OutputError, UnusableFileError, UsageError
from sppnet.storage.files import reason
from sppnet.storage.labels import (
    FORMAT_VERSION,
    LABELLED,
    SCHEMA,
    UNLABELLED,
    ConflictError,
    LabelBox,
    PhotoLabels,
    SuggestedBox,
    check_edit,
    check_name,
    labels_of,
    rows_text,
)
from sppnet.storage.temp_files import make_folders

STORE_FOLDER, STORE_FILE = ".sppnet", "labels.sqlite"
_BUSY_SECONDS = 30.0  # how long a writer waits for another one


class LabelStore:
    """The labels of a folder of photos; safe from kills, and for several threads and processes.

    Every edit is committed with ``synchronous=FULL`` before the call returns. An edit may name the
    revision that it was made on; if the photo has moved on, :class:`ConflictError` carries both
    versions. Photos are never written to.

    Args:
        folder: Of the store; ``labels.sqlite`` lies in it.
        photos: Folder of the photos, recorded in a new store. None opens a store that is there.

    Raises:
        UsageError: If there is no store and ``photos`` is None, or the store is of other photos.
        UnusableFileError: If the file is damaged, no label store, or of a newer version.
        OutputError: If it cannot be made or written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     store = LabelStore(Path(name) / ".sppnet", name)
        ...     first = store.put("a.jpg", [LabelBox((1, 2, 30, 40), "cat")])
        ...     second = store.put("a.jpg", [], state="empty", expected=first.revision)
        ...     print(second.state, store.undo("a.jpg").boxes[0].name, store.redo("a.jpg").state)
        ...     store.close()
        empty cat empty
    """

    def __init__(self, folder: str | Path, photos: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.path = self.folder / STORE_FILE
        self._lock = threading.RLock()
        self._labelled, self._counted = set[str](), 0  # as of edit `_counted`
        if photos is None and not self.path.is_file():
            raise UsageError(f"there is no label store ({STORE_FILE}) here", path=self.folder)
        if photos is not None:
            try:
                make_folders(self.folder)
            except OSError as error:
                raise OutputError(f"cannot be made: {reason(error)}", path=self.folder) from error
        with self._failures():
            self._db = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        with ExitStack() as undone:
            undone.callback(self._db.close)
            self._prepare(photos)
            undone.pop_all()

    def __enter__(self) -> "LabelStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing waits to be written."""
        with self._lock:  # another thread may be reading
            self._db.close()

    @property
    def photos_folder(self) -> Path:
        """Where the photos lie."""
        return Path(os.path.normpath(self.folder / self.fact("photos")))

    def labels(self, photo: str) -> PhotoLabels:
        """Give what is said about a photo now; revision 0 if nobody has touched it."""
        row = self._row(photo)
        return PhotoLabels(photo) if row is None else self._labels(row)

    def every(self) -> list[PhotoLabels]:
        """Give the labels of all photos that were ever touched, by name."""
        rows = self._read("SELECT * FROM latest ORDER BY photo")
        resolved = self._resolved()
        return [self._labels(row, resolved) for row in rows]

    def count_labelled(self) -> int:
        """Count the photos that have labels, or of which somebody said that they are empty."""
        new = "SELECT edit, photo, state FROM revisions WHERE edit > ? ORDER BY edit"
        with self._lock:
            for row in self._read(new, self._counted):  # of a photo the last one counts
                self._counted = row["edit"]
                change = (
                    self._labelled.discard if row["state"] == UNLABELLED else self._labelled.add
                )
                change(row["photo"])
            return len(self._labelled)

    def history(self, photo: str) -> list[PhotoLabels]:
        """Give all revisions of a photo, the oldest first; none is ever removed."""
        rows = self._read("SELECT * FROM revisions WHERE photo = ? ORDER BY revision", photo)
        return [self._labels(row) for row in rows]

    def changed_since(self, edit: int) -> tuple[list[str], int]:
        """Name the photos that were edited after some edit, and give the number of the last one.

        Args:
            edit: What the last call returned; 0 for all.
        """
        rows = self._read("SELECT edit, photo FROM revisions WHERE edit > ? ORDER BY edit", edit)
        return list({row["photo"]: 0 for row in rows}), rows[-1]["edit"] if rows else edit

    def put(
        self,
        photo: str,
        boxes: Iterable[LabelBox],
        *,
        state: str = LABELLED,
        expected: int | None = None,
        extra: Mapping[str, Any] | None = None,
        author: str = "",
        kind: str = "edit",
        names: Iterable[str] = (),
    ) -> PhotoLabels:
        """Replace what is said about a photo; on the disk when this returns.

        Args:
            photo: Path from the folder of the photos, with ``/``.
            boxes: All of its boxes.
            state: One of :data:`STATES`; only ``labelled`` photos have boxes or names.
            expected: The revision that the edit was made on; None writes whatever is there.
            extra: Whatever else is known of the photo; None keeps what is there.
            author: Who makes the edit.
            kind: ``edit``, or how an import calls itself.
            names: Classes of the whole photo, where photos are named and have no boxes.

        Returns:
            The new revision.

        Raises:
            ConflictError: If the photo is at another revision than ``expected``.
            ValueError: If a box is reversed or not finite, or state and boxes contradict.
            OutputError: If it cannot be written.
        """
        said = (state, tuple(boxes), extra or {}, author, kind, tuple(names))
        (made,) = self.put_all(
            [PhotoLabels(photo, expected or 0, *said)],
            check=expected is not None,
            keep_extra=extra is None,
        )
        return made

    def put_all(
        self, edits: Sequence[PhotoLabels], *, check: bool = False, keep_extra: bool = False
    ) -> list[PhotoLabels]:
        """Write edits of many photos at once: all of them or none; see :meth:`put`.

        Args:
            edits: What is to be said; ``revision`` is the one that the edit was made on.
            check: Whether each photo must be at that revision.
            keep_extra: Whether what else is known of the photos stays.

        Raises:
            ConflictError: If ``check`` is set and a photo is at another revision.
            ValueError: If a box is reversed or not finite, or state and boxes contradict.
            OutputError: If they cannot be written.
        """
        for edit in edits:
            check_edit(edit)
        with self._writing():
            return [self._add(edit, check, keep_extra) for edit in edits]

    def undo(self, photo: str, expected: int | None = None, author: str = "") -> PhotoLabels:
        """Go back to what was said before the last edit that is not undone.

        Raises:
            ConflictError: If the photo is at another revision than ``expected``.
            UsageError: If there is nothing to undo.
            OutputError: If it cannot be written.
        """
        return self._step(photo, "undo", expected, author)

    def redo(self, photo: str, expected: int | None = None, author: str = "") -> PhotoLabels:
        """Take back the last undo, unless the photo was edited since.

        Raises:
            ConflictError: If the photo is at another revision than ``expected``.
            UsageError: If there is nothing to redo.
            OutputError: If it cannot be written.
        """
        return self._step(photo, "redo", expected, author)

    def can_step(self, photo: str) -> tuple[bool, bool]:
        """Tell whether there is something to undo, and something to redo."""
        row = self._row(photo)
        return (False, False) if row is None else (row["back"] is not None, bool(row["forward"]))

    def names(self) -> tuple[str, ...]:
        """Class names in the order in which they came; merged ones are gone."""
        rows = self._read("SELECT name FROM classes WHERE merged_into IS NULL ORDER BY id")
        return tuple(row["name"] for row in rows)

    def class_edit(self) -> int:
        """Give the number of the last renaming, merging or splitting of a class; 0 if none was."""
        rows = self._read("SELECT max(id) AS last FROM class_edits WHERE kind != 'add'")
        return int(rows[0]["last"] or 0)

    def rename_class(self, name: str, new: str, author: str = "") -> None:
        """Rename a class; all of its boxes go along, and no photo gets a new revision.

        Suggestions are forgotten, here and where classes are merged or split: they have old names.

        Raises:
            UsageError: If there is no such class, or another has the new name: merge them.
            ValueError: If the new name is empty.
            OutputError: If it cannot be written.
        """
        check_name(new)
        with self._writing():
            number = self._known_class(name)
            if new != name and new in self.names():
                raise UsageError(f"there is a class {new!r} already: merge them", path=self.path)
            self._db.execute("UPDATE classes SET name = ? WHERE id = ?", (new, number))
            self._log_class("rename", number, name, new, author)

    def merge_classes(self, name: str, into: str, author: str = "") -> None:
        """Let all boxes of a class count as another's; :meth:`split_class` takes it back.

        Raises:
            UsageError: If there is no such class, or both are the same.
            OutputError: If it cannot be written.
        """
        with self._writing():
            number, other = self._known_class(name), self._known_class(into)
            if number == other:
                raise UsageError(f"class {name!r} cannot be merged into itself", path=self.path)
            self._db.execute("UPDATE classes SET merged_into = ? WHERE id = ?", (other, number))
            self._log_class("merge", number, name, into, author)

    def split_class(self, name: str, author: str = "") -> None:
        """Take the merging of a class back: its boxes are of that class again.

        Raises:
            UsageError: If no class of that name was merged, or another has the name now.
            OutputError: If it cannot be written.
        """
        with self._writing():
            merged = "SELECT id FROM classes WHERE name = ? AND merged_into IS NOT NULL"
            row = self._db.execute(f"{merged} ORDER BY id DESC", (name,)).fetchone()
            if row is None or name in self.names():
                raise UsageError(f"no class {name!r} can be split off", path=self.path)
            self._db.execute("UPDATE classes SET merged_into = NULL WHERE id = ?", (row["id"],))
            self._log_class("split", row["id"], name, name, author)

    def put_suggestions(self, photo: str, boxes: Iterable[SuggestedBox], model: str) -> None:
        """Keep what a model found in a photo, apart from its labels, in place of what was found.

        Args:
            photo: The photo.
            boxes: What was found.
            model: Version of the model.

        Raises:
            OutputError: If it cannot be written.
        """
        text = json.dumps([[*b.corners, b.name, b.score, b.confidence] for b in boxes])
        with self._writing():
            values = (photo, model, time.time(), text)
            self._db.execute("INSERT OR REPLACE INTO suggestions VALUES (?, ?, ?, ?)", values)

    def suggestions(self, photo: str) -> tuple[list[SuggestedBox], str | None]:
        """Give what was found in a photo, and the version of the model that found it."""
        rows = self._read("SELECT model, boxes FROM suggestions WHERE photo = ?", photo)
        if not rows:
            return [], None
        found = json.loads(rows[0]["boxes"])
        return [
            SuggestedBox((x1, y1, x2, y2), name, score, confidence)
            for x1, y1, x2, y2, name, score, confidence in found
        ], rows[0]["model"]

    def fact(self, name: str, default: str = "") -> str:
        """Give a text that was kept under a name."""
        rows = self._read("SELECT value FROM facts WHERE name = ?", name)
        return rows[0]["value"] if rows else default

    def put_fact(self, name: str, value: str) -> None:
        """Keep a text under a name, such as what an import says of the whole set; OutputError."""
        self.put_facts({name: value})

    def put_facts(self, facts: Mapping[str, str]) -> None:
        """Keep texts under names, all of them or none; OutputError."""
        with self._writing():
            self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def _prepare(self, photos: str | Path | None) -> None:
        """Make the tables of a new store, or check those of an old one."""
        with self._failures():
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._db.execute(f"PRAGMA {pragma}")
        with self._writing():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and photos is not None:
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO facts VALUES (?, ?)", ("photos", self._away(photos)))
                self._db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
                version = FORMAT_VERSION
            if version == FORMAT_VERSION:  # a name of its own, wherever the folder is moved
                self._db.execute("INSERT OR IGNORE INTO facts VALUES ('id', ?)", (uuid4().hex,))
        self._db.row_factory = sqlite3.Row
        if version != FORMAT_VERSION:
            rule = f"must be a label store of version {FORMAT_VERSION}, is of {version}"
            raise UnusableFileError(rule, path=self.path, code="E_FORMAT")
        own = self.photos_folder
        if photos is not None and os.path.realpath(own) != os.path.realpath(photos):
            raise UsageError(f"this store is of the photos in {str(own)!r}", path=self.folder)

    def _away(self, photos: str | Path) -> str:
        """The folder of the photos as the store keeps it: relative if the store lies in it."""
        own, top = Path(photos).resolve(), self.folder.resolve()
        return os.path.relpath(own, top) if top.is_relative_to(own) else str(own)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of SQLite into ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.ProgrammingError):
                raise UsageError("the label store was closed", path=self.path) from error
            if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
                raise OutputError(f"the label store fails: {error}", path=self.path) from error
            rule = f"is damaged or no label store: {error}"
            raise UnusableFileError(rule, path=self.path, code="E_FORMAT") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: on the disk as a whole when it ends, or not at all."""
        with self._lock, self._failures():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has SQLite roll back by itself
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, self._failures():
            return self._db.execute(query, values).fetchall()

    def _row(self, photo: str, revision: int | None = None) -> sqlite3.Row | None:
        """A revision of a photo; the latest if None."""
        if revision is None:
            rows = self._read("SELECT * FROM latest WHERE photo = ?", photo)
        else:
            one = "SELECT * FROM revisions WHERE photo = ? AND revision = ?"
            rows = self._read(one, photo, revision)
        return rows[0] if rows else None

    def _labels(self, row: sqlite3.Row, resolved: Mapping[int, str] | None = None) -> PhotoLabels:
        return labels_of(row, self._resolved() if resolved is None else resolved)

    def _add(self, edit: PhotoLabels, check: bool, keep_extra: bool) -> PhotoLabels:
        """Add a revision inside a transaction."""
        current = self._row(edit.photo)
        revision = 0 if current is None else current["revision"]
        if check and revision != edit.revision:
            raise ConflictError(self.labels(edit.photo), edit)
        boxes = rows_text(edit, lambda name: self._class_of(name, edit.author))
        extra = json.dumps(dict(edit.extra))
        if keep_extra and current is not None:
            extra = current["extra"]
        content = (edit.state, boxes, extra)
        back = revision  # 0 is the photo that nobody has touched
        return self._insert(edit.photo, revision + 1, edit.kind, content, edit.author, back, None)

    def _step(self, photo: str, kind: str, expected: int | None, author: str) -> PhotoLabels:
        """Add a revision with the content of an earlier one."""
        with self._writing():
            row = self._row(photo)
            revision = 0 if row is None else row["revision"]
            if expected is not None and revision != expected:
                current = self.labels(photo)
                raise ConflictError(current, PhotoLabels(photo, expected, kind=kind))
            to = None if row is None else row["back" if kind == "undo" else "forward"]
            if row is None or to is None:
                raise UsageError(f"there is nothing to {kind}", path=photo)
            goal = self._row(photo, to)
            content = (UNLABELLED, "[]", "{}")
            if goal is not None:
                content = (goal["state"], goal["boxes"], goal["extra"])
            back = None if goal is None else goal["back"]
            forward = revision if kind == "undo" else cast(sqlite3.Row, goal)["forward"]
            return self._insert(photo, revision + 1, kind, content, author, back, forward)

    def _insert(
        self,
        photo: str,
        revision: int,
        kind: str,
        content: tuple[str, str, str],
        author: str,
        back: int | None,
        forward: int | None,
    ) -> PhotoLabels:
        state, boxes, extra = content
        values = (photo, revision, kind, state, boxes, extra, author, time.time(), back, forward)
        self._db.execute(
            "INSERT INTO revisions (photo, revision, kind, state, boxes, extra, author, made, "
            "back, forward) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return self.labels(photo)

    def _class_of(self, name: str, author: str) -> int:
        """The number of a class, which is made if it is new."""
        check_name(name)
        found = self._db.execute(
            "SELECT id FROM classes WHERE name = ? AND merged_into IS NULL", (name,)
        ).fetchone()
        if found is not None:
            return int(found["id"])
        made = self._db.execute("INSERT INTO classes (name) VALUES (?)", (name,)).lastrowid
        self._log_class("add", int(made or 0), None, name, author)
        return int(made or 0)

    def _known_class(self, name: str) -> int:
        if name not in self.names():
            raise UsageError(f"there is no class {name!r}", path=self.path)
        return self._class_of(name, "")

    def _log_class(
        self, kind: str, number: int, before: str | None, after: str, author: str
    ) -> None:
        self._db.execute(
            "INSERT INTO class_edits (kind, class, before, after, author, made) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (kind, number, before, after, author, time.time()),
        )
        if kind != "add":
            self._db.execute("DELETE FROM suggestions")

    def _resolved(self) -> dict[int, str]:
        """By number, the name that counts: that of the class that it was merged into, if any."""
        rows = {row["id"]: row for row in self._read("SELECT * FROM classes")}

        def follow(number: int) -> str:
            into = rows[number]["merged_into"]
            return str(rows[number]["name"]) if into is None else follow(into)

        return {number: follow(number) for number in rows}


def find_store(path: str | Path) -> Path | None:
    """Find the label store that a path names.

    Args:
        path: The folder of a store, or a folder of photos with a store in ``.sppnet``.

    Returns:
        The folder of the store, or None.

    Example:
        >>> find_store("/no/such/folder") is None
        True
    """
    for folder in (Path(path), Path(path) / STORE_FOLDER):
        if os.path.isfile(folder / STORE_FILE):  # noqa: PTH113 (never raises)
            return folder
    return None
