"""The pooling alone as an ONNX file: maps in, vectors out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sppnet.pooling.bins import check_levels
from sppnet.pooling.checks import check_mode
from sppnet.pooling.onnx_export import EXACT, ExportRecipe
from sppnet.pooling.pyramid import SpatialPyramidPool
from sppnet.pooling.regions import RegionPool

SIZES = ((1, 1, 1), (2, 1, 9), (1, 11, 2), (3, 13, 13), (1, 60, 3), (1, 4, 80), (2, 23, 31))
COUNTS = (0, 1, 7, 40)
LAST_BIT = 2.0**-23  # float64 sums in another order may round to the float32 beside
VALUES = (torch.nan, -torch.inf, torch.inf, -2.0, 0.0, 1.0)
WEIGHTS = (1.0, 8.0, 1.0, 30.0, 30.0, 30.0)


def pooling_recipe(
    levels: Sequence[int],
    *,
    mode: str = "max",
    regions: bool = False,
    channels: int | None = None,
) -> ExportRecipe:
    """Describe the export of the pooling alone, float32.

    Args:
        levels: Bins along each side, one number per level.
        mode: "max" or "avg".
        regions: Whether to pool regions (K, 5) of the maps in place of whole maps.
        channels: Channels of the maps; None leaves them free.

    Returns:
        A recipe for :func:`sppnet.pooling.onnx_export.export_onnx`.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If a level is below 1, or the mode is unknown.

    Example:
        >>> sorted(pooling_recipe((6, 3, 2, 1), regions=True).inputs)
        ['features', 'regions']
    """
    levels, mode = check_levels(levels), check_mode(mode)
    pool = RegionPool(levels, mode) if regions else SpatialPyramidPool(levels, mode)
    free = {0: "batch", 1: "channels", 2: "height", 3: "width"}
    if channels is not None:
        del free[1]
    inputs = {"features": free} | ({"regions": {0: "count"}} if regions else {})
    return ExportRecipe(
        module=pool,
        example=_draw_case((2, 9, 11), 3 if regions else None, channels or 3),
        inputs=inputs,
        outputs={"vectors": {0: "count" if regions else "batch"}},
        expect=lambda *case: (pool(*case),),
        cases=_draw_cases(regions, channels),
        tolerance=EXACT if mode == "max" else LAST_BIT,
        about={"kind": "pooling", "levels": list(levels), "mode": mode, "regions": regions},
    )


def _draw_cases(regions: bool, channels: int | None) -> list[tuple[Tensor, ...]]:
    """Maps of all sizes, of numbers and of ties with NaN and infinities, with regions."""
    counts = COUNTS if regions else (None,)
    cases = []
    for number, size in enumerate(SIZES):
        for special in (False, True):
            count = counts[(2 * number + special) % len(counts)]
            cases.append(_draw_case(size, count, channels or 1 + number % 3, special=special))
    return cases


def _draw_case(
    size: tuple[int, int, int], count: int | None, channels: int, *, special: bool = False
) -> tuple[Tensor, ...]:
    """One batch of random maps, and so many random regions of it."""
    images, height, width = size
    draw = torch.Generator().manual_seed(height * width)
    shape = (images, channels, height, width)
    features = torch.randn(shape, generator=draw)
    if special:
        number = features.numel()
        chosen = torch.multinomial(torch.tensor(WEIGHTS), number, True, generator=draw)
        features = torch.tensor(VALUES)[chosen].reshape(shape)
    if count is None:
        return (features,)
    return features, draw_regions(images, height, width, count, draw)


def draw_regions(images: int, height: int, width: int, count: int, draw: torch.Generator) -> Tensor:
    """(count, 5) random regions inside maps.

    Example:
        >>> draw_regions(1, 1, 1, 1, torch.Generator())
        tensor([[0, 0, 0, 1, 1]])
    """
    image = torch.randint(images, (count, 1), generator=draw)
    x, y = (torch.randint(side, (count, 2), generator=draw) for side in (width, height))
    x0, y0 = x.amin(1, keepdim=True), y.amin(1, keepdim=True)
    x1, y1 = x.amax(1, keepdim=True) + 1, y.amax(1, keepdim=True) + 1
    return torch.cat([image, x0, y0, x1, y1], 1)
