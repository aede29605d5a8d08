"""Detections read from files: COCO results, CSV and text."""

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sppnet.errors import Problem, UnusableFileError, printable
from sppnet.evaluation.results_writing import exact_text
from sppnet.geometry import Detections
from sppnet.images.listing import count_shared_ending, path_parts
from sppnet.storage.files import read_bytes, read_json, reason

if TYPE_CHECKING:
    from sppnet.images.dataset import DetectionDataset, LabelledImage

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
ImageId = str | int


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


def read_detections(
    path: str | Path, dataset: "DetectionDataset", problems: list[Problem] | None = None
) -> dict[ImageId, Detections]:
    """Read detections of a data set, in one of three formats.

    COCO results JSON: a list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``,
    where ``image_id`` may also be the image file's name with or without its ending, and
    ``category_name`` goes before ``category_id``, because numbers mean something else in every
    file. A ``.csv`` table with a header, its columns parted by commas, semicolons or tabs: image,
    class, score and x1, y1, x2, y2 (or left, top, right, bottom; or x, y, width, height), in any
    order, other columns ignored. A folder of one ``STEM.txt`` per image, in folders as the images
    are, with lines ``class score x1 y1 x2 y2``. Boxes are half-open pixels. A class that is text is
    a name; else what is called ``category_id`` is an id of a COCO set, and other numbers are
    places, from 0, among the names.

    What is called ``file``, as ``detect predict`` does, goes before any id: the image is the one
    whose path from the root of the data set is the same, else the only one whose path ends so.

    Args:
        path: The file or the folder.
        dataset: Whose images and classes are meant.
        problems: Takes a finding for each detection of an image or class that the data set does
            not have; that detection is left out. Without the list, the first one is an error.

    Returns:
        Detections by ``image_id``, best score first, equal scores in the order of the file.

    Raises:
        UnusableFileError: If the file or a line breaks the format, or a number is not finite;
            names the file and the line or entry.
    """
    images = ImageNames(dataset.images, dataset.files)
    find_class = _class_finder(dataset)
    by_image: dict[ImageId, list[_PlacedRow]] = {}
    for source, row in read_rows(Path(path)):
        image, label = images.find(row.image, is_file=row.is_file), find_class(row)
        if image is None:
            _leave_out(source, row, images.fault(row.image, is_file=row.is_file), problems)
        elif label is None:
            _leave_out(source, row, f"class {row.category!r} is not in the data set", problems)
        else:
            by_image.setdefault(image, []).append(_PlacedRow(source, row, label))
    found = {}
    for image, rows in by_image.items():
        rivals = images.find_rivals(image, {each.row.image for each in rows})
        for each in rows:
            if each.row.image in rivals:
                _leave_out(each.source, each.row, rivals[each.row.image], problems)
        kept = [each for each in rows if each.row.image not in rivals]
        if kept:
            found[image] = _detections(kept)
    return found


class _PlacedRow(NamedTuple):
    source: Path
    row: DetectionRow
    label: int


def _leave_out(source: Path, row: DetectionRow, fault: str, problems: list[Problem] | None) -> None:
    """Note why a row is not used; without a list it is an error."""
    rule = f"{row.place}: {fault}"
    if problems is None:
        raise UnusableFileError(rule, path=source, code="E_FORMAT")
    problems.append(Problem(str(source), rule, "E_FORMAT", row.line, "detection left out"))


def _class_finder(dataset: "DetectionDataset") -> Callable[[DetectionRow], int | None]:
    """Build the look-up from a row of a file to its label.

    A name goes first, then the id of a category, then the place among the names.
    """
    ids = dataset.category_ids or range(1, len(dataset.names) + 1)
    by_name = {name: label for label, name in enumerate(dataset.names)}
    by_id: dict[object, int] = {_plain(number): label for label, number in enumerate(ids)}
    is_coco = dataset.layout == "coco"  # elsewhere the numbers are made up

    def find(row: DetectionRow) -> int | None:
        if isinstance(row.category, str) and row.category in by_name:
            return by_name[row.category]
        if row.category_id is not None and (is_coco or not isinstance(row.category_id, str)):
            is_named = row.category is not row.category_id
            return by_id.get(_plain(row.category_id)) if is_coco or not is_named else None
        place = _plain(row.category)
        return place if isinstance(place, int) and 0 <= place < len(by_name) else None

    return find


def _plain(value: object) -> ImageId | None:
    """An id as a number where it is one: 7, 7.0, "7" and "7.0" are 7; other text stays."""
    if isinstance(value, str):
        whole = value.removesuffix(".0")
        is_number = whole.isascii() and whole.isdecimal() and len(whole) < 19
        return int(whole) if is_number and str(int(whole)) == whole else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _detections(rows: list[_PlacedRow]) -> Detections:
    """Build the detections of one image, best score first.

    They are sorted before float32 can make scores equal that are not.
    """
    rows.sort(key=lambda each: -each.row.score)
    boxes = torch.tensor([each.row.box for each in rows], dtype=torch.float64)
    scores = torch.tensor([each.row.score for each in rows], dtype=torch.float64)
    labels = torch.tensor([each.label for each in rows], dtype=torch.int64)
    return Detections(boxes.to(torch.float32), scores.to(torch.float32), labels)


class ImageNames:
    """Finds images by any name that a result file may use for them.

    A name that is an image's id means that image; otherwise the path's ending may be left out, the
    folders too, and leading zeros. A name that fits two images fits none.

    Args:
        images: The images of the data set.
        files: By image id, its path from the root of the data set.

    Example:
        >>> from types import SimpleNamespace
        >>> names = ImageNames([SimpleNamespace(image_id="000005", path="a/000005.jpg")])
        >>> names.find("000005.jpg"), names.find(5.0), names.find("6")
        ('000005', '000005', None)
        >>> names.find("b/000005.jpg"), names.find("b/000005.jpg", is_file=True)
        ('000005', None)
    """

    def __init__(
        self,
        images: Sequence["LabelledImage"],
        files: Mapping[ImageId, str] = MappingProxyType({}),
    ) -> None:
        self._ids = {image.image_id for image in images}
        self._files = {file: image for image, file in files.items()}
        self._parts: dict[ImageId, tuple[str, ...]] = {}
        self._paths: dict[str, list[tuple[tuple[str, ...], ImageId]]] = {}
        self._others: list[dict[ImageId, list[ImageId]]] = [{} for _ in range(4)]
        for image in images:
            path = PurePath(os.path.abspath(image.path))  # noqa: PTH100 (links stay)
            self._parts[image.image_id] = path.parts
            for last in (path.name, path.stem):
                parts = (*path.parts[:-1], last)
                self._paths.setdefault(last, []).append((parts, image.image_id))
            spellings: list[ImageId | None] = [
                path.name,
                path.stem,
                str(image.image_id),
                int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else None,
            ]
            for table, spelling in zip(self._others, spellings, strict=True):
                if spelling is not None:
                    table.setdefault(spelling, []).append(image.image_id)

    def find(self, name: object, *, is_file: bool = False) -> ImageId | None:
        """Return the ``image_id`` of the image that is meant, or None.

        Args:
            name: What the result file says.
            is_file: Whether it is a path from what was given to ``detect predict``: then all of its
                folders must be the image's.
        """
        fits = self._fits_file(name) if is_file else self._fits(name)
        return fits[0] if len(fits) == 1 else None

    def fault(self, name: object, *, is_file: bool = False) -> str:
        """Say why a name means no image.

        Args:
            name: One that ``find`` does not find.
            is_file: As for ``find``.
        """
        fits = self._fits_file(name) if is_file else self._fits(name)
        if len(fits) > 1:
            return f"image {name!r} may be {fits[0]!r} and {fits[1]!r}"
        return f"image {name!r} is not in the data set"

    def find_rivals(self, image: ImageId, names: Iterable[object]) -> dict[object, str]:
        """Find names with folders that cannot all mean one image: the paths of several files.

        Args:
            image: Id of the image.
            names: All that a result file has for it.

        Returns:
            Those to leave out, with the reason: all but the one that agrees with most of the
            image's folders, or all if several do.
        """
        folders = {
            name: parts[:-1]
            for name in names
            if isinstance(name, str) and len(parts := path_parts(name)) > 1
        }
        paths = list(folders)
        if len({tuple(path_parts(name)) for name in paths}) < 2:
            return {}
        own = self._parts[image][:-1]  # the last part may go without its ending
        agreement = {name: count_shared_ending(each, own) for name, each in folders.items()}
        best = max(agreement.values())
        first, *others = [name for name in paths if agreement[name] == best]
        return {
            name: f"image {name!r} is not {image!r}, which {first!r} agrees with more"
            if agreement[name] < best
            else f"image {image!r} may be {first!r} and {(others or [name])[0]!r}"
            for name in paths
            if others or name != first
        }

    def _fits_file(self, name: object) -> list[ImageId]:
        """The images whose path is a name, or ends in it."""
        if not isinstance(name, str):
            return self._fits(name)
        if name in self._files:
            return [self._files[name]]
        parts = path_parts(name)
        if len(parts) < 2 or parts[0] == "" or ".." in parts or parts[0].endswith(":"):
            return self._fits(name)  # as other tools write it
        known = self._paths.get(parts[-1], [])
        return [image for path, image in known if path[-len(parts) :] == tuple(parts)]

    def _fits(self, name: object) -> list[ImageId]:
        """The images that a name may mean, by the first rule that knows any."""
        if isinstance(name, float) and name.is_integer():
            name = int(name)
        if isinstance(name, bool) or not isinstance(name, str | int):
            return []
        if name in self._ids:
            return [name]
        parts = path_parts(name) if isinstance(name, str) else []
        if len(parts) > 1:
            return self._by_path(parts)
        for table in self._others:
            if name in table:
                return table[name]
        plain = _plain(name)
        return self._fits(plain) if plain is not None and plain != name else []

    def _by_path(self, parts: Sequence[str]) -> list[ImageId]:
        """The images whose path ends like a name with folders, as many of them as agree."""
        known = self._paths.get(parts[-1], [])
        for first in range(len(parts) - 1):
            ending = tuple(parts[first:])
            fits = [image for path, image in known if path[-len(ending) :] == ending]
            if fits:
                return fits
        return self._fits(parts[-1])


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
