"""Tables 9 to 12: detection by SPP-net and by R-CNN, precision and seconds."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sppnet.detection import CombinedDetector
from sppnet.paper.detection_experiment import DetectionExperiment, score_detector
from sppnet.paper.detection_setup import (
    ALEX,
    ROWS,
    ZF,
    ZF_SECOND,
    DetectionImages,
    Method,
    Row,
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
from sppnet.paper.resources import Resources
from sppnet.paper.tables import Finding, Findings, Measured, NotRun, join_reasons
from sppnet.progress import Track

ONE_SCALE, FIVE_SCALES = (688,), (480, 576, 688, 864, 1200)
METHODS = {
    SPP_1: Method(ZF, ONE_SCALE),
    SPP_5: Method(ZF, FIVE_SCALES),
    RCNN_ALEX: Method(ALEX),
    RCNN_ZF: Method(ZF),
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


def measure_table_9(resources: Resources, track: Track) -> Findings:
    """Measure layer by layer, SPP-net with ZF-5 beside R-CNN with AlexNet."""
    yield from _measure_methods(TABLE_9, resources, track)


def measure_table_10(resources: Resources, track: Track) -> Findings:
    """Measure SPP-net and R-CNN with the same trained network."""
    yield from _measure_methods(TABLE_10, resources, track)


def measure_table_11(resources: Resources, track: Track) -> Findings:
    """Measure every class; the rows of other papers are printed only."""
    images = open_detection_images(resources)
    for column, method in METHODS.items():
        rows = {name: place[1] for name, place in ROWS_11.items() if place[0] == column}
        if not rows or not resources.wants(method.network):
            continue
        experiment = open_experiment(method, images, resources, track)
        for name, row in rows.items():
            yield from _class_cells(name, experiment, ROWS[row])
        if not isinstance(experiment, str):
            yield from experiment.problems


def measure_table_12(resources: Resources, track: Track) -> Findings:
    """Measure two networks, each with its own training, and both together."""
    images = open_detection_images(resources)
    methods = [replace(METHODS[SPP_5], network=network) for network in (ZF, ZF_SECOND)]
    experiments = [open_experiment(method, images, resources, track) for method in methods]
    for name, experiment in zip((FIRST, SECOND), experiments, strict=True):
        yield from _class_cells(name, experiment, BEST)
    ready = [experiment for experiment in experiments if not isinstance(experiment, str)]
    if len(ready) < len(experiments):
        yield NotRun(BOTH, MEAN, join_reasons(*experiments))
        return
    began = time.perf_counter()
    values = score_combination(ready, track)
    parts = [part for experiment in ready for part in experiment.differs(BEST).split("; ")]
    differs = "; ".join(dict.fromkeys(parts))
    yield from _cells(BOTH, ready[0], values, differs, began)
    for experiment in ready:
        yield from experiment.problems


def score_combination(experiments: Sequence[DetectionExperiment], track: Track) -> Tensor:
    """Score detectors that answer as one: (K,) average precision of each class.

    Args:
        experiments: Where each was trained, all on the same images.
        track: Shows the progress.
    """
    cache = experiments[0].cache
    key = cache.make_key(
        kind="combination", experiments=tuple(experiment.key for experiment in experiments)
    )
    record = cache.get(key)
    if record is None:
        combined = CombinedDetector([experiment.detector(BEST) for experiment in experiments])
        record = {"average_precision": score_detector(combined, experiments, track)}
        cache.put(key, record)
    return record["average_precision"]


def open_experiment(
    method: Method, images: DetectionImages | str, resources: Resources, track: Track
) -> DetectionExperiment | str:
    """Put a network and the images together, or say what is missing."""
    network = find_detection_network(method.network, resources)
    if isinstance(images, str) or isinstance(network, str):
        return join_reasons(images, network)
    return DetectionExperiment(method, network, images, resources, track)


def _measure_methods(printed: Printed, resources: Resources, track: Track) -> Findings:
    """Measure the columns of table 9 or 10."""
    columns = {
        name: METHODS[name] for name in printed.columns if resources.wants(METHODS[name].network)
    }
    if "precision" in resources.budget.parts:
        rows = [row for row in printed.rows if row in ROWS]
        images = open_detection_images(resources)
        for column, method in columns.items():
            experiment = open_experiment(method, images, resources, track)
            for row in rows:
                yield _mean_cell(row, column, experiment)
            if not isinstance(experiment, str):
                yield from (*experiment.images.problems, *experiment.problems)
    if "speed" in resources.budget.parts:
        yield from measure_speed(columns, resources, track)


def _mean_cell(row: str, column: str, experiment: DetectionExperiment | str) -> Finding:
    """The mean over the classes."""
    reason = experiment if isinstance(experiment, str) else experiment.why_not(ROWS[row])
    if isinstance(experiment, str) or reason:
        return NotRun(row, column, reason)
    began = time.perf_counter()
    value = 100 * float(experiment.score(ROWS[row]).nanmean())
    seconds = time.perf_counter() - began
    differs, images = experiment.differs(ROWS[row]), len(experiment.images.test)
    return Measured(row, column, value, differs, images=images, seconds=seconds)


def _class_cells(name: str, experiment: DetectionExperiment | str, row: Row) -> Findings:
    """The mean, and every class."""
    if isinstance(experiment, str):
        yield NotRun(name, MEAN, experiment)
        return
    began = time.perf_counter()
    yield from experiment.images.problems
    yield from _cells(name, experiment, experiment.score(row), experiment.differs(row), began)


def _cells(
    name: str, experiment: DetectionExperiment, values: Tensor, differs: str, began: float
) -> Iterator[Measured]:
    """One row of table 11 or 12; classes that VOC does not have get columns of their own."""
    seconds, images = time.perf_counter() - began, len(experiment.images.test)
    columns = [MEAN, *(VOC_COLUMNS.get(each, each) for each in experiment.images.names)]
    shares = torch.cat([values.nanmean()[None], values])
    for column, value in zip(columns, (100 * shares).tolist(), strict=True):
        if value == value:  # a class without objects has none
            yield Measured(name, column, value, differs, images=images, seconds=seconds)
