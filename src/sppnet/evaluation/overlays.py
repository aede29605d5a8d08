"""Pictures with what was found drawn on them."""

import io
import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from sppnet.evaluation.box_painter import Box, BoxPainter, Colour, Mark
from sppnet.evaluation.hits_and_misses import judge_detections
from sppnet.geometry import Detections

# Bright colours (after Okabe and Ito) that any colour vision tells apart, below black letters.
CLASS_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),
    (255, 176, 46),
    (60, 203, 146),
    (240, 228, 66),
    (226, 140, 190),
    (246, 108, 64),
    (160, 176, 255),
    (235, 235, 235),
)
HIT: Colour = (60, 203, 146)
FALSE_ALARM: Colour = (246, 98, 64)
MISS: Colour = (255, 200, 20)
# On a crowded picture only the mistakes are labelled.
MOST_LABELLED_HITS = 8
# Smaller pictures are enlarged, so that a label fits on them.
SMALLEST_LONG_SIDE = 320

Picturable = Tensor | Image.Image


def draw_detections(
    image: Picturable,
    detections: Detections,
    names: Sequence[str],
    score_threshold: float = -math.inf,
) -> Image.Image:
    """Draw what was found: a box, the name and the score, one colour per class.

    Where labels would cover each other, that of the lower score is left out; its box stays.

    Args:
        image: (3, H, W) RGB, float 0..1 or uint8, or a Pillow image; it is not changed.
        detections: Boxes in pixels of this image.
        names: Class names.
        score_threshold: Lowest score that is drawn.

    Returns:
        RGB image of the same size; one whose longer side is under 320 pixels is enlarged by a whole
        factor, so that the labels can be read.

    Example:
        >>> box = torch.tensor([[40.0, 40.0, 200.0, 180.0]])
        >>> found = Detections(box, torch.tensor([0.9]), torch.tensor([0]))
        >>> draw_detections(torch.ones(3, 240, 320), found, ["raccoon"]).size
        (320, 240)
    """
    picture, factor = _enlarged(to_picture(image))
    painter = BoxPainter(picture)
    shown = detections.select(_best_first(detections, score_threshold))
    rows = zip(*(shown[key].tolist() for key in ("boxes", "scores", "labels")), strict=True)
    for box, score, label in rows:
        text = f"{_class_name(names, label)} {score:.2f}"
        painter.box(_scaled(box, factor), text, CLASS_COLOURS[label % len(CLASS_COLOURS)])
    return painter.finish()


def draw_hits_and_misses(
    image: Picturable,
    truth_boxes: Tensor,
    truth_labels: Tensor,
    detections: Detections,
    names: Sequence[str],
    iou_threshold: float = 0.5,
    *,
    score_threshold: float = -math.inf,
    truth_ignored: Tensor | None = None,
) -> Image.Image:
    """Draw hits green with a tick, false alarms red with a cross, missed objects dashed yellow.

    Detections on objects that do not count are not drawn. Mistakes have the first choice of a place
    for their label; a label without room is left out, its box stays. Of more than eight hits none
    is labelled.

    Args:
        image: (3, H, W) RGB, float 0..1 or uint8, or a Pillow image; it is not changed.
        truth_boxes: (T, 4) xyxy pixels.
        truth_labels: (T,) classes.
        detections: What was found, in pixels of this image.
        names: Class names; a single one is not written into every label.
        iou_threshold: Overlap that makes a hit.
        score_threshold: Lowest score that counts.
        truth_ignored: (T,) bool, objects that count neither way.

    Returns:
        RGB image of the same size, or enlarged as by :func:`draw_detections`.

    Example:
        >>> truth = torch.tensor([[40.0, 40.0, 200.0, 180.0]])
        >>> labels, nothing = torch.tensor([0]), Detections.empty()
        >>> draw_hits_and_misses(torch.ones(3, 240, 320), truth, labels, nothing, ["a"]).size
        (320, 240)
    """
    picture, factor = _enlarged(to_picture(image))
    painter = BoxPainter(picture)
    shown = detections.select(_best_first(detections, score_threshold))
    judged = judge_detections(truth_boxes, truth_labels, shown, iou_threshold, truth_ignored)
    many = len(names) > 1
    is_crowded = int(judged.is_hit.sum()) > MOST_LABELLED_HITS
    for row in judged.is_missed.nonzero()[:, 0].tolist():
        name = f"{_class_name(names, int(truth_labels[row]))} " if many else ""
        box = _scaled(truth_boxes[row].tolist(), factor)
        painter.box(box, f"{name}missed", MISS, is_dashed=True)
    kinds: list[tuple[Tensor, Colour, Mark]] = [
        (judged.is_false_alarm, FALSE_ALARM, "cross"),
        (judged.is_hit, HIT, "tick"),
    ]
    for rows, colour, mark in kinds:
        for row in rows.nonzero()[:, 0].tolist():
            name = f"{_class_name(names, int(shown.labels[row]))} " if many else ""
            text = f"{name}{float(shown.scores[row]):.2f}"
            box = _scaled(shown.boxes[row].tolist(), factor)
            if mark == "tick" and is_crowded:
                painter.box(box, "", colour)
            else:
                painter.box(box, text, colour, mark=mark)
    return painter.finish()


def to_jpeg_bytes(image: Picturable, max_side: int = 640, quality: int = 85) -> bytes:
    r"""Compress an image for a page.

    Args:
        image: (3, H, W) RGB, float 0..1 or uint8, or a Pillow image.
        max_side: A longer side is reduced to this many pixels.
        quality: Of the JPEG, 1..95.

    Returns:
        A JPEG file without metadata.

    Example:
        >>> to_jpeg_bytes(torch.ones(3, 4, 6))[:2]
        b'\xff\xd8'
    """
    stream = io.BytesIO()
    picture = fit_picture(to_picture(image), max_side)[0]
    picture.info.clear()  # else the comment of the original file would be copied
    picture.save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def fit_picture(picture: Image.Image, max_side: int) -> tuple[Image.Image, tuple[float, float]]:
    """Reduce a picture until its longer side is at most ``max_side`` pixels.

    Args:
        picture: Any size.
        max_side: At least 1.

    Returns:
        The picture and the exact factors (x, y) for its boxes.

    Example:
        >>> fit_picture(Image.new("RGB", (200, 100)), 50)[1]
        (0.25, 0.25)
    """
    width, height = picture.size
    factor = min(1.0, max_side / max(width, height))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return picture, (size[0] / width, size[1] / height)


def to_picture(image: Picturable) -> Image.Image:
    """Turn an image of any accepted kind into an RGB Pillow image of its own.

    Args:
        image: (3, H, W) tensor, float 0..1 or uint8, or a Pillow image.

    Returns:
        A new image: drawing on it leaves the input as it is.

    Raises:
        TypeError: If it is neither a tensor nor a Pillow image.
        ValueError: If a tensor is not (3, H, W) with at least one pixel.

    Example:
        >>> to_picture(torch.zeros(3, 2, 5)).size
        (5, 2)
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor or a Pillow image, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.clamp(0, 1) * 255).round()
    return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _enlarged(picture: Image.Image) -> tuple[Image.Image, int]:
    """A picture on which a label fits, and by how much it was enlarged."""
    factor = math.ceil(SMALLEST_LONG_SIDE / max(picture.size))
    if factor == 1:
        return picture, 1
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.BICUBIC), factor


def _best_first(detections: Detections, score_threshold: float) -> Tensor:
    """Rows with enough score, the best first."""
    order = detections.scores.sort(descending=True, stable=True).indices
    return order[detections.scores[order] >= score_threshold]


def _scaled(box: Sequence[float], factor: int) -> Box:
    """A box in pixels of the enlarged picture."""
    return (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor)


def _class_name(names: Sequence[str], label: int) -> str:
    """Name of a class; labels that have none show as their number."""
    return names[label] if 0 <= label < len(names) else f"class {label}"
