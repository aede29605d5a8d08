"""Every file that the project writes goes through here: whole and durable, or not there at all.

The bytes go to a temporary file beside the target, are flushed to the disk, and only then take the
target's name. A process killed at any moment leaves the old file or the new one, never a half one.
Needs POSIX; no torch.
"""

import errno
import json
import math
import numbers
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sppnet.errors import OutputError
from sppnet.storage.reading import (
    parse_json,
    read_bytes,
    read_json,
    reason,
    sha256_bytes,
    sha256_file,
)
from sppnet.storage.temporaries import temporary_path, try_lock

__all__ = [
    "ensure_output_folder",
    "fsync_folder",
    "json_text",
    "output_error",
    "parse_json",
    "read_bytes",
    "read_json",
    "sha256_bytes",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_text",
]

_BLOCK = 64 * 2**20


def write_bytes(path: str | Path, data: bytes, *, temporary_folder: Path | None = None) -> None:
    """Write a file so that it is whole and on the disk when this returns.

    A symbolic link is followed; what is there and is no regular file (a device, a pipe, a folder)
    is refused.

    Args:
        path: The file; its folder must exist.
        data: What it shall hold.
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


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text as :func:`write_bytes` does; a character that UTF-8 lacks is escaped.

    Args:
        path: The file; its folder must exist.
        text: What it shall hold.

    Raises:
        OutputError: If the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


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


def json_text(value: Any) -> str:
    """Turn a value into the JSON text that :func:`write_json` writes: ASCII, indented by two.

    Args:
        value: As for :func:`write_json`.

    Returns:
        The text; equal values give equal text.

    Raises:
        TypeError: If something in ``value`` has no place in JSON.

    Example:
        >>> json_text({"ap": float("nan"), "sizes": (180, 224)}).split()
        ['{', '"ap":', 'null,', '"sizes":', '[', '180,', '224', ']', '}']
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


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
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        probe.unlink()
    except FileExistsError as error:
        raise OutputError("is a file; a folder is needed here", path=folder) from error
    except (OSError, ValueError) as error:
        raise output_error(folder, error) from error
    return folder


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut, where the file system offers that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def output_error(path: str | Path, error: Exception) -> OutputError:
    """Say in one line which result could not be written, and why."""
    return OutputError(f"cannot be written: {reason(error)}", path=path)


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


def _write_and_rename(temporary: Path, target: Path, data: bytes) -> None:
    """Fill the temporary file, flush it, give it its name; leave nothing behind on failure."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try_lock(descriptor)
        _write_all(descriptor, data)
        os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


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
