"""Detections in files: COCO results, text files and CSV."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sppnet.errors import Problem, UnusableFileError, printable
from sppnet.evaluation.image_names import ImageId, ImageNames
from sppnet.geometry import Detections
from sppnet.storage.atomic import write_text
from sppnet.storage.reading import read_bytes, read_json, reason

if TYPE_CHECKING:
    from sppnet.images.datasets import DetectionDataset

MAX_JSON_BYTES = 4 * 2**30
MAX_TEXT_BYTES = 64 * 2**20


class _Row(NamedTuple):
    """One detection as the file has it: image and class by whatever name."""

    image: object
    category: object
    score: float
    box: tuple[float, float, float, float]
    line: int | None
    place: str


def read_detections(
    path: str | Path, dataset: "DetectionDataset", problems: list[Problem] | None = None
) -> dict[ImageId, Detections]:
    """Read detections of a data set, in either of the two formats.

    A file is COCO results JSON: a list of ``{"image_id", "category_id", "bbox": [x, y, w, h],
    "score"}``, where ``image_id`` may also be the image file's name with or without its ending,
    and ``category_name`` may stand for ``category_id``. A folder holds one ``STEM.txt`` per image
    with lines ``class score x1 y1 x2 y2``, half-open pixels; the class is a name or its place,
    from 0, among the data set's names.

    Args:
        path: The JSON file or the folder.
        dataset: Whose images and classes are meant.
        problems: Takes a finding for each detection of an image or class that the data set does
            not have; that detection is left out. Without the list, the first one is an error.

    Returns:
        Detections by ``image_id``, best score first, equal scores in the order of the file.

    Raises:
        UnusableFileError: If the file or a line breaks the format, or a number is not finite;
            names the file and the line or entry.
    """
    path = Path(path)
    rows = _folder_rows(path) if path.is_dir() else _json_rows(path)
    find_image = ImageNames(dataset.images).find
    find_class = _class_finder(dataset)
    by_image: dict[ImageId, list[tuple[_Row, int]]] = {}
    for source, row in rows:
        image, label = find_image(row.image), find_class(row.category)
        if image is not None and label is not None:
            by_image.setdefault(image, []).append((row, label))
            continue
        kind, name = ("image", row.image) if image is None else ("class", row.category)
        rule = f"{row.place}: {kind} {name!r} is not in the data set"
        if problems is None:
            raise UnusableFileError(rule, path=source, code="E_FORMAT")
        problems.append(Problem(str(source), rule, "E_FORMAT", row.line, "detection left out"))
    return {image: _detections(rows) for image, rows in by_image.items()}


def write_coco_results(
    path: str | Path,
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> None:
    """Write COCO results JSON; :func:`read_detections` reads exactly the same back.

    Args:
        path: The file.
        detections: By image id, which is written as it is.
        names: Class names, written as ``category_name``.
        category_ids: The ``category_id`` of each class; default 1..K.

    Raises:
        OutputError: If the file cannot be written.
    """
    ids = list(category_ids) if category_ids else list(range(1, len(names) + 1))
    entries = []
    for image, score, label, (x1, y1, x2, y2) in _each(detections):
        entry = {
            "image_id": image if isinstance(image, int) else str(image),
            "category_id": ids[label],
            "category_name": names[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        entries.append(json.dumps(entry))
    write_text(path, "[" + ",\n".join(entries) + "]\n")


def write_csv(path: str | Path, detections: Mapping[Any, Detections], names: Sequence[str]) -> None:
    """Write a table with the columns image, class, score, x1, y1, x2, y2.

    Args:
        path: The file.
        detections: By image id.
        names: Class names.

    Raises:
        OutputError: If the file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "class", "score", "x1", "y1", "x2", "y2"])
    for image, score, label, box in _each(detections):
        table.writerow([image, names[label], f"{score:.6g}", *(f"{value:.2f}" for value in box)])
    write_text(path, text.getvalue())


def _each(detections: Mapping[Any, Detections]) -> Iterator[tuple[Any, float, int, list[float]]]:
    """Image, score, label and box of every detection."""
    for image, found in detections.items():
        rows = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
        for score, label, box in rows:
            yield image, score, label, box


def _json_rows(path: Path) -> Iterator[tuple[Path, _Row]]:
    """Check and yield the entries of a COCO results file."""
    entries = read_json(path, MAX_JSON_BYTES, allow_nan=True)
    if not isinstance(entries, list):
        raise UnusableFileError("must hold a list of detections", path=path, code="E_FORMAT")
    for number, entry in enumerate(entries, start=1):
        place = f"entry {number}"
        if not isinstance(entry, dict):
            raise UnusableFileError(f"{place} must be an object", path=path, code="E_FORMAT")
        category = entry.get("category_id", entry.get("category_name"))
        if category is None or "image_id" not in entry:
            rule = f"{place} must have image_id and category_id or category_name"
            raise UnusableFileError(rule, path=path, code="E_FORMAT")
        values = [entry.get("score"), *_four(entry.get("bbox"))]
        score, x, y, width, height = _numbers(values, (int, float), place, path)
        _check_sides(width, height, place, path)
        row = _Row(entry["image_id"], category, score, (x, y, x + width, y + height), None, place)
        yield path, row


def _folder_rows(folder: Path) -> Iterator[tuple[Path, _Row]]:
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
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                yield path, _text_row(path, number, line)


def _lines(path: Path) -> list[str]:
    """Read the lines of a text file."""
    try:
        return read_bytes(path, MAX_TEXT_BYTES).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UnusableFileError("is not UTF-8 text", path=path, code="E_FORMAT") from error


def _text_row(path: Path, number: int, line: str) -> _Row:
    """Read ``class score x1 y1 x2 y2``; a class name may contain spaces."""
    place = f"line {number}"
    words = line.split()
    if len(words) < 6:
        rule = f"{place} must be 'class score x1 y1 x2 y2', got {printable(line.strip())[:80]!r}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    score, x1, y1, x2, y2 = _numbers(words[-5:], (str,), place, path)
    _check_sides(x2 - x1, y2 - y1, place, path)
    return _Row(path.stem, " ".join(words[:-5]), score, (x1, y1, x2, y2), number, place)


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


def _class_finder(dataset: "DetectionDataset") -> Callable[[object], int | None]:
    """Build the look-up from a class in a file to its label.

    A number in JSON is a category id; text is a name, or else the place among the names.
    """
    ids = dataset.category_ids or range(1, len(dataset.names) + 1)
    label_of: dict[object, int] = {
        str(place): place for place in range(len(dataset.names))
    }  # text only: 1 and "1" are different keys
    label_of.update({name: label for label, name in enumerate(dataset.names)})
    label_of.update({category: label for label, category in enumerate(ids)})

    def find(category: object) -> int | None:
        if isinstance(category, bool) or not isinstance(category, str | int):
            return None
        return label_of.get(category)

    return find


def _detections(rows: list[tuple[_Row, int]]) -> Detections:
    """Build the detections of one image, best score first.

    They are sorted before float32 can make scores equal that are not.
    """
    rows.sort(key=lambda pair: -pair[0].score)
    boxes = torch.tensor([row.box for row, _ in rows], dtype=torch.float64)
    scores = torch.tensor([row.score for row, _ in rows], dtype=torch.float64)
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    return Detections(boxes.to(torch.float32), scores.to(torch.float32), labels)
