"""Open, read, hash and write files: whole or not at all.

A writer puts the bytes into a temporary file beside the target, flushes it to the disk, and only
then gives it the target's name: a process killed at any moment leaves the old file or the new one,
never a half one. A reader takes regular files of limited size only, and never waits on a pipe.

Files that the whole run depends on (models, records, indices) raise ``UnusableFileError``, images
and annotations, which can be left out one by one, ``InputError``. No torch.
"""

import codecs
import errno
import hashlib
import json
import math
import numbers
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from sppnet.errors import InputError, OutputError, UnusableFileError
from sppnet.storage.temp_files import (
    CREATE_FLAGS,
    ON_WINDOWS,
    READ_FLAGS,
    fsync_folder,
    make_folders,
    replace_closed,
    temporary_path,
    try_lock,
)

DEFAULT_MAX_BYTES = 256 * 2**20
_BLOCK = 64 * 2**20
_HOLLOW_BYTES = 10_000_000
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_bytes(path: str | Path, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
    """Read a whole regular file of limited size, without ever waiting on a pipe.

    Args:
        path: The file.
        max_bytes: A longer file is refused before it is read.

    Returns:
        Its bytes.

    Raises:
        UnusableFileError: If it is missing, unreadable, not a regular file or too large.
    """
    try:
        with _open_regular(path) as file:
            size, data = _read_at_most(file, max_bytes)
    except FileNotFoundError as error:
        raise UnusableFileError("the file does not exist", path=path, code="E_MISSING") from error
    except (OSError, ValueError) as error:
        rule = f"the file cannot be read: {reason(error)}"
        raise UnusableFileError(rule, path=path, code="E_UNREADABLE") from error
    if size > max_bytes:
        rule = f"the file has {size} bytes; the limit is {max_bytes}"
        raise UnusableFileError(rule, path=path, code="E_TOO_LARGE")
    return data


def open_regular_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else.

    Args:
        path: The file; symbolic links are followed.

    Returns:
        A buffered binary file.

    Raises:
        InputError: If it cannot be opened or is a folder, pipe, socket or device (E_UNREADABLE),
            or is empty (E_EMPTY).

    Example:
        >>> open_regular_file("/dev/zero")
        Traceback (most recent call last):
        sppnet.errors.InputError: '/dev/zero': must be a regular file, is a device (E_UNREADABLE)
    """
    try:
        file = _open_regular(path)
    except FileNotFoundError:
        raise InputError("the file does not exist", path=path, code="E_UNREADABLE") from None
    except _NotRegularError as error:
        rule = f"must be a regular file, is {error.kind}"
        raise InputError(rule, path=path, code="E_UNREADABLE") from None
    except OSError as error:
        rule = f"cannot be opened: {error.strerror or error}"
        raise InputError(rule, path=path, code="E_UNREADABLE") from None
    except ValueError as error:  # a NUL byte in the name
        raise InputError(str(error), path=path, code="E_UNREADABLE") from None
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise InputError("the file is empty", path=path, code="E_EMPTY")
    return file


def read_capped(path: str | Path, max_bytes: int) -> bytes:
    """Read a whole regular file, but never more than a limit.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Returns:
        Its bytes.

    Raises:
        InputError: As ``open_regular_file``, and if it is larger than the limit (E_TOO_LARGE).
    """
    with open_regular_file(path) as file:
        size, data = _read_at_most(file, max_bytes)
    if size > max_bytes:
        rule = f"the file must have at most {max_bytes:,} bytes, has {size:,}"
        raise InputError(rule, path=path, code="E_TOO_LARGE")
    return data


def read_lines(path: str | Path, max_bytes: int = 64_000_000) -> list[str]:
    """Read a text file of names; bytes that are no UTF-8 are kept as surrogate escapes.

    A file that begins with the mark of UTF-16, as Windows writes it, is read as that.

    Args:
        path: The file.
        max_bytes: Largest size that is read.

    Returns:
        Its lines without their ends; an empty file has none.

    Raises:
        InputError: If it cannot be read or is too large.
    """
    try:
        data = read_capped(path, max_bytes)
    except InputError as error:
        if error.code == "E_EMPTY":
            return []
        raise
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16", errors="replace").splitlines()
    return data.decode("utf-8-sig", errors="surrogateescape").splitlines()


class _NotRegularError(OSError):
    """What was opened is no regular file."""

    def __init__(self, kind: str) -> None:
        super().__init__(errno.EINVAL, "not a regular file")
        self.kind = kind


def _open_regular(path: str | Path) -> BufferedReader:
    """Open for reading; a pipe, socket, device or folder is refused, and never waited for.

    The kind is looked at after opening, on the open file, so that nobody can swap it in between.
    """
    descriptor = os.open(path, READ_FLAGS)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise _NotRegularError(_KINDS.get(stat.S_IFMT(mode), "something else"))


def _read_at_most(file: BinaryIO, max_bytes: int) -> tuple[int, bytes]:
    """Give the size of an open file and its bytes; those of a file above the limit stay unread."""
    size = os.fstat(file.fileno()).st_size
    data = b"" if size > max_bytes else file.read(size + 1)  # it may have grown
    return max(size, len(data)), data


def read_json(
    path: str | Path, max_bytes: int = DEFAULT_MAX_BYTES, *, allow_nan: bool = False
) -> Any:
    """Read a JSON file of limited size.

    Args:
        path: The file, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        max_bytes: A longer file is refused before it is read.
        allow_nan: Take the words ``NaN`` and ``Infinity``, which JSON does not have, as numbers.

    Returns:
        The value.

    Raises:
        UnusableFileError: If it cannot be read or is no JSON; names the line.
    """
    return parse_json(read_bytes(path, max_bytes), path, allow_nan=allow_nan)


def parse_json(data: bytes, path: str | Path, *, allow_nan: bool = False) -> Any:
    """Parse the bytes of a JSON file.

    Args:
        data: The bytes, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        path: Whose bytes they are, for the error.
        allow_nan: As for :func:`read_json`.

    Returns:
        The value.

    Raises:
        UnusableFileError: If the bytes are no JSON; names the line.

    Example:
        >>> parse_json(b'{"a": [1, 2]}', "a.json")
        {'a': [1, 2]}
    """
    refuse_hollow_json(data, path)
    try:
        refuse = None if allow_nan else _refuse_constant
        return json.loads(data.decode(json.detect_encoding(data)), parse_constant=refuse)
    except json.JSONDecodeError as error:
        rule = f"line {error.lineno} is not valid JSON: {error.msg}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT") from error
    except (ValueError, RecursionError) as error:
        raise UnusableFileError(f"not valid JSON: {error}", path=path, code="E_FORMAT") from error


def refuse_hollow_json(data: bytes, path: str | Path) -> None:
    """Refuse a large JSON file of next to nothing but brackets, before its parsing takes gigabytes.

    Each list or object takes 60 bytes and more of memory. In annotations and results there is one
    for 20 bytes of text at most; ``[],`` over and over takes 40 times its own size.

    Args:
        data: The bytes.
        path: Whose bytes they are, for the error.

    Raises:
        UnusableFileError: If it has over 10 MB and a list or object for every 8 bytes.
    """
    if len(data) > _HOLLOW_BYTES and 8 * (count := data.count(b"[") + data.count(b"{")) > len(data):
        rule = f"holds {count:,} lists in {len(data):,} bytes, more than annotations have"
        raise UnusableFileError(rule, path=path, code="E_TOO_LARGE")


def _refuse_constant(word: str) -> None:
    """Reject NaN and Infinity while parsing."""
    raise ValueError(f"it holds {word}, which JSON does not have")


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits.

    Args:
        data: The bytes.

    Example:
        >>> sha256_bytes(b"")[:16]
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in blocks.

    Args:
        path: A regular file.

    Returns:
        64 hexadecimal digits.

    Raises:
        UnusableFileError: If it is missing, unreadable or not a regular file.
    """
    try:
        with _open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        rule = f"the file cannot be read: {reason(error)}"
        raise UnusableFileError(rule, path=path, code="E_UNREADABLE") from error


def write_bytes(
    path: str | Path, data: bytes | Iterable[bytes], *, temporary_folder: Path | None = None
) -> None:
    """Write a file so that it is whole and on the disk when this returns, and read it back.

    A symbolic link is followed; what is there and is no regular file (a device, a pipe, a folder)
    is refused.

    Args:
        path: The file; its folder must exist.
        data: What it shall hold, whole or in parts, which need not be in memory at once.
        temporary_folder: Where the unfinished file lies, on the same disk; default: the file's own
            folder.

    Raises:
        OutputError: If any step fails; the old file, if there was one, is untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder, "a.bin"), b"whole")
        ...     Path(folder, "a.bin").read_bytes()
        b'whole'
    """
    try:
        target = Path(path).resolve()
        _check_replaceable(target)
        temporary = temporary_path(target, temporary_folder)
        _write_and_rename(temporary, target, data)
        fsync_folder(target.parent)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the name
        raise output_error(path, error) from error


def write_text(path: str | Path, text: str | Iterable[str]) -> None:
    """Write UTF-8 text as :func:`write_bytes` does; a character that UTF-8 lacks is escaped.

    Args:
        path: The file; its folder must exist.
        text: What it shall hold, whole or in parts.

    Raises:
        OutputError: If the file cannot be written.
    """
    parts = [text] if isinstance(text, str) else text
    write_bytes(path, (part.encode("utf-8", errors="backslashreplace") for part in parts))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, indented; NaN and infinities become ``null``, paths become text.

    Args:
        path: The file; its folder must exist.
        value: Dicts with string keys, lists, tuples, strings, numbers, booleans, None and paths.

    Raises:
        OutputError: If the file cannot be written.
        TypeError: If something in ``value`` has no place in JSON.
    """
    write_text(path, json_text(value))


def json_text(value: Any, indent: int | None = 2) -> str:
    """Turn a value into the JSON text that :func:`write_json` writes: ASCII, indented by two.

    Args:
        value: As for :func:`write_json`.
        indent: None writes one line.

    Returns:
        The text; equal values give equal text.

    Raises:
        TypeError: If something in ``value`` has no place in JSON.

    Example:
        >>> json_text({"ap": float("nan"), "sizes": (180, 224)}).split()
        ['{', '"ap":', 'null,', '"sizes":', '[', '180,', '224', ']', '}']
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False) + "\n"


def ensure_output_folder(path: str | Path) -> Path:
    """Make a folder for results and prove that files can be created in it, before any work begins.

    Args:
        path: The folder; missing parents are made too.

    Returns:
        The folder as a path.

    Raises:
        OutputError: If it is a file, cannot be made, or cannot be written to.

    Example:
        >>> ensure_output_folder("/dev/null")
        Traceback (most recent call last):
        sppnet.errors.OutputError: '/dev/null': is a file; a folder is needed here (E_OUTPUT)
    """
    folder = Path(path)
    probe = temporary_path(folder / "probe")
    try:
        make_folders(folder)
        os.close(os.open(probe, CREATE_FLAGS))
        probe.unlink()
    except FileExistsError as error:
        raise OutputError("is a file; a folder is needed here", path=folder) from error
    except (OSError, ValueError) as error:
        raise output_error(folder, error) from error
    return folder


def output_error(path: str | Path, error: Exception) -> OutputError:
    """Say in one line which result could not be written, and why."""
    return OutputError(f"cannot be written: {reason(error)}", path=path)


def reason(error: Exception) -> str:
    """Give the system's words for a failure with its symbol, such as ``ENOSPC``.

    Example:
        >>> reason(OSError(errno.ENOSPC, "No space left on device"))
        'No space left on device (ENOSPC)'
    """
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return f"{error.strerror} ({errno.errorcode.get(error.errno, error.errno)})"


def _check_replaceable(target: Path) -> None:
    """Refuse to replace what is no regular file: a device, a pipe, a folder."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _write_and_rename(temporary: Path, target: Path, data: bytes | Iterable[bytes]) -> None:
    """Fill the temporary file, flush it, read it, name it; leave nothing behind on failure."""
    descriptor = os.open(temporary, CREATE_FLAGS, 0o666)
    try:
        try:
            try_lock(descriptor)
            digest = hashlib.sha256()
            for part in [data] if isinstance(data, bytes) else data:
                _write_all(descriptor, part)
                digest.update(part)
            os.fsync(descriptor)
            _require_same(descriptor, digest.digest())
            if not ON_WINDOWS:  # under the lock, so that nobody sweeps it away
                temporary.replace(target)
        finally:
            os.close(descriptor)
        if ON_WINDOWS:
            replace_closed(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _require_same(descriptor: int, digest: bytes) -> None:
    """Read back what was written: success is not reported on the system's word alone."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    found = hashlib.sha256()
    while block := os.read(descriptor, 2**20):
        found.update(block)
    if found.digest() != digest:
        raise OSError(errno.EIO, "reads back differently from what was written")


def _write_all(descriptor: int, data: bytes) -> None:
    """Write every byte: the system may take fewer than offered."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest[:_BLOCK]) :]


def _plain(value: Any) -> Any:
    """Copy a value into what JSON has; what is not finite becomes None."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(item) for item in value]
    raise TypeError(f"value must hold only what JSON has, got {type(value).__name__}")


def _key(key: Any) -> str:
    """Check a key: JSON would turn other types into text silently."""
    if not isinstance(key, str):
        raise TypeError(f"keys must be strings, got {key!r}")
    return key
