"""``sppnet embed``: vectors of photos or of their regions; and the run of all commands with rows.

`RowJob` is also what ``detect predict`` and ``classify predict`` do with ``--engine ray``.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.app.console import Tally, human_seconds, note, say, say_table
from sppnet.app.options import (
    Fresh,
    ImageSources,
    ModelFolder,
    Out,
    RunFlags,
    WorkerFlags,
    choose_device,
    command_app,
)
from sppnet.app.progress import track
from sppnet.app.settings import with_group
from sppnet.errors import UsageError, count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sppnet.bulk.cluster import ParquetRows, Workers
    from sppnet.bulk.rows import Look, Work
    from sppnet.errors import Problem

app = command_app("Turn photos, or regions of them, into vectors of one length.")
PROPOSALS = "proposals"
SAMPLES = 3  # photos that are looked at to say how long all will take
Regions = Annotated[
    str | None,
    typer.Option(
        "--boxes",
        metavar="proposals|FILE",
        help="Vectors of regions: what the detector proposes, or those of a file "
        "(.npz, .json, .mat); whole photos if not given.",
    ),
]
MostRegions = Annotated[
    int,
    typer.Option(
        "--max-boxes", metavar="N", min=1, max=100_000, help="Regions of a photo; the first ones."
    ),
]


@app.command()
@with_group(WorkerFlags, "workers", "Many machines")
@with_group(RunFlags, "run")
def embed(
    model: ModelFolder,
    images: ImageSources,
    out: Out,
    boxes: Regions = None,
    max_boxes: MostRegions = 100,
    fresh: Fresh = False,
    *,
    workers: WorkerFlags,
    run: RunFlags,
) -> None:
    """Turn photos, or regions of them, into vectors: OUT/rows holds Parquet, a row a photo.

    MODEL is a classifier, whose head takes the vectors, or a detector. IMAGES are files, folders
    and globs, addresses such as s3://bucket/photos, or paths.txt and paths.parquet with a path each
    row. Photos whose rows are there are skipped; those with errors are tried again.
    """
    from sppnet.bulk.rows import Describing

    regions = boxes if boxes in (None, PROPOSALS) else Path(str(boxes))
    RowJob(Describing(model, regions, max_boxes), images, out, workers, run).run(fresh=fresh)


@dataclass(frozen=True)
class RowJob:
    """A command that leaves a row for each photo.

    Args:
        work: What is to be done with a photo.
        sources: Files, folders, globs, addresses and tables of paths.
        out: Folder for the results.
        workers: Who computes.
        run_flags: The device, and whether only to say what would be done.
    """

    work: "Work"
    sources: Sequence[str]
    out: Path
    workers: WorkerFlags
    run_flags: RunFlags

    def run(self, *, fresh: bool = False) -> None:
        """Look at all photos, keep the rows; ends the command with its exit code."""
        from sppnet.bulk.cluster import ParquetRows, Workers, summary_of
        from sppnet.bulk.photos import list_photos
        from sppnet.bulk.rows import check_open
        from sppnet.storage import write_json

        by_ray, device = self.workers.by_ray, self.run_flags.device
        workers = Workers(**asdict(self.workers))
        if by_ray and device not in ("auto", "cpu"):
            raise UsageError("with --engine ray, --gpus says what each model computes on")
        here = choose_device("cpu" if by_ray else device)
        look = check_open(self.work, here)
        photos = list_photos(self.sources, self.out)
        if self.run_flags.dry_run:
            self._explain(look, photos.paths, workers)
            return
        tally = Tally(listed=len(photos.paths) + len(photos.problems))
        for problem in photos.problems:
            tally.add_failed(problem)
        if photos.own:
            note(f"left out {count_of(photos.own, 'picture')} that detect predict drew")
        begin = time.monotonic()
        with ParquetRows(self.out, look, fresh=fresh) as store:
            finished = store.finished()
            missing = [path for path in photos.paths if path not in finished]
            if len(missing) < len(photos.paths):
                note(f"{len(photos.paths) - len(missing)} of {len(photos.paths)} have rows already")
            tally.add_ok(len(photos.paths) - len(missing))
            self._look(look, missing, workers, store, tally)
            store.flush()
            seconds = time.monotonic() - begin
            write_json(self.out / "rows.json", summary_of(store, seconds, workers))
            _say_names(store)
        say(f"{count_of(len(missing), 'photo')} in {human_seconds(seconds)}")
        say(f"wrote {self.out / 'rows'} and {self.out / 'rows.json'}")
        tally.finish()

    def _look(
        self,
        look: "Look",
        paths: Sequence[str],
        workers: "Workers",
        store: "ParquetRows",
        tally: Tally,
    ) -> None:
        """Look at photos that have no row yet."""
        from sppnet.bulk.cluster import look_at_all
        from sppnet.bulk.rows import problems_of

        def each() -> "Iterator[Problem | None]":
            for table in look_at_all(self.work, look, paths, workers):
                store.add(table)
                for _, problem in problems_of(table):
                    yield problem

        for problem in track(each(), "looking at photos", total=len(paths)):
            if problem is None:
                tally.add_ok()
            else:
                tally.add_failed(problem)

    def _explain(self, look: "Look", paths: Sequence[str], workers: "Workers") -> None:
        """Say what would be done; write nothing."""
        from sppnet.bulk.rows import look_at

        sample = paths[:: max(1, len(paths) // SAMPLES)][:SAMPLES]
        look_at(look, sample[:1])  # the first call sets things up
        begin = time.perf_counter()
        size = look_at(look, sample).nbytes
        one = (time.perf_counter() - begin) / max(1, len(sample))
        size = size * len(paths) // max(1, len(sample))
        photos = count_of(len(paths), "photo")
        say(f"would look at {photos}; {size:,} bytes of rows before they are packed")
        where = f"by {workers.engine}: " if workers.engine != "local" else ""
        say(f"{where}about {human_seconds(one * len(paths))} of one process on this machine")


def _say_names(store: "ParquetRows") -> None:
    """Print how many there are of each class, if rows have classes."""
    from sppnet.bulk.cluster import count_names

    if "names" not in store.schema.names:
        return
    found, shown_in = count_names(store)
    rows = [[name, found[name], shown_in[name]] for name in sorted(found)]
    if rows:
        say_table(["class", "found", "photos"], rows)
