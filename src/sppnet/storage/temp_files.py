"""Unfinished files and the locks that tell whether their writers are alive.

What is being written bears a name of its own, ``.NAME.tmp-PID-RANDOM``, and is locked by its
writer. The system frees a lock when its process ends, however it ends, so that what a killed
writer left behind can be told from what a living one is busy with.

Windows differs in three ways: a file that is open cannot be renamed or removed, a folder cannot be
opened, and ``os.kill`` ends the process instead of asking for it.

A writer puts the bytes into a temporary file beside the target, flushes it to the disk, and only
then gives it the target's name: a process killed at any moment leaves the old file or the new one,
never a half one. A reader takes regular files of limited size only, and never waits on a pipe.

Files that the whole run depends on (models, records, indices) raise ``UnusableFileError``, images
and annotations, which can be left out one by one, ``InputError``. No torch.
"""

import errno
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

ON_WINDOWS = os.name == "nt"
TEMPORARY_NAME = re.compile(r"\..*\.tmp-(?P<pid>\d+)-[0-9a-f]{8}", re.DOTALL)
# Longer than any write takes: an unlocked file of this age has no writer, whatever its process
# number says.
STALE_SECONDS = 3600.0
_NAME_BYTES = 200
# A reader on Windows keeps a file from being replaced; it is waited for so many times 10 ms.
REPLACE_TRIES = 100
# O_NONBLOCK keeps open() from waiting for the writer of a FIFO; regular files ignore it.
READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def temporary_path(target: Path, folder: Path | None = None) -> Path:
    """Name an unfinished file ``.NAME.tmp-PID-RANDOM``, beside its target or in ``folder``."""
    name = target.name
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
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


def remove_leftovers(folder: Path, *trees: str) -> None:
    """Remove the files that killed processes left half written.

    Args:
        folder: Is looked through itself.
        *trees: Names of folders in it that are looked through with all that is in them.
    """
    within = [Path(place) for name in trees for place, _, _ in os.walk(folder / name)]
    for place in (folder, *within):
        for left in stale_temp_files(place):
            with suppress(OSError):  # another process sweeps at the same time, or it is a folder
                left.unlink()


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file, if it is free; closing or dying frees it.

    The lock covers the file's first byte on Windows, where others cannot read that byte meanwhile;
    elsewhere it keeps nobody from reading.
    """
    from filelock import lock_descriptor  # slow to import, and reading needs no lock

    try:
        return bool(lock_descriptor(descriptor, blocking=False))
    except OSError:  # A disk without locks (some network mounts) must not stop the work.
        return True


def open_folder(folder: Path) -> int | None:
    """Open a folder, to lock or to flush it; Windows cannot: None."""
    if ON_WINDOWS:
        return None
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _is_abandoned(path: Path, pid: int) -> bool:
    """Tell whether the writer of a temporary file or folder is gone."""
    try:
        old = time.time() - path.lstat().st_mtime > STALE_SECONDS
        if not old and _process_exists(pid):
            return False
        if ON_WINDOWS and path.is_dir():  # no lock to ask for
            return True
        descriptor = os.open(path, READ_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def _process_exists(pid: int) -> bool:
    """Tell whether this machine may run a process of this number."""
    if ON_WINDOWS:  # os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def make_folders(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and the parents it lacks; their names survive a power cut when this returns.

    What is flushed inside a folder is lost with the folder, unless its own name is flushed, too.
    """
    missing, place = [], folder
    while not place.exists() and place != place.parent:
        missing.append(place)
        place = place.parent
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in missing:
        with suppress(PermissionError):  # what may not be read cannot be flushed
            fsync_folder(made.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut, where the file system offers that."""
    descriptor = open_folder(folder)
    if descriptor is None:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def replace_closed(temporary: Path, target: Path) -> None:
    """Rename on Windows, which refuses while somebody reads the target."""
    for _ in range(REPLACE_TRIES):
        try:
            temporary.replace(target)
        except PermissionError:
            time.sleep(0.01)
        else:
            return
    temporary.replace(target)
