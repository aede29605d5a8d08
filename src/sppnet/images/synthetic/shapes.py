"""What a drawn scene is made of: objects, clutter, backgrounds and their colours.

Objects and clutter are drawn on transparent tiles, in shares of the tile, several times too large;
shrinking smooths their edges. The tables at the end say which kinds there are.
"""

import colorsys
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
# Drawn this many times larger and shrunk, which smooths the edges.
OVERSAMPLING = 3
_Drawer = Callable[[ImageDraw.ImageDraw, float, float, np.random.Generator], None]


def draw_object(name: str, extent: float, rng: np.random.Generator) -> Image.Image:
    """Draw one object on a transparent tile that fits it.

    Args:
        name: One of ``OBJECT_NAMES``.
        extent: Length of its longer side before rotation, in pixels.
        rng: Decides colours, aspect and rotation.

    Returns:
        RGBA image, cropped to what is visible.

    Raises:
        ValueError: If there is no such object.
    """
    if name not in _OBJECTS:
        raise ValueError(f"name must be one of {', '.join(OBJECT_NAMES)}, got {name!r}")
    drawer, aspects, turn, may_flip = _OBJECTS[name]
    aspect = float(np.exp(rng.uniform(*np.log(aspects))))
    width = extent * min(1.0, aspect) * OVERSAMPLING
    height = extent * min(1.0, 1 / aspect) * OVERSAMPLING
    tile = Image.new("RGBA", (max(8, round(width)), max(8, round(height))), (0, 0, 0, 0))
    drawer(ImageDraw.Draw(tile), tile.width - 1, tile.height - 1, rng)
    if may_flip and rng.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return shrink_tile(tile, rng.uniform(-turn, turn))


def draw_clutter(extent: float, rng: np.random.Generator) -> Image.Image:
    """Draw a shape that is none of the objects but has parts in common with them.

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


def _at(w: float, h: float, x: float, y: float) -> tuple[float, float]:
    """A point given in shares of the tile."""
    return x * w, y * h


def _box(w: float, h: float, x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """A box given in shares of the tile."""
    return [x1 * w, y1 * h, x2 * w, y2 * h]


def _ring_box(w: float, h: float, x: float, y: float, radius: float) -> list[float]:
    """The box of a true circle around a point given in shares of the tile."""
    return [x * w - radius, y * h - radius, x * w + radius, y * h + radius]


def _layered_clouds(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Clouds of three sizes."""
    return sum(
        (share * _clouds(size_hw, rng, cells) for share, cells in ((0.5, 3), (0.3, 8), (0.2, 24))),
        start=np.zeros(size_hw, np.float32),
    )


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


def _clouds(size_hw: tuple[int, int], rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise 0..1 with about this many waves along the longer side."""
    height, width = size_hw
    unit = max(size_hw) / cells
    shape = max(2, math.ceil(height / unit) + 1), max(2, math.ceil(width / unit) + 1)
    coarse = Image.fromarray((rng.random(shape) * 255).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return smooth / 255


def _along(size_hw: tuple[int, int], angle: float) -> np.ndarray:
    """Distance in pixels along a direction."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    return columns * math.cos(angle) + rows * math.sin(angle)


def _wave(distance: np.ndarray, period: float, sharpness: float) -> np.ndarray:
    """Stripes 0..1 with soft edges."""
    return 0.5 + 0.5 * np.tanh(sharpness * np.sin(distance * (2 * math.pi / period)))


def paint(rng: np.random.Generator, *, light: bool = False) -> Colour:
    """Draw a full colour for an object, or a pale one.

    Args:
        rng: Decides.
        light: Pale instead of full.

    Returns:
        RGB, 0..255.
    """
    hue = float(rng.random())
    if light:
        return _rgb(hue, rng.uniform(0.08, 0.3), rng.uniform(0.86, 0.97))
    return _rgb(hue, rng.uniform(0.55, 0.85), rng.uniform(0.6, 0.92))


def muted(rng: np.random.Generator) -> Colour:
    """Draw a calm colour for a background.

    Args:
        rng: Decides.

    Returns:
        RGB, 0..255.
    """
    return _rgb(float(rng.random()), rng.uniform(0.08, 0.38), rng.uniform(0.5, 0.92))


def darker(colour: Colour, share: float) -> Colour:
    """Multiply a colour.

    Example:
        >>> darker((100, 200, 50), 0.5)
        (50, 100, 25)
    """
    red, green, blue = (round(value * share) for value in colour)
    return red, green, blue


def lighter(colour: Colour, share: float) -> Colour:
    """Mix a colour with white.

    Example:
        >>> lighter((55, 155, 255), 0.5)
        (155, 205, 255)
    """
    red, green, blue = (round(value + (255 - value) * share) for value in colour)
    return red, green, blue


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    """From HSV, all 0..1."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


# How it is drawn, range of width / height, largest rotation in degrees, whether it may be mirrored.
_OBJECTS: dict[str, tuple[_Drawer, tuple[float, float], float, bool]] = {
    "ball": (_ball, (1.0, 1.0), 180, False),
    "donut": (_donut, (0.95, 1.35), 25, False),
    "fish": (_fish, (1.5, 2.1), 25, True),
    "house": (_house, (0.8, 1.2), 5, True),
    "star": (_star, (1.0, 1.06), 36, False),
    "tree": (_tree, (0.5, 0.75), 6, True),
}
OBJECT_NAMES = tuple(_OBJECTS)
_CLUTTER = (_disc, _block, _triangle, _hexagon, _crescent, _leaf)
_PATTERNS: tuple[Callable[[tuple[int, int], np.random.Generator], np.ndarray], ...] = (
    _layered_clouds,
    _stripes,
    _checks,
    _wood,
    _dots,
    _grass,
    _horizon,
)
