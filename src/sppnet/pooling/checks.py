"""What may be pooled: feature maps, and regions inside them."""

from collections.abc import Sequence

import torch
from torch import Tensor

MODES = ("max", "avg")


def check_mode(mode: str) -> str:
    """Return the name of what is kept of a bin, or list the legal ones.

    Example:
        >>> check_mode("max")
        'max'
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    return mode


def as_maps(features: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return feature maps as a list of (N_i, C, H_i, W_i), or say why they cannot be pooled.

    Args:
        features: (N, C, H, W); a nested tensor of (C, H_i, W_i); or a sequence of (C, H_i, W_i) or
            (N_i, C, H_i, W_i).

    Returns:
        Views of the same tensors.

    Raises:
        TypeError: If there is anything but floating-point tensors.
        ValueError: If a shape is wrong, a map is empty, or channels, dtype or device differ.

    Example:
        >>> [tuple(each.shape) for each in as_maps([torch.zeros(2, 3, 4), torch.zeros(5, 2, 7, 1)])]
        [(1, 2, 3, 4), (5, 2, 7, 1)]
    """
    if isinstance(features, Tensor) and not features.is_nested:
        return [_check_map(features, "features", (4,))]
    listed = features.unbind() if isinstance(features, Tensor) else features
    if not isinstance(listed, list | tuple):
        raise TypeError(f"features must be a floating-point tensor, got {type(features).__name__}")
    if not listed:
        raise ValueError("features must hold at least one map, got none")
    maps = []
    for i, each in enumerate(listed):
        _check_map(each, f"features[{i}]", (3, 4))
        maps.append(each if each.ndim == 4 else each.unsqueeze(0))
        alike = [each.dtype == listed[0].dtype, each.device == listed[0].device]
        if not all(alike) or maps[i].shape[1] != maps[0].shape[1]:
            raise ValueError(
                "features must have one number of channels, dtype and device, got "
                f"{_kind_of(maps[0])} and, at {i}, {_kind_of(maps[i])}"
            )
    return maps


def _kind_of(features: Tensor) -> str:
    return f"{features.shape[1]} channels of {features.dtype} on {features.device}"


def _check_map(features: Tensor, name: str, dimensions: tuple[int, ...]) -> Tensor:
    """Refuse anything but a floating-point map that has cells."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
    # torch.jit.trace would warn that a comparison is frozen; the operators look at every map again
    empty = not torch.jit.is_tracing() and 0 in features.shape[-2:]
    if features.ndim not in dimensions or empty:
        shape = "(N, C, H, W)" if 3 not in dimensions else "(C, H, W) or (N, C, H, W)"
        raise ValueError(
            f"{name} must have shape {shape} with H and W at least 1, got {tuple(features.shape)}"
        )
    return features


def as_rows(regions: Tensor | Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Return regions as one (K, 5) int64 tensor on the device of the maps; values unchecked.

    Example:
        >>> as_rows([torch.tensor([[0, 0, 2, 3]])], [torch.zeros(1, 1, 3, 2)])
        tensor([[0, 0, 0, 2, 3]])
    """
    rows = regions if isinstance(regions, Tensor) else _number_images(regions, maps)
    _check_integers(rows, "regions")
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise ValueError(
            f"regions must have shape (K, 5), or (K, 4) in a list, got {tuple(rows.shape)}"
        )
    return rows.to(device=maps[0].device, dtype=torch.int64)


def _check_integers(regions: Tensor, name: str) -> None:
    """Refuse anything but a tensor of integers."""
    if not isinstance(regions, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(regions).__name__}")
    if regions.is_floating_point() or regions.is_complex() or regions.dtype == torch.bool:
        raise TypeError(f"{name} must be integers (cells of the map), got {regions.dtype}")


def _number_images(regions: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Put the number of the image before the regions of each image."""
    images, device = sum(each.shape[0] for each in maps), maps[0].device
    if len(regions) != images:
        raise ValueError(f"regions must have one tensor per image ({images}), got {len(regions)}")
    numbered = [torch.zeros(0, 5, dtype=torch.int64, device=device)]
    for i, each in enumerate(regions):
        _check_integers(each, f"regions[{i}]")
        if each.ndim != 2 or each.shape[1] != 4:
            raise ValueError(f"regions[{i}] must have shape (K, 4), got {tuple(each.shape)}")
        cells = each.to(device=device, dtype=torch.int64)
        numbered.append(torch.cat([torch.full_like(cells[:, :1], i), cells], 1))
    return torch.cat(numbered)


def check_rows(rows: Tensor, maps: Sequence[Tensor]) -> None:
    """Name the first row that is not inside its map.

    Raises:
        ValueError: If a region is empty, reversed, outside its map, or of no image.

    Example:
        >>> check_rows(torch.tensor([[0, 0, 0, 2, 4]]), [torch.zeros(1, 1, 3, 2)])
        Traceback (most recent call last):
        ValueError: regions must lie in 0 <= x0 < x1 <= 2 and 0 <= y0 < y1 <= 3 of image 0..0,
        got [0, 0, 0, 2, 4] in row 0
    """
    sizes = [tuple(each.shape[2:]) for each in maps for _ in range(len(each))]
    image, x0, y0, x1, y1 = rows.unbind(1)
    good = (image >= 0) & (image < len(sizes))
    if sizes:
        # not [...], which wakes torch's threads for ever so few rows and waits for all of them
        table = torch.tensor(sizes, device=rows.device)
        height, width = table.index_select(0, torch.where(good, image, 0)).T
        good &= (x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)
    if not bool(good.all()):
        row = int((~good).nonzero()[0, 0])
        bad = rows[row].tolist()
        height, width = sizes[bad[0]] if 0 <= bad[0] < len(sizes) else maps[0].shape[2:]
        raise ValueError(
            f"regions must lie in 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height} of image "
            f"0..{len(sizes) - 1}, got {bad} in row {row}"
        )


def check_regions(
    regions: Tensor | Sequence[Tensor], features: Tensor | Sequence[Tensor]
) -> Tensor:
    """Return regions as one (K, 5) int64 tensor, or name the row that is not inside its map.

    Args:
        regions: (K, 5) integers [image, x0, y0, x1, y1], or a sequence of (K_i, 4), one per image.
        features: (N, C, H, W) maps that the regions belong to, or a sequence of maps.

    Returns:
        (K, 5) int64 on the device of the features.

    Raises:
        TypeError: If regions are not tensors of integers.
        ValueError: If a shape is wrong, or a region is empty, reversed, outside its map, or of no
            image; names the row, counted over all images.

    Example:
        >>> check_regions([torch.tensor([[0, 0, 2, 3]])], torch.zeros(1, 1, 3, 2))
        tensor([[0, 0, 0, 2, 3]])
    """
    maps = as_maps(features)
    rows = as_rows(regions, maps)
    check_rows(rows, maps)
    return rows


def check_out(out: Tensor, like: Tensor, shape: tuple[int, int]) -> None:
    """Refuse an output that the pooled vectors do not fit into as they are.

    Example:
        >>> check_out(torch.zeros(3, 50), torch.zeros(1, 1, 2, 2), (3, 50))
    """
    alike = out.dtype == like.dtype and out.device == like.device
    if out.shape != shape or not alike or not out.is_contiguous():
        layout = "contiguous" if out.is_contiguous() else "not contiguous"
        raise ValueError(
            f"out must be contiguous, {like.dtype} on {like.device} and of shape {shape}, "
            f"got {layout}, {out.dtype} on {out.device} and of shape {tuple(out.shape)}"
        )
