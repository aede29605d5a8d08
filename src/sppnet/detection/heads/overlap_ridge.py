"""Learns the overlap of a region with the nearest object of each class, by ridge regression.

A hinge asks one question of a region, object or not; two regions that both say yes are not told
apart, however much better one of them lies. Here the target is the overlap itself (IoU), so that
the score ranks regions by how well they fit, and part of an object is as negative as it should be.
The solution has a closed form: no mining, no iterations, and the scores of photos that were left
out cost one more solve.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sppnet.detection.assign import inside_crowd, trainable_objects
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.feature_set import CachedFeatures
from sppnet.detection.heads.classifiers import LinearRegionClassifier
from sppnet.detection.heads.hard_negatives import NEVER
from sppnet.detection.heads.region_head import RegionFeatures
from sppnet.errors import NothingUsableError
from sppnet.geometry import box_iou
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking

# Score of a perfect fit; an IoU of one half has score 0, so that scores read as log-odds.
GAIN = 4.0


@dataclass(frozen=True)
class OverlapRidgeConfig:
    """Constants of the regression.

    Args:
        components: Principal components of the features in which it is solved.
        basis_rows: Regions from which these are estimated.
        near: The most regions per image that overlap an object, besides the objects.
        far: The most regions per image that do not.
        most_rows: The most regions in all; many images give fewer each.
        near_from: Least IoU with an object of a region that overlaps it.
        penalty: Ridge penalty, relative to the mean square of a component.
        near_share: Weight of the regions that overlap an object of a class, of all regions.
        use_difficult: Whether objects marked difficult are learnt from.
        seed: Seed of the samples.
    """

    components: int = 1024
    basis_rows: int = 2500
    near: int = 60
    far: int = 60
    most_rows: int = 40_000
    near_from: float = 0.3
    penalty: float = 0.1
    near_share: float = 0.5
    use_difficult: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Basis:
    """A rotation of features onto their principal components.

    Args:
        mean: (D,) mean of the features.
        axes: (D, M) orthonormal directions.
    """

    mean: Tensor
    axes: Tensor

    def project(self, rows: Tensor) -> Tensor:
        """Turn (N, D) features into (N, M) components."""
        return rows.float() @ self.axes - self.mean @ self.axes

    @classmethod
    def of(cls, rows: Tensor, components: int) -> "Basis":
        """Find the principal components of (N, D) features, through the products of the rows.

        Example:
            >>> rows = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 4.0], [0.0, 1.0, 6.0]])
            >>> Basis.of(rows, 1).project(rows).abs().flatten().tolist()
            [2.0, 0.0, 2.0]
        """
        mean = rows.float().mean(0)
        centred = rows.float() - mean
        values, vectors = torch.linalg.eigh((centred @ centred.T).double())
        # rows that are repeated, or fewer than their numbers, span less
        kept = values > max(float(values[-1]), 1e-30) * 1e-7
        kept[: max(0, len(kept) - components)] = False
        axes = centred.T @ (vectors[:, kept] / values[kept].sqrt()).float()
        return cls(mean, axes)


class OverlapRidgeTrainer:
    """Trains a linear classifier of regions on cached features.

    Args:
        cached: Images with their proposals and maps.
        num_classes: K.
        features: What the classifier sees of a region.
        config: The constants.
        mirror: Whether mirror images are learnt from, too.

    Attributes:
        basis_: The rotation onto principal components, after :meth:`fit`.

    Source:
        Regression of the overlap in place of classification: Jiang et al. 2018 (IoU-Net) and
        Lenc and Vedaldi 2015, section 2. Ridge in place of a hinge for labels of a few classes:
        Rifkin et al. 2003.
    """

    def __init__(
        self,
        cached: CachedFeatures,
        num_classes: int,
        features: RegionFeatures,
        config: OverlapRidgeConfig | None = None,
        *,
        mirror: bool = False,
    ) -> None:
        self.cached = cached
        self.num_classes = num_classes
        self.features = features
        self.config = config or OverlapRidgeConfig()
        self.mirror = mirror

    def fit(self, track: Track = no_tracking) -> LinearRegionClassifier:
        """Sample regions, and solve for every class.

        Args:
            track: Shows progress.

        Returns:
            The classifier; a class without objects never scores.

        Raises:
            NothingUsableError: If no image has an object to learn from.
        """
        self.basis_ = self._find_basis(track)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._paths: list[Path] = []
        for image, encoded, boxes, regions in self._sample("learning overlaps", track):
            features = self.features.describe(self.cached.encoder, encoded, regions).cpu()
            known = overlap_targets(boxes, image, self.num_classes, self.config)
            parts.append((self.basis_.project(features), *known))
            self._paths += [image.path] * len(boxes)
        self._rows, self._targets, self._usable = (
            torch.cat(part) for part in zip(*parts, strict=True)
        )
        return self._solve(torch.ones(len(self._rows), dtype=torch.bool))

    def fit_without(self, images: Sequence[LabelledImage]) -> LinearRegionClassifier:
        """Solve once more without the regions of some images, for scores that did not learn them.

        Args:
            images: Images of the training that are left out; call :meth:`fit` first.

        Returns:
            The classifier.
        """
        left_out = {image.path for image in images}
        return self._solve(torch.tensor([path not in left_out for path in self._paths]))

    def _solve(self, learnt: Tensor) -> LinearRegionClassifier:
        """Solve on some of the rows, and turn the weights back to those of features."""
        weights, bias = solve_overlaps(
            self._rows[learnt], self._targets[learnt], self._usable[learnt], self.config
        )
        full = (self.basis_.axes @ weights).contiguous()
        return LinearRegionClassifier(full, bias - self.basis_.mean @ full, self.features)

    def _find_basis(self, track: Track) -> Basis:
        """Estimate the principal components from regions of all images."""
        views = len(self.cached.views(mirror=self.mirror))
        if not any(
            bool(trainable_objects(image, self.config.use_difficult).any())
            for image in self.cached.usable
        ):
            raise NothingUsableError("no image has an object to learn from")
        per_view = -(-self.config.basis_rows // views)
        draw = torch.Generator().manual_seed(self.config.seed + 1)
        rows = []
        for _, encoded, _, regions in self._sample("measuring features", track):
            some = torch.randperm(len(regions), generator=draw)[:per_view]
            rows.append(self.features.describe(self.cached.encoder, encoded, regions[some]).cpu())
        return Basis.of(torch.cat(rows), self.config.components)

    def _sample(
        self, description: str, track: Track
    ) -> Iterator[tuple[LabelledImage, EncodedImage, Tensor, Tensor]]:
        """Per image, (R, 4) boxes and their (R, 5) regions: objects, regions near them, others."""
        draw = torch.Generator().manual_seed(self.config.seed)
        views = len(self.cached.views(mirror=self.mirror))
        wanted = self.config.near + self.config.far
        share = min(1.0, self.config.most_rows / max(1, views * wanted))
        samples: Iterable[tuple[LabelledImage, EncodedImage, Tensor]] = self.cached.samples(
            description, track, mirror=self.mirror
        )
        for image, encoded, proposals in samples:
            objects = image.boxes[trainable_objects(image, self.config.use_difficult)]
            boxes = torch.cat([objects, proposals])
            near = torch.zeros(len(boxes), dtype=torch.bool)
            if len(image.boxes):
                near = box_iou(boxes, image.boxes).amax(1) >= self.config.near_from
            others = near.clone()
            others[: len(objects)] = False
            some = [
                torch.arange(len(objects)),
                _draw(others, round(share * self.config.near), draw),
                _draw(~near, round(share * self.config.far), draw),
            ]
            rows = torch.cat(some)
            yield (
                image,
                encoded,
                boxes[rows],
                self.cached.encoder.assign_regions(encoded, boxes[rows]),
            )


def _draw(mask: Tensor, limit: int, draw: torch.Generator) -> Tensor:
    """At most ``limit`` of the rows where a mask is true, drawn at random."""
    rows = mask.nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=draw)[:limit]]


def overlap_targets(
    boxes: Tensor, image: LabelledImage, num_classes: int, config: OverlapRidgeConfig | None = None
) -> tuple[Tensor, Tensor]:
    """Measure how well boxes fit the nearest object of each class.

    Args:
        boxes: (R, 4) xyxy in pixels.
        image: Holds the objects.
        num_classes: K.
        config: Says whether difficult objects count, and what is near an object.

    Returns:
        (R, K) the largest IoU with an object of the class, 0 without one; and (R, K) bool, whether
        it can be learnt from: not where a crowd, or a difficult object of the class that does not
        count, may be what the box shows.

    Example:
        >>> from pathlib import Path
        >>> no = torch.tensor([False])
        >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> image = LabelledImage(Path("a"), 1, (20, 40), box, torch.tensor([1]), no, no, no)
        >>> targets, usable = overlap_targets(torch.tensor([[0.0, 0, 10, 5]]), image, 2)
        >>> targets.tolist(), usable.tolist()
        ([[0.0, 0.5]], [[True, True]])
    """
    config = config or OverlapRidgeConfig()
    overlaps = box_iou(boxes, image.boxes)
    counts = trainable_objects(image, config.use_difficult)
    targets = boxes.new_zeros(len(boxes), num_classes)
    usable = ~inside_crowd(boxes, image)[:, None].repeat(1, num_classes)
    for overlap, label, learnt in zip(
        overlaps.T, image.labels.tolist(), counts.tolist(), strict=True
    ):
        if learnt:
            targets[:, label] = torch.maximum(targets[:, label], overlap)
        else:
            usable[:, label] &= overlap < config.near_from
    return targets, usable


def solve_overlaps(
    rows: Tensor, targets: Tensor, usable: Tensor, config: OverlapRidgeConfig
) -> tuple[Tensor, Tensor]:
    """Solve the weighted ridge regression of every class in closed form.

    Regions that overlap an object of a class and those that do not have a fixed share of its
    weight, however many there are of each. The products of all rows are summed once; a class only
    adds those of the rows near its objects.

    Args:
        rows: (N, M) features.
        targets: (N, K) overlaps, in 0..1.
        usable: (N, K) bool, whether a class learns from a row.
        config: The constants.

    Returns:
        (M, K) weights and (K,) biases of scores that are ``GAIN`` for an overlap of 1, 0 for one
        of 0.5, ``-GAIN`` for none; a class without a row near an object gets ``NEVER``.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
        >>> targets, usable = rows.clone(), torch.ones(4, 1, dtype=torch.bool)
        >>> weights, bias = solve_overlaps(rows, targets, usable, OverlapRidgeConfig(penalty=0.0))
        >>> [round(value, 3) for value in (rows[:2] @ weights + bias).flatten().tolist()]
        [-4.0, 4.0]
    """
    weights = rows.new_zeros(rows.shape[1], targets.shape[1])
    bias = rows.new_full(targets.shape[1:], NEVER)
    ones = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    of_all = _products(ones)
    for label in range(targets.shape[1]):
        near = usable[:, label] & (targets[:, label] >= config.near_from)
        far = usable[:, label] & ~near
        if not bool(near.any()):
            continue
        weight = torch.where(near, config.near_share / int(near.sum()), 0.0)
        weight[far] = (1 - config.near_share) / max(1, int(far.sum()))
        apart = float(weight[far][0]) if bool(far.any()) else 0.0
        moments = apart * of_all  # and what the other rows differ from it
        moments += _products(ones[~far], (weight[~far] - apart).double())
        goals = GAIN * (2 * targets[:, label] - 1)
        weights[:, label], bias[label] = _solve(
            moments, ones.T @ (weight * goals), float(weight.sum()), config.penalty
        )
    return weights, bias


def _products(rows: Tensor, weight: Tensor | None = None) -> Tensor:
    """(M, M) float64 sum of the outer products of rows, each times its weight."""
    weighted = rows if weight is None else rows * weight[:, None].to(rows.dtype)
    return (weighted.T @ rows).double()


def _solve(moments: Tensor, goals: Tensor, total: float, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights and bias from the moments of rows that end with a 1; the bias is not penalised."""
    moments, goals = moments / total, goals.double() / total
    mean, goal = moments[-1, :-1], goals[-1]
    covariance = moments[:-1, :-1] - mean[:, None] * mean
    covariance.diagonal().add_(max(penalty, 1e-9) * covariance.diagonal().mean())
    weights = torch.linalg.solve(covariance, goals[:-1] - mean * goal)
    return weights.float(), (goal - mean @ weights).float()
