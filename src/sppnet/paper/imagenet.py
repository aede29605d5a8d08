"""Tables 2, 3 and 4: errors on ImageNet's validation images, or on class folders in their place."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sppnet.classification import Classifier, predict_files, score_predictions
from sppnet.classification.data import match_classes
from sppnet.classification.views import PLANS
from sppnet.errors import Problem
from sppnet.paper.labelled import draw_images, images_to_score
from sppnet.paper.printed import (
    NETWORKS,
    SPP_OVERFEAT_10,
    SPP_OVERFEAT_98,
    TABLE_3,
    TABLE_4,
)
from sppnet.paper.results import Finding, Measured, NotRun
from sppnet.paper.slots import KINDS, Slot
from sppnet.paper.supplies import IMAGENET, Supplies
from sppnet.paper.trained import train_slot
from sppnet.progress import Track
from sppnet.storage import FeatureCache

IMAGENET_CLASSES, IMAGENET_VAL = 1000, 50_000
NO_TEST_LABELS = "the labels of ImageNet's test images are not public"

Findings = Iterator[Finding]


def measure_table_2(supplies: Supplies, track: Track) -> Findings:
    """Measure no SPP, single-size and multi-size training: 10 views, top-1 and top-5."""
    for network in wanted(NETWORKS, supplies):
        for kind, words in KINDS.items():
            rows = {"top1": f"{words}, top-1", "top5": f"{words}, top-5"}
            places = [(metric, row, network) for metric, row in rows.items()]
            yield from measure_slot(Slot(network, kind), "10", places, supplies, track)


def measure_table_3(supplies: Supplies, track: Track) -> Findings:
    """Measure one crop against the whole image."""
    for row in TABLE_3.rows:
        network, _, training = row.partition(", ")
        if not wanted((network,), supplies):
            continue
        slot = Slot(network, training.split("-")[0])
        for view, column in (("crop", "1 crop"), ("full", "1 full")):
            yield from measure_slot(slot, view, [("top1", row, column)], supplies, track)


def measure_table_4(supplies: Supplies, track: Track) -> Findings:
    """Measure the paper's best single network with 10 and with 98 views."""
    slot = Slot("Overfeat-7", "multi")
    for view, row in (("10", SPP_OVERFEAT_10), ("98", SPP_OVERFEAT_98)):
        places = [("top1", row, "top-1 val"), ("top5", row, "top-5 val")]
        yield from measure_slot(slot, view, places, supplies, track)
    yield NotRun(SPP_OVERFEAT_98, TABLE_4.columns[2], NO_TEST_LABELS)


def wanted(networks: Sequence[str], supplies: Supplies) -> list[str]:
    """Keep the networks that were asked for, all if none was."""
    return [name for name in networks if not supplies.networks or name in supplies.networks]


def measure_slot(
    slot: Slot,
    view: str,
    places: Sequence[tuple[str, str, str]],
    supplies: Supplies,
    track: Track,
) -> Findings:
    """Score one network in one view and yield its errors.

    Args:
        slot: Which network.
        view: What of an image is seen, as ``--view`` has it.
        places: Figure, row and column of each number.
        supplies: Where everything is.
        track: Shows the progress.
    """
    root = supplies.find_data(IMAGENET)
    is_there = supplies.training is not None or slot.find(supplies) is not None
    missing = [] if root is not None else [supplies.missing_data(IMAGENET)]
    missing += [] if is_there else [slot.missing(supplies)]
    if root is None or missing:
        yield from (NotRun(row, column, "; ".join(missing)) for _, row, column in places)
        return
    classifier = slot.load(supplies)
    if classifier is None:
        classifier, problems = train_slot(slot, root, supplies, track)
        yield from problems
    began = time.perf_counter()
    figures, images, problems = score_folder(classifier, root, view, supplies, track)
    yield from problems
    seconds = time.perf_counter() - began
    words = what_differs(classifier, root, images)
    for metric, row, column in places:
        error = 100 * (1 - figures[metric])
        yield Measured(row, column, error, words, images=images, seconds=seconds)


def score_folder(
    classifier: Classifier, root: Path, view: str, supplies: Supplies, track: Track
) -> tuple[Mapping[str, float], int, Sequence[Problem]]:
    """Score a network on validation images.

    Returns:
        Its figures as shares, how many images they are from, and what was wrong with others.

    Raises:
        UsageError: If an image is of a class that the network does not know.
    """
    dataset = draw_images(images_to_score(root, supplies.seed), supplies.limit, supplies.seed)
    labels = match_classes(dataset, classifier.names)
    cache = FeatureCache(supplies.out / "cache")
    found = predict_files(classifier, dataset.paths, view=PLANS[view], cache=cache, track=track)
    truth = labels[found.kept]
    figures = score_predictions(found.rows, truth, classifier.names)
    return figures, len(truth), (*dataset.problems, *found.problems)


def what_differs(classifier: Classifier, root: Path, images: int) -> str:
    """Say in words what is not as in the paper."""
    parts = []
    if len(classifier.names) != IMAGENET_CLASSES:
        parts.append(f"{root.name}: {len(classifier.names)} classes instead of ImageNet's 1000")
    if images != IMAGENET_VAL:
        parts.append(f"{images:,} images")
    settings = classifier.about.get("settings", {})
    if settings.get("epochs"):
        parts.append(f"{settings['epochs']} epochs")
    return "; ".join(parts)
