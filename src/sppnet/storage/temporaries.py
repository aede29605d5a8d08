"""Names and locks of unfinished files: what a killed process left is told from work in progress."""

import errno
import fcntl
import os
import re
import secrets
import time
from pathlib import Path

TEMPORARY_NAME = re.compile(r"\..*\.tmp-(?P<pid>\d+)-[0-9a-f]{8}", re.DOTALL)
# Longer than any write takes: an unlocked file of this age has no writer, whatever its process
# number says.
STALE_SECONDS = 3600.0
_NAME_BYTES = 200


def temporary_path(target: Path, folder: Path | None = None) -> Path:
    """Name an unfinished file ``.NAME.tmp-PID-RANDOM``, beside its target or in ``folder``."""
    name = os.fsdecode(os.fsencode(target.name)[:_NAME_BYTES])
    return (folder or target.parent) / f".{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"


def stale_temporaries(folder: Path) -> list[Path]:
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
