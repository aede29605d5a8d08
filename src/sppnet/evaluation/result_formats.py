"""The files of detections, row by row: COCO results, CSV and text, written and read."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from sppnet.errors import UnusableFileError, printable
from sppnet.geometry import Detections
from sppnet.storage.files import read_bytes, read_json, reason, refuse_hollow_json, write_text

BLOCK_LETTERS = 1 << 16  # that are written at a time
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet's formulas begin
MAX_JSON_BYTES = 4 * 2**30
MAX_CSV_BYTES = 2**30
MAX_TEXT_BYTES = 64 * 2**20
# The first one that a table has is taken; case does not matter.
_COLUMNS = {
    "image": ("file", "image", "image_id", "filename", "file_name", "path", "img", "imageid"),
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
_DELIMITERS = (",", ";", "\t", "|")
WHITE = " \t\n\r"  # that JSON may have between its parts
WHITES = frozenset(WHITE)


def write_coco_results(
    path: str | Path,
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    category_ids: Sequence[int | str] | None = None,
    *,
    files: Mapping[Any, str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> None:
    """Write COCO results JSON; :func:`sppnet.evaluation.read_detections` reads the same back.

    Args:
        path: The file.
        detections: By image id, which is written as it is.
        names: Class names, written as ``category_name``.
        category_ids: The ``category_id`` of each class; default 1..K.
        files: By image id, the path of its file, written as ``file``.
        thresholds: (K,) least score of each class; each entry says whether it reaches it as
            ``above_threshold``.

    Raises:
        OutputError: If the file cannot be written.
    """
    entries = coco_entries(detections, names, category_ids, files, thresholds)
    write_text(path, _joined(map(json.dumps, entries), "[", ",\n", "]\n"))


def coco_entries(
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    ids: Sequence[int | str] | None = None,
    files: Mapping[Any, str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> Iterator[dict[str, Any]]:
    """Each detection as an entry of COCO results, one after the other.

    Args:
        detections: As for :func:`write_coco_results`.
        names: Class names.
        ids: The ``category_id`` of each class; default 1..K.
        files: By image id, the path of its file.
        thresholds: (K,) least score of each class.

    Example:
        >>> import torch
        >>> found = Detections(torch.tensor([[1.0, 2, 4, 8]]), torch.ones(1), torch.tensor([0]))
        >>> next(coco_entries({7: found}, ["cat"]))["bbox"]
        [1.0, 2.0, 3.0, 6.0]
    """
    ids = ids or range(1, len(names) + 1)
    for image, score, label, (x1, y1, x2, y2), confidence in _each(detections):
        entry: dict[str, Any] = {} if files is None else {"file": files[image]}
        entry |= {
            "image_id": image if isinstance(image, int) else str(image),
            "category_id": ids[label],
            "category_name": names[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        if confidence is not None:
            entry["confidence"] = round(confidence, 6)
        if thresholds is not None:
            entry["above_threshold"] = score >= thresholds[label]
        yield entry


def _joined(parts: Iterable[str], begin: str, between: str, end: str) -> Iterator[str]:
    """The parts with what stands between and around them, many at a time."""
    waiting = begin
    for number, part in enumerate(parts):
        waiting += (between if number else "") + part
        if len(waiting) > BLOCK_LETTERS:
            yield waiting
            waiting = ""
    yield waiting + end


def write_csv(
    path: str | Path,
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    *,
    files: Mapping[Any, str] | None = None,
) -> None:
    """Write a table with the columns image, class, score, confidence, x1, y1, x2, y2.

    Args:
        path: The file.
        detections: By image id. A confidence that a detection does not have is an empty cell.
        names: Class names.
        files: By image id, the path of its file; it goes into a column ``file`` instead of
            ``image``.

    Raises:
        OutputError: If the file cannot be written.
    """

    def rows() -> Iterator[list[object]]:
        for image, score, label, box, confidence in _each(detections):
            what = str(image) if files is None else files[image]
            sure = "" if confidence is None else Number(f"{confidence:.4f}")
            corners = [Number(f"{value:z.2f}") for value in box]
            yield [what, names[label], Number(f"{score:.6g}"), sure, *corners]

    first = "image" if files is None else "file"
    write_table(path, [first, "class", "score", "confidence", "x1", "y1", "x2", "y2"], rows())


def write_counts(
    path: str | Path,
    counts: Mapping[str, Sequence[int] | None],
    names: Sequence[str],
) -> None:
    """Write a table with a line for each image: file, the number of each class, and total.

    Args:
        path: The file.
        counts: By file, (K,) the number of each class; None for an image that could not be read,
            of which nothing is known: its cells stay empty.
        names: Class names.

    Raises:
        OutputError: If the file cannot be written.
    """

    def rows() -> Iterator[list[object]]:
        for file, numbers in counts.items():
            known = [*numbers, sum(numbers)] if numbers is not None else [""] * (len(names) + 1)
            yield [file, *known]

    write_table(path, ["file", *names, "total"], rows())


def write_table(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV table in which no text is a formula; see :func:`spreadsheet_text`.

    Args:
        path: The file.
        header: Names of the columns.
        rows: Text is made safe for spreadsheets, numbers are written as they are. They are taken
            one after the other.

    Raises:
        OutputError: If the file cannot be written.
    """
    write_text(path, _joined(map(_line, chain([header], rows)), "", "", ""))


def _line(row: Sequence[object]) -> str:
    """One line of a table."""
    text = io.StringIO()
    cells = [spreadsheet_text(cell) if isinstance(cell, str) else cell for cell in row]
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class Number:
    """A number in a table, written with the digits that it was given.

    Args:
        text: Its digits.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def spreadsheet_text(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would compute instead of showing it.

    The exact text stands in the JSON files; :func:`exact_text` gives it back.

    Example:
        >>> [spreadsheet_text(each) for each in ("cat", "=1+1", "'=1+1")]
        ['cat', "'=1+1", "''=1+1"]
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA_SIGNS) else text


def exact_text(cell: str) -> str:
    """Undo :func:`spreadsheet_text`.

    Example:
        >>> [exact_text(each) for each in ("cat", "'=1+1", "''=1+1", "'tis")]
        ['cat', '=1+1', "'=1+1", "'tis"]
    """
    is_guarded = cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA_SIGNS)
    return cell[1:] if is_guarded else cell


def _each(
    detections: Mapping[Any, Detections],
) -> Iterator[tuple[Any, float, int, list[float], float | None]]:
    """Image, score, label, box and confidence of every detection."""
    for image, found in detections.items():
        sure = found.confidence
        rows = zip(
            found.scores.tolist(),
            found.labels.tolist(),
            found.boxes.tolist(),
            [None] * found.count if sure is None else sure.tolist(),
            strict=True,
        )
        for score, label, box, confidence in rows:
            yield image, score, label, box, confidence


class DetectionRow(NamedTuple):
    """One detection as it stands in the file: image and class by whatever name they have there."""

    image: object
    category: object
    score: float
    box: tuple[float, float, float, float]
    line: int | None
    place: str
    category_id: object = None  # a category's id by the file's own word, where there is one
    is_file: bool = False  # whether the image is named by a path as `detect predict` writes it


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
    for number, entry in enumerate(_entries(path), start=1):
        place = f"entry {number}"
        if not isinstance(entry, dict):
            raise UnusableFileError(f"{place} must be an object", path=path, code="E_FORMAT")
        named, numbered = entry.get("category_name"), entry.get("category_id")
        category = numbered if named is None else named
        file = entry.get("file")
        is_file = isinstance(file, str)
        image = file if is_file else entry.get("image_id")
        if category is None or image is None:
            rule = f"{place} must have file or image_id and category_id or category_name"
            raise UnusableFileError(rule, path=path, code="E_FORMAT")
        values = [entry.get("score"), *_four(entry.get("bbox"))]
        score, x, y, width, height = _numbers(values, (int, float), place, path)
        _check_sides(width, height, place, path)
        box = (x, y, x + width, y + height)
        if isinstance(numbered, float) and numbered.is_integer():
            numbered = int(numbered)
            category = numbered if named is None else named
        yield path, DetectionRow(image, category, score, box, None, place, numbered, is_file)


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a JSON list one by one: all at once, half a million take 200 MB and more."""
    try:
        yield from _scan_list(_json_text(path))
    except (ValueError, RecursionError):  # the parser of whole files says what is wrong, and where
        read_json(path, MAX_JSON_BYTES, allow_nan=True)
        rule = "must hold a list of detections"
        raise UnusableFileError(rule, path=path, code="E_FORMAT") from None


def _json_text(path: Path) -> str:
    """The text of a JSON file."""
    data = read_bytes(path, MAX_JSON_BYTES)
    refuse_hollow_json(data, path)
    return data.decode(json.detect_encoding(data)).lstrip(WHITE)


def _scan_list(text: str) -> Iterator[Any]:
    """The entries of a list; ValueError where the text is no list or breaks off."""
    scan, place, between = json.JSONDecoder().raw_decode, 0, "["
    is_empty = text[:1] == "[" and text[1:].strip(WHITE) == "]"
    while not is_empty and text[place : place + 1] != "]":
        if text[place : place + 1] != between:
            raise ValueError("no list")
        place = _behind_white(text, place + 1)
        entry, place = scan(text, place)
        place = _behind_white(text, place)
        between = ","
        yield entry
    if not is_empty and text[place + 1 :].strip(WHITE):
        raise ValueError("something follows the list")


def _behind_white(text: str, place: int) -> int:
    """The next place without white space."""
    while text[place : place + 1] in WHITES:
        place += 1
    return place


def _csv_rows(path: Path) -> Iterator[tuple[Path, DetectionRow]]:
    """Check and yield the rows of a table with a header."""
    text = _decoded(path, MAX_CSV_BYTES)
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = [name.strip().lower() for name in next(table, [])]
        header = [name.replace("min", "1").replace("max", "2") for name in names]
        columns = _columns(header, path)
        has_ids = header[columns["class"][0]] == "category_id"
        is_file = header[columns["image"][0]] == "file"
        for cells in table:
            if any(cell.strip() for cell in cells):
                if delimiter == ";":  # where it parts columns, the comma parts decimals
                    cells = _with_points(cells, columns)
                row = _csv_row(path, table.line_num, cells, columns)
                numbered = row.category if has_ids else None
                yield path, row._replace(category_id=numbered, is_file=is_file)
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


def _with_points(cells: Sequence[str], columns: Mapping[str, list[int]]) -> list[str]:
    """Cells with points for decimal commas, in the columns of numbers."""
    numeric = {place for key in ("score", "corners", "sides") for place in columns.get(key, [])}
    return [cell.replace(",", ".") if n in numeric else cell for n, cell in enumerate(cells)]


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
    image, category = (
        exact_text(cells[columns[key][0]].strip(" ")).strip() for key in ("image", "class")
    )
    return DetectionRow(image, category, score, (x1, y1, x2, y2), number, place)


def _folder_rows(folder: Path) -> Iterator[tuple[Path, DetectionRow]]:
    """Check and yield the lines of a folder of text files, in the order of their names."""
    try:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".txt")
    except OSError as error:
        rule = f"the folder cannot be read: {reason(error)}"
        raise UnusableFileError(rule, path=folder, code="E_UNREADABLE") from error
    if not files:
        rule = "holds no .txt file; expected one per image, or a JSON file instead of the folder"
        raise UnusableFileError(rule, path=folder, code="E_FORMAT")
    for path in files:
        image = path.relative_to(folder).with_suffix("").as_posix()
        for number, line in enumerate(_decoded(path, MAX_TEXT_BYTES).split("\n"), start=1):
            if line.strip():
                yield path, _text_row(path, image, number, line)


def _text_row(path: Path, image: str, number: int, line: str) -> DetectionRow:
    """Read ``class score x1 y1 x2 y2``; a class name may contain spaces."""
    place = f"line {number}"
    words = line.split()
    if len(words) < 6:
        rule = f"{place} must be 'class score x1 y1 x2 y2', got {printable(line.strip())[:80]!r}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    score, x1, y1, x2, y2 = _numbers(words[-5:], (str,), place, path)
    _check_sides(x2 - x1, y2 - y1, place, path)
    box = (x1, y1, x2, y2)
    return DetectionRow(image, " ".join(words[:-5]), score, box, number, place, None, "/" in image)


def _decoded(path: Path, max_bytes: int) -> str:
    """Read a text file: UTF-8, or UTF-16 if it begins with that one's mark."""
    data = read_bytes(path, max_bytes)
    encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "UTF-8"
    try:
        return data.decode("utf-16" if encoding == "UTF-16" else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"is not {encoding} text", path=path, code="E_FORMAT") from error


def _four(values: object) -> list[object]:
    """Return the four values of a list, or four times None if it is no such list."""
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


def _check_sides(width: float, height: float, place: str, path: Path) -> None:
    """Refuse boxes of negative width or height."""
    if width < 0 or height < 0:
        rule = f"{place} has a box of negative size, {width:g} x {height:g}"
        raise UnusableFileError(rule, path=path, code="E_BOX")


def _short(values: Sequence[object]) -> str:
    """Values for an error text, cut short."""
    return printable(repr(list(values)))[:100]
