"""Tables 1 to 4: the networks of the paper on ImageNet."""

import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sppnet.classification import (
    PLANS,
    Classifier,
    InputSizes,
    TrainerConfig,
    TrainingImages,
    View,
    build_paper_network,
    layer_table,
    match_classes,
    predict_files,
    score_predictions,
    train_network,
)
from sppnet.classification.views import BASE_SIDE
from sppnet.errors import Problem
from sppnet.images import ClassificationDataset
from sppnet.paper.printed import (
    NETWORKS,
    SPP_OVERFEAT_10,
    SPP_OVERFEAT_98,
    TABLE_1,
    TABLE_3,
    TABLE_4,
)
from sppnet.paper.resources import (
    BACKBONES,
    IMAGENET,
    KINDS,
    ModelSpec,
    NetworkTrainingConfig,
    Resources,
    draw_images,
    images_to_score,
    images_to_train,
)
from sppnet.paper.tables import Findings, Measured, NotRun
from sppnet.progress import Track
from sppnet.storage import FeatureCache
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.optimizers import OptimizerConfig

RATE = 0.01
IMAGENET_CLASSES, IMAGENET_VAL = 1000, 50_000
NO_TEST_LABELS = "the labels of ImageNet's test images are not public"
SIDE = 224
BEFORE_POOLING = {("ZF-5", "conv2")}  # printed as 27, which the map has before its pooling only
NOTE = "conv2 of ZF-5 is the map before its pooling, as the printed number must be; after it 13"


def measure_table_1(resources: Resources, track: Track) -> Findings:
    """Give the side of the map after each convolution stage of each network."""
    del resources
    for network in track(NETWORKS, "networks", total=len(NETWORKS)):
        sides = stage_sides(BACKBONES[network])
        for row in TABLE_1.rows:
            if TABLE_1.value(row, network) is None:
                continue
            before, after = sides[row]
            is_before = (network, row) in BEFORE_POOLING
            value = before if is_before else after
            yield Measured(row, network, float(value), differs=NOTE if is_before else "")


def stage_sides(backbone: str, side: int = SIDE) -> dict[str, tuple[int, int]]:
    """Sides of the map after each convolution, and after the pooling that belongs to it.

    Args:
        backbone: Name of a trunk, such as ``"zf5"``.
        side: Pixels of the square image.

    Example:
        >>> stage_sides("zf5")["conv1"]
        (110, 55)
    """
    sides: dict[str, tuple[int, int]] = {}
    stage = ""
    for row in layer_table(backbone, (side,)):
        cells = row.cells[0]
        if row.layer.startswith("conv"):
            stage = row.layer
            sides[stage] = (cells, cells)
        elif stage and row.layer.startswith("pool"):
            sides[stage] = (sides[stage][0], cells)
    return sides


def measure_table_2(resources: Resources, track: Track) -> Findings:
    """Measure no SPP, single-size and multi-size training: 10 views, top-1 and top-5."""
    for network in filter(resources.wants, NETWORKS):
        for kind, words in KINDS.items():
            rows = {"top1": f"{words}, top-1", "top5": f"{words}, top-5"}
            places = [(metric, row, network) for metric, row in rows.items()]
            yield from measure_model(ModelSpec(network, kind), "10", places, resources, track)


def measure_table_3(resources: Resources, track: Track) -> Findings:
    """Measure one crop against the whole image."""
    for row in TABLE_3.rows:
        network, _, training = row.partition(", ")
        if not resources.wants(network):
            continue
        spec = ModelSpec(network, training.split("-")[0])
        for view, column in (("crop", "1 crop"), ("full", "1 full")):
            yield from measure_model(spec, view, [("top1", row, column)], resources, track)


def measure_table_4(resources: Resources, track: Track) -> Findings:
    """Measure the paper's best single network with 10 and with 98 views."""
    spec = ModelSpec("Overfeat-7", "multi")
    for view, row in (("10", SPP_OVERFEAT_10), ("98", SPP_OVERFEAT_98)):
        places = [("top1", row, "top-1 val"), ("top5", row, "top-5 val")]
        yield from measure_model(spec, view, places, resources, track)
    yield NotRun(SPP_OVERFEAT_98, TABLE_4.columns[2], NO_TEST_LABELS)


def measure_model(
    spec: ModelSpec,
    view: str,
    places: Sequence[tuple[str, str, str]],
    resources: Resources,
    track: Track,
) -> Findings:
    """Score one network in one view and yield its errors.

    Args:
        spec: Which network.
        view: What of an image is seen, as ``--view`` has it.
        places: Figure, row and column of each number.
        resources: Data and networks.
        track: Shows the progress.
    """
    root = resources.find_data(IMAGENET)
    is_there = resources.training is not None or spec.find(resources.models_folder) is not None
    missing = [] if root is not None else [resources.missing_data(IMAGENET)]
    missing += [] if is_there else [spec.missing(resources.models_folder)]
    if root is None or missing:
        yield from (NotRun(row, column, "; ".join(missing)) for _, row, column in places)
        return
    classifier = spec.load(resources.models_folder, resources.device)
    is_stale = classifier is not None and saw_other_images(classifier, root, resources.seed)
    if is_stale and resources.training is not None:
        warnings.warn(f"{spec.name} was trained on other images: trained again", stacklevel=1)
    if classifier is None or (is_stale and resources.training is not None):
        classifier, problems = train_model(spec, root, resources, track)
        yield from problems
    began = time.perf_counter()
    dataset = draw_images(images_to_score(root, resources.seed), resources.limit, resources.seed)
    cache = FeatureCache(resources.out / "cache")
    figures, images, problems = score_dataset(classifier, dataset, view, cache, track)
    yield from problems
    seconds = time.perf_counter() - began
    differs = what_differs(classifier, root, images)
    if is_stale and resources.training is None:
        differs += "; trained on other images than are there now"
    for metric, row, column in places:
        error = 100 * (1 - figures[metric])
        yield Measured(row, column, error, differs, images=images, seconds=seconds)


def train_model(
    spec: ModelSpec, root: Path, resources: Resources, track: Track
) -> tuple[Classifier, Sequence[Problem]]:
    """Train one network and save it where the tables look for it.

    No SPP and single-size training see the largest size only, multi-size training all of them in
    turn. A run that was killed goes on from its last checkpoint.

    Args:
        spec: Which network, and how.
        root: Class folders.
        resources: Where it goes; ``training`` says how.
        track: Shows the progress.

    Returns:
        The trained network, and what was wrong with files.

    Raises:
        ValueError: If ``resources`` do not say how to train.

    Source:
        SPP-net, sections 2.3 and 3.1.
    """
    if resources.training is None:
        raise ValueError("training must be given, got None")
    config = trainer_config(spec, resources.training, resources.seed)
    dataset = images_to_train(root, resources.seed)
    torch.manual_seed(resources.seed)
    network = build_paper_network(
        BACKBONES[spec.network],
        len(dataset.names),
        spp=spec.kind != "no-spp",
        hidden=resources.training.hidden,
    ).to(resources.device)
    photos = TrainingImages(dataset.paths, config.short_side, track=track)
    folder = resources.models_folder / spec.name
    key = digest_labels(dataset)
    checkpoints = Checkpoints(folder / "checkpoints" / key[:16])
    labels = dataset.labels[photos.kept]
    train_network(network, photos, labels, config, checkpoints=checkpoints, track=track)
    settings = {"epochs": config.epochs, "kind": spec.kind, "images": key}
    about = {"command": "reproduce", "settings": settings}
    classifier = Classifier(
        network, View("full", BASE_SIDE), dataset.names, seen=photos.digests, about=about
    )
    classifier.save(folder / "model")
    return classifier, (*dataset.problems, *photos.problems)


def digest_labels(dataset: ClassificationDataset) -> str:
    """SHA-256 over names, sizes, dates and classes of images; a million are not read for it."""
    digest = hashlib.sha256(repr(dataset.names).encode())
    for path, label in zip(dataset.paths, dataset.labels.tolist(), strict=True):
        status = path.stat()
        name = path.relative_to(dataset.root).as_posix()
        digest.update(f"{name!r} {label} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def saw_other_images(classifier: Classifier, root: Path, seed: int) -> bool:
    """Tell whether a network that was trained here saw other images or classes than are there."""
    if classifier.about.get("command") != "reproduce":
        return False
    known = classifier.about.get("settings", {}).get("images")
    return bool(known != digest_labels(images_to_train(root, seed)))


def trainer_config(spec: ModelSpec, training: NetworkTrainingConfig, seed: int) -> TrainerConfig:
    """Make the configuration of the trainer for one network.

    Example:
        >>> trainer_config(ModelSpec("ZF-5", "single"), NetworkTrainingConfig(2), seed=0).crop
        224
    """
    sizes = training.sizes if spec.kind == "multi" else (max(training.sizes),)
    return TrainerConfig(
        epochs=training.epochs,
        sizes=InputSizes(sizes),
        batch=training.batch,
        optimizer=OptimizerConfig(RATE),
        seed=seed,
    )


def score_dataset(
    classifier: Classifier,
    dataset: ClassificationDataset,
    view: str,
    cache: FeatureCache,
    track: Track,
) -> tuple[Mapping[str, float], int, Sequence[Problem]]:
    """Score a network on images whose class is known.

    Args:
        classifier: The network.
        dataset: The images.
        view: Name of a plan, as ``--view`` has it.
        cache: Where scores are kept.
        track: Shows the progress.

    Returns:
        Its figures as shares, how many images they are from, and what was wrong with the others.

    Raises:
        UsageError: If an image is of a class that the network does not know.
    """
    labels = match_classes(dataset, classifier.names)
    found = predict_files(classifier, dataset.paths, view=PLANS[view], cache=cache, track=track)
    truth = labels[found.kept]
    figures = score_predictions(found.rows, truth, classifier.names)
    return figures, len(truth), (*dataset.problems, *found.problems)


def what_differs(classifier: Classifier, root: Path, images: int) -> str:
    """Say what is not as in the paper."""
    parts = []
    if len(classifier.names) != IMAGENET_CLASSES:
        parts.append(f"{root.name}: {len(classifier.names)} classes instead of ImageNet's 1000")
    if images != IMAGENET_VAL:
        parts.append(f"{images:,} images")
    settings = classifier.about.get("settings", {})
    if settings.get("epochs"):
        parts.append(f"{settings['epochs']} epochs")
    return "; ".join(parts)
