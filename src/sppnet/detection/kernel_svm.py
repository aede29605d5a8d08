"""Windows judged by their likeness to chosen windows: Gaussian kernel, Nystroem approximation."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.window_features import WindowFeatures, check_length
from sppnet.storage import put_under, tensors_under

# Windows whose vectors are held at a time.
CHUNK = 512
# Added to the diagonal, relative to its mean, when a matrix is factored.
JITTER = 1e-6


def gaussian_kernel(rows: Tensor, centres: Tensor, width: float) -> Tensor:
    """exp(-|row - centre|^2 / (2 width^2)) of each row and centre.

    Args:
        rows: (N, D).
        centres: (M, D).
        width: Distance at which likeness has fallen to 0.61.

    Returns:
        (N, M) in 0..1.

    Example:
        >>> gaussian_kernel(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [0.0, 2.0]]), 2.0)
        tensor([[1.0000, 0.6065]])
    """
    squares = rows.square().sum(1)[:, None] + centres.square().sum(1) - 2 * rows @ centres.T
    return (-squares.clamp(min=0) / (2 * width**2)).exp()


@dataclass(frozen=True)
class KernelScorer:
    """Sums of likenesses to M chosen windows, one weighted sum per class.

    Args:
        centres: (M, D) features of the chosen windows.
        width: Of the Gaussian kernel.
        weights: (M, K).
        bias: (K,).
        features: What of a window is compared.

    Raises:
        ValueError: If the shapes do not fit together.

    Source:
        Maiettini et al. 2018, arXiv 1803.08740, with the FALKON solver of Rudi et al. 2017.
    """

    centres: Tensor
    width: float
    weights: Tensor
    bias: Tensor
    features: WindowFeatures = field(default_factory=WindowFeatures)

    def __post_init__(self) -> None:
        shape = (len(self.centres), *self.bias.shape)
        if self.weights.shape != shape or self.bias.ndim != 1:
            raise ValueError(
                f"weights must have shape {shape} for these centres and biases, "
                f"got {tuple(self.weights.shape)}"
            )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.bias)

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder with windows of another length."""
        check_length(self.features.length(encoder), self.centres.shape[1])

    @torch.no_grad()
    def score(self, encoder: Encoder, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Sums of likenesses: (W, K); targets were 1 for the class and -1 for the rest."""
        parts = [torch.zeros(0, self.num_classes)]
        for chunk in cells.split(CHUNK):
            rows = self.features.describe(encoder, encoded, chunk)
            parts.append(self.decide(rows).cpu())
        return torch.cat(parts)

    def decide(self, rows: Tensor) -> Tensor:
        """Scores of features: (N, D) to (N, K)."""
        return gaussian_kernel(rows, self.centres, self.width) @ self.weights + self.bias

    def to(self, device: torch.device | str) -> "KernelScorer":
        """Return a copy on a device."""
        centres, weights, bias = (t.to(device) for t in (self.centres, self.weights, self.bias))
        return KernelScorer(centres, self.width, weights, bias, self.features.to(device))

    def configuration(self) -> dict[str, Any]:
        """Width and features."""
        features = self.features.configuration()
        return {"kind": "kernel", "width": self.width, "features": features}

    def tensors(self) -> dict[str, Tensor]:
        """Centres, weights, biases, and the head's weights."""
        own = {"centres": self.centres, "weights": self.weights, "bias": self.bias}
        return own | put_under("features.", self.features.tensors())

    @classmethod
    def restore(cls, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> "KernelScorer":
        """Put it together again."""
        features = WindowFeatures.restore(
            configuration["features"], tensors_under("features.", tensors)
        )
        own = (tensors[name] for name in ("centres", "weights", "bias"))
        centres, weights, bias = own
        return cls(centres, configuration["width"], weights, bias, features)
