"""The fully connected head of a detector (fc6, fc7, logits, boxes), and its features."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, smooth_l1_loss

from sppnet.config.detection import COMPACT_WIDTHS, LAYERS
from sppnet.config.fields import Count, Each, OneOf, Share, Within, restore_fields
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.errors import UnusableFileError
from sppnet.geometry import clip_boxes, deltas_to_boxes
from sppnet.storage import put_under, tensors_under

PAPER_WIDTHS = (4096, 4096)
# Standard deviation of new weights of the last layer.
LOGIT_SPREAD = 0.01
# Standard deviation of new weights of the box regression.
BOX_SPREAD = 0.001
# Deltas that hardly differ are not blown up by standardising them.
LEAST_SPREAD = 0.01


class RegionHead(nn.Module):
    """fc6, fc7 and the logits of K classes and the background.

    Almost all of the arithmetic of detection is the product of the pooled vectors with the first
    matrix. Therefore the head comes in two parts, :attr:`first` and :meth:`finish`: the product can
    be computed while regions are pooled, and their vectors are never built. A layer of low rank is
    two matrices with nothing in between.

    Args:
        length: D, numbers per pooled vector.
        num_classes: K; index K of the logits is the background.
        widths: Outputs of fc6 and of fc7.
        ranks: Ranks of fc6 and of fc7; 0 for full matrices.
        dropout: Share of the outputs of fc6 and fc7 that training drops.

    Attributes:
        scale: Pooled vectors are multiplied by this number first.

    Raises:
        ValueError: If a size is below 1, a rank negative, or the dropout outside [0, 1).

    Example:
        >>> head = RegionHead(length=4800, num_classes=3, widths=(64, 32), ranks=(16, 0)).eval()
        >>> head(torch.rand(5, 4800)).shape, head.describe(torch.rand(5, 4800), "fc6").shape
        (torch.Size([5, 4]), torch.Size([5, 64]))

    Source:
        SPP-net, section 4.1 (4096 - 4096 - 21); Fast R-CNN, section 3.1, for the low rank.
    """

    scale: Tensor

    def __init__(
        self,
        length: int,
        num_classes: int,
        widths: Sequence[int] = COMPACT_WIDTHS,
        ranks: Sequence[int] = (0, 0),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check_sizes((length, num_classes, *widths), ranks, dropout)
        self.length = length
        self.num_classes = num_classes
        self.widths = (widths[0], widths[1])
        self.ranks = (ranks[0], ranks[1])
        self.register_buffer("scale", torch.ones(()))
        self.fc6 = _build_layer(length, widths[0], ranks[0])
        self.fc7 = _build_layer(widths[0], widths[1], ranks[1])
        self.logits = nn.Linear(widths[1], num_classes + 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.logits.weight, std=LOGIT_SPREAD)
        nn.init.zeros_(self.logits.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Turn pooled vectors (W, D) into (W, K + 1) logits."""
        fc6 = self.dropout(self.fc6(pooled * self.scale).relu())
        logits: Tensor = self.logits(self.dropout(self.fc7(fc6).relu()))
        return logits

    def describe(self, pooled: Tensor, layer: str = "fc7") -> Tensor:
        """Give the outputs of a layer, without dropout.

        Args:
            pooled: (W, D) pooled vectors.
            layer: ``pooled``, ``fc6`` or ``fc7``.

        Returns:
            (W, D) or (W, width), after the ReLU.
        """
        if check_layer(layer) == "pooled":
            return pooled
        matrix = next(self.fc6.parameters())
        return self.finish(linear(pooled * self.scale, matrix), layer)

    @property
    def first(self) -> Tensor:
        """(D, M): the first matrix, multiplied by the scale of the vectors."""
        return next(self.fc6.parameters()).T * self.scale

    def finish(self, products: Tensor, layer: str) -> Tensor:
        """Compute the outputs of a layer from ``pooled @ first``, without dropout.

        Args:
            products: (W, M) products of the pooled vectors and :attr:`first`.
            layer: ``fc6``, ``fc7``, or ``logits``.

        Returns:
            (W, width) after the ReLU, or (W, K + 1) logits.
        """
        *_, bias = self.fc6.parameters()
        fc6: Tensor = (self.fc6[1:](products) if self.ranks[0] else products + bias).relu()
        if layer == "fc6":
            return fc6
        fc7: Tensor = self.fc7(fc6).relu()
        return fc7 if layer == "fc7" else linear(fc7, self.logits.weight, self.logits.bias)

    def config(self) -> dict[str, Any]:
        """Everything but the weights, in JSON values; the weights are in ``state_dict()``."""
        return {
            "length": self.length,
            "num_classes": self.num_classes,
            "widths": list(self.widths),
            "ranks": list(self.ranks),
            "dropout": self.dropout.p,
        }


@dataclass(frozen=True)
class SavedHead:
    """What :meth:`RegionHead.config` writes."""

    length: Count
    num_classes: Count
    widths: Annotated[tuple[int, int], Each(Within(1, 10**6), 2, 2)]
    ranks: Annotated[tuple[int, int], Each(Within(0, 10**6), 2, 2)]
    dropout: Share


def head_from_config(config: dict[str, Any], tensors: dict[str, Tensor]) -> RegionHead:
    """Restore a head.

    Args:
        config: From :meth:`RegionHead.config`.
        tensors: From its ``state_dict()``.

    Returns:
        The head, in evaluation mode.

    Raises:
        UnusableFileError: If the two do not belong together.

    Example:
        >>> head = RegionHead(8, 2, widths=(4, 4)).eval()
        >>> again = head_from_config(head.config(), head.state_dict())
        >>> torch.equal(again(torch.ones(1, 8)), head(torch.ones(1, 8)))
        True
    """
    try:
        with torch.device("meta"):  # weights that are replaced at once need no random numbers
            head = RegionHead(**vars(restore_fields(SavedHead, config, "head")))
        head.load_state_dict(tensors, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnusableFileError(
            f"the saved head does not fit together: {reason}", code="E_WEIGHTS_ARCH"
        ) from error
    return head.eval()


@torch.no_grad()
def compress(head: RegionHead, ranks: Sequence[int]) -> RegionHead:
    """Replace the matrices of a trained head by their best approximations of low rank.

    Args:
        head: Any head; it is not changed.
        ranks: Ranks for fc6 and fc7; 0 leaves the layer as it is.

    Returns:
        A new head, in evaluation mode.

    Raises:
        ValueError: If a rank is negative or not below the width of its layer.

    Example:
        >>> head = compress(RegionHead(4800, 3, widths=(64, 32)), (16, 0))
        >>> [tuple(layer.weight.shape) for layer in head.fc6]
        [(16, 4800), (64, 16)]

    Source:
        Fast R-CNN, section 3.1: truncated SVD.
    """
    for rank, width in zip(ranks, head.widths, strict=True):
        if not 0 <= rank < width:
            raise ValueError(f"ranks must be from 0 to below the widths {head.widths}, got {rank}")
    kept = [new or old for new, old in zip(ranks, head.ranks, strict=True)]
    small = RegionHead(head.length, head.num_classes, head.widths, kept, head.dropout.p)
    tensors = head.state_dict()
    for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
        if rank:
            tensors = {k: v for k, v in tensors.items() if not k.startswith(f"{name}.")}
            tensors |= _compressed_layer(name, getattr(head, name), rank)
    small.load_state_dict(tensors)
    return small.eval()


def check_layer(layer: str) -> str:
    """Return the name of a layer if it gives features of regions.

    Raises:
        ValueError: If there is no such layer.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")
    return layer


def _check_sizes(sizes: Sequence[int], ranks: Sequence[int], dropout: float) -> None:
    """Raise ValueError for a head that cannot be built."""
    if len(sizes) != 4 or min(sizes) < 1:
        raise ValueError(f"length, num_classes and two widths must be at least 1, got {sizes}")
    if len(ranks) != 2 or min(ranks) < 0:
        raise ValueError(f"ranks must be two numbers from 0 on, got {tuple(ranks)}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in 0..1, below 1, got {dropout}")


def _build_layer(inputs: int, outputs: int, rank: int) -> nn.Sequential:
    """One matrix, or two through a narrow middle; only the last has a bias."""
    sizes = (inputs, rank, outputs) if rank else (inputs, outputs)
    pairs = list(pairwise(sizes))
    layers = [nn.Linear(*pair, bias=pair is pairs[-1]) for pair in pairs]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layers[-1].bias)
    return nn.Sequential(*layers)


def _compressed_layer(name: str, layer: nn.Sequential, rank: int) -> dict[str, Tensor]:
    """State of a layer whose matrix is projected onto its strongest directions."""
    *matrices, bias = layer.parameters()
    weight = matrices[0].double()
    for more in matrices[1:]:
        weight = more.double() @ weight
    _, directions = torch.linalg.eigh(weight @ weight.T)  # ascending
    strongest = directions[:, -rank:]
    return {
        f"{name}.0.weight": (strongest.T @ weight).float(),
        f"{name}.1.weight": strongest.float(),
        f"{name}.1.bias": bias,
    }


@dataclass(frozen=True)
class SavedFeatures:
    """What :meth:`RegionFeatures.config` writes."""

    layer: Annotated[str, OneOf(LAYERS)]
    head: dict[str, Any] | None


@dataclass(frozen=True)
class RegionFeatures:
    """The features of a region: its pooled vector, or the outputs of fc6 or fc7 of a head.

    Args:
        layer: ``pooled``, ``fc6`` or ``fc7``.
        head: The head with that layer; not needed for ``pooled``.

    Raises:
        ValueError: If there is no such layer, or no head that has it.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> encoder = Encoder(build_backbone("small5"), short_sides=(96,))
        >>> features = RegionFeatures("fc7", RegionHead(encoder.length, 3, widths=(64, 32)))
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
        """Give D, the numbers per region.

        Raises:
            ValueError: If the head expects vectors of another length than the encoder's.
        """
        if self.layer == "pooled" or self.head is None:
            return encoder.length
        check_length(encoder.length, self.head.length)
        return self.head.widths[0 if self.layer == "fc6" else 1]

    @torch.no_grad()
    def describe(self, encoder: Encoder, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Compute the features of regions.

        Args:
            encoder: Pools the regions.
            encoded: The image.
            regions: (W, 5) int64 [scale, x0, y0, x1, y1] from ``encoder.assign_regions``.

        Returns:
            (W, D) on the encoder's device. Pooled vectors are not built for fc6 and fc7.
        """
        if self.layer == "pooled" or self.head is None:
            return encoder.pool(encoded, regions)
        return self.head.finish(
            encoder.pool_and_multiply(encoded, regions, self.head.first), self.layer
        )

    @torch.no_grad()
    def multiply(
        self, encoder: Encoder, encoded: EncodedImage, regions: Tensor, weights: Tensor
    ) -> Tensor:
        """Multiply the features of (W, 5) regions by (D, M) weights: (W, M)."""
        if self.layer == "pooled":
            return encoder.pool_and_multiply(encoded, regions, weights)
        return self.describe(encoder, encoded, regions) @ weights

    def to(self, device: torch.device | str) -> "RegionFeatures":
        """Move the head to a device, in place; returns itself."""
        if self.head is not None:
            self.head.to(device)
        return self

    def config(self) -> dict[str, Any]:
        """The layer and the head, in JSON values."""
        head = None if self.head is None else self.head.config()
        return {"layer": self.layer, "head": head}

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the head."""
        return {} if self.head is None else dict(self.head.state_dict())

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "RegionFeatures":
        """Restore from :meth:`config` and :meth:`tensors`."""
        saved = restore_fields(SavedFeatures, config, "features")
        head = None if saved.head is None else head_from_config(saved.head, tensors)
        return cls(saved.layer, head)


def check_classes(offered: int, expected: int) -> None:
    """Check that there are as many classes as a model was made for.

    Raises:
        ValueError: If the two differ.
    """
    if offered != expected:
        raise ValueError(f"classes must be {expected}, as of the box regression, got {offered}")


def check_length(offered: int, expected: int) -> None:
    """Check that vectors have the length that a model was made for.

    Args:
        offered: Numbers per vector.
        expected: Numbers that the model takes.

    Raises:
        ValueError: If the two differ.
    """
    if offered != expected:
        raise ValueError(f"vectors of regions must have {expected} numbers, got {offered}")


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
