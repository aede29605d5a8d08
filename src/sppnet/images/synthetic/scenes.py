"""A small data set that is drawn, not downloaded: scenes for detection, or class folders.

Six kinds of objects, clutter that shares their colours and parts, textured backgrounds, overlap,
scales from 0.15 to 0.6 of the image, landscape, portrait and panorama.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image, ImageFilter

from sppnet.errors import OutputError
from sppnet.images.synthetic.shapes import OBJECT_NAMES, draw_background, draw_clutter, draw_object
from sppnet.progress import Track, no_tracking, work_ahead

Item = TypeVar("Item")

_DEFAULT_SPLITS = {"train": 0.7, "test": 0.3}
# Largest share of an object that others may cover.
_MOST_COVERED = 0.4
# Every so-manyth scene holds clutter alone.
_EMPTY_SCENE_EVERY = 25
# Ranges of (height, width): landscape, portrait, square, panorama.
_SHAPES = (
    ((160, 300), (260, 420)),
    ((260, 420), (160, 300)),
    ((200, 340), (200, 340)),
    ((160, 190), (380, 420)),
)
_SHAPE_SHARES = (0.4, 0.3, 0.2, 0.1)


def draw_detection_set(
    folder: str | Path,
    count: int = 120,
    seed: int = 0,
    splits: Mapping[str, float] | None = None,
    *,
    track: Track = no_tracking,
) -> Path:
    """Draw a detection set in Pascal VOC layout.

    Every scene depends on the seed and its number alone. One scene in 25 has no object on it.

    Args:
        folder: Written into; created if missing.
        count: Number of scenes, at least one per split.
        seed: Another seed, other scenes.
        splits: Share of the scenes for each split, adding up to 1; train 0.7, test 0.3 if left out.
        track: Shows progress.

    Returns:
        The folder, which ``read_voc`` reads.

    Raises:
        ValueError: If there are fewer scenes than splits or the shares do not add up to 1.
        OutputError: If the folder cannot be written.
    """
    splits = dict(splits or _DEFAULT_SPLITS)
    sizes = _split_sizes(count, splits)
    folder = Path(folder)
    try:
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        stems = [f"scene_{number:04d}" for number in range(count)]
        numbered = enumerate(track(stems, "drawing scenes", total=count))
        _draw_each(numbered, lambda each: _write_scene(folder, each[1], each[0], seed))
        _write_splits(folder, stems, sizes)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=folder) from None
    return folder


def draw_class_folders(
    folder: str | Path,
    per_class: int = 30,
    seed: int = 0,
    *,
    track: Track = no_tracking,
) -> Path:
    """Draw images with one object each, a folder per class.

    Args:
        folder: Written into; created if missing.
        per_class: Images of each class, at least 1.
        seed: Another seed, other images.
        track: Shows progress.

    Returns:
        The folder, which ``read_class_folders`` reads; ``split_per_class`` makes the splits.

    Raises:
        ValueError: If ``per_class`` is below 1.
        OutputError: If the folder cannot be written.
    """
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    folder = Path(folder)
    wanted = [(name, number) for name in OBJECT_NAMES for number in range(per_class)]
    try:
        for name in OBJECT_NAMES:
            (folder / name).mkdir(parents=True, exist_ok=True)
        tracked = track(wanted, "drawing images", total=len(wanted))
        _draw_each(tracked, lambda each: _write_portrait(folder, *each, seed))
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=folder) from None
    return folder


def _draw_each(items: Iterable[Item], draw: Callable[[Item], None]) -> None:
    """Draw, as many at a time as torch has threads: each depends on its own number alone."""
    for _, drawn in work_ahead(items, draw, torch.get_num_threads()):
        drawn.result()


class SceneObject(NamedTuple):
    """An object in a scene; box in pixels, half-open."""

    name: str
    x1: int
    y1: int
    x2: int
    y2: int


def draw_scene(
    rng: np.random.Generator, names: Sequence[str], clutter: int
) -> tuple[Image.Image, list[SceneObject]]:
    """Draw one scene.

    Args:
        rng: Decides everything else.
        names: The objects to place; one that finds no room is left out.
        clutter: Number of shapes that are none of the objects, behind them.

    Returns:
        RGB image and the objects on it, with boxes around their whole outline, covered or not.
    """
    shape = _SHAPES[rng.choice(len(_SHAPES), p=_SHAPE_SHARES)]
    height, width = (int(rng.integers(low, high + 1)) for low, high in shape)
    scene = draw_background((height, width), rng)
    for _ in range(clutter):
        tile = draw_clutter(_extent(rng, height, width, 0.08, 0.3), rng)
        x, y = rng.integers(-20, width - 10), rng.integers(-20, height - 10)
        _paste(scene, tile, int(x), int(y))
    return scene, _place_objects(scene, names, rng, (0.15, 0.6))


def _place_objects(
    scene: Image.Image,
    names: Sequence[str],
    rng: np.random.Generator,
    shares: tuple[float, float],
) -> list[SceneObject]:
    """Place objects one over the other, none covered too much."""
    drawn: list[SceneObject] = []
    visible: list[np.ndarray] = []
    least: list[float] = []
    for name in names:
        tile = draw_object(name, _extent(rng, scene.height, scene.width, *shares), rng)
        for _ in range(20):
            x = int(rng.integers(0, max(1, scene.width - tile.width)))
            y = int(rng.integers(0, max(1, scene.height - tile.height)))
            outline = _outline(scene, tile, x, y)
            left = [old & ~outline for old in visible]
            if all(rest.sum() >= area for rest, area in zip(left, least, strict=True)):
                _paste(scene, tile, x, y)
                drawn.append(_box_of(name, outline))
                visible = [*left, outline]
                least.append((1 - _MOST_COVERED) * outline.sum())
                break
    return drawn


def _extent(
    rng: np.random.Generator, height: int, width: int, smallest: float, largest: float
) -> float:
    """Length of an object: a share of the image, evenly spread in log scale."""
    share = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    return min(share * (height * width) ** 0.5, 0.85 * min(height, width))


def _outline(scene: Image.Image, tile: Image.Image, x: int, y: int) -> np.ndarray:
    """Which pixels of the scene a tile would cover."""
    mask = np.zeros((scene.height, scene.width), dtype=bool)
    alpha = np.asarray(tile.getchannel("A")) > 127
    part = mask[y : y + tile.height, x : x + tile.width]
    part |= alpha[: part.shape[0], : part.shape[1]]
    return mask


def _box_of(name: str, outline: np.ndarray) -> SceneObject:
    """Half-open box around an outline."""
    rows, columns = np.flatnonzero(outline.any(1)), np.flatnonzero(outline.any(0))
    x1, x2, y1, y2 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    return SceneObject(name, int(x1), int(y1), int(x2), int(y2))


def _paste(scene: Image.Image, tile: Image.Image, x: int, y: int) -> None:
    """Lay a tile over the scene, with a soft shadow below it."""
    reach = max(2, max(tile.size) // 30)
    alpha = Image.new("L", (tile.width + 4 * reach, tile.height + 4 * reach), 0)
    alpha.paste(tile.getchannel("A").point(lambda value: value * 0.38), (2 * reach, 2 * reach))
    alpha = alpha.filter(ImageFilter.BoxBlur(reach))
    scene.paste((20, 20, 30), (x - reach, y - reach), alpha)
    scene.paste(tile, (x, y), tile)


def _draw_portrait(rng: np.random.Generator, name: str) -> Image.Image:
    """An image of one object, larger than in a scene, over some clutter."""
    scene, _ = draw_scene(rng, (), int(rng.integers(1, 4)))
    _place_objects(scene, (name,), rng, (0.35, 0.75))
    return scene


def _write_scene(folder: Path, stem: str, number: int, seed: int) -> None:
    """Draw and write one scene with its annotation."""
    rng = np.random.default_rng((seed, 0, number))
    is_empty = number % _EMPTY_SCENE_EVERY == _EMPTY_SCENE_EVERY - 1
    count = 0 if is_empty else int(rng.choice((1, 2, 3, 4), p=(0.25, 0.35, 0.25, 0.15)))
    names = [OBJECT_NAMES[rng.integers(len(OBJECT_NAMES))] for _ in range(count)]
    scene, drawn = draw_scene(rng, names, int(rng.integers(2, 6)))
    _save(scene, folder / "JPEGImages" / f"{stem}.jpg")
    text = _annotation(stem, scene.size, drawn)
    (folder / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")


def _write_portrait(folder: Path, name: str, number: int, seed: int) -> None:
    """Draw and write one image of a class."""
    rng = np.random.default_rng((seed, 1, OBJECT_NAMES.index(name), number))
    _save(_draw_portrait(rng, name), folder / name / f"{name}_{number:04d}.jpg")


def _save(scene: Image.Image, path: Path) -> None:
    """Write as JPEG without chroma subsampling, which keeps the edges of colour."""
    scene.save(path, "JPEG", quality=92, subsampling=0)


def _annotation(stem: str, size_wh: tuple[int, int], drawn: Sequence[SceneObject]) -> str:
    """Pascal VOC's XML; its corners count from 1 and include the last pixel."""
    width, height = size_wh
    lines = [
        "<annotation>",
        f"  <filename>{escape(stem)}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for each in drawn:
        corners = (each.x1 + 1, each.y1 + 1, each.x2, each.y2)
        tags = ("xmin", "ymin", "xmax", "ymax")
        inside = "".join(f"<{tag}>{at}</{tag}>" for tag, at in zip(tags, corners, strict=True))
        lines += [
            f"  <object><name>{escape(each.name)}</name><difficult>0</difficult>",
            f"    <bndbox>{inside}</bndbox></object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _split_sizes(count: int, splits: Mapping[str, float]) -> dict[str, int]:
    """Scenes per split: shares rounded, at least one each; the last split takes the rest."""
    if count < len(splits):
        raise ValueError(f"count must be at least one per split, got {count} for {len(splits)}")
    if abs(sum(splits.values()) - 1) > 1e-6 or min(splits.values()) <= 0:
        raise ValueError(f"splits must be above 0 and add up to 1, got {dict(splits)}")
    sizes: dict[str, int] = {}
    rest = count
    for place, (name, share) in enumerate(splits.items()):
        others = len(splits) - place - 1
        sizes[name] = rest if others == 0 else max(1, min(round(count * share), rest - others))
        rest -= sizes[name]
    return sizes


def _write_splits(folder: Path, stems: Sequence[str], sizes: Mapping[str, int]) -> None:
    """Write a list per split; scenes are independent, so their order serves as the draw."""
    start = 0
    for name, size in sizes.items():
        text = "".join(f"{stem}\n" for stem in stems[start : start + size])
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text, encoding="utf-8")
        start += size
