"""Pool regions of maps into vectors, or score them without building the vectors."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function

from sppnet.pooling.bins import (
    DEFAULT_LEVELS,
    Level,
    as_maps,
    as_rows,
    check_mode,
    check_out,
    check_pyramid,
    check_rows,
    choose_levels,
    num_bins,
    vector_length,
)
from sppnet.pooling.kernels import cpu
from sppnet.pooling.operators import is_unwatched, overriders, pool, pool_into, split_levels

# Memory for the vectors of regions that are pooled at a time; each thread keeps its own.
CHUNK_BYTES = 2**27
# With more columns, the product of matrices is faster than the kernel's.
FEW_COLUMNS = 20
# Regions in one call of the kernel: each needs some kilobytes for the sums of its parts.
MOST_ROWS = 1 << 15
_kept = threading.local()


def pool_regions(
    features: Tensor | Sequence[Tensor],
    regions: Tensor | Sequence[Tensor],
    levels: int | Sequence[Level] = DEFAULT_LEVELS,
    *,
    mode: str = "max",
    out: Tensor | None = None,
) -> Tensor:
    """Pool regions of feature maps into vectors of one length.

    Every row equals ``spatial_pyramid_pool`` of the cropped map exactly, ties and NaN included, and
    the gradient goes to the same cells; on a CPU it adds up in the same order in every run. Regions
    that coincide are pooled once.

    Convention:
        Regions are integer cells, half-open: [x0, x1) x [y0, y1). Order of the vector, NaN and ties
        as in :func:`sppnet.pooling.spatial_pyramid_pool`.

    Args:
        features: (N, C, H, W) floating point of any layout, H and W at least 1; or maps of several
            sizes, such as the scales of one image: a sequence of (C, H_i, W_i) or
            (N_i, C, H_i, W_i). Images are counted over all of them. Or one map, (C, H, W).
        regions: (K, 5) integers [image, x0, y0, x1, y1], or a sequence of (K_i, 4), one per image;
            (K, 4) for one map (C, H, W).
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.
        mode: "max", or "avg" for the mean of each bin.
        out: Contiguous (K, C * sum(n * n)) of the same dtype and device to write into; saves the
            page faults of a fresh output. Not for training.

    Returns:
        (K, C * sum(n * n)); ``out`` where it was given.

    Raises:
        TypeError: If ``features`` is not floating point, or regions or levels are not integers.
        ValueError: If a region is not inside its map (names the row), a shape is wrong, ``out``
            does not fit, or the mode is unknown.

    Example:
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> pool_regions(features, torch.tensor([[0, 1, 0, 3, 2]]), levels=(1, 2))
        tensor([[6., 1., 2., 5., 6.]])

    Source:
        SPP-net, section 4.1; spm_pool_caffe_mex.cpp of the authors' code.
    """
    if watching := overriders(features, regions, out):
        return handle_torch_function(
            pool_regions, watching, features, regions, levels, mode=mode, out=out
        )
    features, regions = _as_batch(features, regions)
    maps, levels = as_maps(features), check_pyramid(levels)
    rows = as_rows(regions, maps)
    if out is None:
        return pool(maps, rows, levels, check_mode(mode))
    check_out(out, maps[0], (len(rows), maps[0].shape[1] * num_bins(levels)))
    needs_grad = any(each.requires_grad for each in maps) and torch.is_grad_enabled()
    if needs_grad or out.requires_grad:
        raise ValueError("out must not be given where a gradient is needed")
    return pool_into(out, maps, rows, levels, check_mode(mode))


def _as_batch(
    features: Tensor | Sequence[Tensor], regions: Tensor | Sequence[Tensor]
) -> tuple[Tensor | Sequence[Tensor], Tensor | Sequence[Tensor]]:
    """Make one map (C, H, W) a batch of one, and its regions (K, 4) the list that goes with it."""
    if not isinstance(features, Tensor) or features.is_nested or features.ndim != 3:
        return features, regions
    alone = isinstance(regions, Tensor) and regions.ndim == 2 and regions.shape[1] == 4
    return features.unsqueeze(0), [regions] if alone else regions  # type: ignore[list-item]


class RegionPool(nn.Module):
    """Module form of :func:`pool_regions`.

    Args:
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.
        mode: "max" or "avg".
        output_sizes: Another name of ``levels``.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1, or the mode is unknown, or both
            ``levels`` and ``output_sizes`` are given.

    Example:
        >>> RegionPool((1, 2))(torch.rand(1, 8, 7, 30), [torch.tensor([[2, 0, 9, 7]])]).shape
        torch.Size([1, 40])

    Source:
        SPP-net, section 4.1.
    """

    def __init__(
        self,
        levels: int | Sequence[Level] = DEFAULT_LEVELS,
        mode: str = "max",
        *,
        output_sizes: int | Sequence[Level] | None = None,
    ) -> None:
        super().__init__()
        self.levels = choose_levels(levels, output_sizes)
        self.mode = check_mode(mode)

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        regions: Tensor | Sequence[Tensor],
        out: Tensor | None = None,
    ) -> Tensor:
        """Pool regions of maps into (K, C * sum(n * n))."""
        return pool_regions(features, regions, self.levels, mode=self.mode, out=out)

    def out_features(self, channels: int) -> int:
        """Length of the vector of a region of maps with so many channels.

        Example:
            >>> RegionPool((1, 2)).out_features(256)
            1280
        """
        return vector_length(channels, self.levels)

    def __prepare_scriptable__(self) -> nn.Module:
        """Give torch.jit.script a module that it can read; it stays in the network afterwards."""
        return _ScriptablePool(self.levels, self.mode)

    def extra_repr(self) -> str:
        """Show the levels, and the mode if it is not the paper's."""
        return f"levels={self.levels}" + (f", mode={self.mode!r}" if self.mode != "max" else "")


class _ScriptablePool(RegionPool):
    """The same, for (K, 5) regions of one batch of maps where torch.jit.script compiled it."""

    def __init__(self, levels: Sequence[Level], mode: str) -> None:
        super().__init__(levels, mode)
        self.rows, self.columns = split_levels(self.levels)

    def forward(  # type: ignore[override]
        self, features: Tensor, regions: Tensor, out: Tensor | None = None
    ) -> Tensor:
        if not torch.jit.is_scripting():
            return pool_regions(features, regions, self.levels, mode=self.mode, out=out)
        if out is not None:
            raise ValueError("out must be None in a program of torch.jit.script")
        pooled: Tensor = torch.ops.sppnet.pool_regions(
            [features], regions, self.rows, self.mode, self.columns
        )
        return pooled

    def __prepare_scriptable__(self) -> nn.Module:
        return self

    def _get_name(self) -> str:
        return RegionPool.__name__


def score_regions(
    features: Tensor,
    regions: Tensor | Sequence[Tensor],
    weights: Tensor,
    levels: int | Sequence[Level] = DEFAULT_LEVELS,
) -> Tensor:
    """Multiply pooled regions by a matrix without ever holding all of their vectors.

    On a processor and for a few columns, such as the SVMs of some classes, the kernel multiplies
    the bins as it finds them. Otherwise some hundreds of regions are pooled at a time, into the
    same memory: no page faults, and little of it.

    Args:
        features: (N, C, H, W) floating point, H and W at least 1.
        regions: (R, 5) integers [image, x0, y0, x1, y1], or a sequence of N tensors (R_i, 4).
        weights: (C * sum(n * n), K) in the order of the pooled vector.
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.

    Returns:
        (R, K), the product. Not differentiable.

    Raises:
        TypeError: As :func:`pool_regions`.
        ValueError: As :func:`pool_regions`, or if the weights have another number of rows or are on
            another device.

    Example:
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> score_regions(features, torch.tensor([[0, 1, 0, 3, 2]]), torch.ones(5, 1), (1, 2))
        tensor([[20.]])

    Source:
        SPP-net, section 4.1; the weights of a linear classifier multiply bins as they are pooled.
    """
    if watching := overriders(features, regions, weights):
        return handle_torch_function(score_regions, watching, features, regions, weights, levels)
    batch, regions = _as_batch(features, regions)
    maps, levels = as_maps(batch), check_pyramid(levels)
    rows = as_rows(regions, maps)
    length = maps[0].shape[1] * num_bins(levels)
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor, got {type(weights).__name__}")
    if weights.ndim != 2 or len(weights) != length:
        raise ValueError(f"weights must have shape ({length}, K), got {tuple(weights.shape)}")
    if weights.device != maps[0].device:
        raise ValueError(f"weights must be on {maps[0].device}, got {weights.device}")
    if not is_unwatched([*maps, rows, weights]):
        with torch.no_grad():
            return pool(maps, rows, levels, "max") @ weights
    squares = tuple(n for n in levels if isinstance(n, int))
    few = 0 < weights.shape[1] <= FEW_COLUMNS and len(squares) == len(levels)
    if few and cpu.serves(maps):
        check_rows(rows, maps)
        chunks = rows.split(MOST_ROWS)
        return torch.cat([cpu.score(maps, chunk, weights, squares) for chunk in chunks])
    scores = maps[0].new_empty(len(rows), weights.shape[1])
    with torch.no_grad():
        vectors = _take_memory(len(rows), length, maps[0])
        for start in range(0, len(rows), len(vectors)):
            chunk = rows[start : start + len(vectors)]
            pooled = pool_regions(maps, chunk, levels, out=vectors[: len(chunk)])
            torch.mm(pooled, weights, out=scores[start : start + len(vectors)])
    return scores


def _take_memory(count: int, length: int, like: Tensor) -> Tensor:
    """(M, length) for at most ``count`` vectors; on a processor the same from call to call.

    Fresh pages cost as much as the pooling itself; on other devices torch keeps memory anyway.
    """
    count = max(1, min(count, CHUNK_BYTES // (length * like.itemsize)))
    if like.device.type != "cpu":
        return like.new_empty(count, length)
    held: Tensor | None = getattr(_kept, "vectors", None)
    if held is None or held.dtype != like.dtype or held.numel() < count * length:
        with torch.inference_mode(False):  # whoever comes next may not be in that mode
            held = torch.empty(count * length, dtype=like.dtype)
        _kept.vectors = held
    return held[: count * length].view(count, length)
