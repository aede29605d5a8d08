"""Boxes as a person draws them, as a model suggests them, and as Label Studio writes them."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import torch
from torch import Tensor

from sppnet.errors import UsageError
from sppnet.geometry import Detections, box_iou
from sppnet.images.readers.voc import XmlElement, parse_xml
from sppnet.labelling.base import PhotoFinder
from sppnet.storage.labels import LabelBox, PhotoLabels, SuggestedBox

CLOSE = 0.5  # a box that overlaps an earlier one of its class by this is the same one, moved
# What an import says of the shape of a box; it is gone once the box is moved.
SHAPES = frozenset({"segmentation", "area", "polygon", "keypoints", "num_keypoints"})


class Suggestions(Detections):
    """Detections in one photo, with the names of their classes and the model that found them.

    A dict of boxes (K, 4) xyxy in pixels, scores (K,), labels (K,) and confidence (K,), best first.

    Attributes:
        names: (K,) class name of each.
        model: Version of the model; empty before there is one.
        there: (K,) how likely something is there, whichever class; at least the confidence.
    """

    names: tuple[str, ...]
    model: str
    there: Tensor

    @classmethod
    def of(
        cls, found: Detections, names: Sequence[str], model: str, there: Tensor
    ) -> "Suggestions":
        """Name the classes of detections, and say what is there."""
        made = cls(found.boxes, found.scores, found.labels, found.confidence)
        made.names = tuple(names[label] for label in found.labels.tolist())
        made.model = model
        made.there = there
        return made

    def as_boxes(self) -> list[SuggestedBox]:
        """Give them as a store keeps them."""
        sure = self.scores.tolist() if self.confidence is None else self.confidence.tolist()
        rows = zip(self.boxes.tolist(), self.names, self.scores.tolist(), sure, strict=True)
        return [
            SuggestedBox((x1, y1, x2, y2), name, score, confidence)
            for (x1, y1, x2, y2), name, score, confidence in rows
        ]


def cut_boxes(
    boxes: Tensor | Sequence[Sequence[float]], labels: Sequence[str], size_hw: tuple[int, int]
) -> list[LabelBox]:
    """Check boxes, and cut off what reaches beyond the photo.

    Args:
        boxes: (K, 4) xyxy in pixels.
        labels: (K,) class names.
        size_hw: Height and width of the photo.

    Returns:
        The boxes.

    Raises:
        ValueError: If boxes have another shape, the numbers differ, or a box has no pixel of the
            photo.

    Example:
        >>> cut_boxes([[-5, 2, 10, 20]], ["cat"], (12, 40))[0].corners
        (0.0, 2.0, 10.0, 12.0)
    """
    if not isinstance(boxes, Tensor) and any(len(box) != 4 for box in boxes):
        raise ValueError("boxes must have four corners each: x1, y1, x2, y2")
    rows = torch.as_tensor(boxes, dtype=torch.float64)
    if rows.numel() and rows.shape[1:] != (4,):
        raise ValueError(f"boxes must be (K, 4), got {tuple(rows.shape)}")
    rows = rows.reshape(-1, 4)
    if len(rows) != len(labels):
        raise ValueError(f"labels must be one for each box, {len(rows)}, got {len(labels)}")
    height, width = size_hw
    limits = torch.tensor([width, height, width, height], dtype=torch.float64)
    cut = rows.clamp(min=0).minimum(limits)
    sides = cut[:, 2:] - cut[:, :2]
    for number, side in enumerate(sides.tolist()):
        if not min(side) >= 1:
            raise ValueError(
                f"boxes must cover a pixel or more of the photo of {width} x {height}, got "
                f"{tuple(rows[number].tolist())} in row {number}"
            )
    return [
        LabelBox((x1, y1, x2, y2), name)
        for (x1, y1, x2, y2), name in zip(cut.tolist(), labels, strict=True)
    ]


def keep_extras(made: list[LabelBox], before: Sequence[LabelBox]) -> list[LabelBox]:
    """Give boxes what else was known of the earlier ones that they are, moved or not.

    Args:
        made: The new boxes.
        before: The boxes that were there.

    Returns:
        The new boxes, each with what was known of the box of its class that it overlaps most, by
        half or more; what was said of its shape is gone if it was moved. What is known of the new
        box itself goes before.

    Example:
        >>> old = LabelBox((0, 0, 10, 10), "cat", {"pose": "Left", "area": 77})
        >>> keep_extras([LabelBox((0, 0, 10, 9), "cat")], [old])[0].extra
        {'pose': 'Left'}
    """
    if not made or not any(box.extra for box in before):
        return made
    corners = [torch.tensor([box.corners for box in boxes]) for boxes in (made, before)]
    overlaps = box_iou(*(each.float() for each in corners))
    same = torch.tensor([[one.name == two.name for two in before] for one in made])
    overlaps = torch.where(same, overlaps, 0.0)
    kept = list(made)
    for _ in range(min(overlaps.shape)):
        row, column = divmod(int(overlaps.argmax()), len(before))
        if overlaps[row, column] < CLOSE:
            break
        stays = made[row].corners == tuple(before[column].corners)
        extra = before[column].extra.items()
        kept[row] = LabelBox(
            made[row].corners,
            made[row].name,
            {key: value for key, value in extra if stays or key not in SHAPES}
            | dict(made[row].extra),
        )
        overlaps[row], overlaps[:, column] = -1.0, -1.0
    return kept


def to_percent(corners: Sequence[float], size_hw: tuple[int, int]) -> dict[str, float]:
    """Give a box as Label Studio has it: corner and sides in percent of the photo.

    Args:
        corners: (x1, y1, x2, y2) in pixels.
        size_hw: Height and width of the photo.

    Example:
        >>> to_percent((10, 5, 60, 30), (50, 200))
        {'x': 5.0, 'y': 10.0, 'width': 25.0, 'height': 50.0}
    """
    (x1, y1, x2, y2), (height, width) = corners, size_hw
    return {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
    }


def from_percent(
    value: Mapping[str, Any], size_hw: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Read a box of Label Studio, cut to the photo; of one that is turned, the box around it.

    Args:
        value: x, y, width, height in percent, and perhaps rotation about (x, y) in degrees.
        size_hw: Height and width of the photo.

    Returns:
        (x1, y1, x2, y2) in pixels; None if it covers less than a pixel of the photo.

    Raises:
        ValueError: If a number is missing, none, or not finite.

    Example:
        >>> from_percent({"x": 5, "y": 10, "width": 25, "height": 50}, (50, 200))
        (10.0, 5.0, 60.0, 30.0)
        >>> turned = {"x": 50, "y": 20, "width": 20, "height": 10, "rotation": 90}
        >>> [round(side, 6) for side in from_percent(turned, (100, 100))]
        [40.0, 20.0, 50.0, 40.0]
    """
    height, width = size_hw
    x, y, w, h = (_number(value.get(key), key) for key in ("x", "y", "width", "height"))
    x, y, w, h = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    x1, y1, x2, y2 = x, y, x + w, y + h
    angle = math.radians(_number(value.get("rotation", 0), "rotation"))
    if angle:
        cos, sin = math.cos(angle), math.sin(angle)
        columns, rows = (
            (0.0, w * cos, w * cos - h * sin, -h * sin),
            (0.0, w * sin, w * sin + h * cos, h * cos),
        )
        x1, x2, y1, y2 = x + min(columns), x + max(columns), y + min(rows), y + max(rows)
    x1, y1, x2, y2 = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    return (x1, y1, x2, y2) if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def _number(value: Any, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < 1e9:
        raise ValueError(f"{name} of a box must be a finite number")
    return float(value)


_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
_KINDS = {"detect": ("RectangleLabels", "Label"), "classify": ("Choices", "Choice")}


class StudioPhotos:
    """Finds the photos that a task of Label Studio may mean, by names alone.

    Args:
        photos: Names of the photos of a folder.

    Example:
        >>> photos = StudioPhotos(["cam 1/a b.jpg", "c.jpg"])
        >>> photos.matches("/data/upload/3/0fa3b1c2-a_b.jpg")
        ['cam 1/a b.jpg']
        >>> photos.matches("http://127.0.0.1:8080/data/local-files/?d=set/cam%201/a%20b.jpg")
        ['cam 1/a b.jpg']
    """

    def __init__(self, photos: Sequence[str]) -> None:
        self._finders = PhotoFinder(photos), PhotoFinder(photos, _as_uploaded)

    def matches(self, place: str) -> list[str]:
        """Name the photos that fit best: a path, an address, what was uploaded."""
        path = place.partition("?d=")[2] if "?d=" in place else place.partition("?")[0]
        texts = [place, unquote(path)]
        if "/upload/" in place:  # such files get eight digits before their names
            texts.append("upload/" + _UPLOADED.sub("", texts[-1].rpartition("/")[2]))
        found = (finder.matches(text) for finder in self._finders for text in texts)
        return next(filter(None, found), [])


def _as_uploaded(name: str) -> str:
    """A name as Label Studio keeps an uploaded file of that name (Django's rule)."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


@dataclass(frozen=True)
class Control:
    """The part of a labelling configuration that is answered with.

    Args:
        tag: ``RectangleLabels`` or ``Choices``.
        name: Its name.
        image: Name of the image that it is about.
        key: Under which the tasks have that image.
        labels: What it offers; empty if the tasks say so themselves.
        takes_one: Whether only one of them may be chosen.
    """

    tag: str
    name: str
    image: str
    key: str
    labels: tuple[str, ...]
    takes_one: bool = False


def read_control(config: Any, task: str) -> Control:
    """Find what to answer with in a labelling configuration.

    Args:
        config: Text of the configuration, XML.
        task: ``detect`` needs RectangleLabels on an Image, ``classify`` needs Choices.

    Raises:
        UsageError: If it has no such thing.
        InputError: If it is no XML, or has a DTD.

    Example:
        >>> control = read_control('<View><Image name="i" value="$photo"/><RectangleLabels '
        ...     'name="r" toName="i"><Label value="cat"/></RectangleLabels></View>', "detect")
        >>> control.name, control.image, control.key, control.labels
        ('r', 'i', 'photo', ('cat',))
    """
    if not isinstance(config, str):
        raise UsageError("there must be a labelling configuration")
    data = config.encode("utf-8", "replace")
    elements = list(_walk(parse_xml(data, "labelling configuration")))
    images = {each.attributes.get("name"): each for each in elements if each.tag == "Image"}
    tag, option = _KINDS[task]
    for element in elements:
        to = element.attributes.get("toName", "").split(",")[0].strip()
        if element.tag == tag and to in images and element.attributes.get("name"):
            labels = [_option_name(each) for each in _walk(element) if each.tag == option]
            key = images[to].attributes.get("value", "").removeprefix("$")
            is_single = tag == "Choices" and element.attributes.get("choice") != "multiple"
            name, offered = element.attributes["name"], tuple(filter(None, labels))
            return Control(tag, name, to, key, offered, is_single)
    raise UsageError(f"the labelling configuration must have {tag} for an Image")


def _walk(element: XmlElement) -> Iterator[XmlElement]:
    """An element and all below it."""
    yield element
    for child in element.children:
        yield from _walk(child)


def _option_name(element: XmlElement) -> str:
    return element.attributes.get("alias") or element.attributes.get("value", "")


def said_of(labels: PhotoLabels) -> tuple[object, ...]:
    """Boxes and names of what is said about a photo, to be compared."""
    boxes = torch.tensor([box.corners for box in labels.boxes]).reshape(-1, 4).tolist()
    return tuple(boxes), tuple(box.name for box in labels.boxes)
