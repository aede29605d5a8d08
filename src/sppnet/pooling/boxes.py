"""Boxes in pixels pooled on the maps of any trunk: the arguments of ``roi_align``, our exact bins.

A box becomes a region of cells by the rule of ``geometry/projection.py``, then ``regions.py`` pools
it. ``multi_scale.py`` does so on the maps of a feature pyramid.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag
from torch.overrides import handle_torch_function

from sppnet.geometry.boxes import check_boxes, reject_rows
from sppnet.geometry.projection import Projection, project_side
from sppnet.pooling.bins import (
    DEFAULT_LEVELS,
    Level,
    as_maps,
    check_mode,
    check_numbers,
    check_pyramid,
    choose_levels,
    level_shape,
    vector_length,
)
from sppnet.pooling.operators import overriders, refuse_scripting
from sppnet.pooling.regions import pool_regions
from sppnet.progress import using_threads

# Height and width in pixels, of all images or of each.
ImageSize = tuple[int, int] | Sequence[tuple[int, int]]


def pool_boxes(
    features: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    levels: int | Sequence[Level] = DEFAULT_LEVELS,
    *,
    spatial_scale: float | None = None,
    stride: float | None = None,
    centre: float | None = None,
    image_size: ImageSize | None = None,
    offset: float | None = None,
    mode: str = "max",
) -> Tensor:
    """Pool boxes, given in pixels, on feature maps into vectors of one length.

    A box covers the cells whose centres lie strictly inside it, at least one; these are pooled as
    :func:`sppnet.pooling.pool_regions` does, exactly and with its gradient. Where the centres lie
    follows from one of three things: ``spatial_scale``, ``stride`` with ``centre``, or
    ``image_size``. Boxes get no gradient; what ``roi_align`` interpolates is a whole cell here.

    Convention:
        Pixel i has its middle at i; cell k is centred on pixel ``centre + k * stride``. With
        ``spatial_scale`` or ``image_size`` a cell lies in the middle of its pixels, ``centre`` is
        (stride - 1) / 2, as in ``torchvision.ops.roi_align(aligned=True)``. A trunk whose
        convolutions pad has its first cell elsewhere: ``Backbone.stride`` and ``.centre`` tell.

    Args:
        features: (N, C, H, W) floating point; a sequence of (C, H_i, W_i) or (N_i, C, H_i, W_i); or
            one map, (C, H, W).
        boxes: (K, 5) floating point [image, x1, y1, x2, y2], or a sequence of (K_i, 4), one per
            image; (K, 4) for one map. In pixels of the image that was convolved, x2 and y2
            exclusive; what lies outside the image counts as its border.
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.
        spatial_scale: Cells per pixel, such as 1 / 16.
        stride: Pixels per cell.
        centre: Pixel on which cell 0 is centred; only with ``stride``, (stride - 1) / 2 if None.
        image_size: (height, width) in pixels of the batch that was convolved, padding included; for
            a sequence of maps one for each map, or one for all.
        offset: Pixels by which each side moves inwards before the nearest centre is taken; half a
            stride if None.
        mode: "max", or "avg" for the mean of each bin.

    Returns:
        (K, C * sum(n * n)) of the dtype of the features, boxes in order; one level n as
        ``.view(K, C, n, n)`` is what ``roi_align`` gives.

    Raises:
        TypeError: If features or boxes are not floating point, or a level is no integer.
        ValueError: If a box is not finite or is reversed (names the row), its image is none of the
            batch, a shape is wrong, or there is not exactly one way to find the cells.

    Example:
        >>> features = torch.rand(2, 256, 14, 14)  # of images of 224 x 224 pixels
        >>> boxes = [torch.tensor([[10.0, 20.5, 200.0, 100.0]]), torch.zeros(0, 4)]
        >>> pool_boxes(features, boxes, levels=(1, 2, 3, 6), spatial_scale=1 / 16).shape
        torch.Size([1, 12800])
        >>> cells = torch.arange(16.0).reshape(1, 4, 4)  # cell 0 centred on pixel 0
        >>> pool_boxes(cells, torch.tensor([[7.0, 7.0, 26.0, 18.0]]), 1, stride=8, centre=0)
        tensor([[11.]])

    Source:
        SPP-net, section 4.1 and appendix A.
    """
    if watching := overriders(features, boxes):
        return handle_torch_function(
            pool_boxes,
            watching,
            features,
            boxes,
            levels,
            spatial_scale=spatial_scale,
            stride=stride,
            centre=centre,
            image_size=image_size,
            offset=offset,
            mode=mode,
        )
    check_mode(mode)
    if isinstance(features, Tensor) and features.ndim == 3 and not features.is_nested:
        features = features.unsqueeze(0)
        boxes = [boxes] if isinstance(boxes, Tensor) and boxes.shape[-1:] == (4,) else boxes
    maps = as_maps(features)
    rows = _number_boxes(boxes, maps)
    sizes = _sizes_of(image_size, maps)
    sides = [
        _sides_of(each, spatial_scale, stride, centre, size, offset)
        for each, size in zip(maps, sizes, strict=True)
    ]
    return pool_regions(maps, _project(rows, maps, sides), levels, mode=mode)


POINTS_PER_BIN = 2  # along each side
CELLS_PER_VECTOR = 150  # that are multiplied in the time in which a box is described
AT_ONCE = 2000  # boxes whose points are in memory: 20 MB for those of the default pyramid
Shape = tuple[int, int]


def average_points(
    features: Tensor,
    boxes: Tensor,
    levels: int | Sequence[Level] = DEFAULT_LEVELS,
    points: int = POINTS_PER_BIN,
) -> Tensor:
    """Average the map at points between its cells: bins end where the boxes do.

    :func:`pool_boxes` takes whole cells, so that boxes of the same cells have the same vector. Here
    a box that moves by a fraction of a cell has another one, which tells how far it is off. The map
    is interpolated at a grid of points inside the box, ``points`` x ``points`` in each bin of the
    finest level; points outside the map have the value of its border. It has a gradient for the
    map, and none for the boxes.

    Args:
        features: (1, C, H, W) floating point; fastest with channels last.
        boxes: (K, 4) floating point xyxy in cells: cell k of the map is centred on k.
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.
        points: Along each side of a bin of the finest level.

    Returns:
        (K, C * sum(n * n)) of the dtype of the features, in the order of :func:`pool_boxes`.

    Raises:
        ValueError: If the shape is another, or ``points`` is below 1.

    Example:
        >>> cells = torch.arange(4.0).expand(1, 1, 3, 4)  # the value of a cell is its column
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.5, 0.0, 2.5, 2.0]])
        >>> average_points(cells, boxes, 1)
        tensor([[1.0000],
                [1.5000]])

    Source:
        He et al. 2017 (Mask R-CNN), section 3, RoIAlign.
    """
    cells, size_hw = _as_cells(features, boxes, points)
    grids = [level_shape(level) for level in check_pyramid(levels)]
    pooled: dict[int, Tensor] = {}
    for (rows, columns), members in _nest(grids):
        places, shares = _find_points(boxes, size_hw, (rows, columns), grids, points)
        bins = embedding_bag(
            places.flatten(0, 1), cells, per_sample_weights=shares.flatten(0, 1).to(cells.dtype),
            mode="sum",
        )  # fmt: skip
        for level in members:
            down, across = grids[level]
            inner = (down, rows // down, across, columns // across)
            means = bins.view(len(boxes), *inner, cells.shape[1])
            if (down, across) != (rows, columns):
                # one sum after the other takes a tenth of the time of a mean over both
                means = means.sum(2).sum(3) / (inner[1] * inner[3])
            means = means.reshape(len(boxes), down * across, cells.shape[1])
            pooled[level] = means.transpose(1, 2).flatten(1)
    return torch.cat([pooled[level] for level in range(len(grids))], 1)


@torch.no_grad()
def score_points(
    features: Tensor,
    boxes: Tensor,
    weights: Tensor,
    levels: int | Sequence[Level] = DEFAULT_LEVELS,
    points: int = POINTS_PER_BIN,
) -> Tensor:
    """Multiply the vectors of :func:`average_points` by a few columns.

    A mean of cells times weights is the mean of the cells' products: of many boxes, the cells are
    multiplied first, and no vector is built. So a hundred boxes cost about as much as ten vectors.

    Args:
        features: As for :func:`average_points`.
        boxes: As for :func:`average_points`.
        weights: (C * sum(n * n), M) in the order of the vectors.
        levels: As for :func:`average_points`.
        points: As for :func:`average_points`.

    Returns:
        (K, M) products, the same to a few units of the last place. Not differentiable.

    Raises:
        ValueError: As :func:`average_points`, or if the weights have another number of rows.

    Example:
        >>> cells = torch.arange(4.0).expand(1, 1, 3, 4)
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.5, 0.0, 2.5, 2.0]])
        >>> score_points(cells, boxes, torch.tensor([[10.0]]), 1)
        tensor([[10.],
                [15.]])
    """
    cells, size_hw = _as_cells(features, boxes, points)
    grids = [level_shape(level) for level in check_pyramid(levels)]
    length = cells.shape[1] * sum(rows * columns for rows, columns in grids)
    if weights.ndim != 2 or len(weights) != length:
        raise ValueError(f"weights must have shape ({length}, M), got {tuple(weights.shape)}")
    if len(boxes) * CELLS_PER_VECTOR < len(cells):
        # added up in float64: the same for any number of threads
        vectors = average_points(features, boxes, levels, points).double()
        return (vectors @ weights.double()).to(features.dtype)
    parts = weights.to(cells.dtype).split(
        [cells.shape[1] * rows * columns for rows, columns in grids]
    )
    products = cells.new_zeros(len(boxes), weights.shape[1])
    for (rows, columns), members in _nest(grids):
        # what a bin of a coarser level is multiplied by, each of its bins in this grid is
        folded = cells.new_zeros(cells.shape[1], rows, columns, weights.shape[1])
        for level in members:
            down, across = grids[level]
            inner = (rows // down, columns // across)
            coarse = parts[level].view(cells.shape[1], down, across, -1) / (inner[0] * inner[1])
            folded += coarse.repeat_interleave(inner[0], 1).repeat_interleave(inner[1], 2)
        with using_threads(1):  # some libraries round otherwise with each number of them
            table = (cells @ folded.flatten(1)).view(-1, weights.shape[1])
        own = torch.arange(rows * columns, device=cells.device)[:, None]
        for some, found in zip(boxes.split(AT_ONCE), products.split(AT_ONCE), strict=True):
            places, shares = _find_points(some, size_hw, (rows, columns), grids, points)
            rows_of_table = (places * (rows * columns) + own).flatten(1)
            weighted = shares.flatten(1).to(table.dtype)
            found += embedding_bag(rows_of_table, table, per_sample_weights=weighted, mode="sum")
    return products


def _as_cells(features: Tensor, boxes: Tensor, points: int) -> tuple[Tensor, tuple[int, int]]:
    """(H * W, C) cells of a map, and its (H, W)."""
    if features.ndim != 4 or len(features) != 1 or boxes.ndim != 2 or boxes.shape[1] != 4:
        shapes = f"{tuple(features.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"features and boxes must be (1, C, H, W) and (K, 4), got {shapes}")
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    channels, height, width = features.shape[1:]
    return features.permute(0, 2, 3, 1).reshape(height * width, channels), (height, width)


def _nest(grids: Sequence[Shape]) -> list[tuple[Shape, Sequence[int]]]:
    """Grids of bins, each with the levels whose bins are some of its bins put together."""
    most = max(rows for rows, _ in grids), max(columns for _, columns in grids)
    if most in grids and not any(most[0] % rows or most[1] % columns for rows, columns in grids):
        return [(most, range(len(grids)))]
    return [(grid, [level]) for level, grid in enumerate(grids)]


def _find_points(
    boxes: Tensor, size_hw: Shape, grid: Shape, grids: Sequence[Shape], points: int
) -> tuple[Tensor, Tensor]:
    """Cells that make up each bin of a grid, and their shares: (K, bins, E) int64 and float64."""
    sides = []
    for side, (cells, bins) in enumerate(zip(size_hw, grid, strict=True)):
        # all levels see equally many points, or a few more
        count = -(-points * max(each[side] for each in grids) // bins)
        sides.append(_interpolate(boxes[:, 1 - side :: 2], cells, bins, count))
    (down, share_y), (across, share_x) = sides
    places = down[:, :, None, :, None] * size_hw[1] + across[:, None, :, None, :]
    shares = share_y[:, :, None, :, None] * share_x[:, None, :, None, :]
    return places.flatten(3).flatten(1, 2), shares.flatten(3).flatten(1, 2)


def _interpolate(sides: Tensor, cells: int, bins: int, points: int) -> tuple[Tensor, Tensor]:
    """Places and shares of the cells that make up each bin, along one side.

    Args:
        sides: (K, 2) first and last coordinate in cells.
        cells: How many the map has.
        bins: Of the level.
        points: In each bin.

    Returns:
        (K, bins, 2 * points) int64 cells, and their shares of the mean.
    """
    begin, end = sides.double().unbind(1)
    steps = (torch.arange(bins * points, dtype=torch.float64) + 0.5) / (bins * points)
    place = begin[:, None] + (end - begin)[:, None] * steps.to(begin.device)
    place = place.clamp(0, cells - 1)
    first = place.floor()
    beyond = place - first
    behind = (first + 1).clamp(max=cells - 1)
    shape = (len(sides), bins, 2 * points)
    pairs = torch.stack([first, behind], 2).view(shape).to(torch.int64)
    return pairs, torch.stack([1 - beyond, beyond], 2).view(shape) / points


Sides = tuple[Projection, Projection]


def _number_boxes(boxes: Tensor | Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Bring boxes to (K, 5) float64 [image, x1, y1, x2, y2] on the device of the maps."""
    device = maps[0].device
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(
                f"boxes must have shape (K, 5), or (K, 4) in a list, got {tuple(boxes.shape)}"
            )
        check_boxes(boxes[:, 1:])
        image = boxes[:, 0]
        count = sum(len(each) for each in maps)
        legal = (image >= 0) & (image < count) & (image == image.floor())
        reject_rows(~legal, boxes, f"boxes must have the number of an image, 0..{count - 1}, first")
        return boxes.to(device, torch.float64)
    images = sum(len(each) for each in maps)
    if not isinstance(boxes, list | tuple) or len(boxes) != images:
        got = len(boxes) if isinstance(boxes, list | tuple) else type(boxes).__name__
        raise ValueError(f"boxes must have one tensor per image ({images}), got {got}")
    numbered = [torch.zeros(0, 5, dtype=torch.float64, device=device)]
    for i, each in enumerate(boxes):
        exact = check_boxes(each, f"boxes[{i}]").to(device, torch.float64)
        numbered.append(torch.cat([torch.full_like(exact[:, :1], i), exact], 1))
    return torch.cat(numbered)


def _sizes_of(size: ImageSize | None, maps: Sequence[Tensor]) -> list[tuple[int, int] | None]:
    """Give each map the size of its images, if sizes were given."""
    if size is None:
        return [None] * len(maps)
    listed: list[Any] = list(size) if isinstance(size, Iterable) else []
    of_all = len(listed) == 2 and not any(isinstance(each, Sequence) for each in listed)
    pairs = [tuple(listed)] * len(maps) if of_all else listed
    if len(pairs) != len(maps) or any(len(hw) != 2 for hw in pairs):
        raise ValueError(
            f"image_size must be (height, width), or one for each of {len(maps)} maps, got {size!r}"
        )
    return [(hw[0], hw[1]) for hw in pairs]


def _sides_of(
    features: Tensor,
    spatial_scale: float | None,
    stride: float | None,
    centre: float | None,
    size: tuple[int, int] | None,
    offset: float | None,
) -> Sides:
    """Say where the cells of a map lie down and across its image."""
    check_numbers(spatial_scale=spatial_scale, stride=stride, centre=centre, offset=offset)
    if sum(way is not None for way in (spatial_scale, stride, size)) != 1:
        raise ValueError(
            "exactly one of spatial_scale, stride and image_size must be given, got "
            f"{spatial_scale}, {stride} and {size}"
        )
    if centre is not None and stride is None:
        raise ValueError(f"centre must come with stride, got {centre} alone")
    if size is not None:
        if min(size) < 1:
            raise ValueError(f"image_size must be at least (1, 1), got {size}")
        strides = [pixels / cells for pixels, cells in zip(size, features.shape[2:], strict=True)]
    elif spatial_scale is not None:
        if not spatial_scale > 0:
            raise ValueError(f"spatial_scale must be positive, got {spatial_scale}")
        strides = [1 / spatial_scale] * 2
    else:
        strides = [stride] * 2  # type: ignore[list-item]
    down, across = (
        Projection(
            each,
            (each - 1) / 2 if centre is None else centre,
            each / 2 if offset is None else offset,
        )
        for each in strides
    )
    return down, across


def _project(rows: Tensor, maps: Sequence[Tensor], sides: Sequence[Sides]) -> Tensor:
    """Turn (K, 5) boxes with their images into (K, 5) int64 regions."""
    if len(maps) == 1:
        return _project_on(rows, maps[0], sides[0])
    regions = torch.zeros_like(rows, dtype=torch.int64)
    first = 0
    for features, of_map in zip(maps, sides, strict=True):
        end = first + len(features)
        mine = ((rows[:, 0] >= first) & (rows[:, 0] < end)).nonzero().flatten()
        regions[mine] = _project_on(rows[mine], features, of_map)
        first = end
    return regions


def _project_on(rows: Tensor, features: Tensor, sides: Sides) -> Tensor:
    image, x1, y1, x2, y2 = rows.unbind(1)
    down, across = sides
    left, right = project_side(x1, x2, across, features.shape[3])
    top, bottom = project_side(y1, y2, down, features.shape[2])
    return torch.stack([image.to(torch.int64), left, top, right, bottom], 1)


class BoxPool(nn.Module):
    """Module form of :func:`pool_boxes`.

    Args:
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.
        spatial_scale: Cells per pixel.
        stride: Pixels per cell.
        centre: Pixel on which cell 0 is centred; only with ``stride``.
        offset: Pixels by which each side moves inwards; half a stride if None.
        mode: "max" or "avg".
        output_sizes: Another name of ``levels``.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1, or the mode is unknown, or both
            ``levels`` and ``output_sizes`` are given.

    Example:
        >>> pool = BoxPool((1, 2), spatial_scale=1 / 8)
        >>> pool(torch.rand(1, 8, 7, 30), [torch.tensor([[16.0, 0.0, 72.0, 56.0]])]).shape
        torch.Size([1, 40])
        >>> boxes = torch.tensor([[0.0, 8.0, 64.0, 60.0]])
        >>> BoxPool(7)(torch.rand(3, 8, 8), boxes, image_size=(64, 64)).shape
        torch.Size([1, 147])

    Source:
        SPP-net, section 4.1 and appendix A: boxes become cells of one map of the whole image.
    """

    def __init__(
        self,
        levels: int | Sequence[Level] = DEFAULT_LEVELS,
        *,
        spatial_scale: float | None = None,
        stride: float | None = None,
        centre: float | None = None,
        offset: float | None = None,
        mode: str = "max",
        output_sizes: int | Sequence[Level] | None = None,
    ) -> None:
        super().__init__()
        self.levels = choose_levels(levels, output_sizes)
        check_numbers(spatial_scale=spatial_scale, stride=stride, centre=centre, offset=offset)
        self.spatial_scale, self.stride, self.centre = spatial_scale, stride, centre
        self.offset = offset
        self.mode = check_mode(mode)

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        boxes: Tensor | Sequence[Tensor],
        image_size: ImageSize | None = None,
    ) -> Tensor:
        """Pool boxes in pixels into (K, C * sum(n * n)); sizes are needed where no scale is set."""
        return pool_boxes(
            features,
            boxes,
            self.levels,
            spatial_scale=self.spatial_scale,
            stride=self.stride,
            centre=self.centre,
            image_size=image_size,
            offset=self.offset,
            mode=self.mode,
        )

    def out_features(self, channels: int) -> int:
        """Length of the vector of a box on maps with so many channels.

        Example:
            >>> BoxPool((1, 2), stride=16).out_features(256)
            1280
        """
        return vector_length(channels, self.levels)

    __prepare_scriptable__ = refuse_scripting

    def extra_repr(self) -> str:
        """Show the levels, where cells lie, and the mode if it is not the paper's."""
        places = ("spatial_scale", "stride", "centre", "offset")
        given = [(name, getattr(self, name)) for name in places]
        shown = [f"{name}={value:g}" for name, value in given if value is not None]
        modes = [f"mode={self.mode!r}"] if self.mode != "max" else []
        return ", ".join([f"levels={self.levels}", *shown, *modes])
