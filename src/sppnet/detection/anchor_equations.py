"""What learning anchors from many images adds up to: matrices whose size no image changes."""

import torch
from torch import Tensor


class ChannelAxes:
    """Finds the few directions in which the cells of maps vary most (principal components).

    Args:
        channels: C of the maps.

    Example:
        >>> axes = ChannelAxes(2)
        >>> axes.add(torch.tensor([[1.0, 3.0, 5.0], [7.0, 7.0, 7.0]]))
        >>> rotation, shift = axes.solve(1)
        >>> (rotation @ torch.tensor([3.0, 7.0]) + shift).abs() < 1e-6
        tensor([True])
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, cells: Tensor) -> None:
        """Take in (C, N) cells."""
        self._count += cells.shape[1]
        self._sum += cells.sum(1).cpu()
        self._products += (cells @ cells.T).cpu()

    def solve(self, count: int) -> tuple[Tensor, Tensor]:
        """Give the rotation (P, C) and the shift (P,), P at most ``count`` and C.

        ``rotation @ cells + shift`` has mean 0, and variance 1 on the average of its channels.
        """
        mean = self._sum / self._count
        covariance = self._products / self._count - mean[:, None] * mean
        variances, axes = torch.linalg.eigh(covariance)
        # the sign of an axis is free: its largest entry becomes positive
        signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        spread = variances[-count:].mean().clamp(min=1e-12).sqrt()
        rotation = (axes * signs)[:, -count:].T / spread
        return rotation.float().contiguous(), -(rotation @ mean).float()


class AnchorEquations:
    """Normal equations of one shape of anchor: is there a thing, and where are its sides.

    The score is fitted to +1 on windows with a thing and to -1 on others, both kinds weighing the
    same; the four numbers that move the window are fitted on those with a thing.

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
        """Take in (N, length) rows of windows with a thing, the way to it, what each weighs."""
        weighted = rows * weights[:, None]
        self._positive += weighted.T @ rows
        self._to_deltas += weighted.T @ deltas
        self._weight += float(weights.sum())

    def add_negatives(self, rows: Tensor) -> None:
        """Take in (N, length) rows of windows without a thing."""
        self._negative += rows.T @ rows
        self._count += len(rows)

    def solve(self, strength: float) -> Tensor:
        """(length, 5) weights: the score, then the four deltas.

        Args:
            strength: Ridge penalty beside the mean of the squares; the constant goes free.
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
