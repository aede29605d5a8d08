"""A cache on disk for feature maps and vectors: found again by a key, written in the background."""

import hashlib
import os
import struct
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from types import TracebackType

from torch import Tensor

from sppnet.errors import OutputError, UnusableFileError
from sppnet.storage.files import output_error, read_bytes, write_bytes
from sppnet.storage.runs import package_versions
from sppnet.storage.temp_files import ON_WINDOWS, make_folders, remove_leftovers
from sppnet.storage.tensors import bytes_to_tensors, tensors_to_bytes

# Part of every key and every header: a new layout of records can never meet an old one.
FORMAT_VERSION = 2
Part = str | int | float | bytes | None | tuple["Part", ...]
_MAGIC = b"sppcache"
_HEADER = struct.Struct("<8sIQ32s32s")  # magic, version, payload length, key, SHA-256
_MAX_RECORD_BYTES = 2**34
# Of a limited cache, this share is for small records only: proposals cost more than they take.
SHARE_OF_SMALL, SMALL_RECORD = 0.05, 100_000


class FeatureCache:
    """Keeps named tensors under a key that says everything they depend on.

    One record is one file, ``KK/KEY.record``: a header (magic, version, length, key, SHA-256) and
    safetensors. It is written to a temporary file, flushed and renamed, so it is whole or absent;
    what is damaged later is noticed when read, counted, and treated as absent. Processes share a
    cache without locks: equal keys mean equal content.

    With a limit, records that were not used since the cache was opened make room, those first that
    were used longest ago. Where all of them are in use, large new records are not kept: passes over
    more images than the disk holds would otherwise find none of them again. What is not kept is
    computed anew by whoever asks for it.

    Args:
        folder: Made with mode 0700 if missing. Leftovers of killed writers are removed.
        most_bytes: The most that all records may take; None for no limit.

    Attributes:
        hits: How often ``get`` found a record.
        misses: How often it did not.
        damaged: How many of the misses were records that exist but are torn, changed or unreadable.
        refused: How many records were not kept, for lack of room.

    Raises:
        OutputError: If the folder cannot be made or used.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = FeatureCache(folder)
        ...     key = cache.make_key(image=b"sha-256 of its bytes", trunk="zf5", short_side=688)
        ...     cache.get(key)
        ...     cache.put(key, {"map": torch.ones(2)})
        ...     cache.get(key)
        {'map': tensor([1., 1.])}
    """

    def __init__(self, folder: str | Path, most_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.most_bytes = most_bytes
        self.refused = 0
        self._room: _Room | None = None
        self.hits = 0
        self.misses = 0
        self.damaged = 0
        self._temporary_folder = self.folder / "unfinished"
        _make_private(self.folder)
        _make_private(self._temporary_folder)
        remove_leftovers(self._temporary_folder)

    @staticmethod
    def make_key(**parts: Part) -> str:
        """Hash everything that the content depends on; any difference gives another key.

        The versions of what computes (this package, torch, Pillow, ...) are part of every key.

        Args:
            **parts: Text, integers, floats, bytes, None, or tuples of these.

        Returns:
            64 hexadecimal digits, the same on every machine with the same versions.

        Raises:
            TypeError: If a part is of another type.

        Example:
            >>> FeatureCache.make_key(size=1) == FeatureCache.make_key(size="1")
            False
        """
        named = {f"part {name}": part for name, part in parts.items()}
        parts = {"format": FORMAT_VERSION, "software": _software(), **named}
        text = _encode(tuple((name, parts[name]) for name in sorted(parts)))
        return hashlib.sha256(text).hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Read a record, checked against its SHA-256.

        Args:
            key: From :meth:`make_key`.

        Returns:
            CPU tensors bit-equal to those that were put, or None.
        """
        try:
            tensors = _parse_record(read_bytes(self._path(key), _MAX_RECORD_BYTES), key)
        except (UnusableFileError, _DamagedRecordError) as error:
            self.misses += 1
            self.damaged += getattr(error, "code", "") != "E_MISSING"
            return None
        self.hits += 1
        if self.most_bytes is not None:
            self._opened().use(self._path(key))
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a record; once this returns it survives a kill, and a power cut.

        Args:
            key: From :meth:`make_key`.
            tensors: Dense tensors of any shape, dtype and device. Where there is no room they are
                not kept.

        Raises:
            OutputError: If the record cannot be written.
            TypeError: If ``tensors`` holds something else.
        """
        path = self._path(key)
        record = _build_record(tensors_to_bytes(tensors), key)
        if self.most_bytes is not None and not self._opened().make(path, len(record)):
            self.refused += 1
            return
        try:
            make_folders(path.parent, 0o700)
        except OSError as error:
            raise output_error(path.parent, error) from error
        write_bytes(path, record, temporary_folder=self._temporary_folder)

    def _opened(self) -> "_Room":
        """What is known of the room, counted when it is first needed."""
        if self._room is None:
            self._room = _Room(self.folder, self.most_bytes or 0)
        return self._room

    def __contains__(self, key: str) -> bool:
        """Tell whether a record of the right length lies there; only ``get`` reads all of it."""
        try:
            with self._path(key).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                _check_header(file.read(_HEADER.size), size, key)
        except (OSError, _DamagedRecordError):
            return False
        return True

    def keys(self) -> Iterator[str]:
        """List the keys of the records in sorted order, without reading them."""
        for path in sorted(self.folder.glob("[0-9a-f][0-9a-f]/*.record")):
            yield path.stem

    def num_bytes(self) -> int:
        """Bytes of all records."""
        return sum(size for _, size, _ in _list_records(self.folder))

    def remove(self) -> None:
        """Delete all records, and the folder unless something else lies in it."""
        for key in list(self.keys()):
            self._path(key).unlink(missing_ok=True)
        for folder in [*self.folder.glob("[0-9a-f][0-9a-f]"), self._temporary_folder, self.folder]:
            with suppress(OSError):  # somebody else's files
                folder.rmdir()

    def _path(self, key: str) -> Path:
        """Place of a record; a key is checked because it becomes a file name."""
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise ValueError(f"key must be 64 hexadecimal digits from make_key, got {key!r}")
        return self.folder / key[:2] / f"{key}.record"


class _Room:
    """The room of a cache with a limit: what may go, and what was used since it was opened."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._lock = Lock()
        records = sorted(_list_records(folder), key=lambda each: each[2])
        # path -> size, those first that were used longest ago
        self._idle = {path: size for path, size, _ in records}
        self._used: dict[Path, int] = {}
        self._taken = sum(self._idle.values())

    def use(self, path: Path) -> None:
        """Note that a record is in use; the file's time says so to later runs."""
        with self._lock:
            if path in self._idle:
                self._used[path] = self._idle.pop(path)
        with suppress(OSError):
            os.utime(path)

    def make(self, path: Path, size: int) -> bool:
        """Make room for a record, and count it; tell whether it may be written."""
        small = size <= SMALL_RECORD
        limit = self.most_bytes if small else self.most_bytes * (1 - SHARE_OF_SMALL)
        with self._lock:
            self._taken -= self._idle.pop(path, 0) + self._used.pop(path, 0)  # it is replaced
            while self._taken + size > limit and self._idle:
                oldest = next(iter(self._idle))
                self._taken -= self._idle.pop(oldest)
                oldest.unlink(missing_ok=True)
            if self._taken + size > limit:
                return False
            self._used[path] = size
            self._taken += size
            return True


def _list_records(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """Path, bytes and time of the last use of each record."""
    for path in folder.glob("[0-9a-f][0-9a-f]/*.record"):
        with suppress(OSError):  # removed meanwhile
            about = path.stat()
            yield path, about.st_size, about.st_mtime_ns


class WriteBehind:
    """Puts records into a cache in the background; leaving the context waits for all of them.

    At most ``waiting`` records are held, so that memory stays bounded where the disk is slow.

    Args:
        cache: Where the records go.
        waiting: Records that may wait to be written.

    Raises:
        OutputError: From ``put`` or at the end, if an earlier record could not be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = FeatureCache(folder)
        ...     key = cache.make_key(number=1)
        ...     with WriteBehind(cache) as later:
        ...         later.put(key, {"map": torch.ones(2)})
        ...     cache.get(key)
        {'map': tensor([1., 1.])}
    """

    def __init__(self, cache: FeatureCache, waiting: int = 4) -> None:
        self.cache = cache
        self.waiting = waiting
        self._executor = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._turn = Lock()

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Have a record written soon, by any thread; waits for the oldest if too many wait."""
        with self._turn:
            while len(self._pending) >= self.waiting or (self._pending and self._pending[0].done()):
                self._pending.popleft().result()
            self._pending.append(self._executor.submit(self.cache.put, key, tensors))

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the records; a failure to write is raised unless another error is under way."""
        self._executor.shutdown()
        while self._pending and error is None:
            self._pending.popleft().result()


@cache
def _software() -> Part:
    """Versions of the packages that results are computed with."""
    return tuple(each for each in package_versions().items() if each[0] != "typer")


def _make_private(folder: Path) -> None:
    """Make a folder that only its owner can use; warn about one that everybody can write to."""
    try:
        make_folders(folder, 0o700)
        mode = folder.stat().st_mode
    except FileExistsError as error:
        raise OutputError("is a file; the cache needs a folder", path=folder) from error
    except (OSError, ValueError) as error:
        raise output_error(folder, error) from error
    if mode & 0o002 and not ON_WINDOWS:  # which has no such bits
        warnings.warn(f"{str(folder)!r}: everybody can write to this cache", stacklevel=3)


def _build_record(payload: bytes, key: str) -> bytes:
    """Put the header before the payload."""
    digest = _digest(payload, key)
    return _HEADER.pack(_MAGIC, FORMAT_VERSION, len(payload), bytes.fromhex(key), digest) + payload


class _DamagedRecordError(Exception):
    """A record that is not what its header says."""


def _parse_record(record: bytes, key: str) -> dict[str, Tensor]:
    """Check a record and return its tensors."""
    expected = _check_header(record[: _HEADER.size], len(record), key)
    payload = record[_HEADER.size :]
    if _digest(payload, key) != expected:
        raise _DamagedRecordError("SHA-256 differs")
    try:
        return bytes_to_tensors(payload)
    except ValueError as error:
        raise _DamagedRecordError(str(error)) from error


def _check_header(header: bytes, size: int, key: str) -> bytes:
    """Compare a header with the record's key and length; return the SHA-256 that it promises."""
    if len(header) < _HEADER.size:
        raise _DamagedRecordError("shorter than a header")
    magic, version, length, stored_key, digest = _HEADER.unpack(header)
    promised = (magic, version, length + _HEADER.size, stored_key)
    if promised != (_MAGIC, FORMAT_VERSION, size, bytes.fromhex(key)):
        raise _DamagedRecordError("the header does not belong to this record")
    return digest


def _digest(payload: bytes, key: str) -> bytes:
    """SHA-256 of key and payload."""
    digest = hashlib.sha256(bytes.fromhex(key))
    digest.update(payload)
    return digest.digest()


def _encode(part: Part) -> bytes:
    """Write a part so that two different ones can never look alike: type, length, content."""
    if isinstance(part, tuple):
        content = b"".join(_encode(item) for item in part)
    elif isinstance(part, bytes):
        content = part
    elif isinstance(part, str):
        content = part.encode("utf-8", errors="surrogatepass")
    elif isinstance(part, float):
        content = float(part).hex().encode()
    elif part is None or isinstance(part, int):
        content = str(part).encode()
    else:
        raise TypeError(f"parts must be str, int, float, bytes, None or tuple, got {type(part)}")
    kind = next(k for k in (tuple, bytes, str, float, bool, int, object) if isinstance(part, k))
    return f"{kind.__name__}:{len(content)}:".encode() + content
