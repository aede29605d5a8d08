"""Pictures of the demo's report: held-out scenes, and scenes joined into strips of odd shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sppnet.detection import Detector, EncodedImage, propose
from sppnet.evaluation import draw_detections, judge_detections
from sppnet.evaluation.visualize import FALSE_ALARM, HIT, MISS, BoxPainter, to_picture
from sppnet.geometry import Detections
from sppnet.images import LabelledImage, load_image, resize_image

MONTAGE_WIDTH, MONTAGE_ROW, GAP = 1200, 250, 8
PAPER = (255, 255, 255)


@dataclass(frozen=True)
class Joined:
    """Held-out scenes side by side, or one above the other, as one image with its truth.

    Args:
        pixels: (3, H, W).
        boxes: (T, 4) xyxy in pixels.
        labels: (T,).
        count: Scenes in it.
    """

    pixels: Tensor
    boxes: Tensor
    labels: Tensor
    count: int

    @property
    def words(self) -> str:
        """Width and height, as people write them."""
        height, width = self.pixels.shape[1:]
        return f"{width:,} \u00d7 {height:,} pixels"


def join_scenes(images: Sequence[LabelledImage], side: int, *, upright: bool = False) -> Joined:
    """Join scenes into a strip.

    Args:
        images: At least one.
        side: Height of the strip; of an upright one the width.
        upright: Whether they stand one above the other.

    Returns:
        The strip with the boxes of all things in it.
    """
    parts, boxes, at = [], [], 0
    for image in images:
        height, width = image.size_hw
        zoom = side / (width if upright else height)
        size_hw = (max(1, round(height * zoom)), max(1, round(width * zoom)))
        parts.append(resize_image(load_image(image.path), size_hw))
        scale = torch.tensor([size_hw[1] / width, size_hw[0] / height]).repeat(2)
        shift = torch.tensor([0.0, at, 0.0, at] if upright else [at, 0.0, at, 0.0])
        boxes.append(image.boxes * scale + shift)
        at += size_hw[0] if upright else size_hw[1]
    labels = torch.cat([image.labels for image in images])
    return Joined(torch.cat(parts, dim=1 if upright else 2), torch.cat(boxes), labels, len(images))


def draw_joined(
    joined: Joined, detector: Detector, encoded: EncodedImage, score_threshold: float
) -> Image.Image:
    """Draw hits, false alarms and misses of a strip as boxes without labels, which would cover it.

    Args:
        joined: The strip.
        detector: Looks at as many windows per scene as ever.
        encoded: The strip's maps.
        score_threshold: Lowest score that is drawn.

    Returns:
        RGB image of the same size.
    """
    rule = detector.rule
    windows = propose(joined.pixels, rule.proposals, rule.max_proposals * joined.count, rule.seed)
    found = detector.detect(encoded, windows)
    found = found.select(found.scores >= score_threshold)
    judged = judge_detections(joined.boxes, joined.labels, found)
    painter = BoxPainter(to_picture(joined.pixels))
    for boxes, colour, is_dashed in (
        (joined.boxes[judged.is_missed], MISS, True),
        (found.boxes[judged.is_false_alarm], FALSE_ALARM, False),
        (found.boxes[judged.is_hit], HIT, False),
    ):
        for x1, y1, x2, y2 in boxes.tolist():
            painter.box((x1, y1, x2, y2), "", colour, is_dashed=is_dashed)
    return painter.finish()


def draw_montage(
    images: Sequence[LabelledImage],
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    score_threshold: float,
) -> Image.Image:
    """Lay scenes with what was found in them out in rows of one width.

    Args:
        images: In the order in which they are laid; as many as fill whole rows are used.
        detections: By image id.
        names: Class names.
        score_threshold: Lowest score that is drawn.

    Returns:
        RGB image, ``MONTAGE_WIDTH`` wide.
    """
    drawn = [
        draw_detections(load_image(image.path), detections[image.image_id], names, score_threshold)
        for image in images
    ]
    rows = [_fit_row(row) for row in _rows(drawn)]
    height = sum(row.height for row in rows) + GAP * (len(rows) - 1)
    montage = Image.new("RGB", (MONTAGE_WIDTH, max(1, height)), PAPER)
    top = 0
    for row in rows:
        montage.paste(row, (0, top))
        top += row.height + GAP
    return montage


def _rows(pictures: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Break pictures into rows that are about ``MONTAGE_ROW`` high when they are full."""
    rows: list[list[Image.Image]] = [[]]
    for picture in pictures:
        rows[-1].append(picture)
        if sum(each.width / each.height for each in rows[-1]) >= MONTAGE_WIDTH / MONTAGE_ROW:
            rows.append([])
    return [row for row in rows[:-1] if row] or [row for row in rows if row]


def _fit_row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures side by side, all of the height that fills the width."""
    room = MONTAGE_WIDTH - GAP * (len(pictures) - 1)
    height = max(1, round(room / sum(each.width / each.height for each in pictures)))
    row = Image.new("RGB", (MONTAGE_WIDTH, height), PAPER)
    left = 0
    for number, picture in enumerate(pictures, start=1):
        width = max(1, round(picture.width * height / picture.height))
        if number == len(pictures):
            width = max(1, MONTAGE_WIDTH - left)
        row.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, 0))
        left += width + GAP
    return row
