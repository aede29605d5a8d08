"""Reading whole regular files of limited size, with one clear error. No torch."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from sppnet.errors import UnusableFileError

DEFAULT_MAX_BYTES = 256 * 2**20


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
        return _read_regular(Path(path), max_bytes)
    except FileNotFoundError as error:
        raise UnusableFileError("the file does not exist", path=path, code="E_MISSING") from error
    except (OSError, ValueError) as error:
        rule = f"the file cannot be read: {reason(error)}"
        raise UnusableFileError(rule, path=path, code="E_UNREADABLE") from error


def read_json(
    path: str | Path, max_bytes: int = DEFAULT_MAX_BYTES, *, allow_nan: bool = False
) -> Any:
    """Read a JSON file of limited size.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
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
        data: The bytes, UTF-8 with or without a byte order mark.
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
    try:
        refuse = None if allow_nan else _refuse_constant
        return json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        rule = f"line {error.lineno} is not valid JSON: {error.msg}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT") from error
    except (ValueError, RecursionError) as error:
        raise UnusableFileError(f"not valid JSON: {error}", path=path, code="E_FORMAT") from error


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
        with open(_open_regular(Path(path)), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        rule = f"the file cannot be read: {reason(error)}"
        raise UnusableFileError(rule, path=path, code="E_UNREADABLE") from error


def reason(error: Exception) -> str:
    """Give the system's words for a failure with its symbol, such as ``ENOSPC``.

    Example:
        >>> reason(OSError(errno.ENOSPC, "No space left on device"))
        'No space left on device (ENOSPC)'
    """
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return f"{error.strerror} ({errno.errorcode.get(error.errno, error.errno)})"


def _open_regular(path: Path) -> int:
    """Open for reading; a pipe, socket, device or folder is refused, and never waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file")


def _read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most ``max_bytes``."""
    with open(_open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > max_bytes else file.read(size + 1)  # it may have grown
    if max(size, len(data)) > max_bytes:
        rule = f"the file has {max(size, len(data))} bytes; the limit is {max_bytes}"
        raise UnusableFileError(rule, path=path, code="E_TOO_LARGE")
    return data


def _refuse_constant(word: str) -> None:
    """Reject NaN and Infinity while parsing."""
    raise ValueError(f"it holds {word}, which JSON does not have")
