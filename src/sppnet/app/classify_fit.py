"""The work of ``sppnet classify fit``: features once, SVMs for every split, figures on the rest."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppnet.app import classify_steps as steps
from sppnet.app.console import human_bytes, human_seconds, say
from sppnet.app.progress import Stage, announce, track
from sppnet.classification import (
    ClassData,
    FeatureSet,
    FitResult,
    FitSettings,
    SplitRule,
    View,
    build_pool,
    extract_features,
    fit_svm_classifier,
)
from sppnet.classification.network import pool_bins
from sppnet.errors import NothingUsableError
from sppnet.storage import FeatureCache, RunFolder, write_json

if TYPE_CHECKING:
    from torch import nn

    from sppnet.backbones import Backbone

SAMPLES = 3


def run_fit(
    settings: FitSettings, rule: SplitRule, options: steps.RunOptions, cache: Path | None
) -> None:
    """Do the whole command."""
    data = steps.open_data(options, rule)
    backbone, _ = steps.make_trunk(settings.backbone, settings.weights, settings.layer, options)
    pool = build_pool(settings.pool, settings.levels)
    view = View(settings.view, settings.imgsz)
    data.splits()  # says now if a class is too small
    seconds = estimate_seconds(data, backbone, pool, view)
    if options.dry_run:
        _say_plan(data, backbone.channels * pool_bins(settings.pool, settings.levels), seconds)
        return
    configuration = {**asdict(settings), "data": options.data.resolve(), "rule": asdict(rule)}
    with RunFolder.open(
        options.out, "classify fit", configuration, options.seed, fresh=options.fresh
    ) as run:
        steps.report_changes(run)
        announce([Stage("features", seconds), Stage("SVMs")])
        with run.stage("features"):
            store = FeatureCache(cache or run.path / "cache")
            features = extract_features(data.paths, backbone, pool, view, cache=store, track=track)
        steps.report_each(features.problems)
        if not len(features.rows):
            raise NothingUsableError("none of the images can be used", path=options.data)
        splits = data.splits(features.kept)
        with run.stage("svm"):
            result = fit_svm_classifier(
                features,
                data.labels[features.kept],
                data.names,
                backbone,
                pool,
                view,
                splits,
                c=settings.c,
                about=_about(settings, rule),
                track=track,
            )
        result.classifier.save(run.path / "model")
        counts = steps.image_counts(
            len(data.paths), features.problems, len(splits[0].train), len(splits[0].test)
        )
        metrics = _metrics(data, features, result, counts, run)
        write_json(run.path / "metrics.json", metrics)
    steps.say_figures(result.figures, result.summary)
    steps.say_results(options.out / "model", options.out / "metrics.json")
    steps.finish([*data.problems, *features.problems])


def estimate_seconds(data: ClassData, backbone: "Backbone", pool: "nn.Module", view: View) -> float:
    """Guess the time of all features from a few images spread over the classes."""
    step = max(1, len(data.paths) // SAMPLES)
    extract_features(data.paths[:1], backbone, pool, view)  # the first call sets things up
    begin = time.perf_counter()
    sample = data.paths[::step][:SAMPLES]
    extract_features(sample, backbone, pool, view)
    return (time.perf_counter() - begin) / len(sample) * len(data.paths)


def _say_plan(data: ClassData, length: int, seconds: float) -> None:
    """Say what a dry run is for."""
    size = 4 * length * len(data.paths)
    say(f"would fit SVMs of {len(data.names)} classes on {len(data.paths)} images")
    say(f"features of {length} numbers: {human_bytes(size)} on disk and in memory")
    say(f"about {human_seconds(seconds)} for the features")


def _about(settings: FitSettings, rule: SplitRule) -> dict[str, Any]:
    """What the saved classifier says of its origin."""
    return {"command": "classify fit", "settings": asdict(settings), "rule": asdict(rule)}


def _metrics(
    data: ClassData,
    features: FeatureSet,
    result: FitResult,
    counts: dict[str, int],
    run: RunFolder,
) -> dict[str, Any]:
    """Everything that metrics.json holds."""
    return {
        **result.figures,
        "figures_from": data.rule_words(),
        "splits": result.summary,
        "images": counts,
        "classes": len(data.names),
        "feature_length": int(features.rows.shape[1]),
        "seconds": run.seconds(),
        "problems": steps.plain_problems([*data.problems, *features.problems]),
    }
