"""Detections in files: COCO results, text files and CSV."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sppnet.errors import Problem, UnusableFileError
from sppnet.evaluation.detection_rows import DetectionRow, read_rows
from sppnet.evaluation.image_names import ImageId, ImageNames
from sppnet.geometry import Detections
from sppnet.storage.files import write_text

if TYPE_CHECKING:
    from sppnet.images.dataset import DetectionDataset


def read_detections(
    path: str | Path, dataset: "DetectionDataset", problems: list[Problem] | None = None
) -> dict[ImageId, Detections]:
    """Read detections of a data set, in one of three formats.

    COCO results JSON: a list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``,
    where ``image_id`` may also be the image file's name with or without its ending, and
    ``category_name`` goes before ``category_id``, because numbers mean something else in every
    file. A ``.csv`` table with a header: image, class, score and x1, y1, x2, y2 (or left, top,
    right, bottom; or x, y, width, height), in any order, other columns ignored. A folder of one
    ``STEM.txt`` per image with lines ``class score x1 y1 x2 y2``. Boxes are half-open pixels; a
    class that is text is a name, or else its place, from 0, among the data set's names.

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
    path = Path(path)
    rows = read_rows(path)
    find_image = ImageNames(dataset.images).find
    find_class = _class_finder(dataset)
    by_image: dict[ImageId, list[tuple[DetectionRow, int]]] = {}
    for source, row in rows:
        image, label = find_image(row.image), find_class(row.category)
        if label is None and dataset.layout == "coco":  # elsewhere the numbers are made up
            label = find_class(row.category_id)
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


def _detections(rows: list[tuple[DetectionRow, int]]) -> Detections:
    """Build the detections of one image, best score first.

    They are sorted before float32 can make scores equal that are not.
    """
    rows.sort(key=lambda pair: -pair[0].score)
    boxes = torch.tensor([row.box for row, _ in rows], dtype=torch.float64)
    scores = torch.tensor([row.score for row, _ in rows], dtype=torch.float64)
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    return Detections(boxes.to(torch.float32), scores.to(torch.float32), labels)
