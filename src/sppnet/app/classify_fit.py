"""The work of ``sppnet classify fit``: features once, SVMs for every split, figures on the rest."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sppnet.app import classify_steps as steps
from sppnet.app.console import human_bytes, human_seconds, note, options_to_blame, say
from sppnet.app.device import choose_device
from sppnet.app.progress import Stage, announce, track
from sppnet.classification import ClassData, Classifier, FitResult, FitSettings, SplitRule, View
from sppnet.classification.feature_encoder import FeatureEncoder
from sppnet.classification.feature_recipe import FeatureRecipe
from sppnet.classification.fitting import fit_splits
from sppnet.classification.network import build_pool
from sppnet.classification.row_sources import NetworkWay, RecipeWay, RowSource, RowWay
from sppnet.classification.voc_data import VocData
from sppnet.errors import NothingUsableError
from sppnet.storage import FeatureCache, RunFolder, write_json

SAMPLES = 3
FitData = ClassData | VocData


@dataclass(frozen=True)
class Estimate:
    """What the features of all images cost.

    Args:
        seconds: Time to work them out.
        length: Numbers of one image, over all recipes.
    """

    seconds: float
    length: int


def run_fit(
    settings: FitSettings,
    rule: SplitRule,
    options: steps.RunOptions,
    cache: Path | None,
    protocol: str | None,
) -> None:
    """Do the whole command."""
    data = steps.open_fit_data(options, rule, protocol)
    recipes = settings.recipes()
    ways = [make_way(recipe, settings, options) for recipe in recipes]
    data.splits()  # says now if a class is too small
    estimate = estimate_features(data, ways)
    if options.dry_run:
        _say_plan(data, estimate)
        return
    configuration = {
        **asdict(settings),
        "recipes": [recipe.description() for recipe in recipes],
        "data": options.data.resolve(),
        "rule": asdict(rule),
    }
    with RunFolder.open(
        options.out, "classify fit", configuration, options.seed, fresh=options.fresh
    ) as run:
        steps.report_changes(run)
        announce([Stage("features", estimate.seconds), Stage("SVMs")])
        with run.stage("features"):
            store = FeatureCache(cache or run.path / "cache")
            sources = [RowSource(w.extract(data.paths, cache=store, track=track), w) for w in ways]
        result = _fit(settings, rule, options, data, sources, run)
        _write_metrics(data, settings, sources, result, run)
    problems = sources[0].features.problems
    _say_choice(settings, result)
    steps.say_figures(result.figures, result.summary)
    steps.say_results(options.out / "model", options.out / "metrics.json")
    steps.finish([*data.problems, *problems])


def make_way(recipe: FeatureRecipe, settings: FitSettings, options: steps.RunOptions) -> RowWay:
    """Build trunk and pooling: an ordinary network's where the recipe allows, else an encoder."""
    folder = Path(settings.backbone)
    if (folder / "manifest.json").is_file():
        model = Classifier.load(folder, choose_device(options.device))
        with options_to_blame():
            return RecipeWay(FeatureEncoder.of_network(model.network, recipe))
    block = recipe.blocks[0]
    layer = (block.layer or "") if recipe.is_plain else ""
    trunk, device = steps.make_trunk(settings.backbone, settings.weights, layer, options)
    if recipe.is_plain:
        view = View(block.view, block.short_side)
        return NetworkWay(trunk, build_pool(block.pool, block.levels), view)
    with options_to_blame():
        return RecipeWay(FeatureEncoder(trunk, recipe).to(device))


def estimate_features(data: FitData, ways: Sequence[RowWay]) -> Estimate:
    """Guess time and size of all features from a few images spread over the classes."""
    sample = data.paths[:: max(1, len(data.paths) // SAMPLES)][:SAMPLES]
    seconds, length = 0.0, 0
    for way in ways:
        way.extract(sample[:1])  # the first call sets things up
        begin = time.perf_counter()
        length += way.extract(sample).rows.shape[1]
        seconds += (time.perf_counter() - begin) / len(sample) * len(data.paths)
    return Estimate(seconds, length)


def _fit(
    settings: FitSettings,
    rule: SplitRule,
    options: steps.RunOptions,
    data: FitData,
    sources: Sequence[RowSource],
    run: RunFolder,
) -> FitResult:
    """Fit, score and save the classifier of the first split."""
    features = sources[0].features
    steps.report_each(features.problems)
    if not len(features.rows):
        raise NothingUsableError("none of the images can be used", path=options.data)
    with run.stage("svm"):
        result = fit_splits(
            sources,
            data.task(features.kept),
            data.splits(features.kept),
            costs=settings.costs,
            loss=settings.recipes()[0].loss,
            seed=settings.seed,
            about={
                "command": "classify fit",
                "settings": asdict(settings),
                "rule": asdict(rule),
            },
            track=track,
        )
    result.classifier.save(run.path / "model")
    return result


def _say_plan(data: FitData, estimate: Estimate) -> None:
    """Say what a dry run is for."""
    size = 4 * estimate.length * len(data.paths)
    say(f"would fit SVMs of {len(data.names)} classes on {len(data.paths)} images")
    say(f"features of {estimate.length} numbers: {human_bytes(size)} on disk and in memory")
    say(f"about {human_seconds(estimate.seconds)} for the features")


def _say_choice(settings: FitSettings, result: FitResult) -> None:
    """Say what was chosen on training images, if there was a choice."""
    if not result.choices[0].figures:
        return
    recipes = settings.recipes()
    for number, choice in enumerate(result.choices, start=1):
        side = recipes[choice.option].blocks[0].short_side
        note(f"split {number}: C {choice.c:g}, short side {side}, chosen on training images")


def _plain_choices(settings: FitSettings, result: FitResult) -> list[dict[str, Any]]:
    """What was chosen for each split, and the figures behind it, as plain values."""
    sides = [recipe.blocks[0].short_side for recipe in settings.recipes()]
    return [
        {
            "c": choice.c,
            "short_side": sides[choice.option],
            "validation": [
                {"short_side": sides[option], "c": c, "figure": figure}
                for (option, c), figure in choice.figures.items()
            ],
        }
        for choice in result.choices
    ]


def _write_metrics(
    data: FitData,
    settings: FitSettings,
    sources: Sequence[RowSource],
    result: FitResult,
    run: RunFolder,
) -> None:
    """Write metrics.json."""
    features = sources[0].features
    split = data.splits(features.kept)[0]
    chosen = sources[result.choices[0].option].features
    metrics = {
        **result.figures,
        "figures_from": data.rule_words(),
        "splits": result.summary,
        "chosen": _plain_choices(settings, result),
        "images": steps.image_counts(
            len(data.paths), features.problems, len(split.train), len(split.test)
        ),
        "classes": len(data.names),
        "feature_length": int(chosen.rows.shape[1]),
        "seconds": run.seconds(),
        "problems": steps.plain_problems([*data.problems, *features.problems]),
    }
    write_json(run.path / "metrics.json", metrics)
