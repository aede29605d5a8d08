"""``sppnet classify fit``: extracts features once, then fits and scores SVMs on every split."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sppnet.app.classify import shared
from sppnet.app.console import (
    cache_of_run,
    human_bytes,
    human_seconds,
    note,
    options_to_blame,
    say,
    warn_of_space,
)
from sppnet.app.options import choose_device
from sppnet.app.progress import Stage, announce, track
from sppnet.backbones import Backbone
from sppnet.classification import (
    Block,
    ClassData,
    Classifier,
    ExtractedFeatures,
    FeatureEncoder,
    FeatureExtractor,
    FeatureRecipe,
    FeatureSet,
    FitConfig,
    FitResult,
    NetworkExtractor,
    RecipeExtractor,
    Split,
    SplitConfig,
    View,
    VocData,
    build_pool,
    fit_splits,
)
from sppnet.classification.onnx import trunk_of
from sppnet.classification.transfer.recipe import recipes_of
from sppnet.errors import NothingUsableError, count_of
from sppnet.storage import RunFolder, is_model, write_json

FitData = ClassData | VocData


@dataclass(frozen=True)
class FitJob:
    """What one command fits on, and how.

    Args:
        settings: Values of the file and the flags.
        recipes: The recipes to choose from; they differ in their image sizes only.
        split_config: How the images of a plain folder are divided.
        options: Folders and device.
        data: The images.
    """

    settings: FitConfig
    recipes: tuple[FeatureRecipe, ...]
    split_config: SplitConfig
    options: shared.RunOptions
    data: FitData

    def config(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        return {
            **asdict(self.settings),
            "recipes": [recipe.config() for recipe in self.recipes],
            "data": self.options.data.resolve(),
            "rule": asdict(self.split_config),
        }

    def side_of(self, option: int) -> int:
        """The short side that stands for a recipe."""
        return self.recipes[option].blocks[0].short_side


@dataclass(frozen=True)
class Estimate:
    """What the features of all images cost.

    Args:
        seconds: Time to compute them.
        length: Numbers for each image, over all recipes.
    """

    seconds: float
    length: int


def run_fit(
    settings: FitConfig,
    split_config: SplitConfig,
    options: shared.RunOptions,
    cache: Path | None,
    protocol: str | None,
    keep_cache: bool = False,
) -> None:
    """Run the whole command."""
    data = shared.open_fit_data(options, split_config, protocol)
    job = FitJob(settings, recipes_of(settings), split_config, options, data)
    extractors = make_extractors(job)
    splits = data.splits()  # says now if a class is too small
    estimate = estimate_features(data, extractors)
    warn_of_space(
        cache or options.out,
        4 * estimate.length * len(data.paths),
        "--cache DIR writes elsewhere",
    )
    if options.dry_run:
        _say_plan(data, estimate)
        return
    with RunFolder.open(
        options.out,
        "classify fit",
        job.config(),
        settings.seed,
        fresh=options.fresh,
        data=shared.run_data(data, options.data, splits, [settings.weights, settings.backbone]),
    ) as run:
        shared.report_changes(run)
        announce([Stage("features", estimate.seconds), Stage("SVMs")])
        keep = keep_cache or cache is not None
        folder = cache or run.path / "cache"
        with cache_of_run(folder, keep=keep, flag="--keep-cache") as store:
            with run.stage("features"):
                extracted = [
                    ExtractedFeatures(each.extract(data.paths, cache=store, track=track), each)
                    for each in extractors
                ]
            problems = extracted[0].features.problems
            shared.report_each(problems)
            usable = _usable_splits(job, extracted[0].features)
            result = _fit(job, extracted, usable, run)
            _write_metrics(job, extracted, usable[0], result, run)
    _say_choice(job, result)
    shared.say_figures(result.figures, result.summary)
    shared.say_results(options.out / "model", options.out / "metrics.json")
    shared.finish([*data.problems, *problems])


def make_extractors(job: FitJob) -> list[FeatureExtractor]:
    """Build the trunk once, and an extractor for each recipe; a plain one makes a network."""
    settings, options = job.settings, job.options
    if is_model(settings.backbone):
        network = Classifier.load(settings.backbone, choose_device(options.device)).network
        with options_to_blame():
            network.backbone = trunk_of(network).with_engine(settings.engine)
            return [
                RecipeExtractor(FeatureEncoder.of_network(network, each)) for each in job.recipes
            ]
    first = job.recipes[0]
    layer = (first.blocks[0].layer or "") if first.is_plain else ""
    trunk, device = shared.make_trunk(
        settings.backbone, settings.weights, layer, settings.seed, options
    )
    with options_to_blame():
        trunk = trunk.with_engine(settings.engine)
    if first.is_plain:
        return [_plain_extractor(trunk, recipe.blocks[0]) for recipe in job.recipes]
    with options_to_blame():
        return [RecipeExtractor(FeatureEncoder(trunk, each).to(device)) for each in job.recipes]


def _plain_extractor(trunk: Backbone, block: Block) -> NetworkExtractor:
    """Extract the one block of a plain recipe."""
    view = View(block.view, block.short_side)
    return NetworkExtractor(trunk, build_pool(block.pool, block.levels), view)


def estimate_features(data: FitData, extractors: Sequence[FeatureExtractor]) -> Estimate:
    """Estimate time and size of all features from a few images spread over the classes."""
    sample = shared.spread_sample(data.paths)
    seconds, length = 0.0, 0
    for extractor in extractors:
        extractor.extract(sample[:1])  # the first call sets things up
        begin = time.perf_counter()
        length += extractor.extract(sample).rows.shape[1]
        seconds += (time.perf_counter() - begin) / len(sample) * len(data.paths)
    return Estimate(seconds, length)


def _usable_splits(job: FitJob, features: FeatureSet) -> list[Split]:
    """Divide the images that could be read."""
    if not len(features.rows):
        raise NothingUsableError("none of the images can be used", path=job.options.data)
    return job.data.splits(features.kept)


def _fit(
    job: FitJob, extracted: Sequence[ExtractedFeatures], splits: Sequence[Split], run: RunFolder
) -> FitResult:
    """Fit, score and save the classifier of the first split."""
    settings = job.settings
    with run.stage("svm"):
        result = fit_splits(
            extracted,
            job.data.task(extracted[0].features.kept),
            splits,
            costs=settings.costs,
            loss=job.recipes[0].loss,
            seed=settings.seed,
            about={
                "command": "classify fit",
                "settings": asdict(settings),
                "rule": asdict(job.split_config),
            },
            track=track,
        )
    result.classifier.save(run.path / "model")
    return result


def _say_plan(data: FitData, estimate: Estimate) -> None:
    """Print what a dry run is asked for."""
    size = 4 * estimate.length * len(data.paths)
    images = count_of(len(data.paths), "image")
    say(f"would fit SVMs of {count_of(len(data.names), 'class')} on {images}")
    say(f"features of {estimate.length} numbers: {human_bytes(size)} on disk and in memory")
    say(f"about {human_seconds(estimate.seconds)} for the features")


def _say_choice(job: FitJob, result: FitResult) -> None:
    """Report what was chosen on training images, if there was a choice."""
    if not result.choices[0].figures:
        return
    for number, choice in enumerate(result.choices, start=1):
        side = job.side_of(choice.candidate)
        note(f"split {number}: C {choice.c:g}, short side {side}, chosen on training images")


def _plain_choices(job: FitJob, result: FitResult) -> list[dict[str, Any]]:
    """What was chosen for each split, and the figures behind it, as plain values."""
    return [
        {
            "c": choice.c,
            "short_side": job.side_of(choice.candidate),
            "validation": [
                {"short_side": job.side_of(option), "c": c, "figure": figure}
                for (option, c), figure in choice.figures.items()
            ],
        }
        for choice in result.choices
    ]


def _write_metrics(
    job: FitJob,
    extracted: Sequence[ExtractedFeatures],
    split: Split,
    result: FitResult,
    run: RunFolder,
) -> None:
    """Write metrics.json."""
    data, features = job.data, extracted[0].features
    chosen = extracted[result.choices[0].candidate].features
    metrics = {
        **result.figures,
        "figures_from": data.describe_split(),
        "splits": result.summary,
        "chosen": _plain_choices(job, result),
        "images": shared.image_counts(
            len(data.paths), features.problems, len(split.train), len(split.test)
        ),
        "classes": len(data.names),
        "feature_length": int(chosen.rows.shape[1]),
        "seconds": run.seconds(),
        "problems": shared.plain_problems([*data.problems, *features.problems]),
    }
    write_json(run.path / "metrics.json", metrics)
