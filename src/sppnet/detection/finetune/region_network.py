"""Trunk, pooling, softmax and box regression as one network that learns together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sppnet.backbones import Backbone
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.finetune.batches import ImageSample
from sppnet.detection.heads.box_predictor import BoxPredictor
from sppnet.detection.heads.region_head import RegionHead
from sppnet.images import resize_short_side
from sppnet.pooling import pool_regions


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
    nodes = backbone.trunk.graph.nodes
    targets = [str(node.target) for node in nodes if node.op in ("call_module", "get_attr")]
    first = len(targets) if layer is None else _first_inside(targets, layer)
    learning = set(targets[first:])
    trained = []
    for name, parameter in backbone.named_parameters():
        path = name.removeprefix("trunk.")
        module, _, _ = path.rpartition(".")
        is_frozen = isinstance(backbone.trunk.get_submodule(module), nn.BatchNorm2d)
        parameter.requires_grad_(not is_frozen and not learning.isdisjoint(_parts(path)))
        if parameter.requires_grad:
            trained.append(name)
    return trained


def _parts(path: str) -> list[str]:
    """List the modules that a parameter lies in, and the parameter: a transformer block is one."""
    names = path.split(".")
    return [".".join(names[:end]) for end in range(1, len(names) + 1)]


def _first_inside(targets: Sequence[str], layer: str) -> int:
    """Place of the first module that is a layer or lies inside it."""
    for place, target in enumerate(targets):
        if not layer or target == layer or target.startswith(layer + "."):
            return place
    raise ValueError(f"trainable_from must be a layer with weights, got {layer!r}: {targets}")
