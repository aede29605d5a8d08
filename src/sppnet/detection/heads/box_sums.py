"""Box regression in closed form: what samples say that come and go, or that are left out.

A cascade that is fitted anew reads all images; kept as sums, an image is added, or taken away
again, at the cost of its own samples.

With few objects of each class one regression for all of them fits boxes better; with many, or with
classes of very different shapes, each class should have its own. Ridge regression tells on photos
that are left out without being fitted again: what a fit without some rows would predict for them
follows from the inverse of the whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.box_regression import (
    BoxCascade,
    CascadeConfig,
    RidgeBoxRegressor,
    inner_products,
    whiten_deltas,
)
from sppnet.geometry import box_iou, boxes_to_deltas, deltas_to_boxes
from sppnet.images import LabelledImage

# Added to the landmarks' products with themselves, relative to their mean square.
JITTER = 1e-4
MOST_ROWS = 1200  # 0.1 s for each inverse
MOST_PER_PHOTO = 30


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
        basis: (D, M) of :class:`Landmarks`, times the factor that gives features a mean norm of 20;
            the weights absorb it.
        num_classes: K.
        config: Constants of the cascade.
        seed: Seed of the samples of proposals.

    Attributes:
        cascade: The regressor, after :meth:`solve`.
    """

    def __init__(
        self,
        encoder: Encoder,
        basis: Tensor,
        num_classes: int,
        config: CascadeConfig,
        seed: int = 0,
    ) -> None:
        self.encoder, self.config, self.seed = encoder, config, seed
        self.basis = basis
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

    def copy(self) -> "BoxSums":
        """Copy the sums and the solution; the samples, which never change, are shared."""
        other = copy(self)
        other._samples = dict(self._samples)
        other._sums = [[copy(each) for each in sums] for sums in self._sums]
        for sums in chain.from_iterable(other._sums):
            sums.products, sums.goals = sums.products.clone(), sums.goals.clone()
            sums.deltas = sums.deltas.clone()
        other.cascade = copy(self.cascade)
        other.cascade.stages_ = [copy(stage) for stage in self.cascade.stages_]
        for stage in other.cascade.stages_:
            stage.weights_, stage.bias_ = stage.weights_.clone(), stage.bias_.clone()
        return other

    def parts(self) -> Iterator[dict[str, Tensor]]:
        """Give basis, sums, samples and solution in a few parts, for :meth:`restored`."""
        yield {"basis": self.basis, "agnostic": torch.tensor(self.config.class_agnostic)}
        owners = sorted(self._samples)
        for number, (stage, sums) in enumerate(zip(self.cascade.stages_, self._sums, strict=True)):
            kept = [self._samples[owner][number] for owner in owners]
            columns = ("rows", "deltas", "groups")
            some = {c: torch.cat([getattr(one, c) for one in kept]) for c in columns if kept}
            yield {
                **some,
                "owners": torch.tensor(owners, dtype=torch.int64),
                "sizes": torch.tensor([len(one.rows) for one in kept], dtype=torch.int64),
                "weights": stage.weights_,
                "bias": stage.bias_,
                "products": torch.stack([each.products for each in sums]),
                "goals": torch.stack([each.goals for each in sums]),
                "sums": torch.stack([each.deltas for each in sums]),
                "counts": torch.tensor([each.count for each in sums]),
            }

    @classmethod
    def restored(
        cls,
        parts: Iterator[Mapping[str, Tensor]],
        encoder: Encoder,
        num_classes: int,
        config: CascadeConfig,
        seed: int = 0,
    ) -> "BoxSums":
        """Go on from what :meth:`parts` gave."""
        first = next(parts)
        config = replace(config, class_agnostic=bool(first["agnostic"]))
        made = cls(encoder, first["basis"], num_classes, config, seed)
        for number, part in zip(range(config.stages), parts, strict=False):
            made._restore_stage(number, part)
        return made

    def _restore_stage(self, number: int, part: Mapping[str, Tensor]) -> None:
        stage = self.cascade.stages_[number]
        stage.weights_, stage.bias_ = part["weights"], part["bias"]
        for group, sums in enumerate(self._sums[number]):
            sums.products, sums.goals = part["products"][group], part["goals"][group]
            sums.deltas, sums.count = part["sums"][group], int(part["counts"][group])
        sizes, owners = part["sizes"].tolist(), part["owners"].tolist()
        columns = [part[name].split(sizes) for name in ("rows", "deltas", "groups") if owners]
        for owner, rows, deltas, groups in zip(owners, *columns, strict=True):
            self._samples.setdefault(owner, []).append(StageSamples(rows, deltas, groups))

    def _count(self, number: int, sums: list[RidgeSums], samples: StageSamples, sign: int) -> None:
        """Add samples to the sums of their regressions, or take them away."""
        for group in samples.groups.unique().tolist():
            rows = samples.groups == group
            sums[group].add(samples.rows[rows].float(), samples.deltas[rows], sign)
            self._changed.add((number, group))


@dataclass(frozen=True)
class NearBoxes:
    """Boxes that overlap an object.

    Args:
        features: (S, D), of mean norm 20.
        boxes: (S, 4) xyxy in pixels.
        targets: (S, 4) the object of each.
        labels: (S,) its class.
        photos: (S,) which photo each is in.
    """

    features: Tensor
    boxes: Tensor
    targets: Tensor
    labels: Tensor
    photos: Tensor


def classes_share(
    samples: Iterable[tuple[LabelledImage, EncodedImage, Tensor]],
    encoder: Encoder,
    config: CascadeConfig,
    feature_scale: float = 1.0,
    seed: int = 0,
) -> bool:
    """Decide whether one regression for all classes fits boxes better than one for each.

    Args:
        samples: Photos in random order, with their maps and (K, 4) proposals; as many are read as
            give 1,200 boxes near an object.
        encoder: Gives the features of boxes.
        config: Penalty, overlap and the like; what it says of sharing does not count.
        feature_scale: Factor that gives features a mean norm of 20.
        seed: Of the sample of boxes.

    Returns:
        Whether the mean IoU of boxes and objects, averaged over classes, is at least as high with
        one regression for all; each photo is left out in turn. True with one photo or none.
    """
    near = collect_near(samples, encoder, config, feature_scale, seed)
    if near is None or len(near.photos.unique()) < 2:
        return True
    shared = refine_left_out(near, config, torch.zeros_like(near.labels))
    own = refine_left_out(near, config, near.labels)
    return _mean_fit(shared, near) >= _mean_fit(own, near)


def collect_near(
    samples: Iterable[tuple[LabelledImage, EncodedImage, Tensor]],
    encoder: Encoder,
    config: CascadeConfig,
    feature_scale: float = 1.0,
    seed: int = 0,
) -> NearBoxes | None:
    """Collect boxes near objects from as many photos as it takes; None if there are none."""
    draw = torch.Generator().manual_seed(seed)
    sampler = BoxCascade(1, config, seed)
    parts: list[tuple[Tensor, ...]] = []
    for number, (image, encoded, proposals) in enumerate(samples):
        near = sampler.near_objects(image, proposals, draw)
        boxes, targets, labels = (each[:MOST_PER_PHOTO] for each in near)
        features = sampler.describe(encoder, encoded, boxes) * feature_scale
        parts.append((features, boxes, targets, labels, torch.full_like(labels, number)))
        if sum(len(part[1]) for part in parts) >= MOST_ROWS:
            break
    if not any(len(part[1]) for part in parts):
        return None
    return NearBoxes(*(torch.cat(column)[:MOST_ROWS] for column in zip(*parts, strict=True)))


def refine_left_out(near: NearBoxes, config: CascadeConfig, groups: Tensor) -> Tensor:
    """Refine every box by regressions that never saw its photo.

    Args:
        near: The boxes.
        config: Penalty and spread.
        groups: (S,) which regression each box belongs to.

    Returns:
        (S, 4) refined boxes, xyxy in pixels. Those of a group that one photo alone shows stay as
        they are: nothing is left that its regression could be fitted to.
    """
    refined = near.boxes.clone()
    for group in groups.unique().tolist():
        rows = groups == group
        if len(near.photos[rows].unique()) < 2:
            continue
        boxes = near.boxes[rows].double()
        deltas = boxes_to_deltas(boxes, near.targets[rows].double())
        mean, whiten, colour = whiten_deltas(deltas, config.spread)
        products = inner_products(near.features[rows]).double() + 1
        guess = predict_left_out(
            products, (deltas - mean) @ whiten, near.photos[rows], config.strength
        )
        refined[rows] = deltas_to_boxes(boxes, guess @ colour + mean).to(refined.dtype)
    return refined


def predict_left_out(products: Tensor, goals: Tensor, photos: Tensor, strength: float) -> Tensor:
    """Predict every row by a ridge regression that was fitted to the rows of other photos.

    With Q the inverse of ``products`` plus the penalty, and a = Q ``goals``, the error of the rows
    g of a photo that is left out is the solution of Q[g, g] e = a[g].

    Args:
        products: (S, S) inner products of the rows.
        goals: (S, M).
        photos: (S,) which photo each row is of.
        strength: Ridge penalty, above 0.

    Returns:
        (S, M) predictions.

    Example:
        >>> rows, goals = torch.eye(2).double(), torch.ones(2, 1).double()
        >>> predict_left_out(rows @ rows.T, goals, torch.tensor([0, 1]), 1.0).flatten().tolist()
        [0.0, 0.0]

    Source:
        Pahikkala, Boberg and Salakoski 2006 (fast n-fold cross-validation for regularized
        least-squares).
    """
    penalised = products + strength * torch.eye(len(products), dtype=products.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(penalised))
    duals = inverse @ goals
    predicted = torch.empty_like(goals)
    for photo in photos.unique().tolist():
        rows = (photos == photo).nonzero().flatten()
        error = torch.linalg.solve(inverse[rows][:, rows], duals[rows])
        predicted[rows] = goals[rows] - error
    return predicted


def _mean_fit(refined: Tensor, near: NearBoxes) -> float:
    """IoU of each box and its object: the mean over boxes of a class, then over classes."""
    overlap = box_iou(refined, near.targets).diagonal()
    classes = near.labels.unique()
    return float(torch.stack([overlap[near.labels == label].mean() for label in classes]).mean())
