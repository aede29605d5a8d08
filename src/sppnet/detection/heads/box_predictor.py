"""Box regression as one linear layer behind fc7, learnt together with the network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from sppnet.config.fields import restore_fields
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.region_head import (
    RegionHead,
    check_classes,
    check_length,
    head_from_config,
)
from sppnet.geometry import clip_boxes, deltas_to_boxes
from sppnet.storage import put_under, tensors_under

# Standard deviation of new weights of the box regression.
BOX_SPREAD = 0.001
# Deltas that hardly differ are not blown up by standardising them.
LEAST_SPREAD = 0.01


class BoxPredictor(nn.Module):
    """Box regression as one linear layer behind fc7, four numbers per class.

    Args:
        width: M, outputs of fc7.
        num_classes: K.

    Attributes:
        mean: (4,) of the deltas that are learnt from.
        spread: (4,) their standard deviation; the layer gives standardised deltas.

    Example:
        >>> BoxPredictor(width=8, num_classes=2)(torch.rand(5, 8)).shape
        torch.Size([5, 2, 4])

    Source:
        Fast R-CNN (Girshick 2015), section 2.3.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(width, 4 * num_classes)
        nn.init.normal_(self.linear.weight, std=BOX_SPREAD)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("spread", torch.ones(4))

    def forward(self, fc7: Tensor) -> Tensor:
        """Turn outputs of fc7 (P, M) into standardised deltas for every class (P, K, 4)."""
        deltas: Tensor = self.linear(fc7)
        return deltas.unflatten(1, (self.num_classes, 4))

    def standardise(self, deltas: Tensor) -> None:
        """Take mean and spread from (S, 4) deltas of positives."""
        if len(deltas) > 1:
            self.mean.copy_(deltas.mean(0))
            self.spread.copy_(deltas.std(0).clamp(min=LEAST_SPREAD))

    def loss(self, fc7: Tensor, labels: Tensor, deltas: Tensor) -> Tensor:
        """Smooth L1 over the positives, divided by the number of all proposals.

        Args:
            fc7: (P, M).
            labels: (P,) class, or K for the background.
            deltas: (P, 4) from each proposal to its object.
        """
        rows = (labels < self.num_classes).nonzero().flatten()
        found = self(fc7[rows])[torch.arange(len(rows), device=rows.device), labels[rows]]
        wanted = (deltas[rows] - self.mean) / self.spread
        return smooth_l1_loss(found, wanted, reduction="sum") / max(len(labels), 1)


@dataclass(frozen=True)
class SavedBoxHead:
    """What :meth:`BoxHead.config` writes."""

    kind: str
    head: dict[str, Any]


@dataclass(frozen=True)
class BoxHead:
    """Moves boxes as :class:`BoxCascade` does, by the box regression that was tuned.

    Args:
        head: Gives fc7.
        layer: What stands behind it.
    """

    head: RegionHead
    layer: BoxPredictor

    @torch.no_grad()
    def apply(
        self, encoder: Encoder, encoded: EncodedImage, labels: Tensor, boxes: Tensor
    ) -> Tensor:
        """Refine (B, 4) boxes, as ``BoxRegressor.apply`` describes."""
        fc7 = self.head.describe(encoder.describe(encoded, boxes))
        found = self.layer(fc7)[torch.arange(len(labels)), labels]
        deltas = (found * self.layer.spread + self.layer.mean).cpu()
        return clip_boxes(deltas_to_boxes(boxes, deltas), encoded.image_size_hw)

    def check(self, encoder: Encoder, num_classes: int) -> None:
        """Check that it fits an encoder and as many classes; ValueError if not."""
        check_classes(num_classes, self.head.num_classes)
        check_length(encoder.length, self.head.length)

    def config(self) -> dict[str, Any]:
        """The head."""
        return {"kind": "head", "head": self.head.config()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the head and of the layer behind it."""
        layer = put_under("layer.", self.layer.state_dict())
        return put_under("head.", self.head.state_dict()) | layer

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "BoxHead":
        """Put it together again."""
        saved = restore_fields(SavedBoxHead, config, "mover")
        head = head_from_config(saved.head, tensors_under("head.", tensors))
        layer = BoxPredictor(head.widths[1], head.num_classes)
        layer.load_state_dict(tensors_under("layer.", tensors))
        return cls(head, layer.eval().requires_grad_(False))
