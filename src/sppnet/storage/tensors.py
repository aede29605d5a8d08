"""Named tensors as bytes, their digest, parts of them by name; rows that share memory."""

import ctypes
import hashlib
import json
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sppnet.errors import InputError, UnusableFileError
from sppnet.storage.files import open_regular_file, write_bytes

MOST_DIMENSIONS = 64  # more torch can hold, but hardly work with
LEAST_ROWS = 64  # of a stretch of memory
PART_BYTES = 2**26  # of rows that are kept together, unless the caller says how many there will be
Places = NDArray[np.int64]


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


class RowStore:
    """Feature vectors in float16, in few large stretches of memory whose places are used again.

    Many small tensors that come and go would tear the heap, and a process would hold several times
    the memory that it uses. A stretch is touched only as it is filled.

    Args:
        length: D.
        capacity: Rows of a stretch of memory; more rows take another one.

    Example:
        >>> store = RowStore(length=2, capacity=3)
        >>> places = store.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> store.release(places[:1])
        >>> store.add(torch.tensor([[5.0, 6.0]])).tolist(), store.take(places[1:]).tolist()
        ([0], [[3.0, 4.0]])
    """

    def __init__(self, length: int, capacity: int | None = None) -> None:
        self.length = length
        self.capacity = max(LEAST_ROWS, capacity or PART_BYTES // (2 * length))
        self._parts: list[Tensor] = []
        self._free: list[int] = []
        self._next = 0  # first place that was never used
        self._borrowed = 0  # places from here on are its own; those before are another store's
        self._readers: WeakSet[RowStore] = WeakSet()
        self._waiting: list[int] = []  # released, but a reader may still need them

    def add(self, rows: Tensor) -> Places:
        """Keep (B, D) rows in float16; (B,) their places."""
        if self._waiting and not self._readers:
            self._free, self._waiting = self._free + self._waiting, []
        again = [self._free.pop() for _ in range(min(len(rows), len(self._free)))]
        fresh = range(self._next, self._next + len(rows) - len(again))
        self._next = fresh.stop
        while len(self._parts) * self.capacity < self._next:
            self._parts.append(torch.empty(self.capacity, self.length, dtype=torch.float16))
        places = np.array([*again, *fresh], dtype=np.int64)
        for part, chosen, inside in self._by_part(places):
            part[inside] = rows[chosen].half()
        return places

    def release(self, places: Places) -> None:
        """Let places be used for other rows, unless they are those of the store it shares."""
        own = places[places >= self._borrowed].tolist()
        (self._waiting if self._readers else self._free).extend(own)

    def take(self, places: Places) -> Tensor:
        """(B, D) the rows in some places."""
        out = torch.empty(len(places), self.length, dtype=torch.float16)
        for part, chosen, inside in self._by_part(places):
            if len(inside) == len(places):
                return torch.index_select(part, 0, inside, out=out)
            out[chosen] = part[inside]
        return out

    def addresses(self, places: Places) -> Places:
        """(B,) where the rows in some places begin in memory, for compiled code."""
        starts = np.array([part.data_ptr() for part in self._parts])
        return starts[places // self.capacity] + places % self.capacity * (2 * self.length)

    def share(self) -> "RowStore":
        """A store with the same rows; what either adds or releases from now on is its own."""
        other = RowStore(self.length, self.capacity)
        other._parts = list(self._parts)
        other._next = other._borrowed = len(self._parts) * self.capacity
        self._readers.add(other)
        return other

    def _by_part(self, places: Places) -> Iterable[tuple[Tensor, Tensor | slice, Tensor]]:
        """Each stretch of memory that some places lie in: which of them, and where inside."""
        if len(self._parts) == 1:  # the usual case, in the innermost loop
            yield self._parts[0], slice(None), torch.from_numpy(places)
            return
        numbers = places // self.capacity
        for number in np.unique(numbers).tolist():
            chosen = np.flatnonzero(numbers == number)
            inside = torch.from_numpy(places[chosen] - number * self.capacity)
            yield self._parts[number], torch.from_numpy(chosen), inside


_PART = struct.Struct("<8sQ32s")  # magic, length, SHA-256
_PART_MAGIC = b"sppparts"
_MOST_PART_BYTES = 2**34


def write_parts(path: str | Path, parts: Iterable[Mapping[str, Tensor]]) -> None:
    """Write named tensors part by part, so that no more than one part is in memory twice.

    Args:
        path: The file; it is whole and on the disk when this returns.
        parts: Dense tensors by name.

    Raises:
        OutputError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_parts(f"{folder}/a", ({"n": torch.tensor(n)} for n in range(2)))
        ...     [int(part["n"]) for part in read_parts(f"{folder}/a")]
        [0, 1]
    """

    def frames() -> Iterator[bytes]:
        written = 0
        for part in parts:
            data = tensors_to_bytes(part)
            yield _PART.pack(_PART_MAGIC, len(data), hashlib.sha256(data).digest())
            yield data
            written += 1
        yield _PART.pack(_PART_MAGIC, 0, written.to_bytes(32, "little"))  # here it ends

    write_bytes(path, frames())


def read_parts(path: str | Path) -> Iterator[dict[str, Tensor]]:
    """Read what :func:`write_parts` wrote, one part at a time.

    Raises:
        UnusableFileError: If it is missing, or not what was written; parts before that were whole.
    """
    try:
        with open_regular_file(path) as file:
            count = 0
            while data := _read_part(file, count):
                yield bytes_to_tensors(data)
                count += 1
    except (InputError, OSError, ValueError, struct.error) as error:
        raise UnusableFileError(f"damaged: {error}", path=path, code="E_UNREADABLE") from error


def _read_part(file: BinaryIO, count: int) -> bytes:
    """The bytes of the next part; none at the end, after as many parts as were written."""
    magic, length, digest = _PART.unpack(file.read(_PART.size))
    if magic != _PART_MAGIC or length > _MOST_PART_BYTES:
        raise ValueError("no part begins there")
    if not length and (count.to_bytes(32, "little") != digest or file.read(1)):
        raise ValueError("it does not end where it should")
    data = file.read(length)
    if length and hashlib.sha256(data).digest() != digest:
        raise ValueError("SHA-256 differs")
    return data
