"""Runs ``sppnet benchmark pooling``: all cases, then files and the table."""

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sppnet.app.benchmark.cases import (
    compare_forward,
    compare_mixed,
    compare_training,
    compare_whole,
    compare_whole_training,
    measure_growth,
    sweep_shapes,
)
from sppnet.app.benchmark.cases_extra import compare_on_gpu, compare_onnx
from sppnet.app.benchmark.report import (
    HEADER,
    Results,
    growth_chart,
    sweep_chart,
    table_rows,
    write_report,
)
from sppnet.app.benchmark.timing import BenchmarkConfig
from sppnet.app.console import human_seconds, note, say, say_table
from sppnet.app.progress import track
from sppnet.evaluation.report import stand_alone
from sppnet.pooling.kernels.cpu import kernel_name
from sppnet.storage import (
    RunFolder,
    ensure_output_folder,
    holds_run_of,
    read_json,
    write_json,
    write_text,
)

COMMAND = "benchmark pooling"
CASES: Mapping[str, Callable[[BenchmarkConfig], Results]] = {
    "regions forward": compare_forward,
    "regions forward + backward": compare_training,
    "whole maps forward": compare_whole,
    "whole maps forward + backward": compare_whole_training,
    "random shapes": sweep_shapes,
    "maps of different sizes": compare_mixed,
    "growth": measure_growth,
    "ONNX": compare_onnx,
    "GPU": compare_on_gpu,
}


@dataclass
class BenchmarkJob:
    """What ``sppnet benchmark pooling`` was asked to do.

    Args:
        out: Folder for the figures and the report.
        config: Sizes and repetitions.
    """

    out: Path
    config: BenchmarkConfig = field(default_factory=BenchmarkConfig)

    def run(self) -> None:
        """Measure everything anew, write the results and print the table."""
        holds_run_of(COMMAND, ensure_output_folder(self.out), "the benchmark")
        config, seed = asdict(self.config), self.config.seed
        with RunFolder.open(self.out, COMMAND, config, seed, fresh=True) as folder:
            machine, begin = describe_machine(), time.monotonic()
            results = measure_all(self.config)
            machine["load after"] = _load()
            about = {**read_json(folder.path / "run.json"), "machine": machine}
            about["seconds"] = time.monotonic() - begin
            self._write(results, about)
        self._summarise(results, about["seconds"])

    def _write(self, results: Results, about: Mapping[str, Any]) -> None:
        """Write figures, charts and page."""
        write_json(self.out / "benchmark.json", {"about": about, **results.to_json()})
        for each in results.growth:
            name = f"growth-{each.axis.replace(' ', '-')}.svg"
            write_text(self.out / name, stand_alone(growth_chart(each)))
        if results.sweep:
            write_text(self.out / "shapes.svg", stand_alone(sweep_chart(results.sweep)))
        write_report(self.out / "report.html", results, self.config, about)

    def _summarise(self, results: Results, seconds: float) -> None:
        """Print the table, what was missed, and where the report is."""
        say_table(HEADER, table_rows(results))
        verdicts = results.verdicts()
        say(f"{sum(verdicts)} of {len(verdicts)} goals met; took {human_seconds(seconds)}")
        say(f"report: {self.out / 'report.html'}")
        unsteady = sum(each.is_unsteady for each in results.comparisons)
        if unsteady:
            note(f"{unsteady} comparisons are unsteady (~): the machine does something else, too")


def measure_all(config: BenchmarkConfig) -> Results:
    """Run all cases.

    Raises:
        RuntimeError: If an answer differs from a peer's.
    """
    results = Results()
    for name, case in track(list(CASES.items()), "cases"):
        gc.collect()  # it rests while a case is timed
        begin = time.monotonic()
        results.add(case(config))
        results.seconds[name] = time.monotonic() - begin
    return results


def describe_machine() -> dict[str, Any]:
    """What times depend on besides versions: processor, kernel, GPU, load."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "kernel": kernel_name() or "plain torch",
        "vector units": torch.backends.cpu.get_cpu_capability(),
        "GPU": gpu,
        "load before": _load(),
    }


def processor_name() -> str:
    """Name of the processor, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _load() -> list[float] | None:
    """Load of the last 1, 5 and 15 minutes, where the system tells."""
    return [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else None
