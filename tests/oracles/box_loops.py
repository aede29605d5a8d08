"""The truth about boxes: overlap, suppression and projection, one number at a time."""

import math
from collections.abc import Sequence
from fractions import Fraction

Box = Sequence[float]


def iou(one: Box, other: Box) -> Fraction:
    """Exact intersection over union; 0 where there is no area."""
    ax1, ay1, ax2, ay2 = map(Fraction, one)
    bx1, by1, bx2, by2 = map(Fraction, other)
    width = min(ax2, bx2) - max(ax1, bx1)
    height = min(ay2, by2) - max(ay1, by1)
    shared = width * height if width > 0 and height > 0 else Fraction(0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared / union if union else Fraction(0)


def suppress(boxes: Sequence[Box], scores: Sequence[float], threshold: Fraction) -> list[int]:
    """Take the best box that is left (of equals the first), strike what overlaps it by more."""
    left, kept = list(range(len(boxes))), []
    while left:
        best = left[0]
        for row in left:
            if scores[row] > scores[best]:
                best = row
        kept.append(best)
        left = [r for r in left if r != best and iou(boxes[r], boxes[best]) <= threshold]
    return kept


def soften(
    boxes: Sequence[Box], shares: Sequence[float], sigma: float, least: float
) -> list[float]:
    """Take the best box that is left (of equals the first), lower the others by their overlap."""
    shares, lowered = list(shares), [0.0] * len(boxes)
    left = list(range(len(boxes)))
    while left:
        best = max(left, key=lambda row: (shares[row], -row))
        left.remove(best)
        if shares[best] < least:
            break
        lowered[best] = shares[best]
        for row in left:
            shares[row] *= math.exp(-(float(iou(boxes[row], boxes[best])) ** 2) / sigma)
    return lowered


def response_cells(
    first: float, last: float, stride: float, offset0: float, offset: float, count: int
) -> tuple[int, int]:
    """First and last cell of a window, as spm_response_boxes.m: everything 1-based, inclusive."""
    s, o0, o = Fraction(stride), Fraction(offset0), Fraction(offset)
    c0 = math.floor((Fraction(first) - o0 + o) / s + Fraction(1, 2)) + 1
    c1 = math.ceil((Fraction(last) - o0 - o) / s - Fraction(1, 2)) + 1
    if c0 > c1:
        c0 = c1 = math.trunc(Fraction(c0 + c1, 2))
    return min(max(c0, 1), count), min(max(c1, 1), count)


def project(
    box: Box, stride: float, centre: float, offset: float, grid_hw: tuple[int, int]
) -> list[int]:
    """Half-open 0-based cells of a half-open 0-based box, by way of the 1-based inclusive rule."""
    height, width = grid_hw
    x1, y1, x2, y2 = map(Fraction, box)  # pixel p is number p + 1; the last one is x2 - 1 + 1
    left, right = response_cells(x1 + 1, x2, stride, centre + 1, offset, width)
    top, bottom = response_cells(y1 + 1, y2, stride, centre + 1, offset, height)
    return [left - 1, top - 1, right, bottom]
