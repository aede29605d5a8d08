"""Box regression in stages: each learns from windows that the stages before have moved."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sppnet.detection.box_regression import BoxRegressor, BoxSamples
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.geometry import box_iou, clip_boxes
from sppnet.images import LabelledImage

# Windows over all regressions: 1 GB at 25,600 numbers each, in float16.
MOST_SAMPLES = 20_000

Samples = Iterable[tuple[LabelledImage, EncodedImage, Tensor]]


@dataclass(frozen=True)
class CascadeRule:
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

    stages_: list[BoxRegressor]

    def __init__(self, num_classes: int, rule: CascadeRule | None = None, seed: int = 0) -> None:
        self.num_classes = num_classes
        self.rule = rule or CascadeRule()
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
            stage = BoxRegressor(self.rule.strength).fit(list(features), list(boxes), list(targets))
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

    def configuration(self) -> dict[str, Any]:
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
    def restore(cls, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> "BoxCascade":
        """Put a fitted cascade together again.

        Raises:
            KeyError: If a part is missing.
            TypeError: If the rule has other names.
            ValueError: If the tensors are not those of this cascade.
        """
        rule = CascadeRule(**configuration["rule"])
        cascade = cls(configuration["num_classes"], rule, configuration["seed"])
        shape = (rule.stages, 1 if rule.class_agnostic else cascade.num_classes)
        if tensors["weights"].shape[:2] != shape or tensors["bias"].shape != (*shape, 4):
            raise ValueError(
                f"weights and bias must begin with shape {shape}, got "
                f"{tuple(tensors['weights'].shape)} and {tuple(tensors['bias'].shape)}"
            )
        cascade.stages_ = []
        for weights, bias in zip(tensors["weights"], tensors["bias"], strict=True):
            stage = BoxRegressor(rule.strength)
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
