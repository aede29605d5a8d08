"""The paper's network: a convolution trunk, pyramid pooling, fully connected layers."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone, build_backbone
from sppnet.backbones.paper import PAPER_TRUNKS, build_paper_trunk, initialise
from sppnet.backbones.tracing.propagate import through_module
from sppnet.backbones.tracing.receptive_field import Axis, ReceptiveField
from sppnet.config.classification import POOLS
from sppnet.images import group_equal_sizes
from sppnet.pooling import SpatialPyramidPool, check_levels, num_bins
from sppnet.pooling.bins import DEFAULT_LEVELS

ROWS = 32  # every call of a head has this many rows, so that a result never depends on its batch
_ALIGNED = 4  # floats of 16 bytes, which processors load at once
HIDDEN = (4096, 4096)
DROPOUT = 0.5
MOST_LAYERS = 1000  # of a head; more are no head but a damaged file
BIAS = 1.0
ACCELERATOR_BATCH = 32


class SppNet(nn.Module):
    """Images of any one size in, logits out; the pooling makes every size fit the head.

    The parts are passed in, so that any trunk, any pooling and any head go together. The network
    returns the same thing in training and in evaluation; losses are worked out outside.

    Args:
        backbone: Turns (N, 3, H, W) images, RGB 0..1, into (N, C, h, w) maps.
        pool: Turns maps of any size into (N, D) rows.
        head: Turns (N, D) rows into (N, num_classes) logits.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> network = build_classifier(build_backbone("small5"), num_classes=4)
        >>> network(torch.rand(2, 3, 60, 90)).shape
        torch.Size([2, 4])

    Source:
        SPP-net, section 2 and figure 3.
    """

    def __init__(self, backbone: nn.Module, pool: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Turn (N, 3, H, W) images into (N, num_classes) logits."""
        logits: Tensor = self.head(self.pool(self.backbone(images)))
        return logits


def build_classifier(
    backbone: Backbone | str,
    num_classes: int,
    levels: Sequence[int] = DEFAULT_LEVELS,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    *,
    pool: str = "spp",
    feature_norm: float | None = None,
) -> SppNet:
    """Put trunk, pooling and a fresh head together.

    Args:
        backbone: A trunk, or the name of one, which then gets random weights.
        num_classes: Outputs of the network, at least 1.
        levels: Bins along each side of the pyramid, one number per level.
        hidden: Width of each hidden layer of the head; the paper has (4096, 4096).
        dropout: Share of values set to zero in training.
        pool: ``"spp"``, ``"spp+avg"``, ``"6x6"``, ``"avg"`` or ``"max"``.
        feature_norm: Scale each pooled vector to this length first; None, as in the paper, does
            not.

    Returns:
        A network for images of any size and aspect.

    Raises:
        ValueError: If a name is unknown or a number out of range.

    Example:
        >>> network = build_classifier("small5", num_classes=10, hidden=(64,))
        >>> network(torch.rand(1, 3, 33, 200)).shape
        torch.Size([1, 10])
    """
    trunk = build_backbone(backbone) if isinstance(backbone, str) else backbone
    in_features = trunk.channels * pool_bins(pool, levels)
    head = build_head(in_features, num_classes, hidden, dropout=dropout, feature_norm=feature_norm)
    return SppNet(trunk, build_pool(pool, levels), head)


def build_paper_network(
    name: str,
    num_classes: int = 1000,
    spp: bool = True,
    levels: Sequence[int] = DEFAULT_LEVELS,
    *,
    hidden: Sequence[int] = HIDDEN,
) -> SppNet:
    """Build one of the paper's networks with new weights, ready for training from nothing.

    Two hidden layers of 4096 with dropout 0.5; all weights from N(0, 0.01), all biases of the fully
    connected layers 1, as in the released definition.

    Args:
        name: "zf5", "convnet5", "overfeat5" or "overfeat7".
        num_classes: Outputs, at least 1.
        spp: Pool with the pyramid; without it the last map is pooled to 6 x 6, as in the paper's
            baselines: at 224 pixels those are windows of 3 with stride 2 (stride 3 for Overfeat).
        levels: Bins along each side of the pyramid, one number per level.
        hidden: Width of each hidden layer; the paper's, unless there is little to learn.

    Returns:
        A network for images of any size.

    Raises:
        ValueError: The name is another, or a number is out of range.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     network = build_paper_network("overfeat7", spp=False)
        >>> network.head[0].in_features
        18432

    Source:
        Paper, section 3.1.1 and table 1.
    """
    if name not in PAPER_TRUNKS:
        raise ValueError(f"name must be one of {', '.join(PAPER_TRUNKS)}, got {name!r}")
    pool = "spp" if spp else "6x6"
    network = build_classifier(
        build_backbone(name), num_classes, levels, hidden, DROPOUT, pool=pool
    )
    for layer in network.head.modules():
        if isinstance(layer, nn.Linear):
            initialise(layer, BIAS)
    return network


class GlobalAveragePool(nn.Module):
    """Mean of every channel over the whole map: what most trunks end with, here for comparison.

    Example:
        >>> GlobalAveragePool()(torch.ones(2, 8, 3, 5)).shape
        torch.Size([2, 8])
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) into (N, C)."""
        return features.mean(dim=(2, 3))


class AverageAndPyramid(nn.Module):
    """The mean of every channel over the whole map, followed by the maxima of a pyramid.

    The averaging level carries what a network with global average pooling has learned; the others
    add where on the image things are.

    Args:
        levels: Bins along each side, one number per level of maxima.

    Example:
        >>> AverageAndPyramid((1, 2))(torch.ones(2, 8, 3, 5)).shape
        torch.Size([2, 48])
    """

    def __init__(self, levels: Sequence[int] = DEFAULT_LEVELS) -> None:
        super().__init__()
        self.average = GlobalAveragePool()
        self.maxima = SpatialPyramidPool(levels)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) into (N, C * (1 + sum(n * n)))."""
        return torch.cat([self.average(features), self.maxima(features)], dim=1)


class FixedNorm(nn.Module):
    """Scale every row to one Euclidean length, so that bright maps weigh as much as dark ones.

    Args:
        length: The length of every row after scaling; a row of zeros stays zero.

    Raises:
        ValueError: If ``length`` is not above 0.

    Example:
        >>> FixedNorm(1.0)(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    def __init__(self, length: float = 1.0) -> None:
        super().__init__()
        if not length > 0:
            raise ValueError(f"length must be above 0, got {length}")
        self.length = length

    def forward(self, rows: Tensor) -> Tensor:
        """Scale (N, D) rows."""
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows * (self.length / norms.clamp_min(1e-12))

    def extra_repr(self) -> str:
        """Show the length."""
        return f"length={self.length}"


def build_pool(kind: str, levels: Sequence[int] = DEFAULT_LEVELS) -> nn.Module:
    """Make one of the poolings that the project compares.

    Args:
        kind: ``"spp"`` (all levels), ``"spp+avg"`` (the mean of the map, then all levels),
            ``"6x6"`` (the finest level of the paper alone, its no-SPP baseline), ``"avg"`` (mean
            of the map) or ``"max"`` (maximum of the map).
        levels: Bins along each side, for ``"spp"`` and ``"spp+avg"``.

    Returns:
        A module from (N, C, H, W) to (N, C * pool_bins(kind, levels)).

    Raises:
        ValueError: If there is no such pooling, or a level is below 1.
    """
    if kind not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {kind!r}")
    if kind == "avg":
        return GlobalAveragePool()
    if kind == "spp+avg":
        return AverageAndPyramid(levels)
    return SpatialPyramidPool({"spp": tuple(levels), "6x6": (6,), "max": (1,)}[kind])


def pool_bins(kind: str, levels: Sequence[int] = DEFAULT_LEVELS) -> int:
    """Numbers that a pooling keeps of each channel.

    Example:
        >>> pool_bins("spp"), pool_bins("spp+avg"), pool_bins("6x6"), pool_bins("avg")
        (50, 51, 36, 1)
    """
    bins = num_bins(check_levels(levels))
    return {"spp": bins, "spp+avg": bins + 1, "6x6": 36}.get(kind, 1)


def bins_of(pool: nn.Module) -> int:
    """Numbers that a pooling, once built, keeps of each channel.

    Example:
        >>> bins_of(SpatialPyramidPool((1, 2)))
        5
    """
    if isinstance(pool, SpatialPyramidPool):
        return num_bins(pool.levels)
    return 1 + num_bins(pool.maxima.levels) if isinstance(pool, AverageAndPyramid) else 1


def build_head(
    in_features: int,
    num_classes: int,
    hidden: Sequence[int] = (),
    *,
    dropout: float = 0.0,
    feature_norm: float | None = None,
) -> nn.Sequential:
    """Stack fully connected layers on a pooled vector.

    Args:
        in_features: Length D of the pooled vector.
        num_classes: Outputs, at least 1.
        hidden: Width of each hidden layer, each followed by ReLU; the paper has (4096, 4096).
        dropout: Share of values set to zero in training: before the only layer, or after each
            hidden one.
        feature_norm: Scale each pooled vector to this length first; None leaves it as it is.

    Returns:
        A module from (N, D) to (N, num_classes).

    Raises:
        ValueError: If a width is below 1, ``dropout`` is outside 0..1, or there are more than
            `MOST_LAYERS` hidden layers.

    Example:
        >>> build_head(200, 3, (64,))(torch.rand(2, 200)).shape
        torch.Size([2, 3])
    """
    widths = [in_features, *hidden, num_classes]
    if min(widths) < 1:
        raise ValueError(f"in_features, hidden and num_classes must be at least 1, got {widths}")
    if len(hidden) > MOST_LAYERS:
        raise ValueError(f"hidden must be at most {MOST_LAYERS} layers, got {len(hidden)}")
    layers: list[nn.Module] = [] if feature_norm is None else [FixedNorm(feature_norm)]
    if dropout and not hidden:
        layers.append(nn.Dropout(dropout))
    for before, after in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def pool_images(backbone: nn.Module, pool: nn.Module, images: Sequence[Tensor]) -> Tensor:
    """Convolve and pool images of any sizes: alone on the CPU, in batches of equal size elsewhere.

    Args:
        backbone: Trunk in evaluation mode.
        pool: From (N, C, h, w) to (N, D).
        images: N tensors (3, H, W), RGB 0..1; at least one.

    Returns:
        (N, D) float32 on the CPU; on the CPU a row depends on its own image only, bit for bit.
    """
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    rows: dict[int, Tensor] = {}
    for part in group_equal_sizes(sizes, batch_rows(backbone)):
        pooled = _pool_batch(backbone, pool, torch.stack([images[index] for index in part]))
        rows.update(zip(part, pooled, strict=True))
    return torch.stack([rows[index] for index in range(len(images))])


@torch.inference_mode()
def _pool_batch(backbone: nn.Module, pool: nn.Module, batch: Tensor) -> Tensor:
    """Convolve images of one size; channels-last halves the time of most trunks on a CPU."""
    batch = batch.to(device_of(backbone)).contiguous(memory_format=torch.channels_last)
    pooled: Tensor = pool(backbone(batch))  # (n, D)
    return pooled.float().cpu()


def apply_in_blocks(head: Callable[[Tensor], Tensor], rows: Tensor, block: int = ROWS) -> Tensor:
    """Run a head over rows in calls of one fixed size, the last one filled up with zeros.

    Matrix products pick their order of summation by the number of rows, and by where in memory a
    row begins; with one number, and rows that begin alike, a row's result has the same bits alone
    and in any company.

    Args:
        head: Module from (block, D) to (block, K) that treats every row by itself.
        rows: (N, D); N may be 0.
        block: Rows of each call, a multiple of 4.

    Returns:
        (N, K).
    """
    step = _ALIGNED if _begin_unlike(head, rows.shape[1]) else 1
    count = max(1, -(-len(rows) * step // block)) * block
    filled = rows.new_zeros(count, rows.shape[1])  # calls of `block` rows
    filled[: len(rows) * step : step] = rows
    return torch.cat([head(part)[::step] for part in filled.split(block)])[: len(rows)]


def _begin_unlike(head: Callable[[Tensor], Tensor], length: int) -> bool:
    """Whether rows of some layer do not all begin at a multiple of 16 bytes.

    Products with fewer than 16 columns add up such rows in another order (MKL of torch 2.14). Every
    fourth row begins alike, whatever its length.
    """
    layers = head.modules() if isinstance(head, nn.Module) else ()
    lengths = [each.in_features for each in layers if isinstance(each, nn.Linear)]
    return any(each % _ALIGNED for each in (length, *lengths))


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a module are; the CPU if it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def batch_rows(module: nn.Module) -> int:
    """How many images of one size go through a trunk at once: 1 on the CPU."""
    return 1 if device_of(module).type == "cpu" else ACCELERATOR_BATCH


class LayerRow(NamedTuple):
    """One row of a layer table.

    Args:
        layer: Name of a convolution, normalisation or pooling.
        channels: Channels of its map.
        kernel: Cells along a side of the window; 1 for a normalisation.
        stride: Cells from one window to the next.
        padding: Cells added at every border.
        cells: Cells along a side of the map, for each size of the image.
    """

    layer: str
    channels: int
    kernel: int
    stride: int
    padding: int
    cells: tuple[int, ...]


def layer_table(name: str, sizes: Sequence[int] = (224,)) -> list[LayerRow]:
    """List a paper trunk's layers with the sizes of their maps, as its table 1 does.

    Args:
        name: As for :func:`build_paper_network`.
        sizes: Sides of square images in pixels.

    Returns:
        One row for each convolution, normalisation and pooling, in order.

    Raises:
        ValueError: The name is another.

    Example:
        >>> for row in layer_table("zf5", (224, 180))[:3]:
        ...     print(*row)
        conv1 96 7 2 1 (110, 88)
        norm1 96 1 1 0 (110, 88)
        pool1 96 3 2 0 (55, 44)
    """
    rows, channels = [], 0
    field = ReceptiveField(Axis(), Axis())
    for layer, module in build_paper_trunk(name).named_children():
        if isinstance(module, nn.ReLU):
            continue
        channels = module.out_channels if isinstance(module, nn.Conv2d) else channels
        field = cast(ReceptiveField, through_module(module, field))
        cells = tuple(field.x.cells(size) for size in sizes)
        rows.append(LayerRow(layer, channels, *_window_of(module), cells))
    return rows


def _window_of(module: nn.Module) -> tuple[int, int, int]:
    """Give kernel, stride and padding of a layer."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size[0], module.stride[0], int(module.padding[0])
    if isinstance(module, nn.MaxPool2d):
        return cast(int, module.kernel_size), cast(int, module.stride), 0
    return 1, 1, 0
