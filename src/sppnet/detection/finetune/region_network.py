"""Trunk, pooling, softmax and box regression as one network that learns together."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torch.optim import SGD

from sppnet.backbones import Backbone
from sppnet.detection.assign import SamplingConfig
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.finetune.batches import ImageSample
from sppnet.detection.heads.region_head import COMPACT_WIDTHS, RegionHead, head_from_config
from sppnet.geometry import clip_boxes, deltas_to_boxes
from sppnet.images import resize_short_side
from sppnet.pooling import pool_regions
from sppnet.storage import put_under, tensors_under
from sppnet.training.seeds import derive_seed

# Standard deviation of new weights of the box regression.
BOX_SPREAD = 0.001
# Deltas that hardly differ are not blown up by standardising them.
LEAST_SPREAD = 0.01


@dataclass(frozen=True)
class NetworkTuningConfig:
    """Everything that decides what the tuning does, besides the data.

    Args:
        updates: Steps of the optimizer; 40,000 in Fast R-CNN, for 5,000 images.
        check_every: Updates between two looks at the validation images.
        rule: Windows of an update, and what they are.
        images_per_update: Images that share these windows.
        short_sides: One of them is drawn for each image; the encoder's if None.
        flip: Whether half of the images are mirrored.
        use_difficult: Whether objects marked difficult are positives.
        trainable_from: First layer of the trunk that learns; empty for all, None for none.
        widths: Outputs of fc6 and fc7.
        ranks: Their ranks; 0 for full matrices.
        dropout: Share of the outputs of fc7 that training drops.
        rate: Learning rate of the head, whose weights are new.
        trunk_rate: Rate of the trunk relative to it.
        drop_at: Share of the updates after which the rate falls to a tenth.
        momentum: Of the optimizer.
        weight_decay: Of matrices; biases have none and twice the rate.
        box_weight: What the loss of the boxes counts beside that of the classes.
        validation_share: Part of the images that choose the best state and teach nothing.
        mixed_precision: Convolve in bfloat16 while learning.
        seed: Of everything that is random.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Fast R-CNN (Girshick 2015), sections 2.3 and 4.5; the schedule in miniature.
    """

    updates: int = 300
    check_every: int = 50
    rule: SamplingConfig = field(default_factory=SamplingConfig)
    images_per_update: int = 2
    short_sides: tuple[int, ...] | None = None
    flip: bool = True
    use_difficult: bool = False
    trainable_from: str | None = ""
    widths: tuple[int, int] = COMPACT_WIDTHS
    ranks: tuple[int, int] = (0, 0)
    dropout: float = 0.5
    rate: float = 0.01
    trunk_rate: float = 0.1
    drop_at: float = 0.75
    momentum: float = 0.9
    weight_decay: float = 5e-4
    box_weight: float = 1.0
    validation_share: float = 0.1
    mixed_precision: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "check_every", "images_per_update"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rate", "trunk_rate", "momentum", "weight_decay", "box_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.drop_at <= 1:
            raise ValueError(f"drop_at must lie in 0..1, got {self.drop_at}")
        if not 0 <= self.validation_share < 1:
            rule = "validation_share must lie in 0..1, 1 left out"
            raise ValueError(f"{rule}, got {self.validation_share}")

    def rate_at(self, update: int) -> float:
        """Learning rate of the head in an update, 0 for the first.

        Example:
            >>> plan = NetworkTuningConfig(updates=4, rate=1.0, drop_at=0.5)
            >>> [plan.rate_at(update) for update in range(4)]
            [1.0, 1.0, 0.1, 0.1]
        """
        return self.rate * (0.1 if update >= self.drop_at * self.updates else 1.0)


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
        """Turn outputs of fc7 (W, M) into standardised deltas for every class (W, K, 4)."""
        deltas: Tensor = self.linear(fc7)
        return deltas.unflatten(1, (self.num_classes, 4))

    def standardise(self, deltas: Tensor) -> None:
        """Take mean and spread from (S, 4) deltas of positives."""
        if len(deltas) > 1:
            self.mean.copy_(deltas.mean(0))
            self.spread.copy_(deltas.std(0).clamp(min=LEAST_SPREAD))

    def loss(self, fc7: Tensor, labels: Tensor, deltas: Tensor) -> Tensor:
        """Smooth L1 over the positives, divided by the number of all windows.

        Args:
            fc7: (W, M).
            labels: (W,) class, or K for the background.
            deltas: (W, 4) from each window to its object.
        """
        rows = (labels < self.num_classes).nonzero().flatten()
        found = self(fc7[rows])[torch.arange(len(rows), device=rows.device), labels[rows]]
        wanted = (deltas[rows] - self.mean) / self.spread
        return smooth_l1_loss(found, wanted, reduction="sum") / max(len(labels), 1)


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
        """Refine (W, 4) boxes, as ``BoxRegressor.apply`` describes."""
        fc7 = self.head.describe(encoder.describe(encoded, boxes))
        found = self.layer(fc7)[torch.arange(len(labels)), labels]
        deltas = (found * self.layer.spread + self.layer.mean).cpu()
        return clip_boxes(deltas_to_boxes(boxes, deltas), encoded.image_size_hw)

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
        head = head_from_config(config["head"], tensors_under("head.", tensors))
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
        """Convolve images and pool their windows, with gradients down into the trunk: (W, D)."""
        encoded = [self._encode(sample) for sample in samples]
        rows = []
        for index, (sample, image) in enumerate(zip(samples, encoded, strict=True)):
            only_scale = torch.zeros(len(sample.boxes), dtype=torch.int64)
            cells = self.encoder.assign_regions(image, sample.boxes, only_scale)
            rows.append(torch.cat([torch.full_like(cells[:, :1], index), cells[:, 1:]], dim=1))
        maps = [image.maps[0] for image in encoded]
        return pool_regions(maps, torch.cat(rows), self.encoder.levels)

    def losses(self, samples: Sequence[ImageSample], box_weight: float = 1.0) -> Tensor:
        """Loss of a batch, and how many windows of it are judged right.

        Args:
            samples: Images with their windows.
            box_weight: What the loss of the boxes counts.

        Returns:
            (2,) the loss, which has the gradient, and the share of right windows.
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


def build_region_network(
    encoder: Encoder, num_classes: int, plan: NetworkTuningConfig
) -> RegionNetwork:
    """Copy a trunk, put a new head behind it, and say which layers learn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(plan.seed, "head"))
        head = RegionHead(encoder.length, num_classes, plan.widths, plan.ranks, plan.dropout)
        tuned = copy.copy(encoder)
        tuned.backbone = copy.deepcopy(encoder.backbone).eval()
        network = RegionNetwork(tuned, head, mixed_precision=plan.mixed_precision)
    network.to(encoder.device)
    choose_trained(network.backbone, plan.trainable_from)
    return network


def build_optimizer(network: RegionNetwork, plan: NetworkTuningConfig) -> SGD:
    """Biases learn at twice the rate and do not decay; the trunk learns slower than the head."""
    groups = []
    for share, parameters in _by_part(network, plan):
        for is_bias in (False, True):
            chosen = [p for p in parameters if (p.ndim == 1) == is_bias]
            decay = 0.0 if is_bias else plan.weight_decay
            rate = share * (2.0 if is_bias else 1.0)
            groups.append({"params": chosen, "share": rate, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    return SGD(groups, lr=plan.rate, momentum=plan.momentum)


def _by_part(
    network: RegionNetwork, plan: NetworkTuningConfig
) -> Iterator[tuple[float, list[Tensor]]]:
    """Share of the rate, and the parameters that learn, of the trunk and of what is new."""
    yield plan.trunk_rate, [p for p in network.backbone.parameters() if p.requires_grad]
    yield 1.0, [*network.head.parameters(), *network.boxes.parameters()]


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
