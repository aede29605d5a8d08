"""Box regression by ridge, once or in a cascade."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.hard_negatives import ReservoirSample
from sppnet.geometry import box_iou, boxes_to_deltas, clip_boxes, deltas_to_boxes
from sppnet.images import LabelledImage

Multiply = Callable[[Tensor, Tensor], Tensor]
# Windows over all regressions: 1 GB at 25,600 numbers each, in float16.
MOST_SAMPLES = 20_000
Samples = Iterable[tuple[LabelledImage, EncodedImage, Tensor]]


class RidgeBoxRegressor:
    """One linear regression per class, in closed form.

    The four targets are whitened, so that one strength of regularisation suits all. The fit goes
    through the products of the rows, because windows are fewer than their features.

    Args:
        strength: Ridge penalty, for features of mean norm 20; 4000 in the released code.

    Attributes:
        weights_: (K, D, 4) after :meth:`fit`.
        bias_: (K, 4) after :meth:`fit`.

    Example:
        >>> proposals = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0]])
        >>> regressor = RidgeBoxRegressor().fit([torch.eye(2)], [proposals], [proposals])
        >>> regressor.apply(torch.eye(2), torch.tensor([0, 0]), proposals)
        tensor([[ 0.,  0., 10., 10.],
                [ 0.,  0., 20., 20.]])

    Source:
        SPP-net, section 4.2; R-CNN, appendix C; spp_train_bbox_regressor.m of the authors' code.
    """

    def __init__(self, strength: float = 4000.0) -> None:
        self.strength = strength

    def fit(
        self, features: list[Tensor], proposals: list[Tensor], targets: list[Tensor]
    ) -> "RidgeBoxRegressor":
        """Fit every class; a class without samples leaves boxes as they are.

        Args:
            features: Per class (S, D) features of windows that overlap an object by more than 0.5.
            proposals: Per class (S, 4) these windows.
            targets: Per class (S, 4) the objects.

        Returns:
            Itself.
        """
        fitted = [
            self._fit_class(rows, boxes_to_deltas(boxes.double(), goals.double()))
            for rows, boxes, goals in zip(features, proposals, targets, strict=True)
        ]
        self.weights_ = torch.stack([weights for weights, _ in fitted])
        self.bias_ = torch.stack([bias for _, bias in fitted])
        return self

    def _fit_class(self, rows: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """(D, 4) weights and (4,) bias of one class."""
        if not len(rows):
            return torch.zeros(rows.shape[1], 4), torch.zeros(4)
        rows = rows.float()
        mean, whiten, colour = _whitening(deltas)
        # the constant 1 behind the features is regularised with them, as in the released code
        products = (rows @ rows.T).double() + 1
        products.diagonal().add_(self.strength)
        duals = torch.linalg.solve(products, (deltas - mean) @ whiten) @ colour
        return (rows.T @ duals.to(rows.dtype)), (duals.sum(0) + mean).to(rows.dtype)

    def apply(self, features: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """Move boxes to where the things in them seem to be.

        Args:
            features: (W, D) features of the windows.
            labels: (W,) class of each window.
            boxes: (W, 4) the windows.

        Returns:
            (W, 4) better boxes, not clipped to the image.
        """
        return self.apply_products(lambda rows, weights: features[rows] @ weights, labels, boxes)

    def apply_products(self, multiply: Multiply, labels: Tensor, boxes: Tensor) -> Tensor:
        """Move boxes as :meth:`apply`, where the features need not be there.

        Args:
            multiply: Gives the (R, 4) products of the features of some windows, a (W,) mask, with
                a (D, 4) matrix.
            labels: (W,) class of each window.
            boxes: (W, 4) the windows.

        Returns:
            (W, 4) better boxes, not clipped to the image.
        """
        deltas = torch.zeros(len(boxes), 4)
        for label in labels.unique().tolist():
            rows = labels == label
            deltas[rows] = multiply(rows, self.weights_[label]) + self.bias_[label]
        return deltas_to_boxes(boxes, deltas)


def _whitening(deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the targets, and the matrices that whiten them and colour them again."""
    mean = deltas.mean(0)
    centred = deltas - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(deltas))
    spread = (variances.clamp(min=0) + 1e-3).sqrt()
    return mean, axes / spread @ axes.T, axes * spread @ axes.T


class BoxSamples:
    """A random part of the windows that overlap an object, to teach the regression of one class.

    Args:
        limit: Samples to keep, each with the same chance.
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
        self._boxes = torch.zeros(limit, 8)  # windows, objects

    def add(
        self, features: Tensor, proposals: Tensor, targets: Tensor, draw: torch.Generator
    ) -> None:
        """Take samples in: (S, D) features, (S, 4) windows, (S, 4) objects."""
        taken, slots = self._features.add(features, draw)
        self._boxes[slots] = torch.cat([proposals[taken], targets[taken]], 1)

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give features (float16), windows and objects of at most ``limit`` samples."""
        proposals, targets = self._boxes[self._features.order].split(4, 1)
        return self._features.take(), proposals, targets


@dataclass(frozen=True)
class CascadeConfig:
    """Constants of box regression in stages.

    Args:
        stages: How often boxes are moved; 1 is the released code.
        strength: Ridge penalty, for features of mean norm 20.
        overlap: Windows that overlap an object by more than this teach every stage.
        class_agnostic: Whether one regression serves all classes.
        per_image: The most windows per image.
        most_samples: The most windows per regression.
        use_difficult: Whether objects marked difficult teach.
    """

    stages: int = 2
    strength: float = 4000.0
    overlap: float = 0.5
    class_agnostic: bool = False
    per_image: int = 60
    most_samples: int = 5000
    use_difficult: bool = False

    def __post_init__(self) -> None:
        for name in ("stages", "per_image", "most_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class BoxCascade:
    """Moves boxes several times, each time by a regression for windows that lie as close by now.

    One regression applied again hardly helps, because it has learnt from windows that lie farther
    off; the second stage has learnt from windows where the first one put them.

    Args:
        num_classes: K.
        rule: The constants.
        seed: Of the windows that are drawn.

    Attributes:
        stages_: Fitted regressions, after :meth:`fit`.

    Source:
        Stages: Cai and Vasconcelos 2018 (Cascade R-CNN); each stage: SPP-net, section 4.2.
    """

    stages_: list[RidgeBoxRegressor]

    def __init__(self, num_classes: int, rule: CascadeConfig | None = None, seed: int = 0) -> None:
        self.num_classes = num_classes
        self.rule = rule or CascadeConfig()
        self.seed = seed

    def fit(self, samples: Samples, encoder: Encoder, feature_scale: float = 1.0) -> "BoxCascade":
        """Fit one stage after the other.

        Args:
            samples: Images with their maps and windows, gone through once per stage.
            encoder: Describes windows.
            feature_scale: Factor that gives features their mean norm of 20; it goes into the
                weights.

        Returns:
            Itself; a class without windows near an object leaves boxes as they are.

        Raises:
            TypeError: If the samples can be gone through only once.
        """
        if isinstance(samples, Iterator):
            raise TypeError("samples must be iterable more than once, got an iterator")
        self.stages_ = []
        groups = 1 if self.rule.class_agnostic else self.num_classes
        for _ in range(self.rule.stages):
            # the same windows in every stage, moved as far as the stages before can
            draw = torch.Generator().manual_seed(self.seed)
            kept = [BoxSamples(self._limit(groups), encoder.length) for _ in range(groups)]
            for image, encoded, windows in samples:
                self._collect(image, encoded, windows, encoder, feature_scale, kept, draw)
            features, boxes, targets = zip(*(each.take() for each in kept), strict=True)
            stage = RidgeBoxRegressor(self.rule.strength).fit(
                list(features), list(boxes), list(targets)
            )
            stage.weights_ = stage.weights_ * feature_scale
            self.stages_.append(stage)
        return self

    def apply(
        self, encoder: Encoder, encoded: EncodedImage, labels: Tensor, boxes: Tensor
    ) -> Tensor:
        """Move boxes to where the things in them seem to be.

        Args:
            encoder: Describes windows.
            encoded: The image.
            labels: (W,) class of each box.
            boxes: (W, 4) xyxy in pixels of the original image.

        Returns:
            (W, 4) better boxes, cut at the image; where a move leaves nothing, the box before it.
        """
        groups = torch.zeros_like(labels) if self.rule.class_agnostic else labels
        for stage in self.stages_:
            cells = encoder.locate(encoded, boxes)
            moved = stage.apply_products(partial(_multiply, encoder, encoded, cells), groups, boxes)
            moved = clip_boxes(moved, encoded.image_size_hw)
            seen = ((moved[:, 2:] - moved[:, :2]) > 0).all(1)
            boxes = torch.where(seen[:, None], moved, boxes)
        return boxes

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {
            "kind": "cascade",
            "num_classes": self.num_classes,
            "rule": asdict(self.rule),
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
        """Put a fitted cascade together again.

        Raises:
            KeyError: If a part is missing.
            TypeError: If the rule has other names.
            ValueError: If the tensors are not those of this cascade.
        """
        rule = CascadeConfig(**config["rule"])
        cascade = cls(config["num_classes"], rule, config["seed"])
        shape = (rule.stages, 1 if rule.class_agnostic else cascade.num_classes)
        if tensors["weights"].shape[:2] != shape or tensors["bias"].shape != (*shape, 4):
            raise ValueError(
                f"weights and bias must begin with shape {shape}, got "
                f"{tuple(tensors['weights'].shape)} and {tuple(tensors['bias'].shape)}"
            )
        cascade.stages_ = []
        for weights, bias in zip(tensors["weights"], tensors["bias"], strict=True):
            stage = RidgeBoxRegressor(rule.strength)
            stage.weights_, stage.bias_ = weights, bias
            cascade.stages_.append(stage)
        return cascade

    def _limit(self, groups: int) -> int:
        """Windows per regression: 20,000 in all, whatever the number of classes."""
        return max(1, min(self.rule.most_samples, MOST_SAMPLES // groups))

    def _collect(
        self,
        image: LabelledImage,
        encoded: EncodedImage,
        windows: Tensor,
        encoder: Encoder,
        feature_scale: float,
        kept: Sequence[BoxSamples],
        draw: torch.Generator,
    ) -> None:
        """Add some windows near the objects of an image, as the stages so far have moved them."""
        boxes, targets, labels = self._near(image, windows, draw)
        if not len(boxes):
            return
        boxes = self.apply(encoder, encoded, labels, boxes)
        features = encoder.describe(encoded, boxes).cpu() * feature_scale
        groups = torch.zeros_like(labels) if self.rule.class_agnostic else labels
        for group in groups.unique().tolist():
            rows = groups == group
            kept[group].add(features[rows], boxes[rows], targets[rows], draw)

    def _near(
        self, image: LabelledImage, windows: Tensor, draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (and objects themselves) near an object: boxes, these objects, their labels."""
        wanted = ~image.crowd & (~image.difficult | self.rule.use_difficult)
        objects, labels = image.boxes[wanted], image.labels[wanted]
        if not len(objects):
            return objects, objects, labels
        boxes = torch.cat([objects, windows])
        overlap, nearest = box_iou(boxes, objects).max(1)
        near = (overlap > self.rule.overlap).nonzero().flatten()
        near = near[torch.randperm(len(near), generator=draw)[: self.rule.per_image]]
        return boxes[near], objects[nearest[near]], labels[nearest[near]]


def _multiply(
    encoder: Encoder, encoded: EncodedImage, cells: Tensor, rows: Tensor, weights: Tensor
) -> Tensor:
    """Multiply the vectors of some windows by a matrix, without building them."""
    return encoder.score_cells(encoded, cells[rows], weights.to(encoder.device)).cpu()
