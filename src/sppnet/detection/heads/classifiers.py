"""From windows to scores: linear, softmax, kernel, and one scorer that spares another the work."""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

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
    """What a detector asks of the model that judges windows."""

    @property
    def num_classes(self) -> int:
        """K."""
        ...

    def check(self, encoder: Encoder) -> None:
        """Raise ValueError if it is not for windows of this encoder."""
        ...

    def score(self, encoder: Encoder, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Judge windows.

        Args:
            encoder: Pools them.
            encoded: The image.
            cells: (W, 5) int64 [scale, x0, y0, x1, y1].

        Returns:
            (W, K) float32 on the CPU; above 0 the window is more likely the class than not.
        """
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return itself, or a copy, on a device."""
        ...

    def config(self) -> dict[str, Any]:
        """Everything but the weights, in JSON values; has the ``kind``."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The weights."""
        ...


@dataclass(frozen=True)
class LinearRegionClassifier:
    """One linear SVM per class.

    Args:
        weights: (D, K).
        bias: (K,).
        features: What of a window the SVMs see.

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
    def num_classes(self) -> int:
        """K."""
        return self.weights.shape[1]

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder with windows of another length."""
        check_length(self.features.length(encoder), len(self.weights))

    def score(self, encoder: Encoder, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Distances to the planes, in units of the margin: (W, K)."""
        return (self.features.multiply(encoder, encoded, cells, self.weights) + self.bias).cpu()

    def to(self, device: torch.device | str) -> "LinearRegionClassifier":
        """Return a copy on a device."""
        return LinearRegionClassifier(
            self.weights.to(device), self.bias.to(device), self.features.to(device)
        )

    def config(self) -> dict[str, Any]:
        """The features."""
        return {"kind": "linear", "features": self.features.config()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, biases, and the head's weights."""
        own = {"weights": self.weights, "bias": self.bias}
        return own | put_under("features.", self.features.tensors())

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "LinearRegionClassifier":
        """Put it together again."""
        features = RegionFeatures.from_config(
            config["features"], tensors_under("features.", tensors)
        )
        return cls(tensors["weights"], tensors["bias"], features)


@dataclass(frozen=True)
class SoftmaxRegionClassifier:
    """The softmax of a head as log-odds, so that 0 means as likely the class as not.

    Args:
        head: In evaluation mode.
    """

    head: RegionHead

    @property
    def num_classes(self) -> int:
        """K, without the background."""
        return self.head.num_classes

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder with windows of another length."""
        check_length(encoder.length, self.head.length)

    @torch.no_grad()
    def score(self, encoder: Encoder, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """log(p / (1 - p)) of each class: (W, K)."""
        products = encoder.score_cells(encoded, cells, self.head.first)
        shares = self.head.finish(products, "logits").double().softmax(1)[:, :-1]
        return shares.logit(eps=1e-12).float().cpu()

    def to(self, device: torch.device | str) -> "SoftmaxRegionClassifier":
        """Move the head to a device, in place."""
        self.head.to(device)
        return self

    def config(self) -> dict[str, Any]:
        """The head."""
        return {"kind": "head", "head": self.head.config()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the head."""
        return dict(self.head.state_dict())

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "SoftmaxRegionClassifier":
        """Put it together again."""
        return cls(head_from_config(config["head"], tensors))


@dataclass(frozen=True)
class TwoStageRegionClassifier:
    """A cheap scorer picks the windows that an expensive one looks at.

    Args:
        first: Scores all windows; the best by any of its columns go on.
        second: Scores those; the others get :data:`NEVER`.
        keep: How many go on.

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
    def num_classes(self) -> int:
        """K of the second scorer."""
        return self.second.num_classes

    def check(self, encoder: Encoder) -> None:
        """Check both."""
        self.first.check(encoder)
        self.second.check(encoder)

    def score(self, encoder: Encoder, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Scores of the second scorer where it looked, :data:`NEVER` elsewhere: (W, K)."""
        if len(cells) <= self.keep:
            return self.second.score(encoder, encoded, cells)
        best = self.first.score(encoder, encoded, cells).amax(1).topk(self.keep).indices
        scores = torch.full((len(cells), self.num_classes), NEVER)
        scores[best] = self.second.score(encoder, encoded, cells[best])
        return scores

    def to(self, device: torch.device | str) -> "TwoStageRegionClassifier":
        """Move both to a device."""
        return TwoStageRegionClassifier(self.first.to(device), self.second.to(device), self.keep)

    def config(self) -> dict[str, Any]:
        """Both scorers, and how many windows go on."""
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
        """Put it together again."""
        first, second = (
            classifier_from_config(config[name], tensors_under(f"{name}.", tensors))
            for name in ("first", "second")
        )
        return cls(first, second, config["keep"])


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
    """Put a scorer together again from its ``config()`` and ``tensors()``.

    Args:
        config: Plain values; ``kind`` tells the class.
        tensors: All weights by name.

    Returns:
        The scorer, with the same answers bit for bit.

    Raises:
        UnusableFileError: If they do not belong together.

    Example:
        >>> classifier = LinearRegionClassifier(torch.ones(8, 2), torch.zeros(2))
        >>> classifier_from_config(classifier.config(), classifier.tensors()).num_classes
        2
    """
    try:
        kind = _KINDS[config["kind"]]
        return kind.from_config(config, tensors)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnusableFileError(
            f"the saved scorer does not fit together: {reason}", code="E_WEIGHTS_ARCH"
        ) from error
