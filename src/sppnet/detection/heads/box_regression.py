"""Box regression: what a detector asks of it, ridge regression, and a cascade of these."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor

from sppnet.config.detection import BOX_BINS
from sppnet.config.fields import Count, OneOf, Positive, Within, check_fields, restore_fields
from sppnet.detection.assign import trainable_objects
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.hard_negatives import ReservoirSample
from sppnet.detection.heads.region_head import BoxHead, check_classes, check_length
from sppnet.geometry import box_iou, boxes_to_deltas, clip_boxes, deltas_to_boxes
from sppnet.images import LabelledImage

Multiply = Callable[[Tensor, Tensor], Tensor]
Samples = Iterable[tuple[LabelledImage, EncodedImage, Tensor]]
ROWS_AT_ONCE = 512  # of a matrix of products


class BoxRegressor(Protocol):
    """What a detector asks of the model that refines boxes."""

    def apply(
        self, encoder: Encoder, encoded: EncodedImage, labels: Tensor, boxes: Tensor
    ) -> Tensor:
        """Move and resize boxes to fit the objects that they overlap.

        Args:
            encoder: Gives the features of the boxes.
            encoded: The image.
            labels: (W,) class of each box.
            boxes: (W, 4) xyxy in pixels of the original image.

        Returns:
            (W, 4) refined boxes, clipped to the image.
        """
        ...

    def check(self, encoder: Encoder, num_classes: int) -> None:
        """Check that it fits an encoder and as many classes.

        Raises:
            ValueError: If it expects other vectors or classes.
        """
        ...

    def config(self) -> dict[str, Any]:
        """Everything but the weights, in JSON values; ``kind`` names the class."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name."""
        ...


class RidgeBoxRegressor:
    """One linear regression of the box deltas per class, fitted in closed form.

    The four targets are whitened, so that one strength of regularisation suits all of them. The
    dual problem is solved, because there are fewer proposals than features.

    Args:
        strength: Ridge penalty, for features of mean norm 20; 4000 in the released code.
        spread: Added to the variances of the targets before they are whitened.

    Attributes:
        weights_: (K, D, 4) after :meth:`fit`.
        bias_: (K, 4) after :meth:`fit`.

    Example:
        >>> proposals = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0]])
        >>> regressor = RidgeBoxRegressor().fit([torch.eye(2)], [proposals], [proposals])
        >>> regressor.refine(torch.eye(2), torch.tensor([0, 0]), proposals)
        tensor([[ 0.,  0., 10., 10.],
                [ 0.,  0., 20., 20.]])

    Source:
        SPP-net, section 4.2; R-CNN, appendix C; spp_train_bbox_regressor.m of the authors' code.
    """

    def __init__(self, strength: float = 4000.0, spread: float = 1e-3) -> None:
        self.strength, self.spread = strength, spread

    def fit(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> "RidgeBoxRegressor":
        """Fit every class; a class without samples leaves boxes as they are.

        Args:
            features: Per class, (S, D) features of proposals that overlap an object.
            proposals: Per class, (S, 4) these proposals, xyxy in pixels.
            targets: Per class, (S, 4) the boxes of the objects.

        Returns:
            Itself.
        """
        samples = zip(features, proposals, targets, strict=True)
        return self.fit_in_turn(samples, len(features))

    def fit_in_turn(
        self, samples: Iterable[tuple[Tensor, Tensor, Tensor]], num_classes: int
    ) -> "RidgeBoxRegressor":
        """Fit class by class as :meth:`fit` does; the samples of one need be there at a time.

        Args:
            samples: Per class, its (S, D) features, (S, 4) proposals and (S, 4) targets.
            num_classes: K.

        Returns:
            Itself.
        """
        for label, (rows, boxes, goals) in enumerate(samples):
            if not label:
                self.weights_ = torch.zeros(num_classes, rows.shape[1], 4)
                self.bias_ = torch.zeros(num_classes, 4)
            deltas = boxes_to_deltas(boxes.double(), goals.double())
            self.weights_[label], self.bias_[label] = self._fit_class(rows, deltas)
        return self

    def _fit_class(self, rows: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """(D, 4) weights and (4,) bias of one class."""
        if not len(rows):
            return torch.zeros(rows.shape[1], 4), torch.zeros(4)
        rows = rows.float()
        mean, whiten, colour = whiten_deltas(deltas, self.spread)
        # the constant 1 behind the features is regularised with them, as in the released code
        products = inner_products(rows).double() + 1
        products.diagonal().add_(self.strength)
        goals = (deltas - mean) @ whiten
        lower, failed = torch.linalg.cholesky_ex(products)
        # rounding may leave a negative eigenvalue where the penalty is tiny
        solved = torch.linalg.solve(products, goals) if failed else goals.cholesky_solve(lower)
        duals = solved @ colour
        return (rows.T @ duals.to(rows.dtype)), (duals.sum(0) + mean).to(rows.dtype)

    def refine(self, features: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """Refine boxes by the deltas that are predicted from their features.

        Args:
            features: (W, D) features of the boxes.
            labels: (W,) class of each box.
            boxes: (W, 4) xyxy in pixels.

        Returns:
            (W, 4) refined boxes, not clipped to the image.
        """
        return self.apply_products(lambda rows, weights: features[rows] @ weights, labels, boxes)

    def apply_products(self, multiply: Multiply, labels: Tensor, boxes: Tensor) -> Tensor:
        """Refine boxes as :meth:`apply` does, without having their features in memory.

        Args:
            multiply: Called with a (W,) mask of R boxes and a (D, 4) matrix; gives the (R, 4)
                products of their features with the matrix.
            labels: (W,) class of each box.
            boxes: (W, 4) xyxy in pixels.

        Returns:
            (W, 4) refined boxes, not clipped to the image.
        """
        deltas = torch.zeros(len(boxes), 4)
        for label in labels.unique().tolist():
            rows = labels == label
            deltas[rows] = multiply(rows, self.weights_[label]) + self.bias_[label]
        return deltas_to_boxes(boxes, deltas)


def inner_products(rows: Tensor) -> Tensor:
    """Multiply all rows (S, D) by each other: (S, S), in little more than half of the time.

    Example:
        >>> inner_products(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[5., 6.],
                [6., 9.]])
    """
    products = rows.new_empty(len(rows), len(rows))
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        end = begin + ROWS_AT_ONCE
        products[begin:end, :end] = rows[begin:end] @ rows[:end].T
        products[:begin, begin:end] = products[begin:end, :begin].T
    return products


def whiten_deltas(deltas: Tensor, spread: float = 1e-3) -> tuple[Tensor, Tensor, Tensor]:
    """Give the mean of box deltas, and the matrices that whiten them and undo it.

    Args:
        deltas: (S, 4) float64, at least one.
        spread: Added to their variances.

    Returns:
        (4,), (4, 4) and (4, 4): ``(deltas - mean) @ whiten`` is white, and ``@ colour`` undoes it.
    """
    mean = deltas.mean(0)
    centred = deltas - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(deltas))
    deviations = (variances.clamp(min=0) + spread).sqrt()
    return mean, axes / deviations @ axes.T, axes * deviations @ axes.T


class BoxSamples:
    """A random sample of proposals that overlap an object, to fit the regression of one class.

    Args:
        limit: Most samples that are kept; each proposal has the same chance.
        length: D, numbers per feature vector.

    Example:
        >>> samples = BoxSamples(limit=2, length=3)
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(5, 4)
        >>> samples.add(torch.rand(5, 3), box, box, torch.Generator().manual_seed(0))
        >>> [len(part) for part in samples.take()]
        [2, 2, 2]
    """

    def __init__(self, limit: int, length: int) -> None:
        self._features = ReservoirSample(limit, length)
        self._boxes = torch.zeros(limit, 8)  # xyxy of the proposal, xyxy of its object

    def add(
        self, features: Tensor, proposals: Tensor, targets: Tensor, draw: torch.Generator
    ) -> None:
        """Offer (S, D) features of (S, 4) proposals, and the (S, 4) boxes of their objects."""
        taken, places = self._features.add(features, draw)
        self._boxes[places] = torch.cat([proposals[taken], targets[taken]], 1)

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give (S, D) float16 features, (S, 4) proposals and (S, 4) objects of the sample."""
        proposals, targets = self._boxes[self._features.order].split(4, 1)
        return self._features.take(), proposals, targets


@dataclass(frozen=True)
class CascadeConfig:
    """Constants of box regression in stages.

    Args:
        stages: How many regressions follow each other; 1 in the released code.
        strength: Ridge penalty, for features of mean norm 20; 4000 in the released code.
        overlap: Every stage learns from proposals whose IoU with an object is above this.
        class_agnostic: Whether one regression serves all classes.
        per_image: The most proposals per image to learn from.
        most_samples: The most proposals per regression.
        total_samples: The most over all regressions of a stage: 1 GB at 25,600 numbers each, in
            float16.
        spread: Added to the variances of the box deltas before they are whitened.
        use_difficult: Whether objects marked difficult are learnt from.
        bins: "cells" for the vectors of whole cells that the SVMs see, as in the released code;
            "points" for those of `Encoder.interpolate`, which follow a box by fractions of a cell.

    Raises:
        ValueError: If a count is below 1.
    """

    stages: Count = 2
    strength: Annotated[float, Within(0)] = 400.0
    overlap: Annotated[float, Within(0, 1)] = 0.5
    class_agnostic: bool = False
    per_image: Count = 60
    most_samples: Count = 5000
    total_samples: Count = 20_000
    spread: Positive = 1e-3
    use_difficult: bool = False
    bins: Annotated[str, OneOf(BOX_BINS)] = "cells"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class SavedCascade:
    """What :meth:`BoxCascade.config` writes."""

    kind: str
    num_classes: Count
    rule: CascadeConfig
    seed: int


class BoxCascade:
    """Refines boxes several times, each time by a regression fitted to what the last one left.

    Applying one regression again hardly helps, because it was fitted to proposals that lie farther
    from their objects. The second stage is fitted to proposals that the first one has refined.

    Args:
        num_classes: K.
        config: The constants.
        seed: Seed of the sample of proposals.

    Attributes:
        constants: As given.
        stages_: Fitted regressions, after :meth:`fit`.

    Source:
        Stages: Cai and Vasconcelos 2018 (Cascade R-CNN); each stage: SPP-net, section 4.2.
    """

    stages_: list[RidgeBoxRegressor]

    def __init__(
        self, num_classes: int, config: CascadeConfig | None = None, seed: int = 0
    ) -> None:
        self.num_classes = num_classes
        self.constants = config or CascadeConfig()
        self.seed = seed

    def fit(self, samples: Samples, encoder: Encoder, feature_scale: float = 1.0) -> "BoxCascade":
        """Fit one stage after the other.

        Args:
            samples: Images with their maps and (K, 4) proposals; iterated over once per stage.
            encoder: Gives the features of boxes.
            feature_scale: Factor that gives features a mean norm of 20; the weights absorb it.

        Returns:
            Itself; a class without proposals near an object leaves boxes as they are.

        Raises:
            TypeError: If ``samples`` can be iterated over only once.
        """
        if isinstance(samples, Iterator):
            raise TypeError("samples must be iterable more than once, got an iterator")
        self.stages_ = []
        groups = 1 if self.constants.class_agnostic else self.num_classes
        for _ in range(self.constants.stages):
            # every stage samples the same proposals, as refined by the stages before it
            draw = torch.Generator().manual_seed(self.seed)
            kept = [BoxSamples(self._limit(groups), encoder.length) for _ in range(groups)]
            for image, encoded, proposals in samples:
                self._collect(image, encoded, proposals, encoder, feature_scale, kept, draw)
            stage = RidgeBoxRegressor(self.constants.strength, self.constants.spread)
            stage.fit_in_turn((kept.pop(0).take() for _ in range(groups)), groups)
            stage.weights_ *= feature_scale
            self.stages_.append(stage)
        return self

    def apply(
        self, encoder: Encoder, encoded: EncodedImage, labels: Tensor, boxes: Tensor
    ) -> Tensor:
        """Refine (W, 4) boxes stage by stage, as :meth:`BoxRegressor.apply` describes.

        A box that a stage would move out of the image stays as it was before that stage.
        """
        if self.constants.class_agnostic:  # one box is found for several classes, and moves alike
            distinct, place = boxes.unique(dim=0, return_inverse=True)
            shared = torch.zeros(len(distinct), dtype=torch.int64)
            return self._apply(encoder, encoded, shared, distinct)[place]
        return self._apply(encoder, encoded, labels, boxes)

    def _apply(
        self, encoder: Encoder, encoded: EncodedImage, groups: Tensor, boxes: Tensor
    ) -> Tensor:
        """Refine (W, 4) boxes by the regressions with the (W,) numbers."""
        for stage in self.stages_:
            moved = stage.apply_products(self._multiplier(encoder, encoded, boxes), groups, boxes)
            moved = clip_boxes(moved, encoded.image_size_hw)
            has_area = ((moved[:, 2:] - moved[:, :2]) > 0).all(1)
            boxes = torch.where(has_area[:, None], moved, boxes)
        return boxes

    def describe(self, encoder: Encoder, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Give the (W, D) features of (W, 4) boxes, as the constants say, on the CPU."""
        as_points = self.constants.bins == "points"
        return (encoder.interpolate if as_points else encoder.describe)(encoded, boxes).cpu()

    def _multiplier(self, encoder: Encoder, encoded: EncodedImage, boxes: Tensor) -> Multiply:
        """Multiply the features of some of (W, 4) boxes by a matrix, without keeping them all."""
        as_points = self.constants.bins == "points"
        multiply = encoder.interpolate_and_multiply if as_points else encoder.pool_and_multiply
        places = boxes if as_points else encoder.assign_regions(encoded, boxes)
        device = encoder.device
        return lambda rows, weights: multiply(encoded, places[rows], weights.to(device)).cpu()

    def check(self, encoder: Encoder, num_classes: int) -> None:
        """Check that a fitted cascade fits an encoder and as many classes; ValueError if not."""
        check_classes(num_classes, self.num_classes)
        for stage in self.stages_:
            check_length(encoder.length, stage.weights_.shape[1])

    def config(self) -> dict[str, Any]:
        """Everything but the tensors, in JSON values."""
        return {
            "kind": "cascade",
            "num_classes": self.num_classes,
            "rule": asdict(self.constants),
            "seed": self.seed,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Weights (S, G, D, 4) and biases (S, G, 4) of S stages; G is 1 or the classes."""
        return {
            "weights": torch.stack([stage.weights_ for stage in self.stages_]),
            "bias": torch.stack([stage.bias_ for stage in self.stages_]),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "BoxCascade":
        """Restore a fitted cascade from :meth:`config` and :meth:`tensors`.

        Raises:
            KeyError: If a part is missing.
            TypeError: If the constants have other names.
            ValueError: If the tensors do not have the shapes of this cascade.
        """
        saved = restore_fields(SavedCascade, config, "mover")
        constants = saved.rule
        cascade = cls(saved.num_classes, constants, saved.seed)
        shape = (constants.stages, 1 if constants.class_agnostic else cascade.num_classes)
        weights_fit = tensors["weights"].shape[:2] == shape and tensors["weights"].ndim == 4
        if not weights_fit or tensors["bias"].shape != (*shape, 4):
            raise ValueError(
                f"weights and bias must begin with shape {shape}, got "
                f"{tuple(tensors['weights'].shape)} and {tuple(tensors['bias'].shape)}"
            )
        cascade.stages_ = []
        for weights, bias in zip(tensors["weights"], tensors["bias"], strict=True):
            stage = RidgeBoxRegressor(constants.strength, constants.spread)
            stage.weights_, stage.bias_ = weights, bias
            cascade.stages_.append(stage)
        return cascade

    def _limit(self, groups: int) -> int:
        """The most proposals per regression; the total is shared by all classes."""
        return max(1, min(self.constants.most_samples, self.constants.total_samples // groups))

    def _collect(
        self,
        image: LabelledImage,
        encoded: EncodedImage,
        proposals: Tensor,
        encoder: Encoder,
        feature_scale: float,
        kept: Sequence[BoxSamples],
        draw: torch.Generator,
    ) -> None:
        """Sample proposals near the objects of an image, as the stages so far have refined them."""
        boxes, targets, labels = self.near_objects(image, proposals, draw)
        if not len(boxes):
            return
        boxes = self.apply(encoder, encoded, labels, boxes)
        features = self.describe(encoder, encoded, boxes) * feature_scale
        groups = torch.zeros_like(labels) if self.constants.class_agnostic else labels
        for group in groups.unique().tolist():
            rows = groups == group
            kept[group].add(features[rows], boxes[rows], targets[rows], draw)

    def near_objects(
        self, image: LabelledImage, proposals: Tensor, draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample boxes that overlap an object of an image.

        Args:
            image: Holds the objects.
            proposals: (K, 4) xyxy in pixels.
            draw: Source of the random numbers.

        Returns:
            (S, 4) boxes, at most ``per_image``, (S, 4) the objects that each overlaps most, and
            (S,) their labels.
        """
        trainable = trainable_objects(image, self.constants.use_difficult)
        objects, labels = image.boxes[trainable], image.labels[trainable]
        if not len(objects):
            return objects, objects, labels
        boxes = torch.cat([objects, proposals])
        overlap, nearest = box_iou(boxes, objects).max(1)
        near = (overlap > self.constants.overlap).nonzero().flatten()
        near = near[torch.randperm(len(near), generator=draw)[: self.constants.per_image]]
        return boxes[near], objects[nearest[near]], labels[nearest[near]]


_KINDS: dict[str, type[BoxCascade | BoxHead]] = {"cascade": BoxCascade, "head": BoxHead}


def box_regressor_from_config(config: dict[str, Any], tensors: dict[str, Tensor]) -> BoxRegressor:
    """Restore a box regressor from its ``config()`` and ``tensors()``.

    Args:
        config: Plain values; ``kind`` names the class.
        tensors: The weights by name.

    Returns:
        The regressor, with the same answers bit for bit.

    Raises:
        KeyError: If a part is missing.
        TypeError: If a part has another name.
        ValueError: If the parts do not fit together.
    """
    kind = _KINDS.get(str(config.get("kind")))
    if kind is None:
        raise ValueError(f"mover.kind must be one of {', '.join(_KINDS)}")
    return kind.from_config(config, tensors)
