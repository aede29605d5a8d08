"""From what a user names (files, folders, patterns) to a list of image files."""

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from sppnet.errors import Problem

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo")
)
_LEFT_OUT = "left out"
OVERLAYS, DETECTIONS = "overlays", "detections.json"  # what detect predict writes


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order, and what of the request could not be followed.

    Args:
        paths: Sorted by the bytes of their names; each file (inode) once.
        problems: One per source or entry that gives nothing.
        own: How many files were left out because ``detect predict`` drew them.
    """

    paths: tuple[Path, ...]
    problems: tuple[Problem, ...]
    own: int = 0

    @property
    def note(self) -> str:
        """What to say about pictures of our own; empty if there are none."""
        return f"left out {self.own} pictures that detect predict drew" if self.own else ""


def has_image_suffix(path: str | Path) -> bool:
    """Tell whether a name ends as image files do; says nothing about the content.

    Example:
        >>> has_image_suffix("a/B.JPG"), has_image_suffix("notes.txt")
        (True, False)
    """
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (100k names)


def list_images(sources: Sequence[str | Path], out: str | Path | None = None) -> Listing:
    """Find the image files that the sources name.

    A file is taken whatever its name; of a folder, all files with an image's ending, in all folders
    below, without hidden ones; of a pattern (``*``, ``?``, ``[...]``, ``**``), what it matches.
    Links are followed, loops end, and a file that is reached twice is listed once.

    Args:
        sources: Files, folders and patterns. A name that exists is never read as a pattern.
        out: Folder that results are written to. Pictures that a folder or a pattern finds in its
            ``overlays``, or in those of another such folder, which has a ``detections.json``, are
            our own and left out; one that is named itself is taken.

    Returns:
        The files in a fixed order, and the problems.

    Example:
        >>> list_images(["no/such/file.jpg"]).problems[0].rule
        'does not exist'
    """
    problems: list[Problem] = []
    found: list[str] = []
    seen_folders: set[tuple[int, int]] = set()
    own = 0
    is_own = cache(partial(_is_own, None if out is None else os.path.realpath(out)))
    for given in sources:
        source = os.fspath(given)
        names = _expand(source, seen_folders, problems)
        kept = [name for name in names if name == source or not is_own(os.path.dirname(name))]  # noqa: PTH120
        own += len(names) - len(kept)
        found.extend(kept)
    paths = tuple(Path(name) for name in _once_each(found, problems))
    return Listing(paths, tuple(problems), own)


def _is_own(out: str | None, folder: str) -> bool:
    """Tell whether a folder holds pictures that we drew, of this run or of another."""
    real = Path(os.path.realpath(folder))
    if real.name != OVERLAYS:
        return False
    return str(real.parent) == out or (real.parent / DETECTIONS).is_file()


def _expand(source: str, seen: set[tuple[int, int]], problems: list[Problem]) -> list[str]:
    """The files of one source."""
    try:
        mode = os.stat(source).st_mode  # noqa: PTH116 (an empty name is not ".")
    except (OSError, ValueError) as error:
        if glob.has_magic(source) and "\0" not in source:
            return _expand_pattern(source, seen, problems)
        problems.append(_problem(source, _reason(error)))
        return []
    if not stat.S_ISDIR(mode):
        return [source]
    return _expand_folder(source, seen, problems)


def _expand_pattern(source: str, seen: set[tuple[int, int]], problems: list[Problem]) -> list[str]:
    """The files that a pattern matches, and those in the folders that it matches."""
    matches = sorted(glob.glob(source, recursive=True), key=os.fsencode)  # noqa: PTH207 (absolute ones too)
    if not matches:
        problems.append(Problem(source, "matches no file", "E_NOTHING"))
    found: list[str] = []
    for match in matches:
        if os.path.isdir(match):  # noqa: PTH112
            found.extend(_walk(match, seen, problems))
        elif has_image_suffix(match) or has_image_suffix(source):
            found.append(match)
    return found


def _expand_folder(source: str, seen: set[tuple[int, int]], problems: list[Problem]) -> list[str]:
    """The image files of a folder; a folder without one is a problem unless it came up before."""
    known = len(seen)
    before = len(problems)
    found = list(_walk(source, seen, problems))
    if not found and len(seen) > known and len(problems) == before:
        problems.append(Problem(source, "holds no image", "E_NOTHING"))
    return found


def _walk(folder: str, seen: set[tuple[int, int]], problems: list[Problem]) -> Iterator[str]:
    """All image files below a folder; a folder that was seen, through a link or not, is skipped."""
    waiting = [folder]
    while waiting:
        name = waiting.pop()
        try:
            status = os.stat(name)  # noqa: PTH116
            key = (status.st_dev, status.st_ino)
            if key in seen:
                continue
            seen.add(key)
            with os.scandir(name) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            problems.append(_problem(name, _reason(error)))
            continue
        for entry in visible:
            if _is_folder(entry):
                waiting.append(entry.path)
            elif has_image_suffix(entry.name):
                yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Follow links; a link that cannot be followed is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _once_each(found: list[str], problems: list[Problem]) -> Iterator[str]:
    """Sort, leave out what is no file, and keep each inode once."""
    seen: set[tuple[int, int]] = set()
    for name in sorted(set(found), key=os.fsencode):
        try:
            status = os.stat(name)  # noqa: PTH116
        except OSError as error:
            problems.append(_problem(name, _reason(error)))
            continue
        if not stat.S_ISREG(status.st_mode):
            problems.append(_problem(name, "must be a regular file"))
            continue
        key = (status.st_dev, status.st_ino)
        if key not in seen:
            seen.add(key)
            yield name


def _problem(path: str, rule: str) -> Problem:
    """A finding about something that cannot be reached."""
    return Problem(path, rule, "E_UNREADABLE", action=_LEFT_OUT)


def _reason(error: OSError | ValueError) -> str:
    """The system's words for what cannot be reached."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
