"""The rows of a file of detections: COCO results JSON, CSV, or a folder of text files."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sppnet.errors import UnusableFileError, printable
from sppnet.storage.files import read_bytes, read_json, reason

MAX_JSON_BYTES = 4 * 2**30
MAX_CSV_BYTES = 2**30
MAX_TEXT_BYTES = 64 * 2**20
# The first one that a table has is taken; case does not matter.
_COLUMNS = {
    "image": ("image", "image_id", "filename", "file_name", "file", "path", "img", "imageid"),
    "class": ("class_name", "category_name", "name", "class", "label", "category", "category_id"),
    "score": ("score", "confidence", "conf"),
}
_CORNERS = (
    ("x1", "left"),
    ("y1", "top"),
    ("x2", "right"),
    ("y2", "bottom"),
)
_SIDES = (("x",), ("y",), ("width", "w"), ("height", "h"))


class DetectionRow(NamedTuple):
    """One detection as the file has it: image and class by whatever name."""

    image: object
    category: object
    score: float
    box: tuple[float, float, float, float]
    line: int | None
    place: str
    category_id: object = None  # where a name is given, too


def read_rows(path: Path) -> Iterator[tuple[Path, DetectionRow]]:
    """Check and yield the rows of a file or folder, each with the file that it is from.

    Args:
        path: A folder of text files, a ``.csv`` table, or else JSON.

    Raises:
        UnusableFileError: If it breaks the format; names the file and the line or entry.
    """
    if path.is_dir():
        return _folder_rows(path)
    return _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[Path, DetectionRow]]:
    """Check and yield the entries of a COCO results file."""
    entries = read_json(path, MAX_JSON_BYTES, allow_nan=True)
    if not isinstance(entries, list):
        raise UnusableFileError("must hold a list of detections", path=path, code="E_FORMAT")
    for number, entry in enumerate(entries, start=1):
        place = f"entry {number}"
        if not isinstance(entry, dict):
            raise UnusableFileError(f"{place} must be an object", path=path, code="E_FORMAT")
        named, numbered = entry.get("category_name"), entry.get("category_id")
        category = numbered if named is None else named
        if category is None or "image_id" not in entry:
            rule = f"{place} must have image_id and category_id or category_name"
            raise UnusableFileError(rule, path=path, code="E_FORMAT")
        values = [entry.get("score"), *_four(entry.get("bbox"))]
        score, x, y, width, height = _numbers(values, (int, float), place, path)
        _check_sides(width, height, place, path)
        box = (x, y, x + width, y + height)
        yield path, DetectionRow(entry["image_id"], category, score, box, None, place, numbered)


def _csv_rows(path: Path) -> Iterator[tuple[Path, DetectionRow]]:
    """Check and yield the rows of a table with a header."""
    text = _decoded(path, MAX_CSV_BYTES)
    table = csv.reader(io.StringIO(text, newline=""))
    try:
        names = [name.strip().lower() for name in next(table, [])]
        header = [name.replace("min", "1").replace("max", "2") for name in names]
        columns = _columns(header, path)
        for cells in table:
            if any(cell.strip() for cell in cells):
                yield path, _csv_row(path, table.line_num, cells, columns)
    except csv.Error as error:
        rule = f"line {table.line_num}: {error}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT") from error


def _columns(header: Sequence[str], path: Path) -> dict[str, list[int]]:
    """Places of image, class, score and the four numbers of the box among the columns."""

    def place(spellings: Sequence[str]) -> int:
        return next((header.index(name) for name in spellings if name in header), -1)

    found = {key: [place(spellings)] for key, spellings in _COLUMNS.items()}
    corners, sides = [place(one) for one in _CORNERS], [place(one) for one in _SIDES]
    if min(corners) >= 0:
        found["corners"] = corners
    else:
        found["sides"] = sides
    missing = [key for key, places in found.items() if min(places) < 0]
    if missing:
        names = ", ".join("x1, y1, x2, y2" if key == "sides" else key for key in missing)
        rule = f"line 1 must name the columns image, class, score, x1, y1, x2, y2; lacks {names}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    return found


def _csv_row(
    path: Path, number: int, cells: Sequence[str], columns: Mapping[str, list[int]]
) -> DetectionRow:
    """Read one line of a table."""
    place = f"line {number}"
    if len(cells) <= max(max(places) for places in columns.values()):
        rule = f"{place} must have a value in every column, got {_short(cells)}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    shape = "corners" if "corners" in columns else "sides"
    values = [cells[column] for column in (*columns["score"], *columns[shape])]
    score, x1, y1, x2, y2 = _numbers(values, (str,), place, path)
    if shape == "sides":
        x2, y2 = x1 + x2, y1 + y2
    _check_sides(x2 - x1, y2 - y1, place, path)
    image, category = cells[columns["image"][0]].strip(), cells[columns["class"][0]].strip()
    return DetectionRow(image, category, score, (x1, y1, x2, y2), number, place)


def _folder_rows(folder: Path) -> Iterator[tuple[Path, DetectionRow]]:
    """Check and yield the lines of a folder of text files, in the order of their names."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt")
    except OSError as error:
        rule = f"the folder cannot be read: {reason(error)}"
        raise UnusableFileError(rule, path=folder, code="E_UNREADABLE") from error
    if not files:
        rule = "holds no .txt file; expected one per image, or a JSON file instead of the folder"
        raise UnusableFileError(rule, path=folder, code="E_FORMAT")
    for path in files:
        for number, line in enumerate(_decoded(path, MAX_TEXT_BYTES).split("\n"), start=1):
            if line.strip():
                yield path, _text_row(path, number, line)


def _decoded(path: Path, max_bytes: int) -> str:
    """Read a text file."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFileError("is not UTF-8 text", path=path, code="E_FORMAT") from error


def _text_row(path: Path, number: int, line: str) -> DetectionRow:
    """Read ``class score x1 y1 x2 y2``; a class name may contain spaces."""
    place = f"line {number}"
    words = line.split()
    if len(words) < 6:
        rule = f"{place} must be 'class score x1 y1 x2 y2', got {printable(line.strip())[:80]!r}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    score, x1, y1, x2, y2 = _numbers(words[-5:], (str,), place, path)
    _check_sides(x2 - x1, y2 - y1, place, path)
    return DetectionRow(path.stem, " ".join(words[:-5]), score, (x1, y1, x2, y2), number, place)


def _four(values: object) -> list[object]:
    """Return four values, or four times nothing."""
    return values if isinstance(values, list) and len(values) == 4 else [None] * 4


def _numbers(
    values: Sequence[object], kinds: tuple[type[Any], ...], place: str, path: Path
) -> list[float]:
    """Read a score and four coordinates; float32 must be able to hold them."""
    try:
        numbers = [_number(value, kinds) for value in values]
    except (TypeError, ValueError, OverflowError) as error:
        rule = f"{place} must hold a score and four coordinates, got {_short(values)}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT") from error
    if not all(math.isfinite(number) and abs(number) < 1e30 for number in numbers):
        rule = f"{place} must hold finite numbers, got {_short(values)}"
        raise UnusableFileError(rule, path=path, code="E_BOX")
    return numbers


def _number(value: Any, kinds: tuple[type[Any], ...]) -> float:
    """Read a number of JSON, or the text of one; nothing else."""
    if isinstance(value, kinds) and not isinstance(value, bool):
        return float(value)
    raise TypeError


def _short(values: Sequence[object]) -> str:
    """Show values in an error, cut short."""
    return printable(repr(list(values)))[:100]


def _check_sides(width: float, height: float, place: str, path: Path) -> None:
    """Refuse boxes that end before they begin."""
    if width < 0 or height < 0:
        rule = f"{place} has a box of negative size, {width:g} x {height:g}"
        raise UnusableFileError(rule, path=path, code="E_BOX")
