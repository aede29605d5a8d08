"""What every session stands on: its photos, its store, its background thread. No torch."""

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from sppnet.errors import NothingUsableError, SppnetError, UsageError, as_path, failure_text
from sppnet.images.listing import count_shared_ending, list_images, path_parts
from sppnet.storage.label_store import STORE_FOLDER, LabelStore
from sppnet.storage.labels import EMPTY, UNLABELLED, LabelBox, PhotoLabels

TASKS = ("detect", "classify")
MOST_FEATURES = 20_000_000_000  # bytes on disk; what was used longest ago goes first
MOST_AHEAD = 2000  # photos after the one looked at that are convolved, at most


class StoppedError(Exception):
    """Work was given up because its caller said so; nothing of it counts."""


def list_photos(folder: str | Path) -> tuple[str, ...]:
    """Name the photos of a folder and below it; hidden folders, such as the store, do not count.

    Returns:
        Paths from the folder, with ``/``, in a fixed order; none is opened.

    Example:
        >>> list_photos("no/such/folder")
        ()
    """
    folder = as_path(folder, "folder")
    paths = list_images([folder]).paths
    names = (path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder))
    return tuple(name for name in names if _is_text(name))


def open_store(
    folder: str | Path, store: str | Path | None, task: str, photos: Sequence[str] = ()
) -> LabelStore:
    """Open the labels of a folder of photos, or begin with them.

    Args:
        folder: The photos.
        store: Folder of labels and features; ``folder``/.sppnet if None.
        task: ``detect`` (boxes) or ``classify`` (names of whole photos); a store has one of both.
        photos: Names of the photos, where they were listed before.

    Raises:
        NothingUsableError: If there is no photo.
        UsageError: If the store is of other photos, or of the other task.
        UnusableFileError: If the store is damaged.
        OutputError: If it cannot be made.
    """
    folder = as_path(folder, "folder")
    if not (photos or list_photos(folder)):
        words = "holds no photo to label" if folder.is_dir() else "there is no such folder"
        raise NothingUsableError(words, path=folder)
    kept = LabelStore(folder / STORE_FOLDER if store is None else Path(store), folder)
    before = kept.fact("task")
    if not before:
        before = task if not kept.names() else TASKS[0]  # stores from before there were two tasks
        kept.put_fact("task", before)
    if before != task:
        kept.close()
        raise UsageError(f"these labels are for {before}, not for {task}", path=kept.folder)
    return kept


class PhotoFinder:
    """Finds the photos of a folder that a text of another tool may mean, by how the text ends.

    Only names are compared; nothing on the disk is asked for.

    Args:
        photos: Names of the photos, with ``/``.
        spell: How the other tool spells the name of a file.

    Example:
        >>> finder = PhotoFinder(["a/1.jpg", "b/1.jpg", "b/2.jpg"])
        >>> finder.matches("set/b/1.jpg"), finder.matches("1.jpg"), finder.matches("c/2.jpg")
        (['b/1.jpg'], ['a/1.jpg', 'b/1.jpg'], ['b/2.jpg'])
    """

    def __init__(self, photos: Sequence[str], spell: Callable[[str], str] = str) -> None:
        self._spell, self._photos = spell, frozenset(photos)
        self._by_name: dict[str, list[str]] = {}
        for photo in photos:
            self._by_name.setdefault(spell(photo.rpartition("/")[2]), []).append(photo)

    def matches(self, text: str) -> list[str]:
        """Name the photo of that path, or all that share the longest ending with it."""
        if text in self._photos:
            return [text]
        *folders, name = path_parts(text)
        found = self._by_name.get(self._spell(name), [])
        shared = [count_shared_ending(photo.split("/")[:-1], folders) for photo in found]
        most = max(shared, default=0)
        return [photo for photo, count in zip(found, shared, strict=True) if count == most]


def check_number(name: str, value: float, *, whole: bool = False) -> None:
    """Refuse what is no number of at least 0.

    Raises:
        ValueError: If it is negative or NaN, or not whole where it should be.

    Example:
        >>> check_number("count", -1)
        Traceback (most recent call last):
        ValueError: count must be at least 0, got -1
    """
    if not value >= 0 or isinstance(value, bool):
        raise ValueError(f"{name} must be at least 0, got {value}")
    if whole and not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value}")


def fill_up(
    chosen: Sequence[str], photos: Sequence[str], done: Container[str], count: int
) -> list[str]:
    """Let the photos that are neither chosen nor done follow those that are chosen, in order.

    Example:
        >>> fill_up(["c"], ["a", "b", "c", "d"], {"a"}, 2)
        ['c', 'b']
    """
    taken = set(chosen)
    rest = (photo for photo in photos if photo not in done and photo not in taken)
    return [*chosen, *islice(rest, max(0, count - len(chosen)))][:count]


def _is_text(name: str) -> bool:
    """Whether a name can be kept as text; bytes that are no UTF-8 cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def name_start() -> str:
    """Give a text that tells this start of a session from all others."""
    return uuid4().hex[:8]


REST = 0.2  # seconds between looks at whether there is something to do


class Improver:
    """Calls a function again and again in the background, as long as it finds something to do.

    Args:
        work: Does one short piece of work; tells whether there was any.
        failed: Hears the error of a piece of work; the thread rests until :meth:`wake`.

    Example:
        >>> todo, done = [1, 2, 3], []
        >>> improver = Improver(lambda: bool(todo) and done.append(todo.pop()) is None, print)
        >>> improver.start()
        >>> while todo:
        ...     improver.wake()
        >>> improver.stop()
        >>> done
        [3, 2, 1]
    """

    def __init__(self, work: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        self._work, self._failed = work, failed
        self._thread: threading.Thread | None = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self._waiting = 0  # callers in the foreground, who go first
        self._count = threading.Lock()

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="sppnet-improver", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the piece of work that is under way."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Say that there may be something to do."""
        self._wake.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let somebody in the foreground go first: no piece of work begins meanwhile."""
        with self._count:
            self._waiting += 1
        try:
            yield
        finally:
            with self._count:
                self._waiting -= 1
            self.wake()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            if self._waiting or not self._attempt():
                self._wake.wait(REST if self._waiting else None)

    def _attempt(self) -> bool:
        try:
            return self._work()
        except Exception as error:  # whatever it is, the thread must live
            self._failed(error)
            return False


class PhotoSession:
    """What the sessions of both tasks have in common: photos, labels, edits, and how a fit ends.

    A subclass sets ``_lock``, which whoever changes the model holds, and ``_improver``.

    Args:
        folder: Of the photos; nothing is written there but the store.
        store: Labels; it is closed with the session.
        photos: Names of the photos.
        author: Recorded with each edit that names none.
    """

    _lock: AbstractContextManager[Any]
    _improver: Improver

    def __init__(
        self, folder: Path, store: LabelStore, photos: Sequence[str], author: str = ""
    ) -> None:
        self.folder, self.store, self.author = folder, store, author
        self.photos = tuple(photos)
        self._places = {photo: place for place, photo in enumerate(self.photos)}
        self._failure, self._is_fitting = "", False

    def close(self) -> None:
        """Stop the background work and close the store; all edits are on the disk already."""
        self._improver.stop()
        self.keep()
        self.store.close()

    def keep(self) -> bool:
        """Write what was learnt to the disk, where learning it again takes long.

        Returns:
            Whether there was something new.
        """
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in the order in which they came."""
        return self.store.names()

    def labels(self, photo: str) -> PhotoLabels:
        """Give what is said about a photo now, with its revision; ValueError if there is none."""
        return self.store.labels(self._known(photo))

    def set_empty(
        self, photo: str, *, expected: int | None = None, author: str | None = None
    ) -> PhotoLabels:
        """Say that a photo shows none of the classes: it teaches what they do not look like.

        Raises:
            ConflictError: If the photo is at another revision than ``expected``.
            ValueError: If there is no such photo.
            OutputError: If it cannot be written.
        """
        return self._put(photo, (), EMPTY, expected, author)

    def undo(
        self, photo: str, *, expected: int | None = None, author: str | None = None
    ) -> PhotoLabels:
        """Take the last edit of a photo back, also one of an earlier session.

        Raises:
            ConflictError: If the photo is at another revision than ``expected``.
            UsageError: If there is nothing to undo.
            OutputError: If it cannot be written.
        """
        made = self.store.undo(self._known(photo), expected, self._author(author))
        self._edited()
        return made

    def redo(
        self, photo: str, *, expected: int | None = None, author: str | None = None
    ) -> PhotoLabels:
        """Take the last undo back, unless the photo was edited since; raises as :meth:`undo`."""
        made = self.store.redo(self._known(photo), expected, self._author(author))
        self._edited()
        return made

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Let the state say that a fit is under way, and afterwards why it failed."""
        with self._improver.paused(), self._lock:
            self._failure, self._is_fitting = "", True
            try:
                yield
            except SppnetError as error:
                self._fail(error)
                raise
            finally:
                self._is_fitting = False

    def _done(self) -> set[str]:
        """Names of the photos of which something is said."""
        return {each.photo for each in self.store.every() if each.state != UNLABELLED}

    def _known(self, photo: str) -> str:
        """Refuse a photo that is not among them."""
        if photo not in self._places:
            raise ValueError(f"photo must be one of the folder's, got {photo!r}")
        return photo

    def _author(self, author: str | None) -> str:
        return self.author if author is None else author

    def _put(
        self,
        photo: str,
        boxes: Sequence[LabelBox],
        state: str,
        expected: int | None,
        author: str | None,
        names: Sequence[str] = (),
    ) -> PhotoLabels:
        made = self.store.put(
            self._known(photo),
            boxes,
            state=state,
            names=names,
            expected=expected,
            author=self._author(author),
        )
        self._edited()
        return made

    def _edited(self) -> None:
        """Hear of an edit that was written."""

    def _fail(self, error: Exception) -> None:
        self._failure = failure_text(error)
