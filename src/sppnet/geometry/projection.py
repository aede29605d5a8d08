"""From a box in the image to the cells of a feature map that belong to it.

Cell k of a map is centred on pixel ``centre + k * stride`` (0-based pixel indices; the middle of
pixel i is at i). A backbone works both numbers out from its layers. A box is shrunk by ``offset``
pixels a side, then each side goes to the nearest centre. SPP-net's released code shrinks by 6.5 px
at stride 16; shrinking by half a stride is the rule of the paper's appendix, the centres strictly
inside the box.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.geometry.boxes import check_boxes


@dataclass(frozen=True)
class Projection:
    """How pixel coordinates of a (resized) image become cells of its feature map.

    Args:
        stride: Pixels between the centres of neighbouring cells.
        centre: Pixel on which cell 0 is centred; negative or fractional for some trunks.
        offset: Pixels by which each side moves inwards before the nearest centre is taken; half a
            stride leaves the centres strictly between the first and the last pixel of the box.

    Raises:
        ValueError: If a number is not finite or the stride is not positive.

    Example:
        >>> Projection.released(stride=16, centre=20)
        Projection(stride=16, centre=20, offset=6.5)
        >>> Projection.paper_v4(stride=16, centre=0)
        Projection(stride=16, centre=0, offset=8.0)

    Source:
        ``released``: spm_response_boxes.m of the authors' code. ``paper_v4``: appendix A of the
        paper.
    """

    stride: float
    centre: float
    offset: float

    def __post_init__(self) -> None:
        for name in ("stride", "centre", "offset"):
            # torch.compile follows a comparison, and not math.isfinite
            if not -math.inf < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if not self.stride > 0:
            raise ValueError(f"stride must be positive, got {self.stride}")

    @classmethod
    def released(cls, stride: float = 16, centre: float = 20) -> "Projection":
        """Return the rule of the released code: 6.5 px at stride 16, in proportion at others."""
        return cls(stride, centre, 6.5 * stride / 16)

    @classmethod
    def paper_v4(cls, stride: float = 16, centre: float = 0) -> "Projection":
        """Return the rule of the paper's appendix: cells centred strictly inside the box."""
        return cls(stride, centre, stride / 2)


PROJECTION_PRESETS = {"released": Projection.released, "paper_v4": Projection.paper_v4}


def project_boxes(boxes: Tensor, projection: Projection, grid_hw: tuple[int, int]) -> Tensor:
    """Find the cells of a feature map that each box covers.

    Where a side lies midway between two centres, left and top go to the larger, right and bottom to
    the smaller. A box that holds no centre gets the cell in the middle; a box outside the map gets
    the nearest cell. No region is empty.

    Args:
        boxes: (K, 4) xyxy in pixels of the image that was convolved, x2 and y2 exclusive.
        projection: Stride, centre of cell 0 and offset.
        grid_hw: Height and width of the feature map in cells, both at least 1.

    Returns:
        (K, 4) int64 half-open cells x0, y0, x1, y1 with 0 <= x0 < x1 <= width and the same for y.

    Raises:
        TypeError: If ``boxes`` is not floating point.
        ValueError: If a box is not finite or is reversed, or the grid is empty.

    Example:
        >>> project_boxes(torch.tensor([[0.0, 0.0, 224.0, 224.0]]), Projection.released(), (13, 13))
        tensor([[ 0,  0, 13, 13]])

    Source:
        spm_response_boxes.m and spm_pool_caffe_mex.cpp of the authors' code; appendix A of the
        paper.
    """
    check_boxes(boxes)
    height, width = grid_hw
    if height < 1 or width < 1:
        raise ValueError(f"grid_hw must be at least (1, 1), got {grid_hw}")
    x0, x1 = project_side(boxes[:, 0], boxes[:, 2], projection, width)
    y0, y1 = project_side(boxes[:, 1], boxes[:, 3], projection, height)
    return torch.stack([x0, y0, x1, y1], 1)


def project_side(
    begin: Tensor, end: Tensor, projection: Projection, cells: int
) -> tuple[Tensor, Tensor]:
    """Find the cells that boxes cover along one side, as :func:`project_boxes`; nothing is checked.

    Args:
        begin: (K,) first coordinate in pixels: x1 or y1.
        end: (K,) last coordinate, exclusive: x2 or y2.
        projection: Stride, centre of cell 0 and offset along this side.
        cells: How many cells the side has, at least 1.

    Returns:
        (K,) int64 first cells and (K,) int64 cells behind the last.

    Example:
        >>> project_side(torch.tensor([0.0]), torch.tensor([224.0]), Projection.released(), 13)
        (tensor([0]), tensor([13]))
    """
    stride, centre, offset = projection.stride, projection.centre, projection.offset
    # float64: coordinates of large images times fractional strides stay exact enough to round once
    first_pixel, last_pixel = begin.double(), end.double() - 1
    first = torch.floor((first_pixel - centre + offset) / stride + 0.5)
    last = torch.ceil((last_pixel - centre - offset) / stride - 0.5)
    # truncation towards zero of the 1-based midpoint, as the 2014 code does before clipping
    midpoint = torch.trunc((first + last + 2) / 2) - 1
    between = first > last
    first = _clip(torch.where(between, midpoint, first), cells)
    last = _clip(torch.where(between, midpoint, last), cells)
    return first.to(torch.int64), (last + 1).to(torch.int64)


def _clip(places: Tensor, cells: int) -> Tensor:
    """Take the nearest of the cells that there are."""
    if isinstance(cells, Tensor):  # torch.jit.trace counts in tensors
        return torch.minimum(places.clamp(min=0), (cells - 1).to(places))
    return places.clamp(0, cells - 1)


def cell_centres(projection: Projection, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixel coordinates on which the rows and columns of a feature map are centred.

    Args:
        projection: Stride and centre of cell 0; the offset is not used.
        grid_hw: Height and width of the map in cells.

    Returns:
        (height,) y and (width,) x, float64, in pixels of the image that was convolved.

    Example:
        >>> cell_centres(Projection.released(), (1, 3))
        (tensor([20.], dtype=torch.float64), tensor([20., 36., 52.], dtype=torch.float64))
    """
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in grid_hw)
    return (
        projection.centre + projection.stride * rows,
        projection.centre + projection.stride * columns,
    )
