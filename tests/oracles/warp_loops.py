"""The truth about R-CNN's crops: one pixel at a time, as the paper's appendix describes them."""

import math
from collections.abc import Sequence

Plane = Sequence[Sequence[float]]


def round_half_up(value: float) -> int:
    """Nearest whole number; halves go up."""
    return math.floor(value + 0.5)


def grow(low: float, high: float, size: int, context: int) -> tuple[int, int]:
    """Side of a box with its context, rounded, at least one pixel long."""
    centre = (low + high) / 2
    half = (high - low) / 2 * (size / (size - 2 * context))
    first, last = round_half_up(centre - half), round_half_up(centre + half)
    return first, max(last, first + 1)


def source_of(pixel: int, first: int, last: int, length: int, size: int) -> float | None:
    """Coordinate in the image that a pixel of the crop shows; None for one outside the image."""
    start = min(max(first, 0), length - 1)
    end = max(min(last, length), start + 1)
    zoom = size / (last - first)
    offset = min(round_half_up(max(-first, 0) * zoom), size - 1)
    extent = min(max(round_half_up((end - start) * zoom), 1), size - offset)
    if not offset <= pixel < offset + extent:
        return None
    inside = (pixel - offset + 0.5) * (end - start) / extent - 0.5
    return start + min(max(inside, 0.0), end - start - 1.0)


def blend(plane: Plane, x: float, y: float) -> float:
    """Bilinear value between four pixels."""
    left, top = int(x), int(y)
    right, bottom = min(left + 1, len(plane[0]) - 1), min(top + 1, len(plane) - 1)
    above = plane[top][left] * (1 - (x - left)) + plane[top][right] * (x - left)
    below = plane[bottom][left] * (1 - (x - left)) + plane[bottom][right] * (x - left)
    return above * (1 - (y - top)) + below * (y - top)


def warp(plane: Plane, box: Sequence[float], size: int, context: int, fill: float) -> Plane:
    """Crop of one colour of an image."""
    spans = [grow(box[axis], box[axis + 2], size, context) for axis in (0, 1)]
    lengths = (len(plane[0]), len(plane))
    xs, ys = (
        [source_of(pixel, *span, length, size) for pixel in range(size)]
        for span, length in zip(spans, lengths, strict=True)
    )
    return [[fill if x is None or y is None else blend(plane, x, y) for x in xs] for y in ys]
