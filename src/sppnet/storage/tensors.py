"""Named tensors as bytes, their digest, and parts of them by name; the memory that they leave."""

import ctypes
import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

MOST_DIMENSIONS = 64  # more torch can hold, but hardly work with


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise named tensors, copied to the CPU; views of shared memory are separated.

    Args:
        tensors: Dense tensors of any shape and dtype.

    Returns:
        The bytes of a safetensors file.

    Raises:
        TypeError: If a name is not text or a value not a dense tensor.

    Example:
        >>> bytes_to_tensors(tensors_to_bytes({"w": torch.ones(2)}))
        {'w': tensor([1., 1.])}
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(f"tensors must map names to tensors, got {name!r}: {type(tensor)}")
        if tensor.layout != torch.strided:
            raise TypeError(f"tensors must be dense, got {tensor.layout} in {name!r}")
    return save({name: _own_copy(tensor) for name, tensor in tensors.items()})


def bytes_to_tensors(data: bytes) -> dict[str, Tensor]:
    """Read what :func:`tensors_to_bytes` wrote.

    Args:
        data: The bytes of a safetensors file.

    Returns:
        CPU tensors that own their memory, which begins where torch lets its own tensors begin:
        products of a vector depend on that in their last bits.

    Raises:
        ValueError: If the bytes are not a whole safetensors file.
    """
    try:
        loaded = load(data)
    except (
        SafetensorError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"not a whole safetensors file: {error}") from error
    if deep := next((name for name, each in loaded.items() if each.ndim > MOST_DIMENSIONS), None):
        raise ValueError(f"tensor {deep!r} has more than {MOST_DIMENSIONS} dimensions")
    # one by one, so that memory holds one tensor twice and not all of them
    return {name: loaded.pop(name).clone() for name in list(loaded)}


def tensors_under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors whose names begin in one way, and drop that beginning.

    Example:
        >>> tensors_under("head.", {"head.bias": torch.zeros(1), "trunk.bias": torch.ones(1)})
        {'bias': tensor([0.])}
    """
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def put_under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a beginning before the names of tensors; :func:`tensors_under` takes it off again.

    Example:
        >>> put_under("head.", {"bias": torch.zeros(1)})
        {'head.bias': tensor([0.])}
    """
    return {prefix + name: tensor for name, tensor in tensors.items()}


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the first tensor that holds NaN or an infinity.

    Args:
        tensors: Tensors of any dtype; integers are always finite.

    Returns:
        The name, or None when all is finite.

    Example:
        >>> first_not_finite({"a": torch.ones(1), "b": torch.tensor([float("nan")])})
        'b'
    """
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()):
            return name
    return None


def check_float32(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of another type than float32, which nothing could be multiplied with.

    Raises:
        ValueError: Names the first and its type.

    Example:
        >>> check_float32({"weights": torch.ones(1)})
    """
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"tensor {name!r} must be float32, got {tensor.dtype}")


def _own_copy(tensor: Tensor) -> Tensor:
    """Copy to contiguous memory on the CPU that no other tensor shares, as safetensors demands."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    return copy.copy_(tensor.detach())


def trim_heap() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc).

    Tensors of many sizes that come and go tear the heap: what is free lies between what is in use,
    and a process holds far more than its tensors.

    Example:
        >>> trim_heap()
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def digest_of(description: Mapping[str, object] | None, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of plain values, if any, and of the names and values of tensors.

    Example:
        >>> digest_of({"a": 1}, {}) == digest_of({"a": 2}, {})
        False
    """
    digest = hashlib.sha256()
    if description is not None:
        digest.update(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
