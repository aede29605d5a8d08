"""The truth about receptive fields: which pixels change one cell, found by back-propagation."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models.swin_transformer import shifted_window_attention
from torchvision.ops import StochasticDepth

from sppnet.backbones.paper import WithinChannelNorm


def seen_pixels(
    trunk: nn.Module, image_hw: tuple[int, int], cells: Sequence[int], side: str
) -> list[tuple[int, int]]:
    """First and last column (side "x") or row ("y") that each of some cells depends on."""
    image = torch.full((1, 3, *image_hw), 0.01, requires_grad=True)
    features = trunk(image)
    return [_support(features.select(-1 if side == "x" else -2, n), image, side) for n in cells]


def _support(cell: Tensor, image: Tensor, side: str) -> tuple[int, int]:
    (gradient,) = torch.autograd.grad(cell.sum(), image, retain_graph=True)
    seen = (gradient[0] != 0).any(dim=0).any(dim=0 if side == "x" else 1).nonzero()
    return int(seen.min()), int(seen.max())


def draw_weights(trunk: nn.Module) -> None:
    """Give a trunk from the meta device memory and weights, faster than its own initial values."""
    trunk.to_empty(device="cpu")
    for name, tensor in trunk.state_dict().items():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, std=(2 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            nn.init.constant_(tensor, float(name.endswith(("weight", "running_var"))))


def make_positive(trunk: fx.GraphModule) -> fx.GraphModule:
    """Copy a trunk and let every tap of every window count.

    Weights are positive, maxima become means, normalisations and gates pass everything on.
    """
    trunk = copy.deepcopy(trunk).eval()
    for name, parameter in trunk.named_parameters():
        nn.init.constant_(parameter, _positive_value(name, parameter))
    for name, module in list(trunk.named_modules()):
        replacement = _linear_module(module)
        if replacement is not None:
            trunk.set_submodule(name, replacement)
    for node in trunk.graph.nodes:
        if node.op == "call_function" and node.target in LINEAR:
            node.target = LINEAR[node.target]
        if node.op == "call_method" and node.target in CONSTANT:
            node.op, node.target = "call_function", CONSTANT[node.target]
    trunk.recompile()
    return trunk


def _positive_value(name: str, parameter: Tensor) -> float:
    """One for scales, the mean over the taps for kernels, nothing for biases."""
    if name.endswith("bias"):
        return 0.0
    return 1 / parameter[0].numel() if parameter.ndim > 1 and "scale" not in name else 1.0


class _ConstantGate(nn.Module):
    """The mean of the map as a number that no pixel changes."""

    def forward(self, features: Tensor) -> Tensor:
        return features.detach().mean((2, 3), keepdim=True)


class PaddedAsTensorflow(nn.Module):
    """A layer behind as much padding as gives a cell for every stride, the odd one at the end."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        """Pad rows and columns, then apply the layer, which does not pad."""
        padding = []
        for axis in (1, 0):  # the last side first
            kernel, stride, dilation = (
                _of_axis(getattr(self.layer, name, 1), axis)
                for name in ("kernel_size", "stride", "dilation")
            )
            side = features.shape[2 + axis]
            cells = -(-side // stride)
            added = max((cells - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
            padding += [added // 2, added - added // 2]
        return self.layer(F.pad(features, padding))


def _of_axis(size: int | tuple[int, int], axis: int) -> int:
    return size[axis] if isinstance(size, tuple) else size


def _linear_module(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.MaxPool2d):
        shape = (module.kernel_size, module.stride, module.padding)
        return nn.AvgPool2d(*shape, ceil_mode=module.ceil_mode)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return _ConstantGate()
    if isinstance(module, nn.Conv2d) and type(module) is not nn.Conv2d:
        return _plain_convolution(module)  # one that would take the mean out of its weights
    looks_further = type(module).__name__.startswith(("SwinTransformer", "GroupNorm"))
    if looks_further or isinstance(module, nn.LayerNorm | WithinChannelNorm | StochasticDepth):
        return nn.Identity()
    return None


def _plain_convolution(module: nn.Conv2d) -> nn.Conv2d:
    shape = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    plain = nn.Conv2d(module.in_channels, module.out_channels, *shape, bias=False)
    nn.init.constant_(plain.weight, 1 / plain.weight[0].numel())
    return plain


def _mean_pool(
    features: Tensor, kernel_size: int, stride: int, padding: int = 0, **_: object
) -> Tensor:
    return F.avg_pool2d(features, kernel_size, stride, padding)


def _unchanged(features: Tensor, *_: object, **__: object) -> Tensor:
    return features


def _constant_mean(features: Tensor, *dims: object, **how: object) -> Tensor:
    return features.detach().mean(*dims, **how)


def _constant_norm(features: Tensor, *dims: object, **how: object) -> Tensor:
    return features.detach().norm(*dims, **how)


LINEAR = {F.layer_norm: _unchanged, F.max_pool2d: _mean_pool, shifted_window_attention: _unchanged}
CONSTANT = {"mean": _constant_mean, "norm": _constant_norm}
