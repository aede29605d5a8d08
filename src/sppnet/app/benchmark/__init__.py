"""``sppnet benchmark``: the speed of this machine, measured beside named peers."""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.app.options import Debug, Threads, command_app

app = command_app("Measure the speed of this machine beside named peers.")
Quick = Annotated[
    bool, typer.Option("--quick", help="Fewer repetitions and shapes: under a minute.")
]
OutOrUsual = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the figures and the report.")
]


@app.callback()
def _about() -> None:
    """Measure the speed of this machine beside named peers."""


@app.command()
def pooling(
    quick: Quick = False,
    out: OutOrUsual = Path("runs/benchmark-pooling"),
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Time the pooling beside roi_pool and textbook code; leaves benchmark.json and report.html.

    Every answer is compared with the peer's before anything is timed.
    """
    from sppnet.app.benchmark.job import BenchmarkJob  # imported here so that --help stays quick
    from sppnet.app.benchmark.timing import choose_plan

    BenchmarkJob(out, choose_plan(quick=quick, threads=threads)).run()
