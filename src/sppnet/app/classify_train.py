"""The work of ``sppnet classify train``: a network for every split, figures on whole images."""

import shutil
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sppnet.app import classify_steps as steps
from sppnet.app.console import human_bytes, human_seconds, say, warn
from sppnet.app.progress import Stage, announce, track
from sppnet.classification import (
    ClassData,
    Classifier,
    Split,
    SplitRule,
    SppNet,
    TrainingImages,
    TrainingPlan,
    TrainSettings,
    View,
    build_classifier,
    predict_files,
    score_predictions,
    train_network,
)
from sppnet.classification.checkpoints import Checkpoints
from sppnet.classification.protocol import mean_figures
from sppnet.errors import NothingUsableError, Problem
from sppnet.storage import FeatureCache, RunFolder, write_json

FEATURE_NORM = 20.0  # pooled vectors of thousands of numbers would otherwise need a tiny rate


@dataclass
class Trained:
    """What became of one split."""

    classifier: Classifier
    history: list[dict[str, Any]]
    figures: dict[str, Any]
    counts: dict[str, int]
    problems: list[Problem]


def run_train(settings: TrainSettings, rule: SplitRule, options: steps.RunOptions) -> None:
    """Do the whole command."""
    data = steps.open_data(options, rule)
    splits = data.splits()
    plan = make_plan(settings, options.seed)
    network = make_network(settings, len(data.names), options)
    seconds = len(splits) * estimate_seconds(network, plan, len(splits[0].train))
    if options.dry_run:
        _say_plan(data, splits, plan, network, seconds)
        return
    configuration = {**asdict(settings), "data": options.data.resolve(), "rule": asdict(rule)}
    with RunFolder.open(
        options.out, "classify train", configuration, options.seed, fresh=options.fresh
    ) as run:
        if options.fresh:
            shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        steps.report_changes(run)
        announce([Stage("reading images"), Stage("training", seconds), Stage("testing")])
        trained = []
        for number, split in enumerate(splits):
            network = make_network(settings, len(data.names), options)
            trained.append(_train_split(settings, plan, network, data, split, number, run))
        trained[0].classifier.save(run.path / "model")
        figures, summary = mean_figures([each.figures for each in trained])
        problems = list({problem: None for each in trained for problem in each.problems})
        metrics = {
            **figures,
            "figures_from": data.rule_words(),
            "splits": summary,
            "images": {**trained[0].counts, "listed": len(data.paths), "failed": len(problems)},
            "classes": len(data.names),
            "history": trained[0].history,
            "seconds": run.seconds(),
            "problems": steps.plain_problems([*data.problems, *problems]),
        }
        write_json(run.path / "metrics.json", metrics)
    steps.say_figures(figures, summary)
    steps.say_results(options.out / "model", options.out / "metrics.json")
    steps.finish([*data.problems, *problems])


def make_plan(settings: TrainSettings, seed: int) -> TrainingPlan:
    """Take the values of the training itself out of the settings."""
    return TrainingPlan(
        epochs=settings.epochs,
        sizes=settings.imgsz,
        batch=settings.batch,
        rate=settings.lr,
        trunk_rate=settings.trunk_share,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        seed=seed,
    )


def make_network(settings: TrainSettings, num_classes: int, options: steps.RunOptions) -> SppNet:
    """Build trunk and head; new weights depend on the seed alone."""
    trunk, device = steps.make_trunk(settings.backbone, settings.weights, "", options)
    torch.manual_seed(options.seed + 1)
    network = build_classifier(
        trunk,
        num_classes,
        settings.levels,
        settings.hidden,
        settings.dropout,
        feature_norm=FEATURE_NORM,
    )
    return network.to(device)


def _train_split(
    settings: TrainSettings,
    plan: TrainingPlan,
    network: SppNet,
    data: ClassData,
    split: Split,
    number: int,
    run: RunFolder,
) -> Trained:
    """Train on one part of the images and score on the other."""
    with run.stage("reading"):
        paths = [data.paths[index] for index in split.train.tolist()]
        images = TrainingImages(paths, plan.short_side, track=track)
    steps.report_each(images.problems)
    if not len(images):
        raise NothingUsableError("none of the images to train on can be used")
    fitted = split.train[images.kept]
    checkpoints = Checkpoints(run.path / "checkpoints" / f"split-{number:02d}")
    with run.stage("training"):
        history = train_network(
            network, images, data.labels[fitted], plan, checkpoints=checkpoints, track=track
        )
    for folder in checkpoints.damaged:
        warn(Problem(str(folder), "training state is damaged", "E_CHECKSUM", action="not used"))
    view = View("full", settings.test_short_side)
    about = {"command": "classify train", "settings": asdict(settings)}
    classifier = Classifier(network, view, data.names, seen=images.digests, about=about)
    figures, tested, problems = _test(classifier, data, split, run)
    counts = {"train": len(fitted), "test": tested}
    return Trained(classifier, history, figures, counts, [*images.problems, *problems])


def _test(
    classifier: Classifier, data: ClassData, split: Split, run: RunFolder
) -> tuple[dict[str, Any], int, list[Problem]]:
    """Score whole images that were not trained on."""
    paths = [data.paths[index] for index in split.test.tolist()]
    with run.stage("testing"):
        cache = FeatureCache(run.path / "cache")
        found = predict_files(classifier, paths, cache=cache, track=track)
    steps.report_each(found.problems)
    labels = data.labels[split.test[found.kept]]
    return score_predictions(found.rows, labels, data.names), len(labels), list(found.problems)


def estimate_seconds(network: SppNet, plan: TrainingPlan, count: int) -> float:
    """Guess the time of the whole training from one forward and backward pass at each size."""
    seconds = 0.0
    device = next(network.parameters()).device
    rows = min(8, plan.batch)
    for size in plan.sizes:
        images = torch.rand(rows, 3, size, size, device=device)
        for _ in range(2):  # the first call sets things up
            begin = time.perf_counter()
            network(images.contiguous(memory_format=torch.channels_last)).sum().backward()
            last = time.perf_counter() - begin
        seconds += last / rows * count * plan.epochs / len(plan.sizes)
    network.zero_grad(set_to_none=True)
    return seconds


def _say_plan(
    data: ClassData, splits: list[Split], plan: TrainingPlan, network: SppNet, seconds: float
) -> None:
    """Say what a dry run is for."""
    size = sum(4 * parameter.numel() for parameter in network.parameters())
    sizes = ", ".join(map(str, plan.sizes))
    say(f"would train {len(data.names)} classes on {len(splits[0].train)} images, sizes {sizes}")
    say(f"{plan.epochs} epochs, {len(splits)} splits, {len(splits[0].test)} images to score on")
    say(f"disk: {human_bytes(5 * size)} for the model and two training states of each split")
    say(f"about {human_seconds(seconds)} of training")
