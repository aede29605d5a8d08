"""Anchors: their shapes, their places on a map, and the linear models that are fitted to them.

Means over rectangles of cells come from integral images. Cells outside the map count as zeros.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sppnet.pooling.bins import bin_edges

ROUNDS = 50


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of one shape, one on each cell of a map of any size.

    Args:
        width: Width of an anchor, in pixels of the image that was convolved.
        height: Height of an anchor, in the same pixels.
        stride: Pixels from cell to cell.
        centre: Pixel on which cell 0 is centred.
        bins: Bins along each side of an anchor.

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
        """Width and height of an anchor in cells, at least 1."""
        width, height = self.width / self.stride, self.height / self.stride
        return max(1, round(width)), max(1, round(height))

    @cached_property
    def rectangles(self) -> Tensor:
        """(bins * bins, 4) cells x0, y0, x1, y1 of each bin, relative to the anchor's cell."""
        left, top = (-((cells - 1) // 2) for cells in self.cells_wh)
        across, down = (bin_edges(cells, self.bins) for cells in self.cells_wh)
        return torch.tensor(
            [[left + x0, top + y0, left + x1, top + y1] for y0, y1 in down for x0, x1 in across]
        )

    def boxes(self, grid_hw: tuple[int, int]) -> Tensor:
        """(h * w, 4) anchors xyxy in pixels of the convolved image, row by row, not clipped."""
        # an even number of cells has its middle half a cell after the anchor's cell
        shift = torch.tensor([(1 - cells % 2) / 2 for cells in self.cells_wh])
        rows, columns = (torch.arange(float(size)) for size in grid_hw)
        y, x = torch.meshgrid(rows + shift[1], columns + shift[0], indexing="ij")
        middle = torch.stack([x, y], -1).reshape(-1, 2) * self.stride + self.centre + 0.5
        half = torch.tensor([self.width, self.height]) / 2
        return torch.cat([middle - half, middle + half], 1)

    def describe(self, sums: Tensor, anchors: Tensor) -> Tensor:
        """Average a map over the bins of some anchors.

        Args:
            sums: (C, h + 1, w + 1) from :func:`integral_image`.
            anchors: (N,) int64 rows of :meth:`boxes`.

        Returns:
            (N, C * bins * bins + 1) float32, channel slowest; the last column is 1.
        """
        height, width = sums.shape[1] - 1, sums.shape[2] - 1
        at = torch.stack([anchors % width, anchors // width], 1).repeat(1, 2)
        x0, y0, x1, y1 = (at[:, None] + self.rectangles).unbind(-1)
        x0, x1 = x0.clamp(0, width), x1.clamp(0, width)
        y0, y1 = y0.clamp(0, height), y1.clamp(0, height)
        totals = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
        means = (totals / _areas(self.rectangles)).permute(1, 0, 2).flatten(1)
        return torch.cat([means, means.new_ones(len(anchors), 1)], 1).float()

    def respond(self, features: Tensor, weights: Tensor) -> Tensor:
        """Multiply the means of every anchor by a matrix, without building them.

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
        sums = integral_image(mixed).unflatten(0, (-1, weights.shape[1]))
        totals = _box_filter(sums, self.rectangles)
        means = totals / _areas(self.rectangles)[:, None, None, None]
        return (means.sum(0).flatten(0, 1) + weights[-1]).float()


def integral_image(features: Tensor) -> Tensor:
    """Sum all cells above and to the left of each corner.

    Args:
        features: (C, h, w) map.

    Returns:
        (C, h + 1, w + 1) float64.

    Example:
        >>> integral_image(torch.ones(1, 2, 2))
        tensor([[[0., 0., 0.],
                 [0., 1., 2.],
                 [0., 2., 4.]]], dtype=torch.float64)

    Source:
        Crow 1984; Viola and Jones 2001.
    """
    summed = features.double().cumsum(1).cumsum(2)
    return torch.nn.functional.pad(summed, (1, 0, 1, 0))


def _box_filter(sums: Tensor, rectangles: Tensor) -> Tensor:
    """(B, h, w, M) sums of (B, M, h + 1, w + 1) over B rectangles, placed at every cell."""
    height, width = sums.shape[2] - 1, sums.shape[3] - 1
    x0, y0, x1, y1 = rectangles.T[..., None]
    rows, columns = torch.arange(height), torch.arange(width)
    upper, lower = (rows + y0).clamp(0, height), (rows + y1).clamp(0, height)
    left, right = (columns + x0).clamp(0, width), (columns + x1).clamp(0, width)
    each = torch.arange(len(rectangles))[:, None]
    bands = sums[each, :, lower] - sums[each, :, upper]  # (B, h, M, w + 1)
    return (bands[each, ..., right] - bands[each, ..., left]).transpose(1, 2)


def _areas(rectangles: Tensor) -> Tensor:
    """Cells in each rectangle, including those outside the map."""
    return (rectangles[..., 2:] - rectangles[..., :2]).prod(-1)


def cluster_shapes(sizes: Tensor, weights: Tensor, count: int) -> Tensor:
    """Cluster the sizes of boxes by k-means, with 1 - IoU as the distance.

    The start is fixed: the size nearest to the mean, then always the size that the shapes so far
    cover worst. The centre of a cluster is the geometric mean of its sizes.

    Args:
        sizes: (N, 2) widths and heights, positive.
        weights: (N,) weights of the sizes, positive.
        count: The most shapes.

    Returns:
        (K, 2) shapes, K at most ``count`` and at most the number of distinct sizes.

    Example:
        >>> sizes = torch.tensor([[9.0, 9.0], [11.0, 11.0], [90.0, 40.0]])
        >>> cluster_shapes(sizes, torch.ones(3), 2).round()
        tensor([[10., 10.],
                [90., 40.]])

    Source:
        Redmon and Farhadi 2017 (YOLO9000), section 2: dimension clusters.
    """
    shapes = _spread(sizes, weights, count)
    for _ in range(ROUNDS):
        moved = _middles(sizes, weights, size_overlap(sizes, shapes).argmax(1), shapes)
        if torch.allclose(moved, shapes):
            break
        shapes = moved
    return shapes


def size_overlap(sizes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes with one common centre: (N, 2) and (M, 2) -> (N, M).

    Example:
        >>> size_overlap(torch.tensor([[2.0, 4.0]]), torch.tensor([[4.0, 2.0], [2.0, 2.0]]))
        tensor([[0.3333, 0.5000]])
    """
    shared = torch.minimum(sizes[:, None], others[None]).prod(-1)
    return shared / (sizes.prod(-1)[:, None] + others.prod(-1)[None] - shared)


def _spread(sizes: Tensor, weights: Tensor, count: int) -> Tensor:
    """Start of the clusters: the middle size, then the size that is covered worst, and so on."""
    logs = sizes.log()
    middle = (logs - logs.mean(0)).square().sum(1).argmin()
    chosen = [int(middle)]
    while len(chosen) < count:
        uncovered = 1 - size_overlap(sizes, sizes[chosen]).amax(1)
        if float(uncovered.max()) < 1e-6:
            break
        chosen.append(int((uncovered * weights.sqrt()).argmax()))
    return sizes[chosen]


def _middles(sizes: Tensor, weights: Tensor, group_of: Tensor, shapes: Tensor) -> Tensor:
    """Weighted geometric mean of each cluster; the shape of an empty cluster stays."""
    member = torch.nn.functional.one_hot(group_of, len(shapes)).to(sizes.dtype) * weights[:, None]
    total = member.sum(0)[:, None]
    means = (member.T @ sizes.log() / total.clamp(min=1e-12)).exp()
    return torch.where(total > 0, means, shapes)


class PrincipalComponents:
    """Principal components of the channels of feature maps, from a stream of cells.

    Args:
        channels: C of the maps.

    Example:
        >>> components = PrincipalComponents(2)
        >>> components.add(torch.tensor([[1.0, 3.0, 5.0], [7.0, 7.0, 7.0]]))
        >>> rotation, shift = components.solve(1)
        >>> (rotation @ torch.tensor([3.0, 7.0]) + shift).abs() < 1e-6
        tensor([True])
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, cells: Tensor) -> None:
        """Add (C, N) cells."""
        self._count += cells.shape[1]
        self._sum += cells.sum(1).cpu()
        self._products += (cells @ cells.T).cpu()

    def solve(self, count: int) -> tuple[Tensor, Tensor]:
        """Find the directions in which the cells vary most.

        Args:
            count: The most directions.

        Returns:
            (P, C) rotation and (P,) shift, float32, with P at most ``count`` and C:
            ``rotation @ cells + shift`` has mean 0, and its channels have variance 1 on average.
        """
        mean = self._sum / self._count
        covariance = self._products / self._count - mean[:, None] * mean
        variances, axes = torch.linalg.eigh(covariance)
        # the sign of an axis is free: its largest entry becomes positive
        signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        spread = variances[-count:].mean().clamp(min=1e-12).sqrt()
        rotation = (axes * signs)[:, -count:].T / spread
        return rotation.float().contiguous(), -(rotation @ mean).float()


class NormalEquations:
    """Least squares for the anchors of one shape: a score, and the deltas to the object's box.

    The score is fitted to +1 on positives and to -1 on negatives, both with the same total weight;
    the four deltas are fitted on positives only.

    Args:
        length: Numbers per row, the last of which is the constant 1.

    Source:
        Least squares on +-1 is Fisher's discriminant (Duda and Hart 1973, section 5.8.2); scores
        and shifts of anchors: Ren et al. 2015 (Faster R-CNN), section 3.1; fitting them in closed
        form from fixed features: Maiettini et al. 2017 (arXiv 1803.08740) and Ceola et al. 2020
        (arXiv 2011.12790).
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._positive, self._negative = self._zeros(length), self._zeros(length)
        self._to_deltas = self._zeros(4)
        self._weight, self._count = 0.0, 0

    def _zeros(self, columns: int) -> Tensor:
        return torch.zeros(self._length, columns)

    def add_positives(self, rows: Tensor, deltas: Tensor, weights: Tensor) -> None:
        """Add positives: (N, length) rows, (N, 4) deltas to their objects, (N,) weights."""
        weighted = rows * weights[:, None]
        self._positive += weighted.T @ rows
        self._to_deltas += weighted.T @ deltas
        self._weight += float(weights.sum())

    def add_negatives(self, rows: Tensor) -> None:
        """Add negatives: (N, length) rows."""
        self._negative += rows.T @ rows
        self._count += len(rows)

    def solve(self, strength: float) -> Tensor:
        """Solve the equations.

        Args:
            strength: Ridge penalty, relative to the mean of the squares; the constant has none.

        Returns:
            (length, 5) weights of the score and of the four deltas.
        """
        positive = self._positive.double() / max(self._weight, 1e-12)
        negative = self._negative.double() / max(self._count, 1)
        ridge = torch.full((self._length,), strength, dtype=torch.float64)
        ridge[-1] = 1e-6  # not 0, so that a shape without examples can be solved
        both = (positive + negative) / 2 + ridge.diag()
        goal = (positive[-1] - negative[-1]) / 2  # the constant's row holds the sums of the rows
        score = torch.linalg.solve(both, goal[:, None])
        moves = self._to_deltas.double() / max(self._weight, 1e-12)
        deltas = torch.linalg.solve(positive + ridge.diag(), moves)
        return torch.cat([score, deltas], 1).float()
