"""Textured backgrounds of drawn scenes, and clutter: shapes that are none of the things."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from sppnet.images.drawn_colours import darker, lighter, muted, paint
from sppnet.images.drawn_things import OVERSAMPLING, shrink_tile


def draw_background(size_hw: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw a background with one of seven textures, uneven light and some grain.

    Args:
        size_hw: (height, width).
        rng: Decides texture and colours.

    Returns:
        RGB image.
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](size_hw, rng)
    first = np.asarray(muted(rng), np.float32)
    second = first * rng.uniform(0.72, 0.9) if rng.random() < 0.6 else np.asarray(muted(rng))
    colours = first + (second - first) * pattern[..., None]
    light = 0.86 + 0.28 * _clouds(size_hw, rng, 2)
    grain = rng.normal(0, rng.uniform(1.5, 5.0), size_hw)
    pixels = colours * light[..., None] + grain[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_clutter(extent: float, rng: np.random.Generator) -> Image.Image:
    """Draw a shape that is none of the things but has parts in common with them.

    Args:
        extent: Length of its longer side before rotation, in pixels.
        rng: Decides shape, colours and rotation.

    Returns:
        RGBA image, cropped to what is visible.
    """
    width = max(8, round(extent * OVERSAMPLING))
    height = max(8, round(width * rng.uniform(0.35, 1.0)))
    tile = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    _CLUTTER[rng.integers(len(_CLUTTER))](ImageDraw.Draw(tile), width - 1, height - 1, rng)
    return shrink_tile(tile, rng.uniform(-180, 180))


def _clouds(size_hw: tuple[int, int], rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise 0..1 with about this many waves along the longer side."""
    height, width = size_hw
    unit = max(size_hw) / cells
    shape = max(2, math.ceil(height / unit) + 1), max(2, math.ceil(width / unit) + 1)
    coarse = Image.fromarray((rng.random(shape) * 255).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return smooth / 255


def _layered_clouds(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Clouds of three sizes."""
    return sum(
        (share * _clouds(size_hw, rng, cells) for share, cells in ((0.5, 3), (0.3, 8), (0.2, 24))),
        start=np.zeros(size_hw, np.float32),
    )


def _along(size_hw: tuple[int, int], angle: float) -> np.ndarray:
    """Distance in pixels along a direction."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    return columns * math.cos(angle) + rows * math.sin(angle)


def _wave(distance: np.ndarray, period: float, sharpness: float) -> np.ndarray:
    """Stripes 0..1 with soft edges."""
    return 0.5 + 0.5 * np.tanh(sharpness * np.sin(distance * (2 * math.pi / period)))


def _stripes(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Stripes in any direction."""
    return _wave(_along(size_hw, rng.uniform(0, math.pi)), rng.uniform(14, 48), 3.0) * 0.7


def _checks(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A chequered cloth."""
    angle, period = rng.uniform(-0.4, 0.4), rng.uniform(22, 54)
    one = _wave(_along(size_hw, angle), period, 4.0)
    other = _wave(_along(size_hw, angle + math.pi / 2), period, 4.0)
    return 0.45 * (one + other)


def _wood(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Grain of a board."""
    bent = _along(size_hw, rng.uniform(-0.15, 0.15) + math.pi / 2)
    bent = bent + 26 * _clouds(size_hw, rng, 3)
    return 0.6 * _wave(bent, rng.uniform(9, 16), 1.0) + 0.4 * _clouds(size_hw, rng, 5)


def _dots(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Dots on wallpaper."""
    angle, period = rng.uniform(0, math.pi / 2), rng.uniform(18, 40)
    turn = 2 * math.pi / period
    product = np.sin(_along(size_hw, angle) * turn) * np.sin(
        _along(size_hw, angle + math.pi / 2) * turn
    )
    return 0.5 + 0.5 * np.tanh(6 * (product - rng.uniform(0.35, 0.6)))


def _grass(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Fine noise, drawn out downwards."""
    height, width = size_hw
    blades = Image.fromarray((rng.random((height // 7 + 2, width)) * 255).astype(np.uint8))
    long = np.asarray(blades.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    return 0.6 * long + 0.4 * _clouds(size_hw, rng, 6)


def _horizon(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Sky over ground, a little uneven."""
    height, width = size_hw
    hills = rng.uniform(0.4, 0.75) * height + 22 * _clouds((1, width), rng, 3)
    edge = np.tanh((np.arange(height)[:, None] - hills) / 2)
    return 0.5 + 0.4 * edge + 0.1 * _clouds(size_hw, rng, 9)


def _disc(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A plain disc: a ball without its meridians."""
    colour = paint(rng)
    draw.ellipse(
        (0, 0, w, h), fill=colour, outline=darker(colour, 0.6), width=max(2, round(w / 50))
    )


def _block(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A striped block: walls without a roof."""
    colour = paint(rng, light=rng.random() < 0.5)
    draw.rounded_rectangle((0, 0, w, h), radius=h / 8, fill=colour)
    for share in (0.25, 0.5, 0.75):
        ends = [(share * w, 0), (share * w, h)]
        draw.line(ends, fill=darker(colour, 0.75), width=max(2, round(w / 30)))


def _triangle(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A plain triangle: a roof or a tier of a tree."""
    draw.polygon([(0, h), (w * rng.uniform(0.2, 0.8), 0), (w, h)], fill=paint(rng))


def _hexagon(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """Six facets without points: a star that is none."""
    colour = paint(rng)
    corners = [
        (w * (0.5 + 0.5 * math.cos(k * math.pi / 3)), h * (0.5 + 0.5 * math.sin(k * math.pi / 3)))
        for k in range(6)
    ]
    for k in range(6):
        tone = lighter(colour, 0.3) if k % 2 else darker(colour, 0.72)
        draw.polygon([(w / 2, h / 2), corners[k], corners[(k + 1) % 6]], fill=tone)


def _crescent(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A piece of a ring."""
    start = rng.uniform(0, 360)
    reach, width = start + rng.uniform(120, 230), max(4, round(h / 5))
    draw.arc((0, 0, w, h), start, reach, fill=paint(rng), width=width)


def _leaf(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A body without tail and eye."""
    colour = paint(rng)
    draw.ellipse((0, h / 4, w, 3 * h / 4), fill=colour)
    draw.line([(0, h / 2), (w, h / 2)], fill=darker(colour, 0.65), width=max(2, round(w / 40)))


_PATTERNS: tuple[Callable[[tuple[int, int], np.random.Generator], np.ndarray], ...] = (
    _layered_clouds,
    _stripes,
    _checks,
    _wood,
    _dots,
    _grass,
    _horizon,
)
_CLUTTER = (_disc, _block, _triangle, _hexagon, _crescent, _leaf)
