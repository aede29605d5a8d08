"""Windows of one shape on every cell of a map, and averages of the map in their bins.

Averages of rectangles come from a table of sums. Cells outside the map count as zeros.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.pooling.bins import bin_edges


@dataclass(frozen=True)
class AnchorGrid:
    """Windows of one shape, one on every cell of a map of any size.

    Args:
        width: Of the window, in pixels of the image that was convolved.
        height: Of the window.
        stride: Pixels from cell to cell.
        centre: Pixel on which cell 0 is centred.
        bins: Bins along each side of the window.

    Example:
        >>> grid = AnchorGrid(width=32, height=16, stride=16, centre=8, bins=1)
        >>> grid.boxes((1, 2))
        tensor([[ 0.5000,  0.5000, 32.5000, 16.5000],
                [16.5000,  0.5000, 48.5000, 16.5000]])
        >>> grid.rectangles
        tensor([[0, 0, 2, 1]])
    """

    width: float
    height: float
    stride: float
    centre: float
    bins: int = 3

    @property
    def cells_wh(self) -> tuple[int, int]:
        """Width and height of the window in cells, at least 1."""
        width, height = self.width / self.stride, self.height / self.stride
        return max(1, round(width)), max(1, round(height))

    @property
    def rectangles(self) -> Tensor:
        """(bins * bins, 4) half-open cells x0, y0, x1, y1 of each bin, from the window's cell."""
        left, top = (-((cells - 1) // 2) for cells in self.cells_wh)
        across, down = (bin_edges(cells, self.bins) for cells in self.cells_wh)
        return torch.tensor(
            [[left + x0, top + y0, left + x1, top + y1] for y0, y1 in down for x0, x1 in across]
        )

    def boxes(self, grid_hw: tuple[int, int]) -> Tensor:
        """(h * w, 4) windows xyxy in pixels of the convolved image, row by row, not clipped."""
        # an even number of cells has its middle half a cell after the window's cell
        shift = torch.tensor([(1 - cells % 2) / 2 for cells in self.cells_wh])
        rows, columns = (torch.arange(float(size)) for size in grid_hw)
        y, x = torch.meshgrid(rows + shift[1], columns + shift[0], indexing="ij")
        middle = torch.stack([x, y], -1).reshape(-1, 2) * self.stride + self.centre + 0.5
        half = torch.tensor([self.width, self.height]) / 2
        return torch.cat([middle - half, middle + half], 1)

    def describe(self, sums: Tensor, places: Tensor) -> Tensor:
        """Average a map in the bins of some windows.

        Args:
            sums: (C, h + 1, w + 1) from :func:`table_of_sums`.
            places: (N,) numbers of windows, rows of :meth:`boxes`.

        Returns:
            (N, C * bins * bins + 1) float32, channel slowest; the last column is 1.
        """
        height, width = sums.shape[1] - 1, sums.shape[2] - 1
        at = torch.stack([places % width, places // width], 1).repeat(1, 2)
        x0, y0, x1, y1 = (at[:, None] + self.rectangles).unbind(-1)
        x0, x1 = x0.clamp(0, width), x1.clamp(0, width)
        y0, y1 = y0.clamp(0, height), y1.clamp(0, height)
        totals = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
        means = (totals / _areas(self.rectangles)).permute(1, 0, 2).flatten(1)
        return torch.cat([means, means.new_ones(len(places), 1)], 1).float()

    def respond(self, features: Tensor, weights: Tensor) -> Tensor:
        """Multiply the averages of every window by a matrix, without building them.

        The matrix is applied to the cells first, so that few channels remain to be summed.

        Args:
            features: (C, h, w) map.
            weights: (C * bins * bins + 1, M); the last row is the constant.

        Returns:
            (h * w, M), equal to ``describe(...) @ weights`` up to rounding.
        """
        channels, height, width = features.shape
        per_bin = weights[:-1].unflatten(0, (channels, -1)).flatten(1).T  # (bins * bins * M, C)
        mixed = (per_bin @ features.flatten(1)).unflatten(1, (height, width))
        sums = table_of_sums(mixed).unflatten(0, (-1, weights.shape[1]))
        total = torch.zeros(weights.shape[1], height, width, dtype=sums.dtype)
        for part, rectangle in zip(sums, self.rectangles, strict=True):
            total += _slide(part, rectangle) / _areas(rectangle)
        return (total.flatten(1).T + weights[-1]).float()


def table_of_sums(features: Tensor) -> Tensor:
    """Sums of all cells above and to the left: (C, h, w) -> (C, h + 1, w + 1), float64.

    Example:
        >>> table_of_sums(torch.ones(1, 2, 2))
        tensor([[[0., 0., 0.],
                 [0., 1., 2.],
                 [0., 2., 4.]]], dtype=torch.float64)

    Source:
        Crow 1984; Viola and Jones 2001.
    """
    summed = features.double().cumsum(1).cumsum(2)
    return torch.nn.functional.pad(summed, (1, 0, 1, 0))


def _slide(sums: Tensor, rectangle: Tensor) -> Tensor:
    """(M, h, w) sums over a rectangle of cells that is moved to every cell of the map."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    x0, y0, x1, y1 = rectangle.tolist()
    rows, columns = torch.arange(height), torch.arange(width)
    upper, lower = (rows + y0).clamp(0, height), (rows + y1).clamp(0, height)
    left, right = (columns + x0).clamp(0, width), (columns + x1).clamp(0, width)
    bands = sums[:, lower] - sums[:, upper]
    return bands[:, :, right] - bands[:, :, left]


def _areas(rectangles: Tensor) -> Tensor:
    """Cells in each rectangle, whether or not they lie on the map."""
    return (rectangles[..., 2:] - rectangles[..., :2]).prod(-1)
