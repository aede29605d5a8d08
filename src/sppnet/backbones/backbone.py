"""A convolution trunk with all that others need to know to find its cells on the image."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch.nn.functional import pad

from sppnet.backbones.frozen import AUTO, ONNXRUNTIME, TORCH, FrozenTrunk, can_run, choose_engine
from sppnet.backbones.registry import Trunk
from sppnet.backbones.tracing.cut import TO_CHANNELS_FIRST, Cut, find_name
from sppnet.backbones.tracing.receptive_field import CHANNELS_LAST, Axis, round_up
from sppnet.errors import OutputError

COLOURS = 3


class Backbone(nn.Module):
    """A trunk from images in 0..1 to feature maps; it normalises and pads by itself.

    Made by `build_backbone` and `restore_backbone`. Cell (row i, column j) of a map is centred on
    the pixel (x, y) = (centre + j * stride, centre + i * stride), counted from 0 at the middle of
    the first pixel; `centre` can be negative and can end in .5. Images with a side below
    `min_size`, or one that is no multiple of `multiple`, are padded at the right and bottom with
    zeros after normalisation, as the convolutions pad.

    Attributes:
        name: Name of the trunk, such as "resnet18".
        layer: The earlier layer that was asked for, or None for the last map.
        node: Full name of the graph node that gives the features.
        channels: Channels of the features.
        stride: Pixels from one cell to the next.
        centre: Pixel on which cell 0 is centred.
        receptive_field: Pixels along a side that one cell sees through convolutions and poolings;
            gates, normalisations and attention that look further move nothing and are not
            counted.
        min_size: Shortest side, in pixels, that gives a cell without padding.
        multiple: Sides that need no padding are multiples of it: the patch of a vision
            transformer, the stride of a network with TensorFlow's padding, 1 for others.
        attends: Cells also look at others through windows of attention.
        engine: What computes maps on a CPU where no gradient is wanted: "torch", or "onnxruntime"
            as :meth:`with_engine` says. All else is torch's.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> backbone = build_backbone("small5")
        >>> backbone(torch.zeros(2, 3, 64, 100)).shape, backbone.grid_hw((64, 100))
        (torch.Size([2, 96, 8, 13]), (8, 13))

    Source:
        SPP-net, section 2: the convolutions before the pyramid take any size; strides and centres
        as in appendix A.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Trunk, cut: Cut, layer: str | None) -> None:
        super().__init__()
        self.name, self.layer, self.node, self.bgr = recipe.name, layer, cut.node, recipe.bgr
        self.trunk, self._names, self._maps = cut.trunk, cut.names, cut.maps
        self.attends = recipe.attends
        self.engine, self._frozen = TORCH, FrozenTrunk()
        self._axes = _check_axes(recipe.name, cut)
        _, axis = self._axes
        self.stride, self.centre, self.receptive_field = axis.stride, axis.centre, axis.extent
        sides = [side for field in (cut.map, *cut.joined) for side in (field.y, field.x)]
        self.multiple = math.lcm(*(side.multiple for side in sides))
        shortest = max(side.shortest_side() for side in sides)
        self.min_size = round_up(shortest, self.multiple)
        self.register_buffer("mean", torch.tensor(recipe.mean, device="cpu"))
        self.register_buffer("std", torch.tensor(recipe.std, device="cpu"))
        self.channels = self._count_channels()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the feature maps of a batch.

        Args:
            images: (N, 3, H, W) float, RGB, 0..1, on the device of the trunk.

        Returns:
            (N, channels, h, w) with (h, w) = `grid_hw((H, W))`.

        Raises:
            ValueError: The shape is another, or a side is 0.
            TypeError: The images are not floating point.
        """
        _check_images(images)
        prepared = self.pad_to_min(self.normalise(images))
        if self._is_frozen(prepared):
            return self._frozen.run(self.trunk, prepared)
        return self.trunk(prepared)

    def with_engine(self, engine: str = AUTO) -> "Backbone":
        """Choose what computes maps on a CPU where no gradient is wanted.

        The choice is a part of `config()`: a trunk that is restored runs as this one does.

        Args:
            engine: "torch", "onnxruntime", or "auto": onnxruntime where it is installed and knows
                all layers of the trunk.

        Returns:
            The trunk with that engine; both share their weights.

        Raises:
            ValueError: There is no such engine, or it does not know a layer.
            MissingPackageError: It is not installed; the error has the command.

        Example:
            >>> from sppnet.backbones import build_backbone
            >>> build_backbone("small5").with_engine("auto").engine
            'onnxruntime'
        """
        chosen = choose_engine(self.trunk, self.name, engine)
        backbone = copy.copy(self)
        backbone.engine = chosen
        return backbone

    @property
    def workers(self) -> int:
        """Images that are best convolved at a time, each by a thread: see :func:`work_ahead`.

        One where torch convolves, whose last bits depend on the number of threads.
        """
        on_cpu = next(self.parameters()).device.type == "cpu"
        return torch.get_num_threads() if on_cpu and self.engine == ONNXRUNTIME else 1

    def _is_frozen(self, prepared: Tensor) -> bool:
        return self.engine == ONNXRUNTIME and can_run(self.trunk, prepared)

    def tap(self, images: Tensor, nodes: Sequence[str | None]) -> list[Tensor]:
        """Compute the maps of several layers in one pass.

        Images are padded to the `min_size` and `multiple` of the whole trunk, so that very small
        or uneven ones give more cells than a backbone that was cut at the earlier layer.

        Args:
            images: As for `forward`.
            nodes: Layers of the trunk, named as for `build_backbone`; None is the last map.

        Returns:
            For each node its map (N, C, h, w), what `build_backbone(..., layer=node)` gives.

        Raises:
            ValueError: The trunk has no such layer, or it is no map; or as of `forward`.
            TypeError: As of `forward`.

        Example:
            >>> from sppnet.backbones import build_backbone
            >>> backbone = build_backbone("small5")
            >>> [maps.shape[1:] for maps in backbone.tap(torch.rand(1, 3, 64, 64), ["relu2", None])]
            [torch.Size([48, 16, 16]), torch.Size([96, 8, 8])]
        """
        _check_images(images)
        tapped = [self._find_map(node) for node in nodes]
        prepared = self.pad_to_min(self.normalise(images))
        if self._is_frozen(prepared):
            return self._frozen.tap(self.trunk, prepared, tapped)
        kept = _Taps(self.trunk, tapped).collect(prepared)
        return [_channels_first(kept[name], self._maps[name]) for name in tapped]

    def _find_map(self, layer: str | None) -> str:
        """Name the node of a layer in the graph."""
        name = self._names.get(find_name(self._names, layer or self.node))
        if name is None or name not in self._maps:
            raise ValueError(f"nodes must be maps (N, C, H, W), got {layer!r}")
        return name

    def normalise(self, images: Tensor) -> Tensor:
        """Bring images (N, 3, H, W), RGB 0..1, to the colours that the trunk was made for."""
        colours = images.flip(1) if self.bgr else images
        return (colours - self.mean[:, None, None]) / self.std[:, None, None]

    def pad_to_min(self, images: Tensor) -> Tensor:
        """Add zeros at the right and the bottom until both sides are as long as they must be.

        They are `min_size` long at least then, and a multiple of `multiple`.
        """
        missing_y, missing_x = (self._padded(side) - side for side in images.shape[-2:])
        if not missing_y and not missing_x:
            return images
        return F.pad(images, (0, missing_x, 0, missing_y))

    def grid_hw(self, image_size_hw: tuple[int, int]) -> tuple[int, int]:
        """Say how many cells an image gives, (rows, columns), without computing them.

        Args:
            image_size_hw: Height and width in pixels, 1 or more.

        Raises:
            ValueError: A side is below 1.
        """
        height, width = image_size_hw
        if height < 1 or width < 1:
            raise ValueError(f"image_size_hw must be 1 or more on both sides, got {image_size_hw}")
        axis_y, axis_x = self._axes
        return axis_y.cells(self._padded(height)), axis_x.cells(self._padded(width))

    def _padded(self, side: int) -> int:
        return round_up(max(side, self.min_size), self.multiple)

    def config(self) -> dict[str, Any]:
        """Describe the trunk in JSON values: with `state_dict()` it is enough to build it again.

        Example:
            >>> from sppnet.backbones import build_backbone
            >>> build_backbone("small5").config()["stride"]
            8
        """
        places = ("channels", "stride", "centre", "receptive_field", "min_size")
        return {key: getattr(self, key) for key in ("name", "layer", *places, "engine")}

    def _count_channels(self) -> int:
        """Run the smallest image through, with weights that are one zero each, seen many times.

        On the meta device much is worked out in Python, and torch imports its compiler for that,
        which takes longer than importing torch.
        """
        tensors = itertools.chain(self.trunk.named_parameters(), self.trunk.named_buffers())
        zeros = {
            k: torch.zeros((), dtype=t.dtype, device="cpu").expand(t.shape) for k, t in tensors
        }
        image = torch.zeros(1, COLOURS, self.min_size, self.min_size, device="cpu")
        with torch.no_grad():
            features = torch.func.functional_call(self.trunk.eval(), zeros, (image,))
        return int(features.shape[1])

    def extra_repr(self) -> str:
        """Show the name and the geometry when printed."""
        return f"{self.name}, node={self.node}, stride={self.stride}, centre={self.centre}"


class _Taps(fx.Interpreter):
    """Runs a trunk and keeps some maps, copied before a later layer works in place.

    Args:
        trunk: The trunk.
        wanted: Names of nodes in its graph.
    """

    def __init__(self, trunk: fx.GraphModule, wanted: Sequence[str]) -> None:
        super().__init__(trunk)
        self._wanted = set(wanted)
        self._kept: dict[str, Tensor] = {}

    def collect(self, images: Tensor) -> dict[str, Tensor]:
        """Run the trunk on normalised images."""
        self.run(images)
        return self._kept

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if n.name in self._wanted:
            self._kept[n.name] = value.clone()
        return value


def _channels_first(features: Tensor, dims: tuple[str, ...]) -> Tensor:
    return features.permute(TO_CHANNELS_FIRST) if dims == CHANNELS_LAST else features


def _check_axes(name: str, cut: Cut) -> tuple[Axis, Axis]:
    """Refuse a map whose cells lie otherwise down than across the image."""
    axes = (cut.map.y, cut.map.x)
    down, across = ((axis.stride, axis.centre, axis.extent) for axis in axes)
    if down != across:
        raise ValueError(
            f"layer must have one stride and centre for both sides, got {name} at {cut.node!r} "
            f"with {down} down and {across} across (stride, centre, receptive field)"
        )
    return axes


def as_device(device: torch.device | str) -> torch.device:
    """Return a device of torch that is there.

    Args:
        device: Its name, such as "cpu" or "cuda:0".

    Raises:
        ValueError: If torch knows no such device, or finds none on this machine.

    Example:
        >>> as_device("gpu")
        Traceback (most recent call last):
        ValueError: device must be one that torch knows, such as 'cpu' or 'cuda:0', got 'gpu'
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        legal = "one that torch knows, such as 'cpu' or 'cuda:0'"
        raise ValueError(f"device must be {legal}, got {device!r}") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must be on this machine, got {str(found)!r}: torch finds no such")
    return found


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, got {type(images).__name__}")
    if images.ndim != COLOURS + 1 or images.shape[1] != COLOURS or 0 in images.shape[-2:]:
        shape = tuple(images.shape)
        raise ValueError(f"images must have shape (N, 3, H, W), sides 1 or more, got {shape}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in 0..1, got {images.dtype}")


def check_exportable(backbone: Backbone) -> None:
    """Refuse a trunk that no graph for all sizes can describe.

    Raises:
        OutputError: It has windows of attention: an exporter lays them out for one size.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> check_exportable(build_backbone("small5"))
    """
    if backbone.attends:
        raise OutputError(
            f"an ONNX file must fit every size, and the windows of attention of {backbone.name} "
            "are laid out for each size anew: take a trunk of convolutions",
            code="E_EXPORT",
        )


def convolve_any_size(backbone: Backbone, images: Tensor) -> Tensor:
    """Compute the feature maps of a batch, as the backbone itself does, without asking for sizes.

    ``Backbone.forward`` looks whether the image has to be padded; a graph for all sizes always
    pads, mostly by nothing.

    Args:
        backbone: The trunk.
        images: (N, 3, H, W) float, RGB, 0..1.

    Returns:
        (N, channels, h, w), the same as ``backbone(images)``.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> backbone, images = build_backbone("small5"), torch.rand(1, 3, 20, 30)
        >>> torch.equal(convolve_any_size(backbone, images), backbone(images))
        True
    """
    sides = images.shape[-2:]
    longer: list[Any] = [torch.sym_max(backbone.min_size, side) for side in sides]
    if backbone.multiple > 1:
        longer = [round_up(side, backbone.multiple) for side in longer]
    padded = pad(backbone.normalise(images), (0, longer[1] - sides[1], 0, longer[0] - sides[0]))
    features: Tensor = backbone.trunk(padded)
    return features
