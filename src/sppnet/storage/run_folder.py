"""A run's folder: what was asked for, with which versions, and which stages are done. No torch."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sppnet.errors import OutputError, UnusableFileError, UsageError
from sppnet.storage.atomic import ensure_output_folder, json_text, output_error, write_json
from sppnet.storage.reading import read_json
from sppnet.storage.stages import Stages
from sppnet.storage.surroundings import surroundings
from sppnet.storage.temporaries import stale_temporaries, try_lock

__all__ = ["RunFolder", "Stages"]

RUN, STAGES, LOCK = "run.json", "stages.json", ".lock"
_MAX_BYTES = 16 * 2**20


class RunFolder(Stages):
    """The folder of one run: ``run.json`` and ``stages.json``, locked against a second process.

    Use :meth:`open`; as a context manager it frees the lock at the end, and so does the end of the
    process.

    Attributes:
        path: The folder.
        resumed: Whether a run with the same configuration was continued.
        changes: What differs from the machine that began the run, one sentence each: versions,
            threads.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunFolder.open(folder, "detect train", {"levels": (1, 2)}, seed=0) as run:
        ...         run.resumed, run.is_done("features")
        (False, False)
    """

    def __init__(self, path: Path, lock: int, resumed: bool, changes: Sequence[str]) -> None:
        super().__init__(path / STAGES)
        self.path = path
        self.resumed = resumed
        self.changes = tuple(changes)
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | Path,
        command: str,
        configuration: Mapping[str, Any],
        seed: int,
        *,
        fresh: bool = False,
    ) -> "RunFolder":
        """Begin a run in a folder, or continue the one that is there.

        Args:
            path: The folder; made if missing.
            command: What is run, such as ``"detect train"``.
            configuration: All that decides the result; what JSON can hold, and paths.
            seed: The random seed.
            fresh: Forget the stages that are done and begin again; other files stay.

        Returns:
            The locked run.

        Raises:
            UsageError: If another command or configuration was run here; names the key that
                differs.
            OutputError: If the folder cannot be written, or another process works in it; names the
                process.
            UnusableFileError: If the records of the earlier run cannot be read.
        """
        folder = ensure_output_folder(path)
        lock = _take_lock(folder)
        try:
            asked = {"command": command, "seed": seed, "configuration": configuration}
            return cls._begin(folder, lock, json.loads(json_text(asked)), fresh)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _begin(cls, folder: Path, lock: int, asked: dict[str, Any], fresh: bool) -> "RunFolder":
        """Compare with the run that is there, then record this one."""
        _sweep(folder)
        before = None if fresh else _earlier_run(folder / RUN)
        if before is None:
            _remove(folder / STAGES)
        else:
            _check_same(before, asked, folder)
        record = {**asked, **surroundings()}
        changes = _changes(before or record, record)
        write_json(folder / RUN, record)
        return cls(folder, lock, before is not None, changes)

    def close(self) -> None:
        """Free the lock; harmless when done twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _earlier_run(path: Path) -> dict[str, Any] | None:
    """Read the record of the run that was begun here, if there is one."""
    if not path.exists():
        return None
    record = read_json(path, _MAX_BYTES)
    if not isinstance(record, dict) or not isinstance(record.get("configuration"), dict):
        rule = "is not the record of a run; begin again with --fresh"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    return record


def _check_same(before: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse to mix two different runs in one folder."""
    flat_before = _flat({key: before.get(key) for key in asked})
    flat_asked = _flat(asked)
    for key in sorted(flat_before | flat_asked):
        old, new = flat_before.get(key), flat_asked.get(key)
        if old != new:
            rule = f"was begun with {key} = {old!r}, not {new!r}; use another folder or --fresh"
            raise UsageError(rule, path=folder)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name every leaf of nested dicts: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            inside = "" if prefix == "" and key == "configuration" else f"{prefix}{key}."
            flat.update(_flat(item, inside))
        else:
            flat[prefix + key] = item
    return flat


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs between the machine that began the run and this one."""
    keys = ("versions", "threads")
    old, new = _flat({k: before.get(k) for k in keys}), _flat({k: now.get(k) for k in keys})
    return [
        f"{key} was {old.get(key)}, is {new.get(key)}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]


def _take_lock(folder: Path) -> int:
    """Lock the folder for this process and write down who holds it."""
    path = folder / LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise output_error(path, error) from error
    if not try_lock(lock):
        owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        rule = f"another process ({owner}) is working in this folder"
        raise OutputError(rule, path=folder, code="E_LOCKED")
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(lock)
        raise output_error(path, error) from error
    return lock


def _sweep(folder: Path) -> None:
    """Remove what killed writers left unfinished; models sweep their own folders."""
    for path in stale_temporaries(folder):
        if path.is_file():
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file that may be missing."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
