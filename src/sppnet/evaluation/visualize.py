"""Detections drawn on images: boxes with names and scores, and what is right or wrong."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sppnet.evaluation.matching import match_detections
from sppnet.geometry import Detections

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
Mark = Literal["", "tick", "cross"]
CASING: Colour = (16, 16, 16)
LETTERS: Colour = (10, 10, 10)
SMALLEST_FONT = 11
# Part of the longer side that the height of the letters takes.
FONT_SHARE = 1 / 36
# A label may cover this part of another one; beyond it the label is left out, the box stays.
LARGEST_COVER = 0.15
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
TRUE_POSITIVE_COLOUR: Colour = (60, 203, 146)
FALSE_POSITIVE_COLOUR: Colour = (246, 98, 64)
FALSE_NEGATIVE_COLOUR: Colour = (255, 200, 20)
# On a crowded picture only the mistakes are labelled.
MOST_LABELLED_TRUE_POSITIVES = 8
# Smaller pictures are enlarged, so that a label fits on them.
SMALLEST_LONG_SIDE = 320
Picturable = Tensor | Image.Image
LoadImage = Callable[[Path], Tensor]
SCENE_SIDE = 640  # longer side of the pictures in a report


def draw_detections(
    image: Picturable,
    detections: Detections,
    names: Sequence[str],
    score_threshold: float = -math.inf,
) -> Image.Image:
    """Draw what was found: a box, the name and the confidence, one colour per class.

    Detections without a confidence have their score instead.

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
    sure = shown.scores if shown.confidence is None else shown.confidence
    rows = zip(shown.boxes.tolist(), sure.tolist(), shown.labels.tolist(), strict=True)
    for box, value, label in rows:
        text = f"{_class_name(names, label)} {value:z.2f}"
        painter.box(_scaled(box, factor), text, CLASS_COLOURS[label % len(CLASS_COLOURS)])
    return painter.finish()


def draw_matches(
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
    """Draw boxes: true positives green, false positives red, false negatives dashed yellow.

    The number at a box is its confidence, or its score if it has none. True positives have a tick,
    false positives a cross; detections on objects that do not count are
    not drawn. Mistakes have the first choice of a place for their label; a label without room is
    left out, its box stays. Of more than eight true positives none is labelled.

    Args:
        image: (3, H, W) RGB, float 0..1 or uint8, or a Pillow image; it is not changed.
        truth_boxes: (T, 4) xyxy pixels.
        truth_labels: (T,) classes.
        detections: What was found, in pixels of this image.
        names: Class names; a single one is not written into every label.
        iou_threshold: Lowest overlap of a true positive.
        score_threshold: Lowest score that counts.
        truth_ignored: (T,) bool, objects that count neither way.

    Returns:
        RGB image of the same size, or enlarged as by :func:`draw_detections`.

    Example:
        >>> truth = torch.tensor([[40.0, 40.0, 200.0, 180.0]])
        >>> labels, nothing = torch.tensor([0]), Detections.empty()
        >>> draw_matches(torch.ones(3, 240, 320), truth, labels, nothing, ["a"]).size
        (320, 240)
    """
    picture, factor = _enlarged(to_picture(image))
    painter = BoxPainter(picture)
    shown = detections.select(_best_first(detections, score_threshold))
    matches = match_detections(truth_boxes, truth_labels, shown, iou_threshold, truth_ignored)
    sure = (shown.scores if shown.confidence is None else shown.confidence).tolist()
    many = len(names) > 1
    is_crowded = int(matches.is_true_positive.sum()) > MOST_LABELLED_TRUE_POSITIVES
    for row in matches.is_false_negative.nonzero()[:, 0].tolist():
        name = f"{_class_name(names, int(truth_labels[row]))} " if many else ""
        box = _scaled(truth_boxes[row].tolist(), factor)
        painter.box(box, f"{name}missed", FALSE_NEGATIVE_COLOUR, is_dashed=True)
    kinds: list[tuple[Tensor, Colour, Mark]] = [
        (matches.is_false_positive, FALSE_POSITIVE_COLOUR, "cross"),
        (matches.is_true_positive, TRUE_POSITIVE_COLOUR, "tick"),
    ]
    for rows, colour, mark in kinds:
        for row in rows.nonzero()[:, 0].tolist():
            name = f"{_class_name(names, int(shown.labels[row]))} " if many else ""
            text = f"{name}{sure[row]:z.2f}"
            box = _scaled(shown.boxes[row].tolist(), factor)
            if mark == "tick" and is_crowded:
                painter.box(box, "", colour)
            else:
                painter.box(box, text, colour, mark=mark)
    return painter.finish()


def to_jpeg_bytes(
    image: Picturable, max_side: int = 640, quality: int = 85, comment: str = ""
) -> bytes:
    r"""Compress an image for a page.

    Args:
        image: (3, H, W) RGB, float 0..1 or uint8, or a Pillow image.
        max_side: A longer side is reduced to this many pixels.
        quality: Of the JPEG, 1..95.
        comment: ASCII text that the file holds among its first bytes.

    Returns:
        A JPEG file without other metadata.

    Example:
        >>> to_jpeg_bytes(torch.ones(3, 4, 6))[:2]
        b'\xff\xd8'
    """
    stream = io.BytesIO()
    picture = fit_picture(to_picture(image), max_side)[0]
    picture.info.clear()  # else the comment of the original file would be copied
    more = {"comment": comment.encode("ascii")} if comment else {}
    picture.save(stream, format="JPEG", quality=quality, optimize=True, **more)
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
    """Rows that score enough, the best first."""
    order = detections.scores.sort(descending=True, stable=True).indices
    return order[detections.scores[order] >= score_threshold]


def _scaled(box: Sequence[float], factor: int) -> Box:
    """A box in pixels of the enlarged picture."""
    return (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor)


def _class_name(names: Sequence[str], label: int) -> str:
    """Name of a class, or its number if it has none."""
    return names[label] if 0 <= label < len(names) else f"class {label}"


@dataclass
class BoxPainter:
    """Draws boxes at once and their labels, without covering each other, at the end.

    Args:
        picture: RGB image that is drawn on.
    """

    picture: Image.Image
    _labels: list[tuple[Box, str, Colour, Mark]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        longer, shorter = max(self.picture.size), min(self.picture.size)
        self.font_size = max(SMALLEST_FONT, round(min(longer * FONT_SHARE, shorter / 8)))
        self.line_width = max(2, round(self.font_size / 5))
        self._font = ImageFont.load_default(self.font_size)
        self._draw = ImageDraw.Draw(self.picture)

    def box(
        self, box: Box, label: str, colour: Colour, *, mark: Mark = "", is_dashed: bool = False
    ) -> None:
        """Draw a box and remember its label; labels of earlier boxes are placed first.

        Args:
            box: xyxy in pixels of the picture; a box beyond the border is drawn at the border.
            label: Its text; none if empty.
            colour: Of the line and of the label's background.
            mark: Sign before the text.
            is_dashed: Whether the line is broken.
        """
        shown = self._inside(box)
        for line_colour, extra in ((CASING, 2), (colour, 0)):
            self._rectangle(shown, line_colour, self.line_width + extra, is_dashed)
        if label or mark:
            self._labels.append((shown, label, colour, mark))

    def finish(self) -> Image.Image:
        """Draw the labels.

        Returns:
            The picture.
        """
        taken: list[Box] = []
        for box, label, colour, mark in self._labels:
            place = self._place(box, label, mark, taken)
            if place:
                self._label(place, label, colour, mark)
                taken.append(place)
        return self.picture

    def _inside(self, box: Box) -> Box:
        """The part of a box whose line can be seen, at least two pixels wide and high."""
        right, bottom = self.picture.width - 1, self.picture.height - 1
        x1, y1 = min(max(box[0], 0), right), min(max(box[1], 0), bottom)
        # The end is exclusive: the line runs through the last pixel inside.
        x2, y2 = min(max(box[2] - 1, x1 + 1), right), min(max(box[3] - 1, y1 + 1), bottom)
        return (x1, y1, x2, y2)

    def _rectangle(self, box: Box, colour: Colour, width: int, is_dashed: bool) -> None:
        """A rectangle whose line is centred on the border of the box."""
        x1, y1, x2, y2 = box
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
        dash = self.line_width * 4
        for (ax, ay), (bx, by) in pairwise(corners):
            length = abs(bx - ax) + abs(by - ay)
            pieces = max(1, round(length / dash / 2) * 2 + 1) if is_dashed else 1
            for i in range(0, pieces, 2):
                start, stop = i / pieces, (i + 1) / pieces
                self._segment(
                    (ax + (bx - ax) * start, ay + (by - ay) * start),
                    (ax + (bx - ax) * stop, ay + (by - ay) * stop),
                    colour,
                    width,
                )

    def _segment(
        self, a: tuple[float, float], b: tuple[float, float], colour: Colour, width: int
    ) -> None:
        """A horizontal or vertical line, as a filled rectangle: exact at any width."""
        low, high = (width - 1) // 2, width // 2
        (x1, x2), (y1, y2) = sorted((a[0], b[0])), sorted((a[1], b[1]))
        place = (round(x1) - low, round(y1) - low, round(x2) + high, round(y2) + high)
        self._draw.rectangle(place, fill=colour)

    def _label_size(self, label: str, mark: Mark) -> tuple[float, float]:
        """Width and height of a label with its margins."""
        sign = self.font_size if mark else 0
        text = self._font.getlength(label) if label else -self.font_size / 3
        return text + sign + self.font_size * 0.6, self.font_size * 1.35

    def _place(self, box: Box, label: str, mark: Mark, taken: list[Box]) -> Box | None:
        """The first free place near a corner of the box; None if all are covered."""
        width, height = self._label_size(label, mark)
        x1, y1, x2, y2 = box
        edge = self.line_width / 2
        corners = [
            (x1 - edge, y1 - height - edge),
            (x1 - edge, y2 + edge),
            (x2 + edge - width, y1 - height - edge),
            (x2 + edge - width, y2 + edge),
            (x1 - edge, y1 - edge),
            (x2 + edge - width, y2 + edge - height),
        ]
        for x, y in corners:
            inside = self._shifted_inside(x, y, width, height)
            if abs(inside[1] - y) <= height / 4 and all(
                _cover(inside, other) <= LARGEST_COVER for other in taken
            ):
                return inside
        return None

    def _shifted_inside(self, x: float, y: float, width: float, height: float) -> Box:
        """A label moved so that no part of it lies outside the picture, if it fits at all."""
        x = max(0.0, min(x, self.picture.width - width))
        y = max(0.0, min(y, self.picture.height - height))
        return (x, y, x + width, y + height)

    def _label(self, place: Box, label: str, colour: Colour, mark: Mark) -> None:
        """A filled tag with a sign and text."""
        x1, y1, _, y2 = place
        self._draw.rounded_rectangle(place, radius=self.font_size / 5, fill=colour)
        middle, left = (y1 + y2) / 2, x1 + self.font_size * 0.3
        if mark:
            self._sign(mark, left, middle)
            left += self.font_size
        if label:
            self._draw.text((left, middle), label, fill=LETTERS, font=self._font, anchor="lm")

    def _sign(self, mark: Mark, left: float, middle: float) -> None:
        """A tick or a cross, as lines: fonts need not have them."""
        s = self.font_size * 0.3
        x, width = left + self.font_size * 0.4, max(2, round(self.font_size / 8))
        if mark == "tick":
            points = [(x - s, middle), (x - s / 4, middle + s * 0.8), (x + s, middle - s)]
            self._draw.line(points, fill=LETTERS, width=width, joint="curve")
        else:
            for sign in (1, -1):
                ends = [(x - s, middle - sign * s), (x + s, middle + sign * s)]
                self._draw.line(ends, fill=LETTERS, width=width)


def _cover(box: Box, other: Box) -> float:
    """Part of the smaller of two boxes that lies in the other."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(0.0, width) * max(0.0, height) / max(min(areas), 1e-6)
