"""Sends very many photos through a work, here or by Ray, and keeps the rows as Parquet.

Ray Data hands out blocks of paths to actors, each of which has loaded the model once; an actor
reads its photos itself, so that no pixel travels and no other process has to read for it. Rows come
back to the process that began it all, which alone writes: a photo whose row came twice is written
once, whatever died meanwhile, and no half table is ever on the disk.
"""

import json
import logging
import math
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import torch

from sppnet.bulk.rows import (
    ROWS_VERSION,
    Look,
    Work,
    look_at,
    require_packages,
    rows_of_crashed,
    schema_of,
)
from sppnet.errors import OutputError, SppnetError, UnusableFileError, UsageError
from sppnet.images.decode import MAX_PIXELS_VARIABLE
from sppnet.storage import ensure_output_folder, read_bytes, write_bytes
from sppnet.storage.files import json_text
from sppnet.storage.temp_files import remove_leftovers, try_lock

if TYPE_CHECKING:
    import pyarrow

ROWS = "rows"  # folder of the tables below the folder for the results
MARK = b"sppnet"  # in a table's metadata: what its rows depend on
PART_ROWS, PART_BYTES, PART_SECONDS = 10_000, 1 << 26, 30.0  # one of them fills a file
STORE_BYTES = 500_000_000  # of Ray's object store, where we start it: rows are small
# A busy machine needs more than Ray's 30 s to start it, and Ray then gives up.
PATIENCE = {"RAY_raylet_start_wait_time_s": "180", "RAY_agent_register_timeout_ms": "150000"}
HERE = 8  # photos of a table that this process makes
TRIES_AGAIN = 3  # of photos whose process died
FILE_BYTES = 1 << 32  # of a model that travels


@dataclass(frozen=True)
class Workers:
    """Who computes.

    Args:
        engine: ``"local"``, this process, or ``"ray"``.
        address: Of a running cluster of Ray; None for one that runs here, or else a new one.
        concurrency: Models that are loaded at a time; None for as many as fit.
        cpus: Cores of each; also its threads.
        gpus: Accelerators of each, such as 0.5 for two models on one.
        batch: Photos that a model is given at once; what is lost with a machine is at most twice
            that for each of its models.

    Raises:
        ValueError: If a value is out of range.
    """

    engine: str = "local"
    address: str | None = None
    concurrency: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    batch: int = 32

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise ValueError(f"engine must be local or ray, got {self.engine!r}")
        if self.batch < 1 or (self.concurrency is not None and self.concurrency < 1):
            raise ValueError("batch and concurrency must be at least 1")
        if self.cpus <= 0 or self.gpus < 0:
            raise ValueError("cpus must be above 0 and gpus at least 0")

    @property
    def device(self) -> str:
        """Where an actor of Ray computes; Ray shows it its own accelerators alone."""
        return "cuda:0" if self.gpus else "cpu"


class ParquetRows:
    """The rows of a job, in Parquet files that are whole or absent; one process writes at a time.

    Args:
        out: Folder for the results; the files are in ``rows`` below it.
        look: What fills the rows.
        fresh: Whether to forget rows that are there.

    Raises:
        UsageError: If rows there are of another model or other settings.
        UnusableFileError: If a file there is damaged.
        OutputError: If the folder cannot be written to, or another command writes there.

    Example:
        >>> look = Look({"kind": "sizes"}, (), {}, lambda path, pixels: {})
        >>> with TemporaryDirectory() as out, ParquetRows(Path(out), look) as store:
        ...     store.add(look_at(look, ["no/such.jpg"]))
        ...     store.flush()
        ...     next(store.tables()).num_rows, store.finished()
        (1, set())
    """

    def __init__(self, out: Path, look: Look, *, fresh: bool = False) -> None:
        self.folder = ensure_output_folder(out / ROWS)
        about = {"version": ROWS_VERSION, "names": look.names, **look.about}
        self.mark = json_text(about, indent=None).strip()
        self.schema = schema_of(look).with_metadata({MARK: self.mark.encode()})
        self._waiting: list[pyarrow.Table] = []
        self._since = time.monotonic()
        self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._begin(fresh)
        except BaseException:
            os.close(self._lock)
            raise

    def _begin(self, fresh: bool) -> None:
        """Take the lock, sweep, and look at what is there."""
        if not try_lock(self._lock):
            raise OutputError("another command writes here", path=self.folder)
        remove_leftovers(self.folder)
        for part in self.parts():
            if fresh:
                part.unlink()
            else:
                self._check(part)

    def parts(self) -> list[Path]:
        """The files, in the order in which they were begun."""
        return sorted(self.folder.glob("part-*.parquet"))

    def finished(self) -> set[str]:
        """Paths of the photos that have rows; those of errors are dropped, to be tried again."""
        from pyarrow import compute

        paths: set[str] = set()
        for part in self.parts():
            table = self._read(part, ["path", "error"])
            is_good = compute.is_null(table.column("error"))
            if not compute.all(is_good).as_py():
                self._write(part, self._read(part).filter(is_good))
            paths.update(table.column("path").filter(is_good).to_pylist())
        return paths

    def tables(self, columns: Sequence[str] | None = None) -> Iterator["pyarrow.Table"]:
        """The tables that are on the disk, one after the other; all columns, or some."""
        for part in self.parts():
            yield self._read(part, columns)

    def add(self, table: "pyarrow.Table") -> None:
        """Keep rows; they are on the disk after ``flush``, or when a file is full or 30 s old."""
        self._waiting.append(table)
        waits = self._waiting
        is_full = sum(each.num_rows for each in waits) >= PART_ROWS
        is_large = sum(each.nbytes for each in waits) >= PART_BYTES
        if is_full or is_large or time.monotonic() - self._since >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        import pyarrow

        if self._waiting:
            parts = self.parts()
            number = int(parts[-1].stem.removeprefix("part-")) + 1 if parts else 0
            table = pyarrow.concat_tables(self._waiting)
            self._write(self.folder / f"part-{number:06}.parquet", table)
        self._waiting, self._since = [], time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what is finished, however it ended."""
        try:
            self.flush()
        finally:
            os.close(self._lock)

    def _check(self, part: Path) -> None:
        """Refuse rows that another model or other settings made."""
        from pyarrow import parquet

        with self._naming(part):
            found = (parquet.read_schema(part).metadata or {}).get(MARK, b"").decode()
        if found != self.mark:
            rule = "holds rows of another model or other settings; --fresh forgets them"
            raise UsageError(rule, path=part)

    def _read(self, part: Path, columns: Sequence[str] | None = None) -> "pyarrow.Table":
        from pyarrow import parquet

        with self._naming(part):
            return parquet.ParquetFile(part).read(columns)

    def _write(self, part: Path, table: "pyarrow.Table") -> None:
        """Write a file whole, or remove it if it would have no row."""
        import pyarrow
        from pyarrow import parquet

        if not table.num_rows:
            part.unlink()
            return
        sink = pyarrow.BufferOutputStream()
        table = table.select(self.schema.names).cast(self.schema)
        parquet.write_table(table, sink, compression="zstd")
        write_bytes(part, sink.getvalue().to_pybytes())

    @contextmanager
    def _naming(self, part: Path) -> Iterator[None]:
        """Name the file that pyarrow cannot read."""
        import pyarrow

        try:
            yield
        except (OSError, pyarrow.ArrowException, KeyError) as error:
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            if "launch worker thread" in words:  # the file is sound
                raise RuntimeError("can't start new thread") from error
            rule = f"is damaged ({words}); delete it, and its photos are looked at again"
            raise UnusableFileError(rule, path=part, code="E_FORMAT") from error


def look_at_all(
    work: Work, look: Look, paths: Sequence[str], workers: Workers
) -> Iterator["pyarrow.Table"]:
    """Look at all photos; each comes once, in any order.

    Args:
        work: What is to be done.
        look: The same, opened here.
        paths: The photos, each once.
        workers: Who computes.

    Yields:
        Tables of rows.

    Raises:
        MissingPackageError: If Ray is asked for and not installed.
        UsageError: If no cluster is at the address, or no machine has what an actor needs.
    """
    if workers.engine == "local":
        for first in range(0, len(paths), HERE):
            yield look_at(look, paths[first : first + HERE])
        return
    require_packages("ray")
    with _joined(workers) as most:
        travels = _Travelling(work)
        missing = dict.fromkeys(paths)
        for batch in (workers.batch, 1):  # alone, a photo takes no other down with it
            for table in _look_by_ray(travels, list(missing), workers, batch, most):
                yield from _once(table, missing)
            if not missing:
                return
            if len(missing) == len(paths) > batch > 1:
                raise SppnetError("no process of Ray gave a row; its lines above say why")
        yield rows_of_crashed(look, list(missing))


def _once(table: "pyarrow.Table", missing: dict[str, None]) -> Iterator["pyarrow.Table"]:
    """The rows of photos that are still missing, which then are not."""
    found = table.column("path").to_pylist()
    keep = [path in missing for path in found]
    for path in found:
        missing.pop(path, None)
    if any(keep):
        yield table.filter(keep)


class _Travelling:
    """A work with the bytes of its files, which Ray's object store brings to each machine."""

    def __init__(self, work: Work) -> None:
        import ray

        self.work = work
        self.files: list[Any] = [ray.put(_pack(path)) for path in work.files]

    def open(self, device: str) -> Look:
        """Open the work on the machine where it has arrived."""
        import ray

        with TemporaryDirectory(prefix="sppnet-") as folder:
            places = [
                _unpack(ray.get(files), Path(folder) / str(number), path.name)
                for number, (files, path) in enumerate(
                    zip(self.files, self.work.files, strict=True)
                )
            ]
            return self.work.moved(places).open(device)


def _pack(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of the files of a folder by their paths in it."""
    if path.is_file():
        return {"": read_bytes(path, FILE_BYTES)}
    files = [each for each in sorted(path.rglob("*")) if each.is_file()]
    return {each.relative_to(path).as_posix(): read_bytes(each, FILE_BYTES) for each in files}


def _unpack(files: Mapping[str, bytes], folder: Path, name: str) -> Path:
    """Write what :func:`_pack` read, and give its place: a file or a folder of the same name."""
    place = folder / name
    for inner, data in files.items():
        path = place / inner if inner else place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place


class _Actor:
    """What Ray starts on a machine: it loads the model once and looks at tables of paths."""

    def __init__(self, travels: _Travelling, device: str, threads: int, most_pixels: str) -> None:
        torch.set_num_threads(threads)
        if most_pixels:
            os.environ[MAX_PIXELS_VARIABLE] = most_pixels
        self.look = travels.open(device)

    def __call__(self, table: "pyarrow.Table") -> "pyarrow.Table":
        return look_at(self.look, table.column("path").to_pylist())


def _look_by_ray(
    travels: _Travelling, paths: Sequence[str], workers: Workers, batch: int, most: int
) -> Iterator["pyarrow.Table"]:
    """Rows of the photos, but for those whose process died each time."""
    import pyarrow
    import ray.data

    steps = range(0, len(paths), batch)
    blocks = [pyarrow.table({"path": paths[first : first + batch]}) for first in steps]
    size = min(most, len(blocks))
    with _settings_of_ray():
        with warnings.catch_warnings():
            # Its ways to say how often to try again are announced to change in 2.64.
            warnings.filterwarnings("ignore", "`ray_remote_args`")
            rows = ray.data.from_arrow(blocks).map_batches(
                _Actor,
                fn_constructor_args=(
                    travels,
                    workers.device,
                    max(1, int(workers.cpus)),
                    os.environ.get(MAX_PIXELS_VARIABLE, ""),
                ),
                compute=ray.data.ActorPoolStrategy(size=size),  # one that shrinks loses actors
                batch_size=batch,
                batch_format="pyarrow",
                num_cpus=workers.cpus,
                num_gpus=workers.gpus or None,
                max_restarts=-1,
                max_task_retries=TRIES_AGAIN,
            )
        tables: Iterable[Any] = rows.iter_batches(batch_size=None, batch_format="pyarrow")
        yield from (table for table in tables if table.num_rows)


@contextmanager
def _settings_of_ray() -> Iterator[None]:
    """Let Ray go on where a block is lost for good, and show bars on a terminal only."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DataContext.get_current()
    before = context.max_errored_blocks, context.enable_progress_bars
    context.max_errored_blocks = -1
    context.enable_progress_bars = sys.stderr is not None and sys.stderr.isatty()
    try:
        yield
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before


@contextmanager
def _joined(workers: Workers) -> Iterator[int]:
    """Join a cluster, or start one on this machine; gives how many models it can hold.

    Ray would tell its makers how it is used; nothing is told.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    was_there = ray.is_initialized()
    if not was_there:
        _start(workers.address)
    try:
        yield workers.concurrency or _most_actors(ray.cluster_resources(), workers)
    finally:
        if not was_there:
            ray.shutdown()


def _start(address: str | None) -> None:
    """Connect to the cluster at an address, to the one that runs here, or to a new one.

    Raises:
        UsageError: If there is none at the address, or none can be started.
    """
    import ray

    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
            return
        with suppress(ConnectionError):
            ray.init(address="auto", **quiet)
            return
        ray.init("local", object_store_memory=STORE_BYTES, include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises bare ones, too
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = f"no cluster of Ray answers at {address}" if address else "Ray does not start"
        raise UsageError(f"{what}: {words}") from error


def _most_actors(there: Mapping[str, float], workers: Workers) -> int:
    """How many actors fit into a cluster of so many cores and accelerators.

    Raises:
        UsageError: If not one fits.

    Example:
        >>> _most_actors({"CPU": 64.0, "GPU": 2.0}, Workers("ray", cpus=4, gpus=0.5))
        4
    """
    wanted = {"CPU": workers.cpus, "GPU": workers.gpus}
    fits = [math.floor(there.get(name, 0.0) / share) for name, share in wanted.items() if share]
    if min(fits) < 1:
        has = ", ".join(f"{there.get(name, 0):g} {name}" for name in wanted)
        raise UsageError(
            f"a model needs {workers.cpus:g} CPU and {workers.gpus:g} GPU; there are {has}"
        )
    return min(fits)


def count_names(store: ParquetRows) -> tuple[Counter[str], Counter[str]]:
    """How many detections count of each class, or how many photos are named so first.

    Args:
        store: Rows of detections or of classes.

    Returns:
        By name: the number of things, and the number of photos that show one.
    """
    found, shown_in = Counter[str](), Counter[str]()
    is_detections = "counts" in store.schema.names
    columns = ["names", "counts"] if is_detections else ["names"]
    for table in store.tables(columns):
        for row in table.to_pylist():
            names = row["names"] or []
            kept = (
                [name for name, counts in zip(names, row["counts"] or [], strict=True) if counts]
                if is_detections
                else names[:1]
            )
            found.update(kept)
            shown_in.update(set(kept))
    return found, shown_in


def summary_of(store: ParquetRows, seconds: float, workers: Workers) -> dict[str, Any]:
    """What is kept beside the tables: how many rows of which kind, and how they came about.

    Args:
        store: The rows.
        seconds: Of this call.
        workers: Who computed.
    """
    codes = Counter[str]()
    for table in store.tables(["code"]):
        codes.update(code or "" for code in table.column("code").to_pylist())
    good = codes.pop("", 0)
    return {
        "rows": good + codes.total(),
        "good": good,
        "failed": dict(codes),
        "seconds": seconds,
        "engine": workers.engine,
        "about": json.loads(store.mark),
    }
