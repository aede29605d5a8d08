"""Axes of charts: scales, ticks, and how numbers are written and how much room text takes."""

import math
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Largest size of the letters in a chart, which a phone shows; a wide screen has 12 pixels.
FONT_SIZE = 13
# Widths of characters in parts of the font size, after a wide font (DejaVu Sans).
NARROW, MEDIUM, BROAD, FULL = 0.4, 0.63, 0.78, 1.05


def text_width(text: str, font_size: float = FONT_SIZE) -> float:
    """Estimate how wide a text is drawn in a common sans-serif font.

    Args:
        text: One line.
        font_size: In pixels.

    Returns:
        Pixels, rather too many than too few.

    Example:
        >>> text_width("ill") < text_width("man") < text_width("\u6f22\u5b57\u6f22")
        True
    """
    return font_size * sum(map(_character_width, text))


def _character_width(character: str) -> float:
    """Width of one character in parts of the font size."""
    if unicodedata.east_asian_width(character) in "WF":
        return FULL
    if character in "iljftrI.,:;'| !()[]-":
        return NARROW
    return BROAD if character.isupper() or character in "mwMW%@" else MEDIUM


def shorten(text: str, room: float, font_size: float = FONT_SIZE) -> str:
    """Cut a text at its end until it fits.

    Args:
        text: One line.
        room: Pixels that it may take.
        font_size: In pixels.

    Returns:
        The text, or its beginning and an ellipsis.

    Example:
        >>> shorten("a long name of a class", 60)
        'a long\u2026'
    """
    if text_width(text, font_size) <= room + 0.5:
        return text
    while text and text_width(text + "\u2026", font_size) > room:
        text = text[:-1]
    return text.rstrip() + "\u2026"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that divide a range into about ``count`` steps.

    Args:
        low: Lower end.
        high: Upper end, at or above ``low``.
        count: Steps wanted.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten, inside the range.

    Example:
        >>> nice_ticks(0, 1)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= rough * 0.999), default=10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside a range; with few of them also 2 and 5 times each.

    Args:
        low: Lower end, above 0.
        high: Upper end.

    Returns:
        Ascending values inside the range.

    Example:
        >>> log_ticks(1, 2000)
        [1.0, 10.0, 100.0, 1000.0]
        >>> log_ticks(1, 10)
        [1.0, 2.0, 5.0, 10.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if high / low > 150 else (1, 2, 5)
    every = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in every if low * 0.999 <= tick <= high * 1.001]


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels along one axis.

    Args:
        low: Value at ``start``.
        high: Value at ``stop``.
        start: Pixel of ``low``.
        stop: Pixel of ``high``; may lie before ``start``, as on a vertical axis.
        log: Whether equal ratios, not equal differences, take equal space.

    Example:
        >>> Scale(0, 1, 10, 110).pixel(0.5)
        60.0
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def pixel(self, value: float) -> float:
        """Position of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = (value - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Values to mark."""
        return log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high)


def number_text(value: float) -> str:
    """Write a number of an axis: no needless zeros, thousands apart.

    Example:
        >>> number_text(0.2), number_text(2000), number_text(float("nan"))
        ('0.2', '2,000', '\u2013')
    """
    if not math.isfinite(value):
        return "\u2013"
    return f"{value:z,.0f}" if abs(value) >= 100 else f"{value:z.3g}"


def score_text(value: float) -> str:
    """Write a share or an average precision with three decimals.

    Example:
        >>> score_text(0.9)
        '0.900'
    """
    return f"{value:z.3f}" if math.isfinite(value) else "\u2013"


def seconds_text(value: float) -> str:
    """Write a measured time, down to milliseconds.

    Example:
        >>> seconds_text(0.0123), seconds_text(7.25), seconds_text(154)
        ('12 ms', '7.2 s', '2 min 34 s')
    """
    if not math.isfinite(value):
        return "\u2013"
    if value < 1:
        return f"{value * 1000:.0f} ms" if value >= 0.0005 or not value else "< 1 ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{value / 3600:.1f} h"


def thin(count: int, limit: int = 240) -> NDArray[np.int64]:
    """Choose at most ``limit`` of ``count`` points, evenly, the first and the last among them.

    Example:
        >>> thin(5, limit=3).tolist()
        [0, 2, 4]
    """
    if not count:
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))
