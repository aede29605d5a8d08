"""From what a user names (files, folders, patterns) to a list of image files."""

import glob
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote

from sppnet.errors import Problem, UsageError, count_of
from sppnet.images.formats import HEIF_MODULE

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "mpo"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
_HEIF_SUFFIXES = frozenset((".heic", ".heif"))
# Pictures and films of kinds that are not read: who names their folder means them, too.
_MEDIA_SUFFIXES = _HEIF_SUFFIXES | frozenset(
    f".{name}"
    for name in (
        *("avif", "jxl", "jp2", "j2k", "psd", "svg", "eps", "pdf", "tga", "exr", "hdr", "dcm"),
        *("raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"),
        *("mp4", "mov", "avi", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv", "3gp"),
    )
)
# What lies beside images and is none: annotations, texts, the notes of file systems and tools.
_COMPANIONS = frozenset(
    f".{name}"
    for name in (
        *("txt", "xml", "json", "jsonl", "csv", "tsv", "yaml", "yml", "md", "html", "log"),
        *("cache", "db", "ini", "labels", "names", "data", "cfg", "py", "ipynb", "npy", "npz"),
        *("mat", "pt", "pth", "zip", "gz", "tar"),
    )
)
_LEFT_OUT = "left out"
Id = TypeVar("Id", bound=str | int)
OVERLAYS, DETECTIONS = "overlays", "detections.json"  # what detect predict writes


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order, and what of the request could not be followed.

    Args:
        paths: Sorted by the bytes of their names; each file (inode) once.
        problems: One per source or entry that gives nothing.
        notes: One per source that also holds files of kinds that are not read.
        own: How many files were left out because ``detect predict`` drew them.
        files: What results call each file: its path from the deepest folder that holds all that was
            given, such as ``cam1/IMG_0001.JPG`` for the folders ``cam1`` and ``cam2``.
    """

    paths: tuple[Path, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()
    own: int = 0
    files: Mapping[Path, str] = field(default_factory=dict)

    @property
    def own_words(self) -> str:
        """What to say about pictures of our own; empty if there are none."""
        words = f"left out {count_of(self.own, 'picture')} that detect predict drew"
        return words if self.own else ""


def match_pattern(pattern: str) -> list[str]:
    """Names that a pattern such as ``cam1/*.mp4`` fits, in order; none if it fits nothing.

    Example:
        >>> match_pattern("no/such/*.mp4")
        []
    """
    return sorted(glob.glob(pattern, recursive=True), key=os.fsencode)  # noqa: PTH207 (absolute ones too)


def has_image_suffix(path: str | Path) -> bool:
    """Tell whether a name ends as image files do; says nothing about the content.

    Example:
        >>> has_image_suffix("a/B.JPG"), has_image_suffix("notes.txt")
        (True, False)
    """
    return _is_read(_suffix(path))


def _suffix(path: str | Path) -> str:
    """The ending in small letters."""
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (100k names)


def _is_read(suffix: str) -> bool:
    """Whether files of this ending are images that can be read here."""
    return suffix in IMAGE_SUFFIXES or (suffix in _HEIF_SUFFIXES and _has_heif())


@cache
def _has_heif() -> bool:
    """Whether the extra that decodes HEIC is installed."""
    return find_spec(HEIF_MODULE) is not None


def list_images(sources: Sequence[str | Path], out: str | Path | None = None) -> Listing:
    """Find the image files that the sources name.

    A file is taken whatever its name; of a folder, all files with an image's ending, in all folders
    below, without hidden ones; of a pattern (``*``, ``?``, ``[...]``, ``**``), what it matches.
    Links are followed, loops end, and a file that is reached twice is listed once. Files of other
    kinds are counted by ending, one finding for each source.

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
    looked = _Looked()
    is_own = cache(partial(_is_own, None if out is None else os.path.realpath(out)))
    found: list[str] = []
    own = 0
    for given in sources:
        source = os.fspath(given)
        names = looked.expand(source)
        kept = [name for name in names if name == source or not is_own(os.path.dirname(name))]  # noqa: PTH120
        own += len(names) - len(kept)
        found.extend(kept)
    paths = tuple(Path(name) for name in _once_each(found, looked.problems))
    files = relative_names(paths, looked.folders)
    return Listing(paths, tuple(looked.problems), tuple(looked.notes), own, files)


def relative_names(paths: Iterable[Path], folders: Iterable[str | Path] = ()) -> dict[Path, str]:
    """Name files by their paths from the deepest folder that holds all of them.

    Args:
        paths: The files; they need not exist.
        folders: Folders that the deepest one must hold, too.

    Returns:
        By path: the parts below that folder, with ``/`` on every system; no two are equal. Files of
        several drives keep their whole paths.

    Example:
        >>> list(relative_names([Path("a/cam1/x.jpg"), Path("a/cam2/x.jpg")]).values())
        ['cam1/x.jpg', 'cam2/x.jpg']
        >>> list(relative_names([Path("a/cam1/x.jpg")], ["a"]).values())
        ['cam1/x.jpg']
    """
    whole = {path: os.path.abspath(path) for path in paths}  # noqa: PTH100 (links stay)
    parents = {os.path.dirname(path) for path in whole.values()}  # noqa: PTH120 (100k names)
    try:
        root = os.path.commonpath([*map(os.path.abspath, folders), *parents])
        names = {path: os.path.relpath(full, root) for path, full in whole.items()}
    except ValueError:  # nothing at all, or several drives
        names = whole
    counts = Counter(names.values())
    for path in [path for path, name in names.items() if counts[name] > 1]:  # ".." behind a link
        names[path] = os.path.realpath(path)
    return {path: Path(name).as_posix() for path, name in names.items()}


def distinct_ids(ids: Iterable[Id], files: Iterable[str]) -> list[Id | str]:
    """Tell images of one id apart by their paths, without the ending where that is enough.

    Args:
        ids: An id for each image; those that are there once stay.
        files: The path of each image, with ``/``; no two are equal.

    Returns:
        As many ids, all different if no id that is there once is the path of another image.

    Example:
        >>> distinct_ids(["x", "x", "y", "y"], ["a/x.jpg", "b/x.jpg", "b/y.jpg", "b/y.png"])
        ['a/x', 'b/x', 'b/y.jpg', 'b/y.png']
    """
    files = list(files)
    found: list[Id | str] = list(ids)
    # once more with the whole path: "x.jpg" may be the stem of another image, too
    for name in (_without_ending, str, str):
        counts = Counter(found)
        if len(counts) == len(found):
            break
        pairs = zip(found, files, strict=True)
        found = [name(file) if counts[each] > 1 else each for each, file in pairs]
    return found


def _without_ending(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(""))


def path_parts(text: str) -> list[str]:
    r"""Split a path of any system.

    Example:
        >>> path_parts(r"C:\photos\x.jpg"), path_parts("cam1/x.jpg")
        (['C:', 'photos', 'x.jpg'], ['cam1', 'x.jpg'])
    """
    return text.replace("\\", "/").split("/")


def count_shared_ending(parts: Sequence[str], others: Sequence[str]) -> int:
    """Count the parts at the end of two paths that are the same.

    Example:
        >>> count_shared_ending(("a", "cam1", "x.jpg"), ("b", "cam1", "x.jpg"))
        2
    """
    pairs = zip(reversed(parts), reversed(others), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_own(out: str | None, folder: str) -> bool:
    """Tell whether a folder holds pictures that we drew, of this run or of another."""
    real = Path(os.path.realpath(folder))
    places = [each.parent for each in (real, *real.parents) if each.name == OVERLAYS]
    return any(str(place) == out or (place / DETECTIONS).is_file() for place in places)


class _Looked:
    """What was come by while sources were looked through."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self.folders: list[str] = []  # that names of files are relative to
        self._seen: set[tuple[int, int]] = set()
        self._others: Counter[str] = Counter()  # endings of files that are not read

    def expand(self, source: str) -> list[str]:
        """The files of one source."""
        self._others.clear()
        try:
            mode = os.stat(source).st_mode  # noqa: PTH116 (an empty name is not ".")
        except (OSError, ValueError) as error:
            if glob.has_magic(source) and "\0" not in source:
                return self._expand_pattern(source)
            self.problems.append(_problem(source, _reason(error)))
            return []
        is_folder = stat.S_ISDIR(mode)
        self.folders.append(source if is_folder else os.path.dirname(source))  # noqa: PTH120
        return self._expand_folder(source) if is_folder else [source]

    def _expand_pattern(self, source: str) -> list[str]:
        """The files that a pattern matches, and those in the folders that it matches."""
        matches = match_pattern(source)
        if not matches:
            self.problems.append(Problem(source, "matches no file", "E_NOTHING"))
        else:
            self.folders.append(_fixed_part(source))
        found: list[str] = []
        for match in matches:
            if os.path.isdir(match):  # noqa: PTH112
                found.extend(self._walk(match))
            elif has_image_suffix(match) or has_image_suffix(source):
                found.append(match)
            else:
                self._others[_suffix(match)] += 1
        self._report_others(source)
        return found

    def _expand_folder(self, source: str) -> list[str]:
        """The image files of a folder; one without any is a problem unless it came up before."""
        known = len(self._seen)
        before = len(self.problems)
        found = list(self._walk(source))
        self._report_others(source)
        if not found and len(self._seen) > known and len(self.problems) == before:
            self.problems.append(Problem(source, "holds no image", "E_NOTHING"))
        return found

    def _report_others(self, source: str) -> None:
        """One line on files of kinds that are not read."""
        media = {end: n for end, n in self._others.items() if end in _MEDIA_SUFFIXES}
        rest = {end: n for end, n in self._others.items() if end not in {*media, *_COMPANIONS}}
        if media:
            rule = f"holds files of kinds that are not read: {_counted(media)}"
            if _HEIF_SUFFIXES & media.keys():
                rule = f"{rule}; HEIC needs an extra: pip install 'sppnet[heif]'"
            self.problems.append(Problem(source, rule, "E_FORMAT", action=_LEFT_OUT))
        if rest:
            rule = f"holds files that are no images by their names: {_counted(rest)}"
            self.notes.append(Problem(source, rule, "W_DATA", action=_LEFT_OUT))

    def _walk(self, folder: str) -> Iterator[str]:
        """All image files below a folder; one that was seen, through a link or not, is skipped."""
        waiting = [folder]
        while waiting:
            name = waiting.pop()
            try:
                status = os.stat(name)  # noqa: PTH116
                key = (status.st_dev, status.st_ino)
                if key in self._seen:
                    continue
                self._seen.add(key)
                with os.scandir(name) as entries:
                    visible = [entry for entry in entries if not entry.name.startswith(".")]
            except OSError as error:
                self.problems.append(_problem(name, _reason(error)))
                continue
            for entry in visible:
                if _is_folder(entry):
                    waiting.append(entry.path)
                elif has_image_suffix(entry.name):
                    yield entry.path
                else:
                    self._others[_suffix(entry.name)] += 1


def _fixed_part(pattern: str) -> str:
    """The folders of a pattern before the first part with ``*``, ``?`` or ``[``."""
    folder = os.path.dirname(pattern)  # noqa: PTH120
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)  # noqa: PTH120
    return folder


def _counted(endings: Mapping[str, int]) -> str:
    """Endings with their numbers, the most frequent first."""
    ranked = sorted(endings.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in ranked[:8])
    return shown + (f" and {len(ranked) - 8} other kinds" if len(ranked) > 8 else "")


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


@dataclass
class ImageFinder:
    """Finds files by the names that other tools write on other machines; never outside.

    Args:
        folders: Where to look, the likeliest first.
    """

    folders: Sequence[Path]

    def find(self, name: str) -> tuple[Path, bool]:
        """Find the file, and tell whether it lies exactly where the name says.

        Raises:
            ValueError: If there is none, or there are two that differ in case only.
        """
        # os.path answers False to names that pathlib raises on, such as ones of 300 characters.
        for spelling in dict.fromkeys((name, unquote(name))):
            for folder in self.folders:
                for first, rest in _endings(folder, spelling):
                    path = folder.joinpath(*rest)
                    if os.path.isfile(path):  # noqa: PTH113
                        return path, first == 0 and spelling == name and ".." not in name
        return self._find_folded(name), False

    def _find_folded(self, name: str) -> Path:
        """The one file whose path is the same but for case and the way accents are written."""
        for spelling in dict.fromkeys((name, unquote(name))):
            for folder, files in zip(self.folders, self._files, strict=True):
                for _, rest in _endings(folder, spelling):
                    fits = files.get(_folded("/".join(rest)), [])
                    if len(fits) > 1:
                        both = " and ".join(repr(path.name) for path in fits[:2])
                        raise ValueError(f"image {shortened(name)} may be {both}")
                    if fits:
                        return fits[0]
        where = " or ".join(folder.name for folder in self.folders)
        raise ValueError(f"there is no image {shortened(name)} in {where}")

    @cached_property
    def _files(self) -> list[dict[str, list[Path]]]:
        """Folded path below each folder to the files."""
        tables: list[dict[str, list[Path]]] = []
        for folder in self.folders:
            table: dict[str, list[Path]] = {}
            for path in list_images([folder]).paths:
                table.setdefault(_folded(path.relative_to(folder).as_posix()), []).append(path)
            tables.append(table)
        return tables


def _endings(folder: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    """The parts of a path, then less and less of them, as long as a folder is not known here."""
    parts = [part for part in path_parts(name) if part not in ("", ".")]
    if "\0" in name or not parts or parts[-1] == "..":
        return
    while ".." in parts:
        parts = parts[parts.index("..") + 1 :]
    for first in range(len(parts)):
        yield first, parts[first:]
        if os.path.isdir(folder / parts[first]):  # noqa: PTH112
            return


def _folded(text: str) -> str:
    """A name as systems that ignore case compare it."""
    return unicodedata.normalize("NFC", text).casefold()


def shortened(value: Any) -> str:
    """A value in at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; deep nesting
        return "a value too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def require_folder(root: Path) -> None:
    """Refuse a data-set root that is no readable folder.

    Args:
        root: What the user named.

    Raises:
        UsageError: If it does not exist, is no folder or cannot be read.
    """
    try:
        with os.scandir(root):
            return
    except FileNotFoundError:
        rule = "the data set's folder does not exist"
    except NotADirectoryError:
        rule = "the data set must be a folder"
    except (OSError, ValueError) as error:
        rule = f"the data set's folder cannot be read: {getattr(error, 'strerror', error)}"
    raise UsageError(rule, path=root)


def unknown_split(root: Path, split: str, known: Sequence[str]) -> UsageError:
    """Make the error for a split that does not exist.

    Args:
        root: The data set.
        split: What was asked for.
        known: The splits that exist.

    Returns:
        The error, which lists them.
    """
    choices = ", ".join(known) if known else "none"
    return UsageError(f"no split {split!r}; splits of this set: {choices}", path=root)
