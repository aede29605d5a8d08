"""Tables 1 to 5, the networks of the paper on ImageNet; the claim of several training sizes."""

import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sppnet.backbones import build_backbone
from sppnet.backbones.paper import build_paper_trunk
from sppnet.classification import (
    PLANS,
    Classifier,
    InputSizes,
    SppNet,
    TrainerConfig,
    TrainingImages,
    View,
    ViewPlan,
    build_classifier,
    build_paper_network,
    layer_table,
    match_classes,
    predict_files,
    score_predictions,
    train_network,
    view_plan,
)
from sppnet.classification.train.config import Augmentation
from sppnet.classification.views import BASE_SIDE
from sppnet.errors import Problem, count_of
from sppnet.images import ClassificationDataset
from sppnet.paper.printed import (
    CLAIM_SIZES,
    NETWORKS,
    SPP_11,
    SPP_OVERFEAT_10,
    SPP_OVERFEAT_98,
    TABLE_1,
    TABLE_3,
    TABLE_4,
    TABLE_5,
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
    load_stand_in,
)
from sppnet.paper.tables import Findings, Measured, NotRun, compare, leave_out
from sppnet.progress import Track
from sppnet.storage import FeatureCache
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.optimizers import OptimizerConfig

RATE = 0.01
IMAGENET_CLASSES, IMAGENET_VAL = 1000, 50_000
NO_TEST_LABELS = "the labels of ImageNet's test images are not public"
SIDE = 224
BEFORE_POOLING = {("ZF-5", "conv2")}  # printed as 27, which the map has before its pooling only
NOTE = (
    "conv2 of ZF-5 is the map before its pooling, as the printed number must be, and 26 by the "
    "released network's padding of 0; a padding of 1 gives the printed 27; both are pooled to 13"
)
PADDED = "conv2 with padding 1"  # a row that the paper's table does not have
PAPER_EPOCHS = {"ZF-5": 70}  # 90 for the others
OTHER_EPOCHS = 90
PAPER_TRAINING = NetworkTrainingConfig()
# What --train does not do as the paper does, whatever the flags.
TRAINED_DIFFERS = "trained with a constant mean of 128 instead of the mean image"
SMALL_TRUNK = "small5"  # what the claim trains from random weights in minutes
CLAIM_IMAGES = 400  # most to learn from, and to score, if --limit does not say
LAST_NUMBER = 20  # of networks of one kind that table 5 looks for
NO_TEST_SERVER = (
    "the test labels of ILSVRC 2014 are not public and its server is closed; the eleven networks "
    "were never released"
)


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
    yield Measured(PADDED, "ZF-5", float(padded_side()), differs=NOTE)


def padded_side(padding: int = 1, side: int = SIDE) -> int:
    """Side of ZF-5's second map, before its pooling, with another padding of that convolution.

    Args:
        padding: Cells on each side; the released network has 0.
        side: Pixels of the square image.

    Example:
        >>> padded_side(0), padded_side(1)
        (26, 27)
    """
    with torch.device("meta"):  # sizes need no numbers
        trunk = build_paper_trunk(BACKBONES["ZF-5"])
        features = torch.zeros(1, 3, side, side)
        for name, layer in trunk.named_children():
            if name == "conv2":
                features = features.new_zeros(
                    1, features.shape[1], *(length + 2 * padding for length in features.shape[2:])
                )
            features = layer(features)
            if name == "conv2":
                break
    return features.shape[-1]


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


def measure_table_5(resources: Resources, track: Track) -> Findings:
    """Measure all networks that are there as one, on validation images in place of the test's."""
    column = TABLE_5.columns[0]
    root, found = resources.find_data(IMAGENET), find_models(resources)
    if root is None or not found:
        missing = [NO_TEST_SERVER] + [resources.missing_data(IMAGENET)] * (root is None)
        missing += [] if found else [f"no network is in {resources.models_folder}"]
        yield NotRun(SPP_11, column, "; ".join(missing))
        return
    began = time.perf_counter()
    dataset = draw_images(images_to_score(root, resources.seed), resources.limit, resources.seed)
    cache = FeatureCache(resources.out / "cache")
    classifiers = [spec.load(resources.models_folder, resources.device) for spec in found]
    known = [each for each in classifiers if each is not None]
    if len({each.names for each in known}) > 1:
        yield NotRun(SPP_11, column, f"networks in {resources.models_folder} know other classes")
        return
    scored = [
        predict_files(each, dataset.paths, PLANS["98"], cache=cache, track=track) for each in known
    ]
    yield from dict.fromkeys([*dataset.problems, *scored[0].problems])
    truth = match_classes(dataset, known[0].names)[scored[0].kept]
    mean = torch.stack([each.rows for each in scored]).mean(0)
    error = 100 * (1 - score_predictions(mean, truth, known[0].names)["top5"])
    differs = f"{len(known)} networks of 11; validation images of {root.name}"
    seconds, name = time.perf_counter() - began, ", ".join(spec.name for spec in found)
    parts = (what_differs(known[0], root, len(truth)), None, len(truth), seconds, name)
    yield Measured(SPP_11, column, error, "; ".join([differs, parts[0]]), *parts[1:])


def find_models(resources: Resources) -> list[ModelSpec]:
    """List the paper's networks that are there, also second and further ones of a kind."""
    names = [network for network in NETWORKS if resources.wants(network)]
    numbers = ["", *(f"-{number}" for number in range(2, LAST_NUMBER + 1))]
    every = [ModelSpec(each, f"{kind}{n}") for each in names for kind in KINDS for n in numbers]
    return [spec for spec in every if spec.find(resources.models_folder) is not None]


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
    missing += [] if is_there else [spec.missing(resources.models_folder, can_train=True)]
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
    figures, images, problems = score_dataset(classifier, dataset, PLANS[view], cache, track)
    yield from problems
    seconds = time.perf_counter() - began
    differs = what_differs(classifier, root, images)
    if is_stale and resources.training is None:
        differs += "; trained on other images than are there now"
    for metric, row, column in places:
        error = 100 * (1 - figures[metric])
        yield Measured(row, column, error, differs, None, images, seconds, spec.name)


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
    training = resources.training
    dataset = images_to_train(root, resources.seed)
    torch.manual_seed(resources.seed)
    network = build_paper_network(
        BACKBONES[spec.network],
        len(dataset.names),
        spp=spec.kind != "no-spp",
        hidden=training.hidden,
    ).to(resources.device)
    config = trainer_config(spec, training, resources.seed)
    key = digest_labels(dataset)
    folder = resources.models_folder / spec.name
    checkpoints = Checkpoints(folder / "checkpoints" / key[:16])
    classifier, problems = _train(network, dataset, config, checkpoints, track)
    settings = {"epochs": config.epochs, "kind": spec.kind, "images": key}
    settings["differs"] = training_differs(spec, training)
    classifier.about = {"command": "reproduce", "settings": settings}
    classifier.save(folder / "model")
    return classifier, problems


def _train(
    network: SppNet,
    dataset: ClassificationDataset,
    config: TrainerConfig,
    checkpoints: Checkpoints,
    track: Track,
) -> tuple[Classifier, Sequence[Problem]]:
    """Train a network on images, or go on with it, and say what was wrong with files."""
    photos = TrainingImages(dataset.paths, config.short_side, track=track)
    labels = dataset.labels[photos.kept]
    train_network(network, photos, labels, config, checkpoints=checkpoints, track=track)
    classifier = Classifier(network, View("full", BASE_SIDE), dataset.names, seen=photos.digests)
    return classifier, (*dataset.problems, *photos.problems)


def measure_sizes(resources: Resources, track: Track) -> Findings:
    """Measure training at several sizes against the largest alone, with one network for each seed.

    The seed draws the images, too. Both networks see whole images when they are scored.
    """
    root, training = resources.find_classes(), resources.training or PAPER_TRAINING
    if isinstance(root, str):
        yield from leave_out(CLAIM_SIZES, root)
        return
    began = time.perf_counter()
    plan = view_plan("full", round(max(training.sizes) * BASE_SIDE / SIDE))
    cache = FeatureCache(resources.out / "cache")
    errors: dict[str, list[float]] = {"single": [], "multi": []}
    most = resources.most(CLAIM_IMAGES)
    for seed in resources.seeds:
        own = replace(resources, seed=seed)
        learnt, scored = (
            draw_images(part(root, seed), most, seed) for part in (images_to_train, images_to_score)
        )
        if not len(scored):
            yield from leave_out(CLAIM_SIZES, f"no image of {root} is left to score on")
            return
        for kind, found in errors.items():
            config = trainer_config(ModelSpec("ZF-5", kind), training, seed)
            network = _claim_network(len(learnt.names), training, own)
            key = hashlib.sha256(f"{digest_labels(learnt)} {config} {network}".encode()).hexdigest()
            checkpoints = Checkpoints(resources.out / "tuning" / key[:16])
            classifier, problems = _train(network, learnt, config, checkpoints, track)
            yield from problems
            figures, images, problems = score_dataset(classifier, scored, plan, cache, track)
            yield from problems
            found.append(100 * (1 - figures["top1"]))
    trunk = f"{resources.backbone}, weights {resources.weights}" if resources.backbone else ""
    classes = count_of(len(learnt.names), "class")
    parts = [
        trunk or f"{SMALL_TRUNK} from random weights",
        f"{count_of(len(learnt), 'image')} of {classes} to learn from, {images:,} to score",
        f"whole images at {plan.whole_side}",
        training_differs(ModelSpec("ZF-5", "multi"), training),
    ]
    yield from compare(
        CLAIM_SIZES,
        errors["single"],
        errors["multi"],
        differs="; ".join(parts),
        images=images,
        seconds=time.perf_counter() - began,
        network=resources.backbone or SMALL_TRUNK,
    )


def _claim_network(classes: int, training: NetworkTrainingConfig, resources: Resources) -> SppNet:
    """The network that the claim trains: a small one of random weights, or what stands in."""
    torch.manual_seed(resources.seed)
    if resources.backbone:
        backbone = load_stand_in(resources.backbone, resources.weights, resources).backbone
    else:
        backbone = build_backbone(SMALL_TRUNK)
    network = build_classifier(backbone, classes, hidden=training.hidden)
    return network.to(resources.device)


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
        >>> config = trainer_config(ModelSpec("ZF-5", "single"), NetworkTrainingConfig(), seed=0)
        >>> config.crop, config.epochs, config.augmentation.crops
        (224, 70, 'paper')
    """
    sizes = training.sizes if spec.kind == "multi" else (max(training.sizes),)
    return TrainerConfig(
        epochs=epochs_of(spec, training),
        sizes=InputSizes(sizes),
        batch=training.batch,
        optimizer=OptimizerConfig(RATE),
        augmentation=Augmentation("paper"),
        seed=seed,
    )


def epochs_of(spec: ModelSpec, training: NetworkTrainingConfig) -> int:
    """Epochs of one network: those that were asked for, or the paper's."""
    return training.epochs or PAPER_EPOCHS.get(spec.network, OTHER_EPOCHS)


def training_differs(spec: ModelSpec, training: NetworkTrainingConfig) -> str:
    """Say how ``--train`` trains a network otherwise than the paper.

    Example:
        >>> config = NetworkTrainingConfig(2, batch=16)
        >>> training_differs(ModelSpec("ZF-5", "multi"), config).split("; ")[:2]
        ['2 epochs instead of 70', 'batch 16']
    """
    epochs, usual = epochs_of(spec, training), PAPER_EPOCHS.get(spec.network, OTHER_EPOCHS)
    parts = [f"{count_of(epochs, 'epoch')} instead of {usual}" if epochs != usual else ""]
    sizes = training.sizes if spec.kind == "multi" else (max(training.sizes),)
    paper = PAPER_TRAINING.sizes if spec.kind == "multi" else (max(PAPER_TRAINING.sizes),)
    wrong = {
        "sizes": (sizes, paper),
        "fc layers": (training.hidden, PAPER_TRAINING.hidden),
        "batch": ((training.batch,), (PAPER_TRAINING.batch,)),
    }
    for name, (here, there) in wrong.items():
        parts.append(f"{name} {'-'.join(map(str, here))}" if here != there else "")
    return "; ".join(filter(None, [*parts, TRAINED_DIFFERS]))


def score_dataset(
    classifier: Classifier,
    dataset: ClassificationDataset,
    view: ViewPlan,
    cache: FeatureCache,
    track: Track,
) -> tuple[Mapping[str, float], int, Sequence[Problem]]:
    """Score a network on images whose class is known.

    Args:
        classifier: The network.
        dataset: The images.
        view: What of an image is seen.
        cache: Where scores are kept.
        track: Shows the progress.

    Returns:
        Its figures as shares, how many images they are from, and what was wrong with the others.

    Raises:
        UsageError: If an image is of a class that the network does not know.
    """
    labels = match_classes(dataset, classifier.names)
    found = predict_files(classifier, dataset.paths, view=view, cache=cache, track=track)
    truth = labels[found.kept]
    figures = score_predictions(found.rows, truth, classifier.names)
    return figures, len(truth), (*dataset.problems, *found.problems)


def what_differs(classifier: Classifier, root: Path, images: int) -> str:
    """Say what is not as in the paper."""
    parts = []
    if len(classifier.names) != IMAGENET_CLASSES:
        classes = count_of(len(classifier.names), "class")
        parts.append(f"{root.name}: {classes} instead of ImageNet's 1000")
    if images != IMAGENET_VAL:
        parts.append(count_of(images, "image"))
    settings = classifier.about.get("settings", {})
    if settings.get("differs"):
        parts.append(settings["differs"])
    elif isinstance(epochs := settings.get("epochs"), int) and epochs:
        parts.append(count_of(epochs, "epoch"))
    return "; ".join(parts)
