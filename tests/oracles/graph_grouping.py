"""The truth about windows from graphs: segmentation and grouping, one edge and one pair at a time.

Colours are whole arrays of float32 with the kernel's formulas; everything after them is loops.
"""

import functools
from collections.abc import Sequence

import numpy as np

Edge = tuple[int, int, int]  # length, one node, other node
F = np.float32
GAUSSIAN = [0.49867460, 0.22830987, 0.02191023, 0.00044074, 0.00000186]


def to_planes(pixels: np.ndarray, space: str) -> np.ndarray:
    """(3, H, W) float32 of a colour space, from bytes; see the kernel for the ranges."""
    if space == "rgb":
        return pixels.astype(F)
    return _to_hsv(pixels.astype(F)) if space == "hsv" else _to_lab(pixels)


def _to_hsv(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = rgb
    most, span = rgb.max(0), rgb.max(0) - rgb.min(0)
    slope = np.divide(F(30), span, out=np.zeros_like(span), where=span > 0)
    hue = np.where(most == green, 60 + slope * (blue - red), 120 + slope * (red - green))
    hue = np.where(most == red, slope * (green - blue), hue)
    saturation = np.divide(255 * span, most, out=np.zeros_like(span), where=most > 0)
    return np.stack([np.where(hue < 0, hue + 180, hue), saturation, most]).astype(F)


def _to_lab(pixels: np.ndarray) -> np.ndarray:
    light = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in _unit_levels()]
    red, green, blue = np.array(light, F)[pixels]
    x = _root((F(0.412453) * red + F(0.357580) * green + F(0.180423) * blue) / F(0.950456))
    y = _root(F(0.212671) * red + F(0.715160) * green + F(0.072169) * blue)
    z = _root((F(0.019334) * red + F(0.119193) * green + F(0.950227) * blue) / F(1.088754))
    return np.stack([F(2.55) * (116 * y - 16), 500 * (x - y) + 128, 200 * (y - z) + 128])


def _unit_levels() -> list[float]:
    return [i / 255 for i in range(256)]


def _root(t: np.ndarray) -> np.ndarray:
    """Cube root by two steps of Halley's from a guess by the exponent; a line near 0."""
    y = (t.view(np.int32) // 3 + 709921077).view(F)
    for _ in range(2):
        cube = y * y * y
        y = y * ((cube + 2 * t) / (2 * cube + t))
    return np.where(t > F(0.008856), y, F(7.787) * t + F(16 / 116))


def smooth(plane: np.ndarray) -> np.ndarray:
    """Blur (H, W) along rows, then along columns; the border repeats."""
    for axis in (1, 0):
        side, count = [(0, 0), (0, 0)], plane.shape[axis]
        side[axis] = (4, 4)
        padded = np.pad(plane, side, mode="edge")
        part = [padded.take(range(j, j + count), axis) for j in range(9)]
        total = F(GAUSSIAN[0]) * part[4]
        for j in range(1, 5):
            total = total + F(GAUSSIAN[j]) * (part[4 - j] + part[4 + j])
        plane = total
    return plane


def pixel_edges(planes: np.ndarray) -> list[Edge]:
    """Edges between the eight neighbours of every pixel, sorted by length, pixel, direction."""
    _, height, width = planes.shape
    edges = []
    for y in range(height):
        for x in range(width):
            for right, down in ((1, 0), (0, 1), (1, 1), (1, -1)):
                if x + right < width and 0 <= y + down < height:
                    a, b, c = planes[:, y, x] - planes[:, y + down, x + right]
                    length = int(F(32) * np.sqrt(a * a + b * b + c * c))
                    edges.append((length, y * width + x, (y + down) * width + x + right))
    return sorted(edges, key=lambda edge: edge[0])  # stable


def segment(
    sizes: Sequence[int], longest: Sequence[int], edges: Sequence[Edge], k: float
) -> tuple[list[int], list[int]]:
    """Felzenszwalb and Huttenlocher's rule, then small ones join; labels, longest inner edges."""
    owner, sizes, longest = list(range(len(sizes))), list(sizes), list(longest)

    def join(a: int, b: int, length: int) -> None:
        sizes[a], longest[a] = sizes[a] + sizes[b], length
        owner[:] = [a if each == b else each for each in owner]

    def bound(tree: int) -> np.float32:
        return F(longest[tree]) + F(k * 32) / F(sizes[tree])

    for length, one, other in edges:
        a, b = owner[one], owner[other]
        if a != b and length <= bound(a) and length <= bound(b):
            join(a, b, length)
    for _, one, other in edges:
        a, b = owner[one], owner[other]
        if a != b and min(sizes[a], sizes[b]) < int(k):
            join(a, b, longest[b] if sizes[b] > sizes[a] else longest[a])
    trees = list(dict.fromkeys(owner))
    return [trees.index(each) for each in owner], [longest[tree] for tree in trees]


def first_borders(edges: Sequence[Edge], labels: Sequence[int]) -> list[Edge]:
    """The first edge between any two segments, by the segments' numbers."""
    found: dict[tuple[int, int], int] = {}
    for length, one, other in edges:
        pair = tuple(sorted((labels[one], labels[other])))
        if pair[0] != pair[1]:
            found.setdefault(pair, length)
    return [(length, *pair) for pair, length in found.items()]


def pixel_bins(planes: np.ndarray) -> list[list[int]]:
    """Of every pixel, the fifteen bins it is counted in: three colours, twelve gradients."""
    _, height, width = planes.shape
    bins: list[list[int]] = [[] for _ in range(height * width)]
    for channel, plane in enumerate(planes):
        padded = np.pad(plane, 1, mode="edge")
        across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
        scale = F(6) / max(abs(across).max(), abs(down).max(), F(1e-3))
        half = F(0.70710678) * scale
        for i in range(height * width):
            y, x = divmod(i, width)
            right, under = across[y, x], down[y, x]
            bins[i].append(channel * 32 + _clamp(plane[y, x] * F(0.125), 31))
            turned = (scale * right, scale * under, half * (right + under), half * (under - right))
            for direction, value in enumerate(turned):
                first = 96 + (channel * 4 + direction) * 13
                bins[i].append(first + _clamp(value + F(6.5), 12))
    return bins


def _clamp(value: np.float32, most: int) -> int:
    return min(max(int(value), 0), most)


def group(
    boxes: list[list[int]],
    counts: list[np.ndarray],
    borders: Sequence[Edge],
    pixels: int,
    *,
    by_colour: bool,
) -> list[list[int]]:
    """Boxes of all regions, in the order in which they are made."""
    boxes, counts, alive = list(boxes), list(counts), set(range(len(boxes)))
    neighbours = {tuple(sorted(edge[1:])) for edge in borders}

    def enclosing(a: int, b: int) -> list[int]:
        low, high = np.minimum(boxes[a], boxes[b]), np.maximum(boxes[a], boxes[b])
        return [int(v) for v in (*low[:2], *high[2:])]

    @functools.cache
    def shares(node: int) -> np.ndarray:
        size = counts[node][:32].sum()
        scales = np.repeat([F(65535) / F(3 * size), F(65535) / F(12 * size)], [96, 156])
        return np.trunc(counts[node].astype(F) * scales.astype(F)).astype(int)

    @functools.cache
    def likeness(pair: tuple[int, int]) -> int:
        common = np.minimum(shares(pair[0]), shares(pair[1]))
        x0, y0, x1, y1 = enclosing(*pair)
        closeness = 2 * 65535 - 65535 * ((x1 - x0) * (y1 - y0)) // pixels
        return closeness + int(common[96:].sum()) + (int(common[:96].sum()) if by_colour else 0)

    while neighbours:
        a, b = min(neighbours, key=lambda pair: (-likeness(pair), pair))
        joined = len(boxes)
        boxes.append(enclosing(a, b))
        counts.append(counts[a] + counts[b])
        alive = alive - {a, b} | {joined}
        moved = {tuple(joined if n in (a, b) else n for n in pair) for pair in neighbours}
        neighbours = {tuple(sorted(pair)) for pair in moved if pair[0] != pair[1]}
    return boxes


def graph_rows(pixels: np.ndarray, spaces: Sequence[str], ks: Sequence[float]) -> list[list[int]]:
    """Rows x0, y0, x1, y1, run, place, in the kernel's order."""
    rows: list[list[int]] = []
    _, height, width = pixels.shape
    for space in spaces:
        planes = np.stack([smooth(plane) for plane in to_planes(pixels, space)])
        edges, bins = pixel_edges(planes), pixel_bins(planes)
        labels, longest = segment([1] * height * width, [0] * height * width, edges, ks[0])
        sizes, borders = np.bincount(labels).tolist(), first_borders(edges, labels)
        for number, k in enumerate(ks):
            joined = segment(sizes, longest, borders, k)[0] if number else range(len(sizes))
            region = [joined[label] for label in labels]
            boxes, counts = _measure(region, bins, width)
            touching = first_borders(borders, joined)
            for by_colour in (True, False):
                found = group(boxes, counts, touching, height * width, by_colour=by_colour)
                run = rows[-1][4] + 1 if rows else 0
                rows += [[*box, run, len(found) - 1 - i] for i, box in enumerate(found)]
    return rows


def _measure(
    region: Sequence[int], bins: list[list[int]], width: int
) -> tuple[list[list[int]], list[np.ndarray]]:
    """Box and counts of every region."""
    boxes, counts = [], []
    for each in range(max(region) + 1):
        inside = [i for i in range(len(region)) if region[i] == each]
        x, y = [i % width for i in inside], [i // width for i in inside]
        boxes.append([min(x), min(y), max(x) + 1, max(y) + 1])
        found = [b for i in inside for b in bins[i]]
        counts.append(np.bincount(found, minlength=96 + 156))
    return boxes, counts
