"""Detections written to files: COCO results, a table of what was found, and a table of counts."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from sppnet.geometry import Detections
from sppnet.storage.files import write_text

BLOCK_LETTERS = 1 << 16  # that are written at a time
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet's formulas begin


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
    ids: list[int | str] = list(category_ids or range(1, len(names) + 1))
    entries = _coco_entries(detections, names, ids, files, thresholds)
    write_text(path, _joined(entries, "[", ",\n", "]\n"))


def _coco_entries(
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    ids: Sequence[int | str],
    files: Mapping[Any, str] | None,
    thresholds: Sequence[float] | None,
) -> Iterator[str]:
    """Each detection as JSON, one after the other."""
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
        yield json.dumps(entry)


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
            corners = [Number(f"{value:.2f}") for value in box]
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
