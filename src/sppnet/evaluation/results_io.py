"""Detections read from files: COCO results, CSV and text."""

import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from sppnet.errors import Problem, UnusableFileError
from sppnet.evaluation.result_formats import DetectionRow, read_rows
from sppnet.geometry import Detections
from sppnet.images.listing import count_shared_ending, path_parts

if TYPE_CHECKING:
    from sppnet.images.dataset import DetectionDataset, LabelledImage

ImageId = str | int


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
    by_image: dict[ImageId, _PlacedRows] = {}
    for source, row in read_rows(Path(path)):
        image, label = images.find(row.image, is_file=row.is_file), find_class(row)
        where = source, row.place, row.line
        if image is None:
            _leave_out(*where, images.fault(row.image, is_file=row.is_file), problems)
        elif label is None:
            _leave_out(*where, f"class {row.category!r} is not in the data set", problems)
        else:
            by_image.setdefault(image, _PlacedRows()).place(source, row, label)
    found = {}
    for image, rows in by_image.items():
        rivals = images.find_rivals(image, rows.names)
        kept = []
        for number, (source, name, place, line) in enumerate(rows.said):
            if name in rivals:
                _leave_out(source, place, line, rivals[name], problems)
            else:
                kept.append(number)
        if kept:
            found[image] = rows.ranked(kept)
    return found


class DetectionRows:
    """Detections of one image that come one by one, in little memory: 48 bytes each.

    Example:
        >>> rows = DetectionRows()
        >>> rows.add(0.5, (0, 0, 4, 2), 1)
        >>> rows.add(0.9, (1, 0, 4, 2), 0)
        >>> rows.ranked([0, 1]).labels.tolist(), rows.count
        ([0, 1], 2)
    """

    def __init__(self) -> None:
        self._numbers, self._labels = array("d"), array("q")

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._labels)

    def add(self, score: float, box: Sequence[float], label: int) -> None:
        """Add one: its score, its box (4,) xyxy in pixels, and its class."""
        self._numbers.extend((score, *box))
        self._labels.append(label)

    def ranked(self, kept: Sequence[int]) -> Detections:
        """Give some of them, best score first, equal scores in the order given.

        They are sorted before float32 can make scores equal that are not.

        Args:
            kept: Numbers of the rows, from 0.

        Returns:
            The detections.
        """
        values = torch.tensor(self._numbers, dtype=torch.float64).reshape(-1, 5)[kept]
        order = values[:, 0].argsort(descending=True, stable=True)
        labels = torch.tensor(self._labels, dtype=torch.int64)[kept][order]
        values = values[order]
        return Detections(values[:, 1:].contiguous(), values[:, 0].contiguous(), labels)


class _PlacedRows(DetectionRows):
    """The rows of one image: those that name it by a path remember where they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[object] = set()  # by which the file calls the image
        self.said: list[tuple[Path, object, str, int | None]] = []

    def place(self, source: Path, row: DetectionRow, label: int) -> None:
        """Keep a row; only the name of a path may turn out to be another image's."""
        self.add(row.score, row.box, label)
        self.names.add(row.image)
        is_path = isinstance(row.image, str) and len(path_parts(row.image)) > 1
        self.said.append((source, row.image, row.place, row.line) if is_path else _NOWHERE)


_NOWHERE: tuple[Path, object, str, int | None] = (Path(), None, "", None)


def _leave_out(
    source: Path, place: str, line: int | None, fault: str, problems: list[Problem] | None
) -> None:
    """Note why a row is not used; without a list it is an error."""
    rule = f"{place}: {fault}"
    if problems is None:
        raise UnusableFileError(rule, path=source, code="E_FORMAT")
    problems.append(Problem(str(source), rule, "E_FORMAT", line, "detection left out"))


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
