"""Opening files that a stranger may have put there: nothing blocks, nothing unbounded is read."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sppnet.errors import InputError

# O_NONBLOCK keeps open() from waiting for the writer of a FIFO; regular files ignore it.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else.

    The kind is looked at after opening, on the open file, so that nobody can swap it in between.

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
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise InputError(_reason(error), path=path, code="E_UNREADABLE") from None
    except ValueError as error:  # a NUL byte in the name
        raise InputError(str(error), path=path, code="E_UNREADABLE") from None
    try:
        _require_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


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
        size = os.fstat(file.fileno()).st_size
        # One byte more than allowed tells a file that grew since from one that fits.
        data = b"" if size > max_bytes else file.read(max_bytes + 1)
    if size > max_bytes or len(data) > max_bytes:
        rule = f"the file must have at most {max_bytes:,} bytes, has {max(size, len(data)):,}"
        raise InputError(rule, path=path, code="E_TOO_LARGE")
    return data


def read_lines(path: str | Path, max_bytes: int = 64_000_000) -> list[str]:
    """Read a text file of names; bytes that are no UTF-8 are kept as surrogate escapes.

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
    return data.decode("utf-8-sig", errors="surrogateescape").splitlines()


def _require_regular(status: os.stat_result, path: str | Path) -> None:
    """Refuse everything but a regular file with something in it."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        rule = f"must be a regular file, is {kind}"
        raise InputError(rule, path=path, code="E_UNREADABLE")
    if status.st_size == 0:
        raise InputError("the file is empty", path=path, code="E_EMPTY")


def _reason(error: OSError) -> str:
    """The system's words for a failed open."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return f"cannot be opened: {error.strerror or error}"
