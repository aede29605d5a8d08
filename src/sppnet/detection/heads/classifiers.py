"""Region classifiers: linear SVMs, the softmax of a head, and two classifiers in a row.

The kernel classifier has a file of its own, ``kernel_svm.py``.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from sppnet.config.fields import Count, restore_fields
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.hard_negatives import NEVER
from sppnet.detection.heads.kernel_svm import KernelRegionClassifier
from sppnet.detection.heads.region_head import (
    RegionFeatures,
    RegionHead,
    check_length,
    head_from_config,
)
from sppnet.errors import UnusableFileError
from sppnet.storage import put_under, tensors_under


class RegionClassifier(Protocol):
    """What a detector asks of the model that classifies regions."""

    @property
    def classes_compete(self) -> bool:
        """Whether the score of a class depends on those of the others, as in a softmax."""
        ...

    @property
    def num_classes(self) -> int:
        """K, without the background."""
        ...

    def check(self, encoder: Encoder) -> None:
        """Check that the classifier fits an encoder.

        Raises:
            ValueError: If it expects vectors of another length.
        """
        ...

    def score(self, encoder: Encoder, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Score regions for every class.

        Args:
            encoder: Pools the regions.
            encoded: The image.
            regions: (W, 5) int64 [scale, x0, y0, x1, y1] from ``encoder.assign_regions``.

        Returns:
            (W, K) float32 scores on the CPU; above 0 the region more likely shows the class than
            not.
        """
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move to a device; return itself or a copy."""
        ...

    def config(self) -> dict[str, Any]:
        """Everything but the weights, in JSON values; ``kind`` names the class."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name."""
        ...


@dataclass(frozen=True)
class SavedLinear:
    """What :meth:`LinearRegionClassifier.config` writes."""

    kind: str
    features: dict[str, Any]


@dataclass(frozen=True)
class SavedSoftmax:
    """What :meth:`SoftmaxRegionClassifier.config` writes."""

    kind: str
    head: dict[str, Any]


@dataclass(frozen=True)
class SavedTwoStage:
    """What :meth:`TwoStageRegionClassifier.config` writes."""

    kind: str
    first: dict[str, Any]
    second: dict[str, Any]
    keep: Count


@dataclass(frozen=True)
class LinearRegionClassifier:
    """One linear SVM per class.

    Args:
        weights: (D, K).
        bias: (K,).
        features: What the SVMs see of a region.

    Raises:
        ValueError: If the shapes do not fit together.
    """

    weights: Tensor
    bias: Tensor
    features: RegionFeatures = field(default_factory=RegionFeatures)

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.bias.shape != self.weights.shape[1:]:
            raise ValueError(
                "weights must be (D, K) and bias (K,), got "
                f"{tuple(self.weights.shape)} and {tuple(self.bias.shape)}"
            )

    @property
    def classes_compete(self) -> bool:
        """Each SVM scores alone."""
        return False

    @property
    def num_classes(self) -> int:
        """K."""
        return self.weights.shape[1]

    def check(self, encoder: Encoder) -> None:
        """Check the length of the encoder's vectors; ValueError if it is another."""
        check_length(self.features.length(encoder), len(self.weights))

    def score(self, encoder: Encoder, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Score regions by their distances to the hyperplanes, in units of the margin: (W, K)."""
        return (self.features.multiply(encoder, encoded, regions, self.weights) + self.bias).cpu()

    def to(self, device: torch.device | str) -> "LinearRegionClassifier":
        """Return a copy on a device."""
        return LinearRegionClassifier(
            self.weights.to(device), self.bias.to(device), self.features.to(device)
        )

    def config(self) -> dict[str, Any]:
        """The features, in JSON values."""
        return {"kind": "linear", "features": self.features.config()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, biases, and the head's weights."""
        own = {"weights": self.weights, "bias": self.bias}
        return own | put_under("features.", self.features.tensors())

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "LinearRegionClassifier":
        """Restore from :meth:`config` and :meth:`tensors`."""
        saved = restore_fields(SavedLinear, config, "scorer")
        features = RegionFeatures.from_config(saved.features, tensors_under("features.", tensors))
        return cls(tensors["weights"], tensors["bias"], features)


@dataclass(frozen=True)
class SoftmaxRegionClassifier:
    """The softmax of a head; scores are log-odds, so that 0 means a probability of one half.

    Args:
        head: In evaluation mode.
    """

    head: RegionHead

    @property
    def classes_compete(self) -> bool:
        """They share one probability."""
        return True

    @property
    def num_classes(self) -> int:
        """K, without the background."""
        return self.head.num_classes

    def check(self, encoder: Encoder) -> None:
        """Check the length of the encoder's vectors; ValueError if it is another."""
        check_length(encoder.length, self.head.length)

    @torch.no_grad()
    def score(self, encoder: Encoder, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Score regions by log(p / (1 - p)) of each class: (W, K)."""
        products = encoder.pool_and_multiply(encoded, regions, self.head.first)
        shares = self.head.finish(products, "logits").double().softmax(1)[:, :-1]
        return shares.logit(eps=1e-12).float().cpu()

    def to(self, device: torch.device | str) -> "SoftmaxRegionClassifier":
        """Move the head to a device, in place."""
        self.head.to(device)
        return self

    def config(self) -> dict[str, Any]:
        """The head, in JSON values."""
        return {"kind": "head", "head": self.head.config()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the head."""
        return dict(self.head.state_dict())

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "SoftmaxRegionClassifier":
        """Restore from :meth:`config` and :meth:`tensors`."""
        saved = restore_fields(SavedSoftmax, config, "scorer")
        return cls(head_from_config(saved.head, tensors))


@dataclass(frozen=True)
class TwoStageRegionClassifier:
    """A cheap classifier selects the regions that an expensive one scores.

    Args:
        first: Scores all regions; those with the highest score for any class are selected.
        second: Scores the selected regions; the others get :data:`NEVER`.
        keep: The number of regions that are selected.

    Raises:
        ValueError: If ``keep`` is below 1.
    """

    first: RegionClassifier
    second: RegionClassifier
    keep: int

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")

    @property
    def classes_compete(self) -> bool:
        """As in the second classifier."""
        return self.second.classes_compete

    @property
    def num_classes(self) -> int:
        """K of the second classifier."""
        return self.second.num_classes

    def check(self, encoder: Encoder) -> None:
        """Check both classifiers."""
        self.first.check(encoder)
        self.second.check(encoder)

    def score(self, encoder: Encoder, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Score the selected regions by the second classifier, others :data:`NEVER`: (W, K)."""
        if len(regions) <= self.keep:
            return self.second.score(encoder, encoded, regions)
        best = self.first.score(encoder, encoded, regions).amax(1).topk(self.keep).indices
        scores = torch.full((len(regions), self.num_classes), NEVER)
        scores[best] = self.second.score(encoder, encoded, regions[best])
        return scores

    def to(self, device: torch.device | str) -> "TwoStageRegionClassifier":
        """Return a copy on a device."""
        return TwoStageRegionClassifier(self.first.to(device), self.second.to(device), self.keep)

    def config(self) -> dict[str, Any]:
        """Both classifiers, and how many regions are selected."""
        parts = {"first": self.first.config(), "second": self.second.config()}
        return {"kind": "prefiltered", **parts, "keep": self.keep}

    def tensors(self) -> dict[str, Tensor]:
        """Weights of both."""
        second = put_under("second.", self.second.tensors())
        return put_under("first.", self.first.tensors()) | second

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "TwoStageRegionClassifier":
        """Restore from :meth:`config` and :meth:`tensors`."""
        saved = restore_fields(SavedTwoStage, config, "scorer")
        first, second = (
            classifier_from_config(getattr(saved, name), tensors_under(f"{name}.", tensors))
            for name in ("first", "second")
        )
        return cls(first, second, saved.keep)


_KINDS: dict[
    str,
    type[
        LinearRegionClassifier
        | SoftmaxRegionClassifier
        | KernelRegionClassifier
        | TwoStageRegionClassifier
    ],
] = {
    "linear": LinearRegionClassifier,
    "head": SoftmaxRegionClassifier,
    "kernel": KernelRegionClassifier,
    "prefiltered": TwoStageRegionClassifier,
}


def classifier_from_config(config: dict[str, Any], tensors: dict[str, Tensor]) -> RegionClassifier:
    """Restore a classifier from its ``config()`` and ``tensors()``.

    Args:
        config: Plain values; ``kind`` names the class.
        tensors: All weights by name.

    Returns:
        The classifier, with the same answers bit for bit.

    Raises:
        UnusableFileError: If the two do not belong together.

    Example:
        >>> classifier = LinearRegionClassifier(torch.ones(8, 2), torch.zeros(2))
        >>> classifier_from_config(classifier.config(), classifier.tensors()).num_classes
        2
    """
    kind = _KINDS.get(str(config.get("kind")))
    if kind is None:
        rule = f"the kind of a classifier must be one of {', '.join(_KINDS)}"
        raise UnusableFileError(rule, code="E_WEIGHTS_ARCH")
    try:
        return kind.from_config(config, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        missing = "it lacks " if isinstance(error, KeyError) else ""
        reason = missing + " ".join(str(error).split())[:200]
        raise UnusableFileError(
            f"the saved classifier does not fit together: {reason}", code="E_WEIGHTS_ARCH"
        ) from error
