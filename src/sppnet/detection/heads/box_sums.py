"""Box regression whose samples come and go: ridge regression kept as sums over images.

A cascade that is fitted anew reads all images; here an image is added, or taken away again, at the
cost of its own samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.box_regression import BoxCascade, CascadeConfig, RidgeBoxRegressor
from sppnet.geometry import boxes_to_deltas
from sppnet.images import LabelledImage

# Added to the landmarks' products with themselves, relative to their mean square.
JITTER = 1e-4


class Landmarks:
    """Coordinates in the space that some feature vectors span (Nystroem's method).

    Ridge regression in these coordinates is ridge regression on the features themselves, with
    weights that are sums of landmarks: exact where the samples are the landmarks.

    Args:
        rows: (M, D) features of mean norm 20.

    Attributes:
        basis: (D, M): ``features @ basis`` are the coordinates.

    Example:
        >>> rows = torch.eye(3)[:2]
        >>> (rows @ Landmarks(rows).basis).round(decimals=3)
        tensor([[1., 0.],
                [0., 1.]])

    Source:
        Williams and Seeger 2001.
    """

    def __init__(self, rows: Tensor) -> None:
        products = (rows @ rows.T).double()
        products.diagonal().mul_(1 + JITTER).add_(1e-12)
        lower = torch.linalg.cholesky(products)
        self.basis = torch.linalg.solve_triangular(lower, rows.double(), upper=False).T.float()
        self.basis = self.basis.contiguous()


@dataclass
class StageSamples:
    """Samples of one image for one stage of the cascade.

    Args:
        rows: (S, M + 1) float16 coordinates, the last is the constant 1.
        deltas: (S, 4) from each box to its object.
        groups: (S,) which regression learns from each: that of its class, or the only one.
    """

    rows: Tensor
    deltas: Tensor
    groups: Tensor


class RidgeSums:
    """The normal equations of one ridge regression: samples are added and taken away.

    Args:
        length: M + 1 numbers per row, the last of which is the constant 1.

    Example:
        >>> sums, rows, deltas = RidgeSums(2), torch.tensor([[2.0, 1.0]]), torch.ones(1, 4)
        >>> sums.add(rows, deltas)
        >>> sums.add(rows, deltas, -1)
        >>> sums.count, float(sums.products.abs().max())
        (0, 0.0)
    """

    def __init__(self, length: int) -> None:
        self.products, self.goals = torch.zeros(length, length), torch.zeros(length, 4)
        self.deltas = torch.zeros(4, dtype=torch.float64)
        self.count = 0

    def add(self, rows: Tensor, deltas: Tensor, sign: int = 1) -> None:
        """Add (S, M + 1) rows with their (S, 4) deltas, or take them away with ``sign`` -1."""
        self.products += sign * (rows.T @ rows)
        self.goals += sign * (rows.T @ deltas)
        self.deltas += sign * deltas.double().sum(0)
        self.count += sign * len(rows)

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Solve for (M, 4) weights and (4,) bias; zeros without samples."""
        length = len(self.products)
        if not self.count:
            return torch.zeros(length - 1, 4), torch.zeros(4)
        mean = self.deltas / self.count
        products = self.products.double()
        centred = self.goals.double() - products[:, -1:] * mean
        products.diagonal().add_(strength)
        found = torch.linalg.solve(products, centred)
        return found[:-1].float(), (found[-1] + mean).float()


class BoxSums:
    """A cascade of box regressions that is kept up to date as images are added and dropped.

    Every stage learns from boxes as the stages before it refine them at the time when the image is
    added.

    Args:
        encoder: Gives the features of boxes.
        landmarks: Of features of mean norm 20.
        num_classes: K.
        config: Constants of the cascade.
        scale: Factor that gives features that norm; the weights absorb it.
        seed: Seed of the samples of proposals.

    Attributes:
        cascade: The regressor, after :meth:`solve`.
    """

    def __init__(
        self,
        encoder: Encoder,
        landmarks: Landmarks,
        num_classes: int,
        config: CascadeConfig,
        scale: float,
        seed: int = 0,
    ) -> None:
        self.encoder, self.config, self.seed = encoder, config, seed
        self.basis = landmarks.basis * scale
        self._samples: dict[int, list[StageSamples]] = {}
        self._sums: list[list[RidgeSums]] = [[] for _ in range(config.stages)]
        self._changed: set[tuple[int, int]] = set()
        self.cascade = BoxCascade(0, config, seed)
        self.cascade.stages_ = []
        self.grow(num_classes)

    def grow(self, num_classes: int) -> None:
        """Make room for more classes; those without samples leave boxes as they are.

        One regression that serves all classes serves new ones as well.
        """
        length, size = self.basis.shape[1] + 1, len(self.basis)
        groups = 1 if self.config.class_agnostic else num_classes
        for sums in self._sums:
            sums.extend(RidgeSums(length) for _ in range(groups - len(sums)))
        stages = []
        for number in range(self.config.stages):
            stage = RidgeBoxRegressor(self.config.strength, self.config.spread)
            stage.weights_, stage.bias_ = torch.zeros(groups, size, 4), torch.zeros(groups, 4)
            if self.cascade.stages_:
                before = self.cascade.stages_[number]
                stage.weights_[: len(before.bias_)] = before.weights_
                stage.bias_[: len(before.bias_)] = before.bias_
            stages.append(stage)
        self.cascade = BoxCascade(num_classes, self.config, self.seed)
        self.cascade.stages_ = stages

    def add(
        self, owner: int, image: LabelledImage, encoded: EncodedImage, proposals: Tensor, most: int
    ) -> None:
        """Add the samples of an image.

        Args:
            owner: A number by which they are dropped again.
            image: Holds the objects.
            encoded: Its maps.
            proposals: (K, 4) xyxy in pixels.
            most: At most so many samples.
        """
        self.drop(owner)
        draw = torch.Generator().manual_seed(self.seed + owner)
        boxes, targets, labels = self.cascade.near_objects(image, proposals, draw)
        boxes, targets, labels = boxes[:most], targets[:most], labels[:most]
        if not len(boxes):
            return
        kept = []
        for number, sums in enumerate(self._sums):
            if number:
                before = BoxCascade(self.cascade.num_classes, self.config, self.seed)
                before.stages_ = self.cascade.stages_[number - 1 : number]
                boxes = before.apply(self.encoder, encoded, labels, boxes)
            rows = self.cascade.describe(self.encoder, encoded, boxes) @ self.basis
            rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).half()
            groups = torch.zeros_like(labels) if self.config.class_agnostic else labels
            kept.append(StageSamples(rows, boxes_to_deltas(boxes, targets), groups))
            self._count(number, sums, kept[-1], 1)
        self._samples[owner] = kept

    def drop(self, owner: int) -> None:
        """Take the samples of an image away again; nothing if it has none."""
        for number, samples in enumerate(self._samples.pop(owner, [])):
            self._count(number, self._sums[number], samples, -1)

    def solve(self) -> None:
        """Solve the regressions whose samples changed."""
        for number, group in sorted(self._changed):
            weights, bias = self._sums[number][group].solve(self.config.strength)
            stage = self.cascade.stages_[number]
            stage.weights_[group], stage.bias_[group] = self.basis @ weights, bias
        self._changed.clear()

    def _count(self, number: int, sums: list[RidgeSums], samples: StageSamples, sign: int) -> None:
        """Add samples to the sums of their regressions, or take them away."""
        for group in samples.groups.unique().tolist():
            rows = samples.groups == group
            sums[group].add(samples.rows[rows].float(), samples.deltas[rows], sign)
            self._changed.add((number, group))
