"""The vector that a window is judged by: pooled, or the output of a head's layer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads import RegionHead, check_layer, restore_head


@dataclass(frozen=True)
class WindowFeatures:
    """Describes windows by the pooled vector, or by fc6 or fc7 of a head.

    Args:
        layer: ``pooled``, ``fc6`` or ``fc7``.
        head: Where the layer is; not needed for ``pooled``.

    Raises:
        ValueError: If there is no such layer, or no head that has it.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> encoder = Encoder(build_backbone("small5"), short_sides=(96,))
        >>> features = WindowFeatures("fc7", RegionHead(encoder.length, 3, widths=(64, 32)))
        >>> encoded = encoder.encode(torch.rand(3, 60, 80))
        >>> features.describe(encoder, encoded, torch.tensor([[0, 0, 0, 3, 2]])).shape
        torch.Size([1, 32])
    """

    layer: str = "pooled"
    head: RegionHead | None = None

    def __post_init__(self) -> None:
        check_layer(self.layer)
        if self.layer != "pooled" and self.head is None:
            raise ValueError(f"head must be given for layer {self.layer!r}, got None")

    def length(self, encoder: Encoder) -> int:
        """Numbers per window; ValueError if the head is not for windows of this encoder."""
        if self.layer == "pooled" or self.head is None:
            return encoder.length
        check_length(encoder.length, self.head.length)
        return self.head.widths[0 if self.layer == "fc6" else 1]

    @torch.no_grad()
    def describe(self, encoder: Encoder, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Describe windows.

        Args:
            encoder: Pools them.
            encoded: The image.
            cells: (W, 5) int64 [scale, x0, y0, x1, y1] from ``encoder.locate``.

        Returns:
            (W, length) on the encoder's device. Pooled vectors are not built for fc6 and fc7.
        """
        if self.layer == "pooled" or self.head is None:
            return encoder.describe_cells(encoded, cells)
        return self.head.finish(encoder.score_cells(encoded, cells, self.head.first), self.layer)

    @torch.no_grad()
    def multiply(
        self, encoder: Encoder, encoded: EncodedImage, cells: Tensor, weights: Tensor
    ) -> Tensor:
        """Multiply the features of windows by a matrix: (length, M) weights to (W, M)."""
        if self.layer == "pooled":
            return encoder.score_cells(encoded, cells, weights)
        return self.describe(encoder, encoded, cells) @ weights

    def to(self, device: torch.device | str) -> "WindowFeatures":
        """Move the head to a device, in place; returns itself."""
        if self.head is not None:
            self.head.to(device)
        return self

    def configuration(self) -> dict[str, Any]:
        """Everything but the weights, in JSON values."""
        head = None if self.head is None else self.head.description()
        return {"layer": self.layer, "head": head}

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the head."""
        return {} if self.head is None else dict(self.head.state_dict())

    @classmethod
    def restore(cls, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> "WindowFeatures":
        """Put features together again from :meth:`configuration` and :meth:`tensors`."""
        description = configuration["head"]
        head = None if description is None else restore_head(description, tensors)
        return cls(configuration["layer"], head)


def check_length(offered: int, expected: int) -> None:
    """Refuse windows of another length than a model was made for.

    Raises:
        ValueError: If the two differ.
    """
    if offered != expected:
        raise ValueError(f"windows must have {expected} numbers each, got {offered}")
