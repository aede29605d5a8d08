"""Which kernel pools the tensors at hand: callers never choose, and the answer is the same."""

import functools
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import torch
from torch import Tensor

from sppnet.pooling.bins import Level, check_rows, num_bins
from sppnet.pooling.kernels import cpu, torch_reference

OLDEST_TRITON = (3, 4)  # of torch 2.8; older compilers refuse the kernels


def kernel_for(maps: Sequence[Tensor], levels: Sequence[Level] = ()) -> str:
    """Name the kernel that pools these maps: "native", "triton" or "torch".

    The first two know levels of n x n bins alone.

    Example:
        >>> kernel_for([torch.zeros(1, 2, 3, 4, device="meta")])
        'torch'
    """
    if not _are_squares(tuple(levels)):
        return "torch"
    if cpu.serves(maps):
        return "native"
    return "triton" if maps[0].is_cuda and has_triton() else "torch"


@functools.lru_cache(maxsize=256)
def _are_squares(levels: tuple[Level, ...]) -> bool:
    return all(isinstance(n, int) for n in levels)


@functools.lru_cache(maxsize=256)
def _count_bins(levels: tuple[Level, ...]) -> int:
    return num_bins(levels)


@functools.cache
def has_triton() -> bool:
    """Whether CUDA maps go to Triton, which comes with torch's CUDA builds for Linux.

    Looked for and not imported: TensorFlow ends a process that loads Triton after it.

    Example:
        >>> isinstance(has_triton(), bool)
        True
    """
    try:
        found = tuple(int(n) for n in version("triton").split(".")[:2])
    except PackageNotFoundError:
        return False
    return found >= OLDEST_TRITON


def describe_kernels() -> dict[str, str]:
    """Which kernel serves which case on this machine.

    Returns:
        Case -> kernel, in words.

    Example:
        >>> describe_kernels()["other devices and dtypes"]
        'plain torch'
    """
    native, cuda = cpu.kernel_name(), "plain torch"
    if has_triton():
        cuda = f"triton {version('triton')}; plain torch for deterministic gradients"
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in cpu.KINDS)
    return {
        "CPU": f"native {native} ({dtypes})" if native else "plain torch (nothing was compiled)",
        "CUDA": cuda if torch.cuda.is_available() else f"{cuda} (no device here)",
        "other devices and dtypes": "plain torch",
        "second and forward derivatives": "plain torch",
    }


def run(
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[Level],
    mode: str,
    out: Tensor | None = None,
) -> Tensor:
    """Pool whole maps, or rows of them, without a gradient.

    Args:
        maps: (N_i, C, H_i, W_i) each.
        rows: (R, 5) int64 regions, their values unchecked; None for whole maps.
        levels: The pyramid.
        mode: "max" or "avg".
        out: Memory for the result; fresh where there is none.

    Returns:
        (R, C * bins), or (images of all maps, C * bins).

    Raises:
        ValueError: If a region is not inside its map.

    Example:
        >>> run([torch.arange(4.0).reshape(1, 1, 2, 2)], None, (1, 2), "max")
        tensor([[3., 0., 1., 2., 3.]])
    """
    _refuse_capture(maps)
    if rows is not None:
        check_rows(rows, maps)
    fresh = out is None
    if out is None:
        count = _count_images(maps) if rows is None else len(rows)
        out = empty_for(maps, count, levels)
    kernel, squares = kernel_for(maps, levels), cast("Sequence[int]", levels)
    if kernel == "native":
        cpu.pool(maps, rows, squares, mode, out, fresh=fresh)
    elif kernel == "triton":
        from sppnet.pooling.kernels import triton_launch

        triton_launch.pool(maps, rows, squares, mode, out)
    else:
        torch_reference.pool([each.detach() for each in maps], rows, levels, mode, out)
    return out


def _refuse_capture(maps: Sequence[Tensor]) -> None:
    """A CUDA graph would replay the sizes and regions of its capture, whatever comes in later."""
    if maps[0].is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "features must not be pooled while a CUDA graph is captured, because where bins lie is "
            "worked out on the processor: capture the layers before and after it"
        )


def _count_images(maps: Sequence[Tensor]) -> int:
    return maps[0].shape[0] if len(maps) == 1 else sum(map(len, maps))


def empty_for(maps: Sequence[Tensor], count: int, levels: Sequence[Level]) -> Tensor:
    """Memory for some pooled vectors.

    Example:
        >>> empty_for([torch.zeros(1, 2, 3, 4)], 3, (1, 2)).shape
        torch.Size([3, 10])
    """
    return maps[0].new_empty(count, maps[0].shape[1] * _count_bins(tuple(levels)))


def run_for_training(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[Level], mode: str
) -> tuple[Tensor, Tensor | None]:
    """Pool as :func:`run`, and keep what spares the gradient its search, where that is cheap.

    Returns:
        The pooled vectors, and the winners for :func:`run_backward` or None.

    Example:
        >>> run_for_training([torch.arange(4.0).reshape(1, 1, 2, 2)], None, (1,), "avg")
        (tensor([[1.5000]]), None)
    """
    if rows is not None or mode != "max" or kernel_for(maps, levels) != "native":
        return run(maps, rows, levels, mode), None
    out = empty_for(maps, _count_images(maps), levels)
    winners, squares = cpu.empty_winners(maps, out), cast("Sequence[int]", levels)
    cpu.pool(maps, None, squares, mode, out, winners=winners)
    return out, winners


def run_backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[Level],
    mode: str,
    winners: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of the maps from that of the pooled vectors.

    Example:
        >>> run_backward(torch.ones(1, 1), [torch.tensor([[[[1.0, 3.0]]]])], None, (1,), "max")
        [tensor([[[[0., 1.]]]])]
    """
    _refuse_capture(maps)
    if rows is not None:
        check_rows(rows, maps)
    kernel, squares = kernel_for(maps, levels), cast("Sequence[int]", levels)
    if kernel == "native":
        return cpu.backward(grad, maps, rows, squares, mode, winners)
    if kernel == "triton" and not torch.are_deterministic_algorithms_enabled():
        from sppnet.pooling.kernels import triton_launch

        return triton_launch.backward(grad, maps, rows, squares, mode)
    return torch_reference.backward(grad, maps, rows, levels, mode)
