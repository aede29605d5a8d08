"""The operators ``sppnet::pool_maps`` and ``sppnet::pool_regions``, registered with torch.

Both take a list of maps, (N_i, C, H_i, W_i) each, and count images over all of them. Whatever
records or transforms a program sees these operators: torch.compile, torch.export, torch.jit, FX,
torch.func. Eager code goes straight to the kernels, which nothing but the processor sees.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch._decomp import register_decomposition
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from sppnet.pooling.bins import Level, as_maps, check_pyramid, level_shape
from sppnet.pooling.kernels import torch_reference
from sppnet.pooling.kernels.dispatch import empty_for, run, run_backward, run_for_training

PLAIN = {Tensor, torch.nn.Parameter}

LIBRARY = torch.library.Library("sppnet", "DEF")
# torch.compile then keeps the operators out of the CUDA graphs that it makes of the rest
TAGS = tuple(getattr(torch.Tag, name) for name in ("cudagraph_unsafe",) if hasattr(torch.Tag, name))
# bins along each side, or rows of bins; columns only where they differ somewhere
PYRAMID = "int[] levels, str mode, int[]? columns=None"
LIBRARY.define(f"pool_maps(Tensor[] maps, {PYRAMID}) -> Tensor", tags=TAGS)
LIBRARY.define(f"pool_maps_backward(Tensor grad, Tensor[] maps, {PYRAMID}) -> Tensor[]", tags=TAGS)
LIBRARY.define(f"pool_regions(Tensor[] maps, Tensor rows, {PYRAMID}) -> Tensor", tags=TAGS)
# "kind" and not "mode", which torch.compile calls an argument of its own for operators that write
LIBRARY.define(
    "pool_regions_into(Tensor(a!) out, Tensor[] maps, Tensor rows, int[] levels, "
    "str kind, int[]? columns=None) -> ()",
    tags=TAGS,
)
LIBRARY.define(
    f"pool_regions_backward(Tensor grad, Tensor[] maps, Tensor rows, {PYRAMID}) -> Tensor[]",
    tags=TAGS,
)


def split_levels(levels: Sequence[Level]) -> tuple[list[int], list[int] | None]:
    """Write levels as an operator takes them: columns are None where all bins are squares.

    Example:
        >>> split_levels((1, (2, 3))), split_levels((1, 2))
        (([1, 2], [1, 3]), ([1, 2], None))
    """
    shapes = [level_shape(n) for n in levels]
    rows, columns = [each[0] for each in shapes], [each[1] for each in shapes]
    return rows, None if rows == columns else columns


def _join(rows: Sequence[int], columns: Sequence[int] | None) -> tuple[Level, ...]:
    """Read what :func:`split_levels` wrote."""
    return check_pyramid(list(zip(rows, columns or rows, strict=True)))


# A recorded program calls the operators with maps that nobody has looked at, so these look.
def _pool_maps(
    maps: Sequence[Tensor], levels: Sequence[int], mode: str, columns: Sequence[int] | None = None
) -> Tensor:
    return run(as_maps(maps), None, _join(levels, columns), mode)


def _pool_regions(
    maps: Sequence[Tensor],
    rows: Tensor,
    levels: Sequence[int],
    mode: str,
    columns: Sequence[int] | None = None,
) -> Tensor:
    return run(as_maps(maps), rows, _join(levels, columns), mode)


def _pool_maps_backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    levels: Sequence[int],
    mode: str,
    columns: Sequence[int] | None = None,
) -> list[Tensor]:
    return run_backward(grad, maps, None, _join(levels, columns), mode)


def _pool_regions_backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    rows: Tensor,
    levels: Sequence[int],
    mode: str,
    columns: Sequence[int] | None = None,
) -> list[Tensor]:
    return run_backward(grad, maps, rows, _join(levels, columns), mode)


def _pool_regions_into(
    out: Tensor,
    maps: Sequence[Tensor],
    rows: Tensor,
    levels: Sequence[int],
    mode: str,
    columns: Sequence[int] | None = None,
) -> None:
    run(as_maps(maps), rows, _join(levels, columns), mode, out)


def _tell_inductor() -> None:
    """Keep inductor from refusing, where ``CI`` is set, operators whose parts ONNX knows."""
    if lowering := sys.modules.get("torch._inductor.lowering"):
        lowering.FALLBACK_ALLOW_LIST.update(("sppnet::pool_maps", "sppnet::pool_regions"))


def _fake_maps(
    maps: Sequence[Tensor], levels: Sequence[int], _mode: str, columns: Sequence[int] | None = None
) -> Tensor:
    _tell_inductor()
    return empty_for(maps, sum(each.shape[0] for each in maps), _join(levels, columns))


def _fake_regions(
    maps: Sequence[Tensor],
    rows: Tensor,
    levels: Sequence[int],
    _mode: str,
    columns: Sequence[int] | None = None,
) -> Tensor:
    _tell_inductor()
    return empty_for(maps, rows.shape[0], _join(levels, columns))


def _fake_backward(_grad: Tensor, maps: Sequence[Tensor], *_others: Any) -> list[Tensor]:
    return [torch.empty_like(each) for each in maps]


def _fake_into(*_inputs: Any) -> None:
    return None


for _name, _function, _fake in (
    ("pool_maps", _pool_maps, _fake_maps),
    ("pool_maps_backward", _pool_maps_backward, _fake_backward),
    ("pool_regions", _pool_regions, _fake_regions),
    ("pool_regions_into", _pool_regions_into, _fake_into),
    ("pool_regions_backward", _pool_regions_backward, _fake_backward),
):
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sppnet::{_name}", _fake, lib=LIBRARY)


# The ONNX exporter writes an operator that it does not know by the parts that stand here.
@register_decomposition(torch.ops.sppnet.pool_maps.default)
def _take_maps_apart(
    maps: Sequence[Tensor], levels: Sequence[int], mode: str, columns: Sequence[int] | None = None
) -> Tensor:
    return torch_reference.pool_maps_by_masks(maps, _join(levels, columns), mode)


@register_decomposition(torch.ops.sppnet.pool_regions.default)
def _take_regions_apart(
    maps: Sequence[Tensor],
    rows: Tensor,
    levels: Sequence[int],
    mode: str,
    columns: Sequence[int] | None = None,
) -> Tensor:
    return torch_reference.pool_regions_by_masks(maps, rows, _join(levels, columns), mode)


def _save_maps(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, levels, ctx.mode, *columns = inputs
    ctx.levels = _join(levels, *columns or [None])
    ctx.save_for_backward(*maps)


def _save_regions(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rows, levels, ctx.mode, *columns = inputs
    ctx.levels = _join(levels, *columns or [None])
    ctx.save_for_backward(rows, *maps)


def _maps_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    nothing = (None,) * (len(ctx.needs_input_grad) - 1)  # `inputs` above has defaults, too
    return _gradient(grad, list(ctx.saved_tensors), None, ctx.levels, ctx.mode), *nothing


def _regions_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rows, *maps = ctx.saved_tensors
    nothing = (None,) * (len(ctx.needs_input_grad) - 1)
    return _gradient(grad, maps, rows, ctx.levels, ctx.mode), *nothing


def _gradient(
    grad: Tensor,
    maps: list[Tensor],
    rows: Tensor | None,
    levels: Sequence[Level],
    mode: str,
    winners: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of the maps; with a graph of their own where a second derivative is asked for."""
    if torch._C._are_functorch_transforms_active():
        return list(_TransformedGradient.apply(grad, rows, _Pyramid(levels, mode), *maps))
    again = torch.is_grad_enabled() and grad.requires_grad
    if not again and is_unwatched([grad, *maps]):
        return run_backward(grad, maps, rows, levels, mode, winners)
    # ``is_grads_batched`` of torch.autograd.grad comes with tensors that no operator's rule sees
    batched = not torch._C._dispatch_keys(grad).has(DispatchKey.Dense)
    if batched or again:
        return torch_reference.backward(grad, maps, rows, levels, mode, again=not batched)
    return _call_gradient(grad, maps, rows, levels, mode)


def _call_gradient(
    grad: Tensor, maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[Level], mode: str
) -> list[Tensor]:
    down, across = split_levels(levels)
    if rows is None:
        return torch.ops.sppnet.pool_maps_backward(grad, maps, down, mode, across)
    return torch.ops.sppnet.pool_regions_backward(grad, maps, rows, down, mode, across)


torch.library.register_autograd(
    "sppnet::pool_maps", _maps_gradient, setup_context=_save_maps, lib=LIBRARY
)
torch.library.register_autograd(
    "sppnet::pool_regions", _regions_gradient, setup_context=_save_regions, lib=LIBRARY
)


def _pick(value: Any, axis: Any, i: int) -> Any:
    """Argument number i of a batch of calls; axes are None where all calls share a value."""
    if isinstance(value, list | tuple):
        axes = axis if isinstance(axis, list | tuple) else [axis] * len(value)
        return [_pick(each, own, i) for each, own in zip(value, axes, strict=True)]
    return value if axis is None else value.select(axis, i)


def _call_one_by_one(operator: Any) -> Any:
    """Rule of vmap: one call after the other. Maps of a batch may differ in their regions."""

    def rule(info: Any, axes: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        calls = [operator(*_pick(inputs, axes, i)) for i in range(info.batch_size)]
        if isinstance(calls[0], list):
            return [torch.stack(each) for each in zip(*calls, strict=True)], [0] * len(calls[0])
        return torch.stack(calls), 0

    return rule


for _name in ("pool_maps", "pool_maps_backward", "pool_regions", "pool_regions_backward"):
    _rule = _call_one_by_one(getattr(torch.ops.sppnet, _name).default)
    torch.library.register_vmap(f"sppnet::{_name}", _rule, lib=LIBRARY)


@dataclass(frozen=True, slots=True)
class _Pyramid:
    """Levels and mode as one argument, which torch.func does not take apart as it does a tuple."""

    levels: Sequence[Level]
    mode: str
    watched: bool = True  # whether the call must go through the dispatcher

    def __iter__(self) -> Iterator[Any]:
        return iter((self.levels, self.mode))


class _Pool(torch.autograd.Function):
    """The operators' gradient for eager training, with less ceremony.

    The dispatcher and the registered gradient take 80 microseconds more than a small map itself.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, pyramid, *maps = inputs
        if pyramid.watched:
            pooled, winners = _call_operator(maps, rows, *pyramid), None
        else:
            pooled, winners = run_for_training(maps, rows, *pyramid)
        _save(ctx, winners, *inputs)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        rows, winners, *maps = ctx.saved_tensors
        levels, mode = ctx.pyramid
        return None, None, *_gradient(grad, maps, rows, levels, mode, winners)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        rows, _, *maps = ctx.saved_tensors
        return torch_reference.tangent(tangents[2:], maps, rows, *ctx.pyramid)


def _save(
    ctx: Any,
    winners: Tensor | None,
    rows: Tensor | None,
    pyramid: _Pyramid,
    *maps: Tensor,
) -> None:
    ctx.pyramid = pyramid
    ctx.save_for_backward(rows, winners, *maps)
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(rows, winners, *maps)


class _TransformedPool(_Pool):
    """The same for torch.func, which wants the context set up apart (and pays for it)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        rows, pyramid, *maps = inputs
        return _pool_plainly(maps, rows, *pyramid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save(ctx, None, *inputs)


class _TransformedGradient(torch.autograd.Function):
    """The gradient for torch.func, which differentiates it again: it is linear in its input."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        grad, rows, pyramid, *maps = inputs
        return tuple(_call_gradient(grad, maps, rows, *pyramid))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save(ctx, None, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        rows, _, *maps = ctx.saved_tensors
        again = torch_reference.tangent(grads, maps, rows, *ctx.pyramid)
        return again, None, None, *(None for _ in maps)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        rows, _, *maps = ctx.saved_tensors
        if tangents[0] is None:
            return tuple(torch.zeros_like(each) for each in maps)
        return tuple(_call_gradient(tangents[0], maps, rows, *ctx.pyramid))


def pool(maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[Level], mode: str) -> Tensor:
    """Pool whole maps, or rows of them, with a gradient where one is needed.

    Example:
        >>> pool([torch.arange(4.0).reshape(1, 1, 2, 2)], None, (1, 2), "max")
        tensor([[3., 0., 1., 2., 3.]])
    """
    watched = not is_unwatched(maps if rows is None else [rows, *maps])
    if watched and (torch.compiler.is_compiling() or _is_recording()):
        return _call_operator(maps, rows, levels, mode)
    if watched and torch._C._are_functorch_transforms_active():
        if peek_interpreter_stack().key() == TransformType.Functionalize:
            return _call_operator(maps, rows, levels, mode)
        return _TransformedPool.apply(rows, _Pyramid(levels, mode), *maps)
    backward = torch.is_grad_enabled() and any(each.requires_grad for each in maps)
    if backward or forward_ad._current_level >= 0:
        return _Pool.apply(rows, _Pyramid(levels, mode, watched), *maps)
    if watched:
        return _call_operator(maps, rows, levels, mode)
    return run(maps, rows, levels, mode)


def _is_recording() -> bool:
    """Whether torch.jit.trace, or make_fx before autograd, writes down what is called here.

    Their programs must hold the operator itself: they cannot keep a Python function of autograd.
    """
    keys = torch._C._dispatch_tls_local_include_set()
    return torch.jit.is_tracing() or keys.has(DispatchKey.PreDispatch)


def _pool_plainly(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[Level], mode: str
) -> Tensor:
    """Pool without a gradient, by the shortest way."""
    if is_unwatched(maps if rows is None else [rows, *maps]):
        return run(maps, rows, levels, mode)
    return _call_operator(maps, rows, levels, mode)


def _call_operator(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[Level], mode: str
) -> Tensor:
    if torch.jit.is_tracing() and _exports_by_tracing():
        if rows is None:  # plain operators for every size
            return torch_reference.pool_maps_by_masks(maps, levels, mode)
        raise RuntimeError(
            "dynamo must be True in torch.onnx.export(...) of a network that pools regions, "
            "got False: the older exporter has no loop over them"
        )
    down, across = split_levels(levels)
    if rows is None:
        return torch.ops.sppnet.pool_maps(maps, down, mode, across)
    return torch.ops.sppnet.pool_regions(maps, rows, down, mode, across)


def pool_into(
    out: Tensor, maps: Sequence[Tensor], rows: Tensor, levels: Sequence[Level], mode: str
) -> Tensor:
    """Pool rows of maps into memory, without a gradient; returns it.

    Example:
        >>> rows = torch.tensor([[0, 0, 0, 1, 2]])
        >>> pool_into(torch.empty(1, 1), [torch.arange(4.0).reshape(1, 1, 2, 2)], rows, (1,), "max")
        tensor([[2.]])
    """
    if torch._C._are_functorch_transforms_active():  # their rules know no operators that write
        return out.copy_(pool(maps, rows, levels, mode))
    down, across = split_levels(levels)
    torch.ops.sppnet.pool_regions_into(out, maps, rows, down, mode, across)
    return out


def _exports_by_tracing() -> bool:
    """Whether torch.onnx.export runs with ``dynamo=False``; the newer exporter never traces."""
    onnx = sys.modules.get("torch.onnx")
    return onnx is not None and bool(onnx.is_in_onnx_export())


def refuse_scripting(module: torch.nn.Module) -> torch.nn.Module:
    """Say what to do in place of torch.jit.script, which reads the source of a module.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"torch.jit.script cannot compile {type(module).__name__}, which takes boxes in several "
        "forms: use torch.jit.trace, torch.export.export or torch.compile, which serve all sizes"
    )


def _bits_of_eager_code() -> tuple[int, int]:
    """Keys that torch's dispatcher sees where nothing watches: of the thread, and of tensors."""
    tensor = torch._C._dispatch_keys(torch.empty(0))
    for key in (DispatchKey.CUDA, DispatchKey.AutogradCUDA, DispatchKey.AutocastCUDA):
        tensor = tensor.add(key)
    thread = tensor.add(DispatchKey.BackendSelect)
    return thread.raw_repr(), tensor.raw_repr()


_THREAD_BITS, _TENSOR_BITS = _bits_of_eager_code()


def is_unwatched(tensors: Sequence[Tensor]) -> bool:
    """Whether a call may skip the dispatcher: no subclass, mode, tracer or transform must see it.

    Asks for all that is allowed, not for all that is forbidden: a tracer of a later torch, a lazy
    minus sign or a tensor without memory is then an ordinary call of the operator.

    Example:
        >>> is_unwatched([torch.zeros(2)]), is_unwatched([torch.zeros(2, device="meta")])
        (True, False)
    """
    if torch.compiler.is_compiling():
        return False
    if torch._C._dispatch_tls_local_include_set().raw_repr() & ~_THREAD_BITS:
        return False
    for each in tensors:
        if type(each) not in PLAIN or torch._C._dispatch_keys(each).raw_repr() & ~_TENSOR_BITS:
            return False
    return True


def overriders(*values: Any) -> tuple[Any, ...]:
    """Arguments of which one, or a mode, wants to see the call as ``__torch_function__`` does.

    FX records a call by its proxies that way. torch.compile looks into the functions itself.

    Returns:
        All of them, lists laid out; nothing where no one wants to see it.

    Example:
        >>> overriders(torch.zeros(2), [torch.zeros(3)])
        ()
    """
    if torch.compiler.is_compiling():
        return ()
    for value in values:
        if isinstance(value, (list, tuple)):  # half the time of "list | tuple", at every call
            lists = [each if isinstance(each, (list, tuple)) else [each] for each in values]
            values = tuple(each for part in lists for each in part)
            break
    return values if has_torch_function(values) else ()
