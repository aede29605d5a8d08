"""Tables 9 to 13 and two claims: detection by SPP-net and by R-CNN, precision and seconds."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sppnet.detection import CombinedDetector
from sppnet.paper.detection_experiment import (
    BestExperiment,
    DetectionExperiment,
    score_detector,
)
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
from sppnet.paper.detection_speed import TimedColumn, measure_speed, time_columns
from sppnet.paper.printed import (
    BOTH,
    CLAIM_PRECISION,
    CLAIM_SPEED,
    DET_TEST,
    FIRST,
    MEAN,
    OUR_COLUMN,
    OURS,
    PRE_TRAINED,
    RCNN,
    RCNN_ALEX,
    RCNN_ZF,
    SECOND,
    SPP,
    SPP_1,
    SPP_1_MODEL,
    SPP_5,
    SPP_6_MODELS,
    TABLE_9,
    TABLE_10,
    VOC_COLUMNS,
    VOC_POOL5,
    Printed,
)
from sppnet.paper.resources import Resources
from sppnet.paper.tables import (
    Finding,
    Findings,
    Measured,
    NotRun,
    compare,
    join_reasons,
    leave_out,
)
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
CLAIM_METHODS = {RCNN: METHODS[RCNN_ZF], SPP: METHODS[SPP_1]}
CLAIM_IMAGES, CLAIM_PROPOSALS = 24, 64  # what a claim takes if --limit and --windows do not say
PAPER_RECIPE, BEST_RECIPE = "paper", "best"
NO_DET = (
    "ILSVRC 2014's detection task is not there: its test labels are not public, and the six "
    "networks (Overfeat-7, pre-trained on 499 classes) were never released"
)
Experiments = list[DetectionExperiment] | str  # one for each seed, or why there are none


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
        if not rows or not _wants(method, resources):
            continue
        experiments = open_experiments(method, images, resources, track)
        for name, row in rows.items():
            yield from _class_cells(name, experiments, ROWS[row])
    yield from _class_cells(OURS, _best(images, resources, track), BEST)


def measure_table_12(resources: Resources, track: Track) -> Findings:
    """Measure two networks, each with its own training, and both together."""
    images = open_detection_images(resources)
    if PAPER_RECIPE in resources.budget.recipes:
        methods = [replace(METHODS[SPP_5], network=network) for network in (ZF, ZF_SECOND)]
        pair = [open_experiments(method, images, resources, track) for method in methods]
        for name, experiments in zip((FIRST, SECOND), pair, strict=True):
            yield from _class_cells(name, experiments, BEST)
        yield from _measure_both(pair, track)
    yield from _class_cells(OURS, _best(images, resources, track), BEST)


def measure_table_13(resources: Resources, track: Track) -> Findings:
    """Measure what pre-training gives on VOC 2007; the competition's own numbers cannot be."""
    yield NotRun(SPP_6_MODELS, DET_TEST, NO_DET)
    yield NotRun(SPP_1_MODEL, DET_TEST, NO_DET)
    images = open_detection_images(resources)
    for row, kind in PRE_TRAINED.items():
        network = ZF if kind == "multi" else kind
        experiments = open_experiments(Method(network, ONE_SCALE), images, resources, track)
        yield from _mean_cells([("pool5", row, VOC_POOL5)], experiments)


def _measure_both(pair: Sequence[Experiments], track: Track) -> Findings:
    """Measure two networks as one, with each seed."""
    ready = [experiments for experiments in pair if not isinstance(experiments, str)]
    if len(ready) < len(pair):
        yield NotRun(BOTH, MEAN, join_reasons(*pair))
        return
    began = time.perf_counter()
    values = [score_combination(both, track) for both in zip(*ready, strict=True)]
    first = [experiments[0] for experiments in ready]
    parts = [part for experiment in first for part in experiment.differs(BEST).split("; ")]
    differs = "; ".join(dict.fromkeys(parts))
    network = " + ".join(experiment.network.name for experiment in first)
    yield from _cells(BOTH, first[0], torch.stack(values), differs, began, network)
    for experiment in first:
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


def open_experiments(
    method: Method, images: DetectionImages | str, resources: Resources, track: Track
) -> Experiments:
    """Put a network and the images together, once for each seed, or say what is missing."""
    network = find_detection_network(method.network, resources)
    if isinstance(images, str) or isinstance(network, str):
        return join_reasons(images, network)
    return [
        DetectionExperiment(method, network, images, replace(resources, seed=seed), track)
        for seed in resources.seeds
    ]


def _best(images: DetectionImages | str, resources: Resources, track: Track) -> Experiments:
    """Experiments with our own recipe; none if they are not wanted."""
    method = METHODS[SPP_1]
    if BEST_RECIPE not in resources.budget.recipes or not resources.wants(ZF):
        return []
    network = find_detection_network(ZF, resources)
    if isinstance(images, str) or isinstance(network, str):
        return join_reasons(images, network)
    found: list[DetectionExperiment] = []
    for seed in resources.seeds:
        settings = resources.budget.settings(BEST_RECIPE, seed)
        own = replace(resources, seed=seed)
        found.append(BestExperiment(method, network, images, own, track, settings))
    return found


def _wants(method: Method, resources: Resources) -> bool:
    """Tell whether a column of the paper's is to be measured."""
    return resources.wants(method.network) and PAPER_RECIPE in resources.budget.recipes


def _measure_methods(printed: Printed, resources: Resources, track: Track) -> Findings:
    """Measure the columns of table 9 or 10, then our own."""
    methods = {name: METHODS[name] for name in printed.columns}
    columns = {name: each for name, each in methods.items() if resources.wants(each.network)}
    if "precision" in resources.budget.parts:
        images = open_detection_images(resources)
        for column, method in columns.items():
            if _wants(method, resources):
                places = [(row, row, column) for row in printed.rows if row in ROWS]
                experiments = open_experiments(method, images, resources, track)
                yield from _mean_cells(places, experiments)
        ours = [("ft fc7 bb", OURS, OUR_COLUMN)]
        yield from _mean_cells(ours, _best(images, resources, track))
    if "speed" in resources.budget.parts:
        yield from measure_speed(columns, resources, track)


def _mean_cells(places: Sequence[tuple[str, str, str]], experiments: Experiments) -> Findings:
    """The mean over the classes: of each row of `ROWS`, where it goes by row and column."""
    for name, row, column in places:
        if isinstance(experiments, str):
            yield NotRun(row, column, experiments)
        elif experiments:
            yield _mean_cell(ROWS[name], row, column, experiments)
    if not isinstance(experiments, str):
        for experiment in experiments:
            yield from (*experiment.images.problems, *experiment.problems)


def _mean_cell(
    kind: Row, row: str, column: str, experiments: Sequence[DetectionExperiment]
) -> Finding:
    """The mean over the classes, and over the seeds."""
    first = experiments[0]
    if reason := first.why_not(kind):
        return NotRun(row, column, reason)
    began = time.perf_counter()
    values = torch.stack([100 * each.score(kind).nanmean() for each in experiments])
    return Measured(
        row,
        column,
        float(values.mean()),
        first.differs(kind),
        deviation_of(values),
        len(first.images.test),
        time.perf_counter() - began,
        first.network.name,
    )


def deviation_of(values: Tensor) -> float | None:
    """Standard deviation of (R,) values over seeds; None for one of them.

    Example:
        >>> deviation_of(torch.tensor([3.0, 5.0])), deviation_of(torch.tensor([3.0]))
        (1.4142135381698608, None)
    """
    return float(values.std()) if len(values) > 1 else None


def _class_cells(name: str, experiments: Experiments, row: Row) -> Findings:
    """The mean, and every class."""
    if isinstance(experiments, str):
        yield NotRun(name, MEAN, experiments)
        return
    if not experiments:
        return
    began, first = time.perf_counter(), experiments[0]
    values = torch.stack([experiment.score(row) for experiment in experiments])
    yield from _cells(name, first, values, first.differs(row), began, first.network.name)
    for experiment in experiments:
        yield from (*experiment.images.problems, *experiment.problems)


def _cells(
    name: str,
    experiment: DetectionExperiment,
    values: Tensor,
    differs: str,
    began: float,
    network: str,
) -> Iterator[Measured]:
    """One row of (R, K) values; classes that VOC does not have get columns of their own."""
    seconds, images = time.perf_counter() - began, len(experiment.images.test)
    columns = [MEAN, *(VOC_COLUMNS.get(each, each) for each in experiment.images.names)]
    shares = 100 * torch.cat([values.nanmean(1, keepdim=True), values], 1)
    for column, each in zip(columns, shares.T, strict=True):
        if not bool(each.isnan().any()):  # a class without objects has none
            parts = (float(each.mean()), differs, deviation_of(each), images, seconds, network)
            yield Measured(name, column, *parts)


def measure_precision_claim(resources: Resources, track: Track) -> Findings:
    """Measure SPP-net at one scale against R-CNN, with the same network and the same images.

    The seed draws the images, where the data set has no split, and trains the detectors.
    """
    resources, began = resources.with_trunk(), time.perf_counter()
    proposals = resources.budget.max_proposals or CLAIM_PROPOSALS
    budget = replace(resources.budget, max_proposals=proposals)
    limit = resources.most(CLAIM_IMAGES)
    resources = replace(resources, budget=budget, limit=limit)
    values: dict[str, list[float]] = {way: [] for way in CLAIM_METHODS}
    experiment = None
    for seed in resources.seeds:
        own = replace(resources, seed=seed, repeats=1)
        images = open_detection_images(own)
        for way, method in CLAIM_METHODS.items():
            experiments = open_experiments(method, images, own, track)
            if isinstance(experiments, str):
                yield from leave_out(CLAIM_PRECISION, experiments)
                return
            (experiment,) = experiments
            values[way].append(100 * float(experiment.score(BEST).nanmean()))
            yield from (*experiment.images.problems, *experiment.problems)
    if experiment is None:
        raise ValueError("seeds must be at least one, got none")
    yield from compare(
        CLAIM_PRECISION,
        values[RCNN],
        values[SPP],
        differs=experiment.differs(BEST),
        images=len(experiment.images.test),
        seconds=time.perf_counter() - began,
        network=experiment.network.name,
    )


def measure_speed_claim(resources: Resources, track: Track) -> Findings:
    """Time the features of the same images by R-CNN and by SPP-net at one scale."""
    began, timed = time.perf_counter(), {}
    for found in time_columns(CLAIM_METHODS, resources.with_trunk(), track):
        if isinstance(found, TimedColumn):
            timed[found.name] = found
        elif isinstance(found, NotRun):
            yield from leave_out(CLAIM_SPEED, found.reason)
            return
        else:
            yield found
    yield from compare(
        CLAIM_SPEED,
        timed[RCNN].totals,
        timed[SPP].totals,
        differs=timed[SPP].differs,
        images=len(timed[SPP].totals),
        seconds=time.perf_counter() - began,
        network=timed[SPP].network,
    )
