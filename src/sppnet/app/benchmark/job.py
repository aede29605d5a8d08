"""Runs ``sppnet benchmark pooling``: all cases, then files and the table.

The cases that need more than torch, onnxruntime and a GPU, stand here.
"""

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sppnet.app.benchmark.cases import (
    compare_forward,
    compare_mixed,
    compare_training,
    compare_whole,
    compare_whole_training,
    measure_growth,
    sweep_shapes,
)
from sppnet.app.benchmark.peers import (
    ROI_POOL,
    draw_map,
    draw_regions,
    roi_pool_pyramid,
    rows_to_boxes,
)
from sppnet.app.benchmark.report import (
    HEADER,
    Comparison,
    Goal,
    Results,
    SkippedCase,
    check_equal,
    growth_chart,
    sweep_chart,
    table_rows,
    write_report,
)
from sppnet.app.benchmark.timing import LEVELS, BenchmarkConfig, Call, time_together
from sppnet.app.console import human_seconds, note, say, say_table
from sppnet.app.progress import track
from sppnet.errors import MissingPackageError, count_of
from sppnet.evaluation.report import stand_alone
from sppnet.pooling import num_bins, pool_regions
from sppnet.pooling.kernels.cpu import kernel_name
from sppnet.pooling.onnx.export import (
    ROUNDING,
    check_packages,
    export_onnx,
    largest_difference,
    open_session,
)
from sppnet.progress import using_threads
from sppnet.storage import (
    RunFolder,
    ensure_output_folder,
    holds_run_of,
    read_json,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from sppnet.classification import Classifier

WHAT = "classifier exported to ONNX"
TRUNK, CLASSES = "squeezenet1_1", 20
# roi_pool does not know bfloat16; float16 has as many bytes.
PEER_DTYPES = {torch.float32: torch.float32, torch.bfloat16: torch.float16}
COPY = "device copy of the output's size"
# Numbers k / 16 with k <= 255 are the same in all three types.
STEPS, LARGEST = 16, 255
COMMAND = "benchmark pooling"


def compare_onnx(config: BenchmarkConfig) -> Results:
    """Case 10: time one exported file at each size beside its network, one thread."""
    try:
        check_packages()
    except MissingPackageError as error:
        return Results(not_run=[SkippedCase("10", WHAT, f"not run: {error.message}")])
    classifier = _build(config.seed)
    with using_threads(1), torch.inference_mode():
        session = export_for_timing(classifier)
        made = [_compare_at(classifier, session, side, config) for side in config.image_sides]
    return Results(made)


def _build(seed: int) -> "Classifier":
    """Build a classifier with random weights: they do not change the time."""
    from sppnet.classification import Classifier, View, build_classifier

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_classifier(TRUNK, num_classes=CLASSES, levels=LEVELS)
    return Classifier(network, View("full", 224), [f"class {i}" for i in range(CLASSES)])


def export_for_timing(classifier: "Classifier") -> Any:
    """Export as ``sppnet export`` does and open the file in onnxruntime, with torch's threads.

    Args:
        classifier: On the CPU.

    Returns:
        ``onnxruntime.InferenceSession`` from ``images`` to ``logits``.
    """
    from sppnet.classification.onnx import classifier_recipe

    data, _ = export_onnx(classifier_recipe(classifier))
    return open_session(data)


def _compare_at(
    classifier: "Classifier", session: Any, side: int, config: BenchmarkConfig
) -> Comparison:
    """Compare the logits and the times of one size."""
    images = draw_map((1, 3, side, side * 3 // 2), config.seed).clamp_(max=1)
    feed, network = {"images": images.numpy()}, classifier.network
    what = f"{WHAT}: {TRUNK}, one image of {side}x{side * 3 // 2}"
    difference = largest_difference(torch.from_numpy(session.run(None, feed)[0]), network(images))
    if difference > ROUNDING:
        raise RuntimeError(
            f"{what}: logits must be within {ROUNDING:g} of the largest, got {difference:g}"
        )
    calls = {"ort": lambda: session.run(None, feed), "eager": lambda: network(images)}
    timings = time_together(calls, config.pace)
    return Comparison("10", what, 1, timings["ort"], "eager torch", timings["eager"])


def compare_on_gpu(config: BenchmarkConfig) -> Results:
    """Case 11: compare on the GPU, or report that there is none."""
    if torch.cuda.is_available():
        return compare_on_device(config, torch.device("cuda"))
    every = [
        _describe(config, count, dtype) for count in config.gpu_regions for dtype in PEER_DTYPES
    ]
    return Results(not_run=[SkippedCase("11", what, "not run: no GPU") for what in every])


def compare_on_device(config: BenchmarkConfig, device: torch.device) -> Results:
    """Compare for each number of regions and each type; skip what does not fit into memory."""
    results = Results()
    for count in config.gpu_regions:
        for dtype in PEER_DTYPES:
            try:
                results.comparisons += _compare(config, count, dtype, device)
            except torch.OutOfMemoryError:
                what = _describe(config, count, dtype)
                results.not_run.append(SkippedCase("11", what, "not run: not enough memory"))
    return results


def _compare(
    config: BenchmarkConfig, count: int, dtype: torch.dtype, device: torch.device
) -> list[Comparison]:
    """Compare one number of regions in one type."""
    shape = config.region_maps[0]
    features = draw_map((1, *shape), config.seed)
    features = (features * STEPS).round_().clamp_(max=LARGEST).div_(STEPS).to(device, dtype)
    rows = draw_regions(count, shape[1:], config.seed).to(device)
    theirs = features.to(PEER_DTYPES[dtype])
    boxes = rows_to_boxes(rows).to(theirs.dtype)
    out = features.new_empty(count, shape[0] * num_bins(LEVELS))
    pool_regions(features, rows, LEVELS, out=out)
    what = _describe(config, count, dtype)
    check_equal(what, out, roi_pool_pyramid(theirs, boxes, LEVELS).to(dtype))
    calls: dict[str, Call] = {
        "ours": lambda: pool_regions(features, rows, LEVELS, out=out),
        ROI_POOL: lambda: roi_pool_pyramid(theirs, boxes, LEVELS),
        COPY: partial(_copy, out, torch.empty_like(out)),
    }
    timings = time_together(calls, config.pace, wait=_waiter(device))
    peer_name = f"{ROI_POOL}, {_name(theirs.dtype)}"
    peers = [(peer_name, timings[ROI_POOL], Goal(6)), (COPY, timings[COPY], Goal(0.6))]
    threads = torch.get_num_threads()
    return [Comparison("11", what, threads, timings["ours"], *peer) for peer in peers]


def _copy(source: Tensor, target: Tensor) -> Tensor:
    return target.copy_(source)


def _waiter(device: torch.device) -> Any:
    """What waits until the device has done everything that was asked of it."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def _describe(config: BenchmarkConfig, count: int, dtype: torch.dtype) -> str:
    sizes = "x".join(map(str, config.region_maps[0]))
    return f"GPU: {count:,} regions of {sizes}, {_name(dtype)}, forward, out= given"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
            count = count_of(unsteady, "comparison is", "comparisons are")
            note(f"{count} unsteady (~): the machine does something else, too")


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
