"""The folder of a run: a lock, the stages that are finished, and the environment it ran in.

A run goes on only as the run it was: ``run.json`` holds command, configuration and seed, and
another one is refused. ``data.json`` holds what it learnt from (``run_data.py``): where that was
changed, the run begins again.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sppnet.errors import OutputError, UnusableFileError, UsageError
from sppnet.storage.files import (
    ensure_output_folder,
    json_text,
    output_error,
    read_json,
    write_json,
    write_text,
)
from sppnet.storage.run_data import DataChanges, RunData, read_data
from sppnet.storage.temp_files import stale_temp_files, try_lock

RUN, STAGES, DATA, LOCK = "run.json", "stages.json", "data.json", ".lock"
# The process number stands behind the first byte of the lock, which Windows lets nobody else read.
_OWNER_AT = 1
_MAX_BYTES = 16 * 2**20
PACKAGES = (
    "sppnet",
    "torch",
    "torchvision",
    "timm",
    "onnxruntime",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-learn",
    "opencv-contrib-python-headless",
    "typer",
)
_SECRET = re.compile(r"^--?[\w-]*(token|secret|password|passwd|api-?key|credential)[\w-]*", re.I)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


class Stages:
    """Names the stages of a long piece of work, times them, and remembers which are done.

    Args:
        path: A JSON file that is rewritten whole after every change; None keeps all in memory.

    Raises:
        UnusableFileError: If the file is there but is not a record of stages.

    Example:
        >>> stages = Stages()
        >>> with stages.stage("proposals"):
        ...     stages.mark_done("proposals")
        >>> stages.is_done("proposals"), list(stages.seconds())
        (True, ['proposals'])
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        self._done: set[str] = set()
        if path is not None and path.exists():
            self._seconds, self._done = _read_stages(path)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of a ``with`` block to a stage, over all resumes, even when it fails.

        A process killed inside the block loses the seconds of that block only.

        Args:
            name: The stage.

        Raises:
            OutputError: If the record cannot be written.
        """
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start
            self._save()

    def is_done(self, name: str) -> bool:
        """Tell whether a stage was finished, in this process or an earlier one.

        Args:
            name: The stage.
        """
        return name in self._done

    def mark_done(self, name: str) -> None:
        """Remember that a stage is finished; call it after the stage's results are safely written.

        Args:
            name: The stage.

        Raises:
            OutputError: If the record cannot be written.
        """
        self._done.add(name)
        self._save()

    def seconds(self) -> dict[str, float]:
        """Seconds per stage, in the order of their first start to end."""
        return dict(self._seconds)

    def _save(self) -> None:
        """Rewrite the record, if there is one."""
        if self._path is not None:
            write_json(self._path, {"seconds": self._seconds, "done": sorted(self._done)})


def _read_stages(path: Path) -> tuple[dict[str, float], set[str]]:
    """Read seconds and finished stages, checking every type."""
    record = read_json(path, _MAX_BYTES)
    try:
        seconds = {name: float(value) for name, value in record["seconds"].items()}
        done = {name for name in record["done"] if isinstance(name, str)}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        rule = "is not a record of stages; begin again with --fresh"
        raise UnusableFileError(rule, path=path, code="E_FORMAT") from error
    return seconds, done


class RunFolder(Stages):
    """The folder of one run: ``run.json`` and ``stages.json``, locked against a second process.

    Use :meth:`open`; as a context manager it frees the lock at the end, and so does the end of the
    process.

    Attributes:
        path: The folder.
        resumed: Whether a run with the same configuration was continued.
        changes: What differs from the machine that began the run, one sentence each: versions,
            threads.
        data_changes: What differs in the data that the run began with; where something that is
            learnt from does, nothing of the earlier run is taken up.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunFolder.open(folder, "detect train", {"levels": (1, 2)}, seed=0) as run:
        ...         run.resumed, run.is_done("features")
        (False, False)
    """

    def __init__(
        self,
        path: Path,
        lock: int,
        resumed: bool,
        changes: Sequence[str],
        data_changes: DataChanges,
    ) -> None:
        super().__init__(path / STAGES)
        self.path = path
        self.resumed = resumed
        self.changes = tuple(changes)
        self.data_changes = data_changes
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | Path,
        command: str,
        config: Mapping[str, Any],
        seed: int,
        *,
        fresh: bool = False,
        data: RunData | None = None,
        state: Sequence[str] = (),
    ) -> "RunFolder":
        """Begin a run in a folder, or continue the one that is there.

        Args:
            path: The folder; made if missing.
            command: What is run, such as ``"detect train"``.
            config: All that decides the result; what JSON can hold, and paths.
            seed: The random seed.
            fresh: Forget the stages that are done and begin again; other files stay.
            data: What is learnt from; changed data begin the run again.
            state: Folders below ``path`` with what a stopped run goes on from; they are removed
                where it begins again.

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
            asked = {"command": command, "seed": seed, "configuration": config}
            return cls._begin(folder, lock, json.loads(json_text(asked)), fresh, data, state)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _begin(
        cls,
        folder: Path,
        lock: int,
        asked: dict[str, Any],
        fresh: bool,
        data: RunData | None,
        state: Sequence[str],
    ) -> "RunFolder":
        """Compare with the run that is there, then record this one.

        What is out of date goes before the record of the new data comes: a kill in between is
        noticed by the next run.
        """
        _sweep(folder)
        before = None if fresh else _earlier_run(folder / RUN)
        if before is not None:
            _check_same(before, asked, folder)
        earlier = read_data(folder / DATA) if data is not None else {}
        now = {} if data is None else data.record(earlier)
        is_compared = before is not None and data is not None
        data_changes = DataChanges.between(earlier, now) if is_compared else DataChanges()
        if before is None or data_changes.learnt:
            _remove(folder / STAGES)
            for name in state:
                _remove_folder(folder / name)
        if data is not None:
            write_text(folder / DATA, json.dumps(now))
        record = {**asked, **environment()}
        changes = _changes(before or record, record)
        write_json(folder / RUN, record)
        resumed = before is not None and not data_changes.learnt
        return cls(folder, lock, resumed, changes, data_changes)

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


def _take_lock(folder: Path) -> int:
    """Lock the folder for this process and write down who holds it."""
    path = folder / LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise output_error(path, error) from error
    if not try_lock(lock):
        os.lseek(lock, _OWNER_AT, os.SEEK_SET)
        owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        rule = f"another process ({owner}) is working in this folder"
        raise OutputError(rule, path=folder, code="E_LOCKED")
    try:
        os.ftruncate(lock, 0)
        os.lseek(lock, _OWNER_AT, os.SEEK_SET)
        os.write(lock, str(os.getpid()).encode())
    except OSError as error:
        os.close(lock)
        raise output_error(path, error) from error
    return lock


def _earlier_run(path: Path) -> dict[str, Any] | None:
    """Read the record of the run that was begun here, if there is one."""
    if not path.exists():
        return None
    record = read_json(path, _MAX_BYTES)
    if not isinstance(record, dict) or not isinstance(record.get("configuration"), dict):
        rule = "is not the record of a run; begin again with --fresh"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    return record


def holds_run_of(command: str, folder: Path, purpose: str) -> bool:
    """Tell whether a folder holds a run of a command, and refuse one with a run of another.

    Args:
        command: What is to be run.
        folder: Where to.
        purpose: What the folder is for, such as ``"the demo"``; part of the message.

    Raises:
        UsageError: If the folder holds a run of another command.
        UnusableFileError: If the record of the run cannot be read.
    """
    if not (folder / RUN).exists():
        return False
    record = read_json(folder / RUN)
    before = record.get("command") if isinstance(record, dict) else None
    if before != command:
        raise UsageError(
            f"holds a run of {before!r}; choose another folder for {purpose}", path=folder
        )
    return True


def _check_same(before: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Refuse to mix two different runs in one folder."""
    seeds = before.get("seed"), before["configuration"].get("seed", before.get("seed"))
    if seeds[0] != seeds[1]:
        rule = f"was begun by an earlier version with two seeds, {seeds[0]} and {seeds[1]}; "
        raise UsageError(f"{rule}use another folder or --fresh", path=folder)
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


def _sweep(folder: Path) -> None:
    """Remove what killed writers left unfinished; models sweep their own folders."""
    for path in stale_temp_files(folder):
        if path.is_file():
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file that may be missing."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _remove_folder(path: Path) -> None:
    """Remove a folder that may be missing."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise output_error(path, error) from error


def environment() -> dict[str, Any]:
    """What else a result may depend on: versions, threads, machine, command line."""
    return {
        "versions": {"python": platform.python_version(), **package_versions()},
        "threads": _thread_count(),
        "platform": platform.platform(),
        "argv": arguments_without_secrets(sys.argv),
    }


def package_versions() -> dict[str, str | None]:
    """Versions of the installed packages, read without importing them."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _thread_count() -> int:
    """Threads that torch uses, or will use: results are bit-identical only at the same number."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else os.cpu_count() or 1


def arguments_without_secrets(arguments: Sequence[str]) -> list[str]:
    """Copy a command line, with the values of options that sound secret replaced by ``***``.

    Args:
        arguments: As in ``sys.argv``.

    Returns:
        The copy; logins inside URLs are replaced too.

    Example:
        >>> arguments_without_secrets(["sppnet", "serve", "--token", "abc", "--api-key=def"])
        ['sppnet', 'serve', '--token', '***', '--api-key=***']
    """
    clean: list[str] = []
    hide_next = False
    for argument in arguments:
        secret = _SECRET.match(argument)
        if hide_next and not argument.startswith("--"):
            clean.append("***")
        elif secret and "=" in argument:
            clean.append(argument.split("=", 1)[0] + "=***")
        else:
            clean.append(_URL_LOGIN.sub("***@", argument))
        hide_next = bool(secret) and "=" not in argument
    return clean
