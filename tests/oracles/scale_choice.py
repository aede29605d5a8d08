"""The truth about the choice of scale: spm_expected_scale.m, one window at a time."""

import math
from collections.abc import Sequence


def choose_scale(
    box: Sequence[float], image_size_hw: tuple[int, int], short_sides: Sequence[int], side: float
) -> int:
    """Place in ``short_sides`` that is closest to round(side * shortest / sqrt(area))."""
    x1, y1, x2, y2 = box
    wanted = math.floor(side * min(image_size_hw) / math.sqrt((x2 - x1) * (y2 - y1)) + 0.5)
    best = 0
    for place, short_side in enumerate(short_sides):
        distance, least = abs(short_side - wanted), abs(short_sides[best] - wanted)
        if distance < least or (distance == least and short_side < short_sides[best]):
            best = place
    return best
