"""What every layout of annotated images is read into."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sppnet.errors import Problem
from sppnet.geometry import flip_boxes
from sppnet.images.decode import load_image
from sppnet.images.resizing import flip_left_right


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image file and the true boxes on it.

    Args:
        path: The image file.
        image_id: Name of the image in results: the file's stem, or the id in a COCO file.
        size_hw: (height, width) from the file's header, EXIF orientation applied.
        boxes: (K, 4) float32 xyxy pixels, half-open, inside the image, sides of at least 1 px.
        labels: (K,) int64, 0..len(names)-1.
        difficult: (K,) bool; VOC's mark, neither reward nor punishment in scoring.
        crowd: (K,) bool; COCO's ``iscrowd``.
        truncated: (K,) bool; VOC's mark that the thing reaches beyond the image.
        areas: (K,) float64 square pixels as the file says, such as those of COCO's segments; None
            where it says nothing and the boxes' areas are meant.
        is_mirrored: Whether left and right are exchanged after decoding; the boxes are already.
    """

    path: Path
    image_id: str | int
    size_hw: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    truncated: Tensor
    areas: Tensor | None = None
    is_mirrored: bool = False

    def load(self) -> Tensor:
        """Decode the image: (3, H, W) float32, RGB, 0..1; raises ``InputError``."""
        pixels = load_image(self.path)
        return flip_left_right(pixels) if self.is_mirrored else pixels

    def mirror(self) -> "LabelledImage":
        """Give the same image with left and right exchanged; the boxes go along."""
        boxes = flip_boxes(self.boxes, self.size_hw[1])
        return replace(self, boxes=boxes, is_mirrored=not self.is_mirrored)


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Images with boxes, whatever their layout on disk; the files are never changed.

    Args:
        images: In a fixed order; images without boxes are kept.
        names: Class names; the label is the place in here.
        problems: What was left out and why, one per image or box.
        root: Folder or index file that it was read from.
        split: The split, or None for all.
        layout: "voc", "coco" or "yolo".
        notes: What was used although it was not quite right, such as boxes clipped to the image.
        category_ids: The id of each class in a COCO file; 1..K elsewhere.
    """

    images: tuple[LabelledImage, ...]
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    root: Path
    split: str | None
    layout: str
    notes: tuple[Problem, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[LabelledImage]:
        return iter(self.images)

    def __getitem__(self, index: int) -> LabelledImage:
        return self.images[index]

    @property
    def box_count(self) -> int:
        """Number of boxes on all images."""
        return sum(len(image.labels) for image in self.images)

    def boxes_per_class(self) -> dict[str, int]:
        """Number of boxes of each class, in the order of the names."""
        counts = torch.zeros(len(self.names), dtype=torch.int64)
        for image in self.images:
            counts += torch.bincount(image.labels, minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))
