"""``sppnet classify train``: trains a network for every split and scores it on whole images."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sppnet.app.classify import shared
from sppnet.app.console import (
    cache_of_run,
    human_bytes,
    human_seconds,
    in_silence,
    options_to_blame,
    say,
    warn,
)
from sppnet.app.options import choose_device
from sppnet.app.progress import Stage, announce, track
from sppnet.classification import (
    Checkpoints,
    ClassData,
    Classifier,
    InputSizes,
    Processes,
    Split,
    SplitConfig,
    SppNet,
    TrainConfig,
    TrainerConfig,
    TrainingImages,
    TrainingLog,
    View,
    build_classifier,
    join_processes,
    mean_figures,
    predict_files,
    score_predictions,
    train_network,
)
from sppnet.errors import NothingUsableError, Problem, count_of
from sppnet.storage import RunFolder, write_json
from sppnet.storage.files import ensure_output_folder
from sppnet.training.distributed import local_device


@dataclass(frozen=True)
class RuntimeOptions:
    """How a training is run; its result does not depend on these.

    Args:
        save_seconds: Time between states inside an epoch.
        tensorboard: Whether to write TensorBoard's files.
        workers: Threads that prepare batches.
    """

    save_seconds: float = 60.0
    tensorboard: bool = False
    workers: int = 1


@dataclass
class Trained:
    """What became of one split."""

    classifier: Classifier
    history: list[dict[str, Any]]
    figures: dict[str, Any]
    counts: dict[str, int]
    problems: list[Problem]


@dataclass(frozen=True)
class TrainJob:
    """What the trainings of one command have in common."""

    settings: TrainConfig
    trainer: TrainerConfig
    options: shared.RunOptions
    runtime: RuntimeOptions
    processes: Processes
    data: ClassData

    def network(self) -> SppNet:
        """The network before training."""
        return make_network(self.settings, len(self.data.names), self.options)


def run_train(
    settings: TrainConfig,
    split_config: SplitConfig,
    options: shared.RunOptions,
    runtime: RuntimeOptions,
) -> None:
    """Run the whole command; under ``torchrun`` the first process writes and speaks for all."""
    device = local_device(choose_device(options.device))
    options = replace(options, device=str(device))
    with join_processes(device) as processes, in_silence(not processes.is_first):
        data = shared.open_data(options, split_config)
        trainer = TrainerConfig.of(settings)
        work = _lead if processes.is_first else _follow
        work(TrainJob(settings, trainer, options, runtime, processes, data))


def _lead(job: TrainJob) -> None:
    """Train and score every split, write the results and print them."""
    data, options, splits = job.data, job.options, job.data.splits()
    network = job.network()
    shown = job.trainer.epochs * len(splits) * len(splits[0].train)
    seconds = estimate_seconds(network, job.trainer.sizes, job.trainer.batch, shown)
    seconds /= job.processes.count
    if options.dry_run:
        _say_plan(data, splits, job.trainer, network, seconds)
        return
    config = {
        **asdict(job.settings),
        "data": options.data.resolve(),
        "rule": asdict(data.split_config),
    }
    with RunFolder.open(
        options.out,
        "classify train",
        config,
        job.settings.seed,
        fresh=options.fresh,
        data=shared.run_data(data, options.data, splits, [job.settings.weights]),
        state=("checkpoints",),
    ) as run:
        shared.report_changes(run)
        announce([Stage("reading images"), Stage("training", seconds), Stage("testing")])
        trained = [_train_split(job, split, number, run) for number, split in enumerate(splits)]
        trained[0].classifier.save(run.path / "model")
        figures, summary = mean_figures([each.figures for each in trained])
        problems = list({problem: None for each in trained for problem in each.problems})
        metrics = {
            **figures,
            "figures_from": data.describe_split(),
            "splits": summary,
            "images": {**trained[0].counts, "listed": len(data.paths), "failed": len(problems)},
            "classes": len(data.names),
            "processes": job.processes.count,
            "history": trained[0].history,
            "seconds": run.seconds(),
            "problems": shared.plain_problems([*data.problems, *problems]),
        }
        write_json(run.path / "metrics.json", metrics)
    shared.say_figures(figures, summary)
    shared.say_results(options.out / "model", options.out / "metrics.json")
    shared.finish([*data.problems, *problems])


def _follow(job: TrainJob) -> None:
    """Take part in every training and write nothing."""
    for split in [] if job.options.dry_run else job.data.splits():
        images, network = _read_images(job, split), job.network()
        labels = job.data.labels[split.train[images.kept]]
        train_network(
            network,
            images,
            labels,
            job.trainer,
            processes=job.processes,
            workers=job.runtime.workers,
        )


def make_network(settings: TrainConfig, num_classes: int, options: shared.RunOptions) -> SppNet:
    """Build trunk and head; new weights depend on the seed alone."""
    trunk, device = shared.make_trunk(
        settings.backbone, settings.weights, "", settings.seed, options
    )
    torch.manual_seed(settings.seed + 1)
    with options_to_blame():
        network = build_classifier(
            trunk,
            num_classes,
            settings.levels,
            settings.hidden,
            settings.dropout,
            pool=settings.pool,
            feature_norm=settings.feature_norm or None,
        )
    return network.to(device)


def _train_split(job: TrainJob, split: Split, number: int, run: RunFolder) -> Trained:
    """Train on one part of the images and score on the other."""
    with run.stage("reading"):
        images = _read_images(job, split)
    shared.report_each(images.problems)
    fitted = split.train[images.kept]
    name = f"split-{number:02d}"
    checkpoints = Checkpoints(run.path / "checkpoints" / name, job.runtime.save_seconds)
    logs = run.path if number == 0 else ensure_output_folder(run.path / name)
    network = job.network()
    with run.stage("training"):
        history = train_network(
            network,
            images,
            job.data.labels[fitted],
            job.trainer,
            checkpoints=checkpoints,
            track=track,
            log=TrainingLog(logs, tensorboard=job.runtime.tensorboard),
            processes=job.processes,
            workers=job.runtime.workers,
        )
    for folder in checkpoints.damaged:
        warn(Problem(str(folder), "training state is damaged", "E_CHECKSUM", action="not used"))
    view = View("full", job.settings.test_imgsz or job.trainer.short_side)
    about = {"command": "classify train", "settings": asdict(job.settings)}
    classifier = Classifier(network, view, job.data.names, seen=images.digests, about=about)
    figures, tested, problems = _test(classifier, job.data, split, run)
    counts = {"train": len(fitted), "test": tested}
    return Trained(classifier, history, figures, counts, [*images.problems, *problems])


def _read_images(job: TrainJob, split: Split) -> TrainingImages:
    """Decode what is to be trained on."""
    paths = [job.data.paths[index] for index in split.train.tolist()]
    images = TrainingImages(paths, job.trainer.short_side, track=track)
    if not len(images):
        raise NothingUsableError("none of the images to train on can be used")
    return images


def _test(
    classifier: Classifier, data: ClassData, split: Split, run: RunFolder
) -> tuple[dict[str, Any], int, list[Problem]]:
    """Score whole images that were not trained on."""
    paths = [data.paths[index] for index in split.test.tolist()]
    with run.stage("testing"), cache_of_run(run.path / "cache", keep=False) as cache:
        found = predict_files(classifier, paths, cache=cache, track=track)
    shared.report_each(found.problems)
    labels = data.labels[split.test[found.kept]]
    return score_predictions(found.rows, labels, data.names), len(labels), list(found.problems)


def estimate_seconds(network: SppNet, sizes: InputSizes, batch: int, shown: int) -> float:
    """Estimate the time of a training from one forward and backward pass at each size.

    Args:
        network: On its device.
        sizes: Sizes of the input; each has an equal share of the images.
        batch: Images in one update.
        shown: Images of all epochs together.
    """
    seconds = 0.0
    device = next(network.parameters()).device
    rows = min(8, batch)
    for size in sizes.sides:
        width = size * 4 // 3 if sizes.natural else size  # most photos are 4:3
        images = torch.rand(rows, 3, size, width, device=device)
        for _ in range(2):  # the first call sets things up
            begin = time.perf_counter()
            network(images.contiguous(memory_format=torch.channels_last)).sum().backward()
            last = time.perf_counter() - begin
        seconds += last / rows * shown / len(sizes.sides)
    network.zero_grad(set_to_none=True)
    return seconds


def _say_plan(
    data: ClassData, splits: list[Split], trainer: TrainerConfig, network: SppNet, seconds: float
) -> None:
    """Print what a dry run is asked for."""
    size = sum(4 * parameter.numel() for parameter in network.parameters())
    learnt, scored = (count_of(len(part), "image") for part in (splits[0].train, splits[0].test))
    classes = count_of(len(data.names), "class")
    say(f"would train {classes} on {learnt}, sizes {trainer.sizes}")
    times = f"{count_of(trainer.epochs, 'epoch')}, {count_of(len(splits), 'split')}"
    say(f"{times}, {scored} to score on")
    say(f"disk: {human_bytes(5 * size)} for the model and two training states of each split")
    say(f"about {human_seconds(seconds)} of training")
