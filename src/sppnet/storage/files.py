"""Open, read, hash and atomically write files.

The bytes go to a temporary file beside the target, are flushed to the disk, and only then take the
target's name. A process killed at any moment leaves the old file or the new one, never a half one.
Needs POSIX; no torch.
"""

import errno
import fcntl
import hashlib
import json
import math
import numbers
import os
import re
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from sppnet.errors import InputError, OutputError, UnusableFileError

DEFAULT_MAX_BYTES = 256 * 2**20
TEMPORARY_NAME = re.compile(r"\..*\.tmp-(?P<pid>\d+)-[0-9a-f]{8}", re.DOTALL)
# Longer than any write takes: an unlocked file of this age has no writer, whatever its process
# number says.
STALE_SECONDS = 3600.0
_NAME_BYTES = 200
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


def temporary_path(target: Path, folder: Path | None = None) -> Path:
    """Name an unfinished file ``.NAME.tmp-PID-RANDOM``, beside its target or in ``folder``."""
    name = os.fsdecode(os.fsencode(target.name)[:_NAME_BYTES])
    return (folder or target.parent) / f".{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"


def stale_temp_files(folder: Path) -> list[Path]:
    """List the unfinished files and folders in ``folder`` whose writers are gone.

    A writer holds a lock on what it writes. So that a writer caught between making and locking is
    safe too, the process must also be unknown on this machine, or the file be an hour old.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (names, for the pattern)
    except OSError:
        return []
    matches = [(folder / name, TEMPORARY_NAME.fullmatch(name)) for name in names]
    return [path for path, match in matches if match and _is_abandoned(path, int(match["pid"]))]


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file, if it is free; closing or dying frees it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A disk without locks (some network mounts) must not stop the work.
        return error.errno not in {errno.EAGAIN, errno.EACCES}
    return True


def _is_abandoned(path: Path, pid: int) -> bool:
    """Tell whether the writer of a temporary file or folder is gone."""
    try:
        old = time.time() - path.lstat().st_mtime > STALE_SECONDS
        if not old and _process_exists(pid):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def _process_exists(pid: int) -> bool:
    """Tell whether this machine runs a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


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
