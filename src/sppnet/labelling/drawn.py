"""Boxes as a person draws them, and as a model suggests them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sppnet.geometry import Detections, box_iou
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
    """

    names: tuple[str, ...]
    model: str

    @classmethod
    def of(cls, found: Detections, names: Sequence[str], model: str) -> "Suggestions":
        """Name the classes of detections."""
        made = cls(found.boxes, found.scores, found.labels, found.confidence)
        made.names = tuple(names[label] for label in found.labels.tolist())
        made.model = model
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
        raise ValueError(f"labels must be one for each of {len(rows)} boxes, got {len(labels)}")
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
        half or more; what was said of its shape is gone if it was moved.

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
            {key: value for key, value in extra if stays or key not in SHAPES},
        )
        overlaps[row], overlaps[:, column] = -1.0, -1.0
    return kept


def said_of(labels: PhotoLabels) -> tuple[object, ...]:
    """Boxes and names of what is said about a photo, to be compared."""
    boxes = torch.tensor([box.corners for box in labels.boxes]).reshape(-1, 4).tolist()
    return tuple(boxes), tuple(box.name for box in labels.boxes)
