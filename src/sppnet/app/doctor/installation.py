"""What ``sppnet doctor`` asks of this installation: pooling, boxes, photos and files.

A check returns nothing, or raises `Wrong` with what it found; `checks_of` gives their names. What
they compare with are short loops here, never the code that is checked.
"""

import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sppnet.errors import InputError, UnusableFileError
from sppnet.geometry import nms
from sppnet.images import decode_image, load_image
from sppnet.images.canary import canary_image
from sppnet.pooling import SpatialPyramidPool, pool_regions, spatial_pyramid_pool
from sppnet.pooling.kernels import torch_reference
from sppnet.pooling.onnx.export import draw_regions, export_onnx, pooling_recipe
from sppnet.progress import using_threads
from sppnet.storage import FeatureCache, load_model, save_model

LEVELS = (1, 2, 3, 6)
Check = Callable[..., None]


class Wrong(Exception):  # noqa: N818 (of a model, not of this program)
    """What a check found; its text says it in words."""


def require(is_right: bool, words: str) -> None:
    """Raise what is wrong unless it is right.

    Raises:
        Wrong: With the words.
    """
    if not is_right:
        raise Wrong(words)


def require_error(kind: type[Exception], function: Callable[..., Any], *words: Any) -> None:
    """Raise unless a call is refused with an error of a kind.

    Raises:
        Wrong: If it is taken, or refused otherwise.
    """
    try:
        function(*words)
    except kind:
        return
    except Exception as error:
        raise Wrong(f"refused with {type(error).__name__}, not {kind.__name__}") from error
    raise Wrong("taken, not refused")


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in shape and value, NaN where NaN is."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def draw(*shape: int, dtype: Any = None) -> Tensor:
    """A map with ties, the same in every run."""
    seed = torch.Generator().manual_seed(sum(shape))
    return (torch.randint(-40, 40, shape, generator=seed).double() / 4).to(dtype or torch.float32)


def define(features: Tensor, levels: Sequence[int | tuple[int, int]], mode: str) -> Tensor:
    """Pool (C, H, W) as the paper says: bin i of n is [floor(i/n * H), ceil((i+1)/n * H))."""
    pooled = []
    for level in levels:
        rows, columns = (level, level) if isinstance(level, int) else level
        for channel in features:
            for cells in _split(channel, rows):
                for one in _split(cells.T, columns):
                    exact = one.double()  # an average is rounded once, at the end
                    pooled.append(exact.max() if mode == "max" else exact.mean())
    return torch.stack(pooled).to(features.dtype)


def _split(cells: Tensor, count: int) -> Iterator[Tensor]:
    size = len(cells)
    return (cells[i * size // count : -(-(i + 1) * size // count)] for i in range(count))


def compare_maps(
    maps: Tensor, levels: Sequence[int | tuple[int, int]] = LEVELS, mode: str = "max"
) -> None:
    """Raise if whole maps are not pooled as the definition says."""
    found = spatial_pyramid_pool(maps, levels, mode=mode)
    wanted = torch.stack([define(each, levels, mode) for each in maps])
    require(same(found, wanted), f"another value for maps of {tuple(maps.shape)}, {maps.dtype}")


def check_maps() -> None:
    """Maps of many sizes."""
    for height, width in ((5, 7), (13, 13), (6, 40), (31, 3)):
        compare_maps(draw(2, 3, height, width))


def check_dtypes() -> None:
    """Every floating-point type."""
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        compare_maps(draw(1, 2, 11, 8, dtype=dtype))


def check_strides() -> None:
    """Maps that do not lie one number after the other."""
    maps = draw(2, 4, 9, 12)
    compare_maps(maps.transpose(2, 3))
    compare_maps(maps.to(memory_format=torch.channels_last))
    compare_maps(maps[..., ::2])
    compare_maps(maps[:1].expand(3, 4, 9, 12))


def check_sizes_together() -> None:
    """Maps of several sizes at a time are those alone."""
    maps = [draw(3, 5, 9), draw(3, 17, 4), draw(3, 1, 1)]
    found = spatial_pyramid_pool(maps, LEVELS)
    wanted = torch.stack([spatial_pyramid_pool(each, LEVELS) for each in maps])
    require(same(found, wanted), "another row than alone")


def check_odd_numbers() -> None:
    """NaN and infinities come out of the bins in which they lie, and of no other."""
    maps = draw(1, 2, 9, 9)
    maps[0, 0, 2, 3], maps[0, 1, 8, 8] = float("nan"), float("inf")
    maps[0, 1, 0, :5] = float("-inf")
    compare_maps(maps)


def check_nothing() -> None:
    """No maps, no channels, no regions: empty answers of the right length."""
    shapes = [
        spatial_pyramid_pool(torch.zeros(0, 3, 5, 5), (1, 2)).shape == (0, 15),
        spatial_pyramid_pool(torch.zeros(2, 0, 5, 5), (1, 2)).shape == (2, 0),
        pool_regions(torch.zeros(1, 3, 5, 5), torch.zeros(0, 5).long(), (1, 2)).shape == (0, 15),
    ]
    require(all(shapes), "another shape")
    require_error(ValueError, spatial_pyramid_pool, torch.zeros(1, 3, 0, 5))


def check_gradients() -> None:
    """What goes back to a map is what came in, and the largest cell gets that of every level."""
    order = torch.randperm(280, generator=torch.Generator().manual_seed(0))
    maps = order.double().reshape(2, 2, 7, 10).requires_grad_()  # no ties
    pooled = spatial_pyramid_pool(maps, LEVELS)
    (given,) = torch.autograd.grad(pooled.sum(), maps)
    require(float(given.sum()) == pooled.numel(), "a part got lost")
    largest = maps.detach().flatten(2).argmax(2, keepdim=True)
    at_largest = given.flatten(2).gather(2, largest)
    require(bool((at_largest >= len(LEVELS)).all()), "not at the largest cells")


def check_kernels() -> None:
    """The kernel that is used here and plain torch agree, whole maps and regions."""
    maps = draw(2, 8, 23, 31)
    plain = torch_reference.pool_maps([maps], LEVELS, "max")
    require(same(spatial_pyramid_pool(maps, LEVELS), plain), "whole maps differ")
    rows = draw_regions(2, 23, 31, 200, torch.Generator().manual_seed(0))
    out = torch.empty(200, 8 * sum(n * n for n in LEVELS))
    torch_reference.pool([maps], rows, LEVELS, "max", out)
    require(same(pool_regions(maps, rows, LEVELS), out), "regions differ")


def check_thread_counts() -> None:
    """One thread and all of them give the same bits."""
    maps = draw(8, 64, 30, 30)
    several = spatial_pyramid_pool(maps, LEVELS)
    with using_threads(1):
        require(same(several, spatial_pyramid_pool(maps, LEVELS)), "other bits on one thread")


def check_program() -> None:
    """A program that torch.export wrote gives the same for sizes that it has not seen."""
    pool = SpatialPyramidPool(LEVELS)
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(pool, (draw(2, 3, 9, 11),), dynamic_shapes=(free,)).module()
    for shape in ((1, 3, 9, 11), (3, 3, 20, 6)):
        require(same(program(draw(*shape)), pool(draw(*shape))), f"another value for {shape}")


def check_onnx(regions: bool) -> None:
    """ONNX Runtime gives the same for every size, ties, NaN and infinities too."""
    recipe = pooling_recipe((1, 2, 3), regions=regions)
    _, comparisons = export_onnx(recipe)
    wrong = sum(not each.matches(recipe.tolerance) for each in comparisons)
    require(not wrong, f"{wrong} of {len(comparisons)} cases differ")


def check_regions(mode: str = "max") -> None:
    """Regions are pooled as if they were maps of their own."""
    maps = draw(2, 2, 12, 17)
    rows = [[0, 0, 0, 17, 12], [1, 3, 2, 4, 3], [0, 5, 0, 9, 11], [1, 16, 11, 17, 12]]
    found = pool_regions(maps, torch.tensor(rows), LEVELS, mode=mode)
    parts = (maps[i, :, y0:y1, x0:x1] for i, x0, y0, x1, y1 in rows)
    wanted = torch.stack([define(each, LEVELS, mode) for each in parts])
    require(same(found, wanted), "another value")


def refuse_regions(*rows: Sequence[float]) -> None:
    """Raise if one of these regions of a map of 10 x 10 cells is taken."""
    for row in rows:
        whole = all(isinstance(each, int) for each in row)
        values = torch.tensor([[0, 0, 0, 3, 5], row], dtype=None if whole else torch.float64)
        require_error(
            (ValueError if whole else TypeError), pool_regions, draw(1, 2, 10, 10), values
        )


def check_suppression() -> None:
    """Non-maximum suppression drops what overlaps a better box by more than the threshold."""
    corners = draw(40, 2).abs()
    boxes = torch.cat([corners, corners + 1 + draw(40, 2, dtype=torch.float32).abs()], 1)
    scores = draw(40, 1)[:, 0]
    kept: list[int] = []
    for number in scores.argsort(descending=True, stable=True).tolist():
        if all(_overlap(boxes[number], boxes[other]) <= 0.4 for other in kept):
            kept.append(number)
    require(nms(boxes, scores, 0.4).tolist() == kept, "other boxes are kept")


def _overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two boxes xyxy."""
    sides = [
        max(0.0, min(float(one[i + 2]), float(other[i + 2])) - max(float(one[i]), float(other[i])))
        for i in (0, 1)
    ]
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def check_odd_scores() -> None:
    """Scores and boxes that are no numbers are refused."""
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    require_error(ValueError, nms, box, torch.tensor([float("nan")]), 0.5)
    require_error(ValueError, nms, box * float("inf"), torch.tensor([1.0]), 0.5)
    require_error(ValueError, nms, box.flip(1), torch.tensor([1.0]), 0.5)


# Photos and files


def stored(picture: Image.Image, kind: str, **words: Any) -> bytes:
    """A picture as the bytes of a file."""
    content = io.BytesIO()
    picture.save(content, kind, **words)
    return content.getvalue()


def picture() -> Image.Image:
    """The picture that every installation draws alike, 8 bits."""
    pixels = (canary_image() * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def check_pictures() -> None:
    """What was stored without loss is read as it was."""
    pixels = (canary_image() * 255).round() / 255
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        require(same(decode_image(stored(picture(), kind)), pixels), f"other pixels of a {kind}")


def check_turned() -> None:
    """A photo that was taken with the camera on its side stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    turned = decode_image(stored(picture(), "PNG", exif=exif))
    require(same(turned, decode_image(stored(picture(), "PNG")).rot90(-1, (1, 2))), "not turned")


def check_grey() -> None:
    """Photos of one channel, of 16 bits and of a palette are RGB."""
    grey = picture().convert("L")
    wanted = decode_image(stored(grey.convert("RGB"), "PNG"))
    require(same(decode_image(stored(grey, "PNG")), wanted), "another grey of 8 bits")
    require(same(decode_image(stored(grey.convert("P"), "PNG")), wanted), "another palette")
    deep = Image.new("I;16", (4, 4), 0x8080)
    close = (decode_image(stored(deep, "PNG")) - 0x80 / 0xFF).abs() <= 1 / 255
    require(bool(close.all()), "16 bits are not scaled")


def check_cut() -> None:
    """Photos that end early are refused."""
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP"):
        whole = stored(picture(), kind)
        for end in (0, 8, len(whole) // 2, len(whole) * 3 // 4):
            require_error(InputError, decode_image, whole[:end])


def check_bombs() -> None:
    """Photos that would be too large are refused by their header."""
    for width, height in ((50_000, 50_000), (65_535, 30_000)):
        content = bytearray(stored(Image.new("1", (8, 8)), "PNG"))
        content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        require_error(InputError, decode_image, bytes(content))


def check_formats() -> None:
    """Formats that are not on the list reach no decoder."""
    for start in (
        b"%!PS-Adobe-3.0 EPSF",
        b"%PDF-1.7",
        b"<svg xmlns=",
        b"8BPS",
        b"SIMPLE  =",
        b"MZ",
    ):
        require_error(InputError, decode_image, start + bytes(200))


def check_pipes(folder: Path) -> None:
    """A folder, a pipe and a file that is not there are refused without a wait."""
    places = [folder, folder / "none.png"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        places.append(folder / "pipe.png")
    for place in places:
        require_error(InputError, load_image, place)


def _saved(folder: Path) -> Path:
    save_model(folder, "check", {"a": 1}, {"weights": draw(6, 7)})
    return folder


def check_kept(folder: Path) -> None:
    """A model is read as it was saved."""
    config, tensors = load_model(_saved(folder / "kept"), "check")
    require(config == {"a": 1} and same(tensors["weights"], draw(6, 7)), "another model")


def check_flips(folder: Path) -> None:
    """Every flipped bit of a model's files is noticed."""
    model = _saved(folder / "flipped")
    for path in sorted(model.iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 24)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            require_error(UnusableFileError, load_model, model, "check")
        path.write_bytes(whole)


def check_cut_models(folder: Path) -> None:
    """A model of which a file ends early, or is missing, is refused."""
    model = _saved(folder / "cut")
    for path in sorted(model.iterdir()):
        whole = path.read_bytes()
        for end in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:end])
            require_error(UnusableFileError, load_model, model, "check")
        path.unlink()
        require_error(UnusableFileError, load_model, model, "check")
        path.write_bytes(whole)


def check_nan_weights(folder: Path) -> None:
    """Weights that are no numbers cannot be saved."""
    odd = {"weights": torch.tensor([1.0, float("nan")])}
    require_error(Exception, save_model, folder / "nan", "check", {}, odd)


def check_pickles(folder: Path) -> None:
    """A pickle in place of weights is refused, and nothing in it is done."""
    model = _saved(folder / "pickled")
    torch.save({"weights": draw(6, 7)}, model / "model.safetensors")
    require_error(UnusableFileError, load_model, model, "check")


def check_cache(folder: Path) -> None:
    """A cache gives back what was put, and nothing once a bit is flipped."""
    cache = FeatureCache(folder / "cache")
    key = cache.make_key(size=1)
    cache.put(key, {"maps": draw(2, 3)})
    found = cache.get(key)
    require(found is not None and same(found["maps"], draw(2, 3)), "another record")
    for path in sorted((folder / "cache").rglob("*")):
        if path.is_file() and path.stat().st_size:
            path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    require(cache.get(key) is None, "a damaged record is given")


def checks_of(folder: Path) -> dict[str, Check]:
    """The checks of the installation by their names.

    Args:
        folder: Where they may write.
    """
    return {
        "pooling is the definition": check_maps,
        "pooling of averages is the definition": partial(
            compare_maps, draw(2, 2, 9, 14), mode="avg"
        ),
        "pooling in levels that are not square": partial(
            compare_maps, draw(1, 2, 9, 14), [(1, 4), (3, 2)]
        ),
        "pooling of one cell": partial(compare_maps, draw(1, 2, 1, 1)),
        "pooling of other types of numbers": check_dtypes,
        "pooling of maps of any strides": check_strides,
        "pooling of several sizes at a time": check_sizes_together,
        "NaN and infinities come out where they lie": check_odd_numbers,
        "nothing in, nothing out": check_nothing,
        "gradients arrive whole, at the largest cells": check_gradients,
        "the kernel here and plain torch agree": check_kernels,
        "one thread and several give the same bits": check_thread_counts,
        "an exported program gives the same": check_program,
        "ONNX gives the same, of maps": partial(check_onnx, regions=False),
        "ONNX gives the same, of regions": partial(check_onnx, regions=True),
        "pooling of regions is the definition": check_regions,
        "averages of regions are the definition": partial(check_regions, mode="avg"),
        "regions that are empty or reversed are refused": partial(
            refuse_regions, [0, 3, 0, 3, 5], [0, 5, 0, 3, 5]
        ),
        "regions outside of their map are refused": partial(
            refuse_regions, [0, -1, 0, 3, 5], [0, 0, 0, 11, 5], [-1, 0, 0, 3, 5], [1, 0, 0, 3, 5]
        ),
        "regions that are no whole numbers are refused": partial(
            refuse_regions,
            [0, float("nan"), 0, 3, 5],
            [0, float("inf"), 0, 3, 5],
            [0, 0.5, 0, 3, 5],
        ),
        "suppression of boxes is the definition": check_suppression,
        "boxes and scores that are no numbers are refused": check_odd_scores,
        "photos are read as they were stored": check_pictures,
        "photos stand upright": check_turned,
        "grey, 16 bits and palettes are RGB": check_grey,
        "photos that end early are refused": check_cut,
        "photos that are too large are refused": check_bombs,
        "other formats are refused": check_formats,
        "folders and pipes are refused": partial(check_pipes, folder),
        "a model is read as it was saved": partial(check_kept, folder),
        "flipped bits of a model are noticed": partial(check_flips, folder),
        "models that end early are refused": partial(check_cut_models, folder),
        "weights that are no numbers are refused": partial(check_nan_weights, folder),
        "pickles are refused": partial(check_pickles, folder),
        "a damaged record of a cache is noticed": partial(check_cache, folder),
    }
