"""The operators ``sppnet::pool_maps`` and ``sppnet::pool_regions``, registered with torch.

Both take a list of maps, (N_i, C, H_i, W_i) each, and count images over all of them. torch.compile,
torch.export and the ONNX exporter see these operators; eager code goes straight to the kernels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sppnet.pooling.kernels import torch_reference
from sppnet.pooling.kernels.dispatch import empty_for, run, run_backward, run_for_training

PLAIN = {Tensor, torch.nn.Parameter}

LIBRARY = torch.library.Library("sppnet", "DEF")
PYRAMID = "int[] levels, str mode"
LIBRARY.define(f"pool_maps(Tensor[] maps, {PYRAMID}) -> Tensor")
LIBRARY.define(f"pool_maps_backward(Tensor grad, Tensor[] maps, {PYRAMID}) -> Tensor[]")
LIBRARY.define(f"pool_regions(Tensor[] maps, Tensor rows, {PYRAMID}) -> Tensor")
# "kind" and not "mode", which torch.compile calls an argument of its own for operators that write
LIBRARY.define(
    "pool_regions_into(Tensor(a!) out, Tensor[] maps, Tensor rows, int[] levels, str kind) -> ()"
)
LIBRARY.define(
    f"pool_regions_backward(Tensor grad, Tensor[] maps, Tensor rows, {PYRAMID}) -> Tensor[]"
)


def _pool_maps(maps: Sequence[Tensor], levels: Sequence[int], mode: str) -> Tensor:
    return run(maps, None, levels, mode)


def _pool_maps_backward(
    grad: Tensor, maps: Sequence[Tensor], levels: Sequence[int], mode: str
) -> list[Tensor]:
    return run_backward(grad, maps, None, levels, mode)


def _pool_regions_backward(
    grad: Tensor, maps: Sequence[Tensor], rows: Tensor, levels: Sequence[int], mode: str
) -> list[Tensor]:
    return run_backward(grad, maps, rows, levels, mode)


def _pool_regions_into(
    out: Tensor, maps: Sequence[Tensor], rows: Tensor, levels: Sequence[int], mode: str
) -> None:
    run(maps, rows, levels, mode, out)


def _fake_maps(maps: Sequence[Tensor], levels: Sequence[int], _mode: str) -> Tensor:
    return empty_for(maps, sum(each.shape[0] for each in maps), levels)


def _fake_regions(
    maps: Sequence[Tensor], rows: Tensor, levels: Sequence[int], _mode: str
) -> Tensor:
    return empty_for(maps, rows.shape[0], levels)


def _fake_backward(_grad: Tensor, maps: Sequence[Tensor], *_others: Any) -> list[Tensor]:
    return [torch.empty_like(each) for each in maps]


def _fake_into(*_inputs: Any) -> None:
    return None


for _name, _function, _fake in (
    ("pool_maps", _pool_maps, _fake_maps),
    ("pool_maps_backward", _pool_maps_backward, _fake_backward),
    ("pool_regions", run, _fake_regions),
    ("pool_regions_into", _pool_regions_into, _fake_into),
    ("pool_regions_backward", _pool_regions_backward, _fake_backward),
):
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sppnet::{_name}", _fake, lib=LIBRARY)


def _save_maps(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, ctx.levels, ctx.mode = inputs
    ctx.save_for_backward(*maps)


def _save_regions(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rows, ctx.levels, ctx.mode = inputs
    ctx.save_for_backward(rows, *maps)


def _maps_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    maps = list(ctx.saved_tensors)
    return _gradient(grad, maps, None, ctx.levels, ctx.mode), None, None


def _regions_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rows, *maps = ctx.saved_tensors
    return _gradient(grad, maps, rows, ctx.levels, ctx.mode), None, None, None


def _gradient(
    grad: Tensor,
    maps: list[Tensor],
    rows: Tensor | None,
    levels: Sequence[int],
    mode: str,
    winners: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of the maps; with a graph of their own where a second derivative is asked for."""
    if torch.is_grad_enabled() and grad.requires_grad:
        return torch_reference.backward(grad, maps, rows, levels, mode, again=True)
    if _unwatched([grad, *maps]):
        return run_backward(grad, maps, rows, levels, mode, winners)
    if rows is None:
        return torch.ops.sppnet.pool_maps_backward(grad, maps, levels, mode)
    return torch.ops.sppnet.pool_regions_backward(grad, maps, rows, levels, mode)


torch.library.register_autograd(
    "sppnet::pool_maps", _maps_gradient, setup_context=_save_maps, lib=LIBRARY
)
torch.library.register_autograd(
    "sppnet::pool_regions", _regions_gradient, setup_context=_save_regions, lib=LIBRARY
)


class _Pool(torch.autograd.Function):
    """The operators' gradient for eager training, with less ceremony.

    Going through the dispatcher and the registered gradient costs 80 microseconds a step more,
    which is more than pooling a small map.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, levels, mode, *maps = inputs
        winners = None
        if _unwatched(maps):
            pooled, winners = run_for_training(maps, rows, levels, mode)
        else:
            pooled = _call_operator(maps, rows, levels, mode)
        _save(ctx, winners, *inputs)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        rows, winners, *maps = ctx.saved_tensors
        return None, None, None, *_gradient(grad, maps, rows, ctx.levels, ctx.mode, winners)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        rows, _, *maps = ctx.saved_tensors
        return torch_reference.tangent(tangents[3:], maps, rows, ctx.levels, ctx.mode)


def _save(
    ctx: Any,
    winners: Tensor | None,
    rows: Tensor | None,
    levels: Sequence[int],
    mode: str,
    *maps: Tensor,
) -> None:
    ctx.levels, ctx.mode = levels, mode
    ctx.save_for_backward(rows, winners, *maps)
    ctx.save_for_forward(rows, winners, *maps)


class _TransformedPool(_Pool):
    """The same for torch.func, which wants the context set up apart (and pays for it)."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        rows, levels, mode, *maps = inputs
        return _pool_plainly(maps, rows, levels, mode)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save(ctx, None, *inputs)


def pool(maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str) -> Tensor:
    """Pool whole maps, or rows of them, with a gradient where one is needed.

    Example:
        >>> pool([torch.arange(4.0).reshape(1, 1, 2, 2)], None, (1, 2), "max")
        tensor([[3., 0., 1., 2., 3.]])
    """
    if torch.compiler.is_compiling():
        return _call_operator(maps, rows, levels, mode)
    if torch._C._are_functorch_transforms_active():
        return _TransformedPool.apply(rows, levels, mode, *maps)
    backward = torch.is_grad_enabled() and any(each.requires_grad for each in maps)
    if backward or forward_ad._current_level >= 0:
        return _Pool.apply(rows, levels, mode, *maps)
    return _pool_plainly(maps, rows, levels, mode)


def _pool_plainly(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str
) -> Tensor:
    """Pool without a gradient, by the shortest way."""
    if _unwatched(maps):
        return run(maps, rows, levels, mode)
    return _call_operator(maps, rows, levels, mode)


def _call_operator(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str
) -> Tensor:
    if rows is None:
        return torch.ops.sppnet.pool_maps(maps, levels, mode)
    return torch.ops.sppnet.pool_regions(maps, rows, levels, mode)


def _unwatched(tensors: Sequence[Tensor]) -> bool:
    """Whether a call may skip the dispatcher: no subclass, mode or transform needs to see it."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or any(type(each) not in PLAIN for each in tensors)
    )
