"""``sppnet benchmark``: measures the speed of this machine beside named peers.

``job.py`` runs all cases, those of ONNX and a GPU among them, and writes the files, ``cases.py``
holds the others, ``peers.py`` what we compare with and the inputs, ``timing.py`` takes the times
and holds the sizes, ``report.py`` writes table, charts and page. Every answer is compared with the
peer's before anything is timed. Start reading with ``cases.py``.
"""

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
    from sppnet.app.benchmark.timing import choose_config

    BenchmarkJob(out, choose_config(quick=quick, threads=threads)).run()
