"""Boxes and their labels on one picture: readable on any background and at any size."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

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
        """A level or upright line with square ends, as a filled rectangle: exact at any width."""
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
