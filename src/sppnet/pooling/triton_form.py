"""Pyramid pooling on CUDA: maps and regions as views of one matrix of cells."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sppnet.pooling.torch_form import whole_maps
from sppnet.pooling.triton_kernels import pool_cells, pool_cells_backward


def pool(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str, out: Tensor
) -> None:
    """Pool whole maps, or checked regions (R, 5), into ``out``."""
    rows = whole_maps(maps) if rows is None else rows
    pool_cells(_cells_of(maps), _views_of(maps, rows), levels, mode, out=out)


def backward(
    grad: Tensor, maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str
) -> list[Tensor]:
    """Gradients of the maps, channels last. The order of sums is not fixed on CUDA."""
    rows = whole_maps(maps) if rows is None else rows
    views = _views_of(maps, rows)
    cells = pool_cells_backward(grad.contiguous(), _cells_of(maps), views, levels, mode)
    split = cells.split([each.numel() // max(1, each.shape[1]) for each in maps])
    shapes = [(each.shape[0], *each.shape[2:], each.shape[1]) for each in maps]
    return [
        part.reshape(shape).permute(0, 3, 1, 2) for part, shape in zip(split, shapes, strict=True)
    ]


def _cells_of(maps: Sequence[Tensor]) -> Tensor:
    """(cells of all maps, C); not copied where one map has its channels last already."""
    flat = [each.permute(0, 2, 3, 1).flatten(0, 2) for each in maps]
    cells = flat[0] if len(flat) == 1 else torch.cat(flat)
    return cells if cells.stride(1) == 1 else cells.contiguous()


def _views_of(maps: Sequence[Tensor], rows: Tensor) -> Tensor:
    """(R, 4) first cell, width of the map, height and width of each region."""
    first, table = 0, []
    for each in maps:
        height, width = each.shape[2:]
        for _ in range(len(each)):
            table.append([first, width])
            first += height * width
    starts, widths = torch.tensor(table, device=rows.device).reshape(-1, 2)[rows[:, 0]].unbind(1)
    _, x0, y0, x1, y1 = rows.unbind(1)
    return torch.stack([starts + y0 * widths + x0, widths, y1 - y0, x1 - x0], 1)
