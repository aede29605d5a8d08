"""Tables 9 to 12: detection in SPP-net's way and in R-CNN's, precision and seconds."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sppnet.detection.detector import CombinedDetector
from sppnet.paper.detection_bench import DetectionBench, score_detector
from sppnet.paper.detection_setup import (
    ALEX,
    ROWS,
    ZF,
    ZF_SECOND,
    DetectionImages,
    Row,
    Way,
    find_detection_network,
    open_detection_images,
)
from sppnet.paper.detection_speed import measure_speed
from sppnet.paper.printed import (
    BOTH,
    FIRST,
    MEAN,
    RCNN_ALEX,
    RCNN_ZF,
    SECOND,
    SPP_1,
    SPP_5,
    TABLE_9,
    TABLE_10,
    VOC_COLUMNS,
    Printed,
)
from sppnet.paper.resources import Supplies, wanted
from sppnet.paper.tables import Finding, Measured, NotRun, missing_words
from sppnet.progress import Track

Findings = Iterator[Finding]

ONE_SCALE, FIVE_SCALES = (688,), (480, 576, 688, 864, 1200)
WAYS = {
    SPP_1: Way(ZF, ONE_SCALE),
    SPP_5: Way(ZF, FIVE_SCALES),
    RCNN_ALEX: Way(ALEX),
    RCNN_ZF: Way(ZF),
}
ROWS_11 = {
    "R-CNN ft fc7 (Alex-5)": (RCNN_ALEX, "ft fc7"),
    "R-CNN bb (Alex-5)": (RCNN_ALEX, "ft fc7 bb"),
    "R-CNN ft fc7 (ZF-5)": (RCNN_ZF, "ft fc7"),
    "R-CNN bb (ZF-5)": (RCNN_ZF, "ft fc7 bb"),
    "SPP ft fc7 (ZF-5)": (SPP_5, "ft fc7"),
    "SPP bb (ZF-5)": (SPP_5, "ft fc7 bb"),
}
BEST = ROWS["ft fc7 bb"]


def measure_table_9(supplies: Supplies, track: Track) -> Findings:
    """Measure layer by layer, SPP-net with ZF-5 beside R-CNN with AlexNet."""
    yield from _measure_ways(TABLE_9, supplies, track)


def measure_table_10(supplies: Supplies, track: Track) -> Findings:
    """Measure SPP-net and R-CNN with the same trained network."""
    yield from _measure_ways(TABLE_10, supplies, track)


def measure_table_11(supplies: Supplies, track: Track) -> Findings:
    """Measure every class; the rows of other papers are printed only."""
    images = open_detection_images(supplies)
    for column, way in WAYS.items():
        rows = {name: place[1] for name, place in ROWS_11.items() if place[0] == column}
        if not rows or not wanted((way.network,), supplies):
            continue
        bench = open_bench(way, images, supplies, track)
        for name, row in rows.items():
            yield from _class_cells(name, bench, ROWS[row])
        if not isinstance(bench, str):
            yield from bench.problems


def measure_table_12(supplies: Supplies, track: Track) -> Findings:
    """Measure two networks, each with its own training, and both together."""
    images = open_detection_images(supplies)
    ways = [replace(WAYS[SPP_5], network=network) for network in (ZF, ZF_SECOND)]
    benches = [open_bench(way, images, supplies, track) for way in ways]
    for name, bench in zip((FIRST, SECOND), benches, strict=True):
        yield from _class_cells(name, bench, BEST)
    ready = [bench for bench in benches if not isinstance(bench, str)]
    if len(ready) < len(benches):
        yield NotRun(BOTH, MEAN, missing_words(*benches))
        return
    began = time.perf_counter()
    values = score_combination(ready, track)
    parts = [part for bench in ready for part in bench.differs(BEST).split("; ")]
    words = "; ".join(dict.fromkeys(parts))
    yield from _cells(BOTH, ready[0], values, words, began)
    for bench in ready:
        yield from bench.problems


def score_combination(benches: Sequence[DetectionBench], track: Track) -> Tensor:
    """Score detectors that answer as one: (K,) average precision of each class.

    Args:
        benches: Where each was trained, all on the same images.
        track: Shows the progress.
    """
    cache = benches[0].cache
    key = cache.make_key(kind="combination", benches=tuple(bench.key for bench in benches))
    record = cache.get(key)
    if record is None:
        combined = CombinedDetector([bench.detector(BEST) for bench in benches])
        record = {"average_precision": score_detector(combined, benches, track)}
        cache.put(key, record)
    return record["average_precision"]


def open_bench(
    way: Way, images: DetectionImages | str, supplies: Supplies, track: Track
) -> DetectionBench | str:
    """Put a network and the images together, or say what is missing."""
    network = find_detection_network(way.network, supplies)
    if isinstance(images, str) or isinstance(network, str):
        return missing_words(images, network)
    return DetectionBench(way, network, images, supplies, track)


def _measure_ways(printed: Printed, supplies: Supplies, track: Track) -> Findings:
    """Measure the columns of table 9 or 10."""
    columns = {
        name: WAYS[name] for name in printed.columns if wanted((WAYS[name].network,), supplies)
    }
    if "precision" in supplies.effort.parts:
        rows = [row for row in printed.rows if row in ROWS]
        images = open_detection_images(supplies)
        for column, way in columns.items():
            bench = open_bench(way, images, supplies, track)
            for row in rows:
                yield _mean_cell(row, column, bench)
            if not isinstance(bench, str):
                yield from (*bench.images.problems, *bench.problems)
    if "speed" in supplies.effort.parts:
        yield from measure_speed(columns, supplies, track)


def _mean_cell(row: str, column: str, bench: DetectionBench | str) -> Finding:
    """The mean over the classes."""
    reason = bench if isinstance(bench, str) else bench.why_not(ROWS[row])
    if isinstance(bench, str) or reason:
        return NotRun(row, column, reason)
    began = time.perf_counter()
    value = 100 * float(bench.score(ROWS[row]).nanmean())
    seconds = time.perf_counter() - began
    words, images = bench.differs(ROWS[row]), len(bench.images.test)
    return Measured(row, column, value, words, images=images, seconds=seconds)


def _class_cells(name: str, bench: DetectionBench | str, row: Row) -> Findings:
    """The mean, and every class."""
    if isinstance(bench, str):
        yield NotRun(name, MEAN, bench)
        return
    began = time.perf_counter()
    yield from bench.images.problems
    yield from _cells(name, bench, bench.score(row), bench.differs(row), began)


def _cells(
    name: str, bench: DetectionBench, values: Tensor, words: str, began: float
) -> Iterator[Measured]:
    """One row of table 11 or 12; classes that VOC does not have get columns of their own."""
    seconds, images = time.perf_counter() - began, len(bench.images.test)
    columns = [MEAN, *(VOC_COLUMNS.get(each, each) for each in bench.images.names)]
    shares = torch.cat([values.nanmean()[None], values])
    for column, value in zip(columns, (100 * shares).tolist(), strict=True):
        if value == value:  # a class without objects has none
            yield Measured(name, column, value, words, images=images, seconds=seconds)
