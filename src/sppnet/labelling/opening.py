"""What every session begins with: its photos, its store, and numbers that make sense. No torch."""

from pathlib import Path

from sppnet.errors import NothingUsableError, UsageError
from sppnet.images.listing import list_images
from sppnet.storage.label_store import STORE_FOLDER, LabelStore

TASKS = ("detect", "classify")


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
    folder = Path(folder)
    paths = list_images([folder]).paths
    names = (path.relative_to(folder).as_posix() for path in paths if path.is_relative_to(folder))
    return tuple(name for name in names if _is_text(name))


def open_store(folder: str | Path, store: str | Path | None, task: str) -> LabelStore:
    """Open the labels of a folder of photos, or begin with them.

    Args:
        folder: The photos.
        store: Folder of labels and features; ``folder``/.sppnet if None.
        task: ``detect`` (boxes) or ``classify`` (names of whole photos); a store has one of both.

    Raises:
        NothingUsableError: If there is no photo.
        UsageError: If the store is of other photos, or of the other task.
        UnusableFileError: If the store is damaged.
        OutputError: If it cannot be made.
    """
    folder = Path(folder)
    if not list_photos(folder):
        raise NothingUsableError("holds no photo to label", path=folder)
    kept = LabelStore(folder / STORE_FOLDER if store is None else Path(store), folder)
    before = kept.fact("task")
    if not before:
        before = task if not kept.names() else TASKS[0]  # stores from before there were two tasks
        kept.put_fact("task", before)
    if before != task:
        kept.close()
        raise UsageError(f"these labels are for {before}, not for {task}", path=kept.folder)
    return kept


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


def _is_text(name: str) -> bool:
    """Whether a name can be kept as text; bytes that are no UTF-8 cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
