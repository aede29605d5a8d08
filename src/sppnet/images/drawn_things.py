"""The six kinds of things in drawn scenes; shape and texture tell them apart, colour never does."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from sppnet.images.drawn_colours import Colour, darker, lighter, paint

# Drawn this many times larger and shrunk, which smooths the edges.
OVERSAMPLING = 3
_Drawer = Callable[[ImageDraw.ImageDraw, float, float, np.random.Generator], None]


def draw_thing(name: str, extent: float, rng: np.random.Generator) -> Image.Image:
    """Draw one thing on a transparent tile that fits it.

    Args:
        name: One of ``THING_NAMES``.
        extent: Length of its longer side before rotation, in pixels.
        rng: Decides colours, aspect and rotation.

    Returns:
        RGBA image, cropped to what is visible.

    Raises:
        ValueError: If there is no such thing.
    """
    if name not in _THINGS:
        raise ValueError(f"name must be one of {', '.join(THING_NAMES)}, got {name!r}")
    drawer, aspects, turn, may_flip = _THINGS[name]
    aspect = float(np.exp(rng.uniform(*np.log(aspects))))
    width = extent * min(1.0, aspect) * OVERSAMPLING
    height = extent * min(1.0, 1 / aspect) * OVERSAMPLING
    tile = Image.new("RGBA", (max(8, round(width)), max(8, round(height))), (0, 0, 0, 0))
    drawer(ImageDraw.Draw(tile), tile.width - 1, tile.height - 1, rng)
    if may_flip and rng.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return shrink_tile(tile, rng.uniform(-turn, turn))


def shrink_tile(tile: Image.Image, degrees: float) -> Image.Image:
    """Rotate an oversampled tile, bring it to its final size, shade it and crop it.

    Args:
        tile: RGBA, ``OVERSAMPLING`` times too large.
        degrees: Counter-clockwise.

    Returns:
        RGBA, lit from the upper left, cropped to what is visible.
    """
    turned = tile.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    small = _shade(turned.reduce(OVERSAMPLING))
    box = small.getchannel("A").point(lambda alpha: 255 if alpha > 40 else 0).getbbox()
    return small.crop(box) if box else small


def _shade(tile: Image.Image) -> Image.Image:
    """Light from the upper left, which gives flat shapes some body."""
    pixels = np.asarray(tile).astype(np.float32)
    rows = np.linspace(-1, 1, pixels.shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, pixels.shape[1], dtype=np.float32)[None, :]
    light = 1.0 - 0.13 * (0.8 * rows + 0.6 * columns)
    pixels[..., :3] = (pixels[..., :3] * light[..., None]).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _ball(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A beach ball: meridians of alternating colour, and a cap."""
    first, second = paint(rng), paint(rng, light=rng.random() < 0.7)
    for step, share in enumerate((1.0, 0.78, 0.5, 0.19)):
        half = share * w / 2
        colour = second if step % 2 else first
        draw.ellipse((w / 2 - half, 0, w / 2 + half, h), fill=colour)
    draw.ellipse((0.43 * w, 0.0, 0.57 * w, 0.09 * h), fill=lighter(first, 0.5))
    draw.ellipse((0, 0, w, h), outline=darker(first, 0.55), width=max(2, round(w / 60)))


def _star(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A five-pointed star with ten facets, light and dark in turn."""
    colour = paint(rng)
    tones = (lighter(colour, 0.3), darker(colour, 0.72))
    inner = rng.uniform(0.4, 0.5)
    points = []
    for step in range(10):
        radius = 1.0 if step % 2 == 0 else inner
        angle = math.pi * (step / 5 - 0.5)
        points.append(
            _at(w, h, 0.5 + 0.5 * radius * math.cos(angle), 0.52 + 0.52 * radius * math.sin(angle))
        )
    centre = _at(w, h, 0.5, 0.52)
    for step in range(10):
        draw.polygon([centre, points[step], points[(step + 1) % 10]], fill=tones[step % 2])


def _house(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """Walls of brick under a roof, with a door, windows and a chimney."""
    wall, roof = paint(rng, light=True), paint(rng)
    eaves = rng.uniform(0.36, 0.46)
    draw.rectangle(_box(w, h, 0.68, 0.06, 0.79, eaves), fill=darker(wall, 0.6))
    draw.rectangle(_box(w, h, 0.08, eaves, 0.92, 1.0), fill=wall)
    _bricks(draw, _box(w, h, 0.08, eaves, 0.92, 1.0), darker(wall, 0.8))
    draw.polygon([_at(w, h, 0.0, eaves), _at(w, h, 0.5, 0.0), _at(w, h, 1.0, eaves)], fill=roof)
    for share in (0.35, 0.68):
        ends = (
            _at(w, h, 0.5 * (1 - share), eaves * share),
            _at(w, h, 0.5 * (1 + share), eaves * share),
        )
        draw.line(ends, fill=darker(roof, 0.75), width=max(2, round(h / 60)))
    draw.rectangle(_box(w, h, 0.42, 0.7, 0.6, 1.0), fill=darker(roof, 0.6))
    for left in (0.16, 0.68):
        draw.rectangle(_box(w, h, left - 0.02, 0.53, left + 0.18, 0.73), fill=(245, 245, 240))
        draw.rectangle(_box(w, h, left, 0.55, left + 0.16, 0.71), fill=(105, 150, 185))


def _bricks(draw: ImageDraw.ImageDraw, box: list[float], colour: Colour) -> None:
    """Joints of a brick wall."""
    left, top, right, bottom = box
    step = max(6.0, (bottom - top) / 7)
    width = max(1, round(step / 9))
    for row in range(1, 8):
        y = top + row * step
        if y < bottom:
            draw.line([(left, y), (right, y)], fill=colour, width=width)
        x = left + step * (1.0 if row % 2 else 2.0)
        while x < right:
            draw.line([(x, y - step), (x, min(y, bottom))], fill=colour, width=width)
            x += 2 * step


def _fish(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A body with scales, a tail, fins and an eye."""
    body, fins = paint(rng), paint(rng)
    draw.polygon(
        [_at(w, h, x, y) for x, y in ((0.68, 0.5), (1, 0.1), (0.92, 0.5), (1, 0.9))], fill=fins
    )
    draw.polygon([_at(w, h, x, y) for x, y in ((0.28, 0.3), (0.5, 0.0), (0.62, 0.3))], fill=fins)
    draw.polygon([_at(w, h, x, y) for x, y in ((0.4, 0.75), (0.55, 1.0), (0.6, 0.7))], fill=fins)
    draw.ellipse(_box(w, h, 0.0, 0.14, 0.8, 0.86), fill=body)
    scale, line = darker(body, 0.7), max(2, round(h / 45))
    for column in range(5):
        reach = (0.19, 0.24, 0.24, 0.2, 0.13)[column]
        x = 0.26 + 0.1 * column
        for y in np.arange(0.5 - reach, 0.5 + reach - 0.06, 0.125):
            draw.arc(_box(w, h, x - 0.05, y, x + 0.07, y + 0.13), -80, 80, fill=scale, width=line)
    draw.arc(_box(w, h, 0.0, 0.22, 0.24, 0.78), -60, 60, fill=scale, width=line)
    draw.ellipse(_ring_box(w, h, 0.13, 0.4, 0.11 * h), fill=(250, 250, 250))
    draw.ellipse(_ring_box(w, h, 0.12, 0.41, 0.055 * h), fill=(25, 25, 30))


def _tree(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A fir: a trunk and overlapping tiers of branches with a jagged hem."""
    colour, trunk = paint(rng), paint(rng)
    draw.rectangle(_box(w, h, 0.41, 0.8, 0.59, 1.0), fill=darker(trunk, 0.5))
    for tier, (top, bottom, half) in enumerate(
        ((0.42, 0.86, 0.5), (0.2, 0.62, 0.4), (0, 0.38, 0.28))
    ):
        hem = [
            _at(w, h, 0.5 + half * (1 - 2 * step / 8), bottom - (0.05 if step % 2 else 0.0))
            for step in range(9)
        ]
        tone = lighter(colour, 0.12 * tier)
        draw.polygon([_at(w, h, 0.5, top), *hem], fill=tone)
        shadow = [_at(w, h, 0.5, top), _at(w, h, 0.5, bottom), *hem[:4]]
        draw.polygon(shadow, fill=darker(tone, 0.85))


def _donut(draw: ImageDraw.ImageDraw, w: float, h: float, rng: np.random.Generator) -> None:
    """A ring with icing and sprinkles; the hole shows what is behind."""
    dough, icing = darker(paint(rng, light=True), 0.8), paint(rng, light=rng.random() < 0.5)
    draw.ellipse((0, 0, w, h), fill=dough)
    wave = [
        _at(w, h, 0.5 + r * math.cos(a), 0.5 + r * math.sin(a))
        for a, r in (
            (k * math.pi / 36, 0.44 + 0.018 * math.sin(k * math.pi / 4)) for k in range(72)
        )
    ]
    draw.polygon(wave, fill=icing)
    for angle in np.arange(0, 2 * math.pi, math.pi / 9) + rng.uniform(0, 0.3):
        radius, lean = rng.uniform(0.26, 0.39), rng.uniform(0, math.pi)
        x, y = 0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)
        dx, dy = 0.026 * math.cos(lean), 0.026 * math.sin(lean)
        ends = [_at(w, h, x - dx, y - dy), _at(w, h, x + dx, y + dy)]
        draw.line(ends, fill=paint(rng), width=max(2, round(w / 38)))
    draw.ellipse(_box(w, h, 0.31, 0.31, 0.69, 0.69), fill=darker(dough, 0.85))
    draw.ellipse(_box(w, h, 0.345, 0.345, 0.655, 0.655), fill=(0, 0, 0, 0))


def _at(w: float, h: float, x: float, y: float) -> tuple[float, float]:
    """A point given in shares of the tile."""
    return x * w, y * h


def _box(w: float, h: float, x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """A box given in shares of the tile."""
    return [x1 * w, y1 * h, x2 * w, y2 * h]


def _ring_box(w: float, h: float, x: float, y: float, radius: float) -> list[float]:
    """The box of a true circle around a point given in shares of the tile."""
    return [x * w - radius, y * h - radius, x * w + radius, y * h + radius]


# How it is drawn, range of width / height, largest rotation in degrees, whether it may be mirrored.
_THINGS: dict[str, tuple[_Drawer, tuple[float, float], float, bool]] = {
    "ball": (_ball, (1.0, 1.0), 180, False),
    "donut": (_donut, (0.95, 1.35), 25, False),
    "fish": (_fish, (1.5, 2.1), 25, True),
    "house": (_house, (0.8, 1.2), 5, True),
    "star": (_star, (1.0, 1.06), 36, False),
    "tree": (_tree, (0.5, 0.75), 6, True),
}
THING_NAMES = tuple(_THINGS)
