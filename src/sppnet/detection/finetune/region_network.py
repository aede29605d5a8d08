"""Trunk, pooling, softmax and box regression as one network that learns together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from sppnet.backbones import Backbone
from sppnet.config.fields import restore_fields
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.finetune.batches import ImageSample
from sppnet.detection.heads.region_head import (
    RegionHead,
    check_classes,
    check_length,
    head_from_config,
)
from sppnet.geometry import clip_boxes, deltas_to_boxes
from sppnet.images import resize_short_side
from sppnet.pooling import pool_regions
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


class RegionNetwork(nn.Module):
    """Everything that fine-tuning changes, from pixels to logits and boxes.

    Args:
        encoder: Gives the trunk, the levels and the projection.
        head: fc6, fc7 and the logits.
        mixed_precision: Convolve in bfloat16, which some processors do several times as fast.

    Source:
        Fast R-CNN (Girshick 2015), section 2, with the pyramid of SPP-net.
    """

    def __init__(
        self, encoder: Encoder, head: RegionHead, *, mixed_precision: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mixed_precision = mixed_precision
        self.backbone = encoder.backbone
        self.head = head
        self.boxes = BoxPredictor(head.widths[1], head.num_classes)

    def pool(self, samples: Sequence[ImageSample]) -> Tensor:
        """Convolve images and pool their proposals, with gradients into the trunk: (P, D)."""
        encoded = [self._encode(sample) for sample in samples]
        rows = []
        for index, (sample, image) in enumerate(zip(samples, encoded, strict=True)):
            only_scale = torch.zeros(len(sample.boxes), dtype=torch.int64)
            regions = self.encoder.assign_regions(image, sample.boxes, only_scale)
            rows.append(torch.cat([torch.full_like(regions[:, :1], index), regions[:, 1:]], dim=1))
        maps = [image.maps[0] for image in encoded]
        return pool_regions(maps, torch.cat(rows), self.encoder.levels)

    def losses(self, samples: Sequence[ImageSample], box_weight: float = 1.0) -> Tensor:
        """Loss of a batch, and how many proposals of it are classified right.

        Args:
            samples: Images with their proposals.
            box_weight: What the loss of the boxes counts.

        Returns:
            (2,) the loss, which has the gradient, and the part of the proposals that are right.
        """
        pooled = self.pool(samples)
        labels = torch.cat([sample.labels for sample in samples]).to(pooled.device)
        deltas = torch.cat([sample.deltas for sample in samples]).to(pooled.device)
        fc7 = self.head.dropout(self.head.describe(pooled))
        logits = self.head.logits(fc7)
        loss = cross_entropy(logits, labels) + box_weight * self.boxes.loss(fc7, labels, deltas)
        right = (logits.detach().argmax(1) == labels).to(loss).mean()
        return torch.stack([loss, right])

    def _encode(self, sample: ImageSample) -> EncodedImage:
        """Convolve an image at the size that was drawn for it."""
        limit = self.encoder.max_long_side
        resized, (zoom_y, zoom_x) = resize_short_side(sample.image, sample.short_side, limit)
        device = self.encoder.device
        batch = resized[None].to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision):
            features = self.backbone(batch).float()
        size_hw = (sample.image.shape[1], sample.image.shape[2])
        return EncodedImage((features,), ((zoom_x, zoom_y),), size_hw)


def choose_trained(backbone: Backbone, layer: str | None) -> list[str]:
    """Let a trunk learn from a layer on; what comes before it, and BatchNorm, stays as it is.

    Args:
        backbone: Its parameters are told whether they need gradients.
        layer: First layer that learns, named as for ``build_backbone``; the empty name is the
            whole trunk, None nothing of it.

    Returns:
        Names of the parameters that learn.

    Raises:
        ValueError: If the trunk has no such layer.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> choose_trained(build_backbone("small5"), "conv5")
        ['trunk.conv5.weight']
    """
    targets = [str(node.target) for node in backbone.trunk.graph.nodes if node.op == "call_module"]
    first = len(targets) if layer is None else _first_inside(targets, layer)
    learning = set(targets[first:])
    trained = []
    for name, parameter in backbone.named_parameters():
        module, _, _ = name.removeprefix("trunk.").rpartition(".")
        is_frozen = isinstance(backbone.trunk.get_submodule(module), nn.BatchNorm2d)
        parameter.requires_grad_(module in learning and not is_frozen)
        if parameter.requires_grad:
            trained.append(name)
    return trained


def _first_inside(targets: Sequence[str], layer: str) -> int:
    """Place of the first module that is a layer or lies inside it."""
    for place, target in enumerate(targets):
        if not layer or target == layer or target.startswith(layer + "."):
            return place
    raise ValueError(f"trainable_from must be a layer with weights, got {layer!r}: {targets}")
