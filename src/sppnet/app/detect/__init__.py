"""``sppnet detect``: train a detector on labelled photos, score it, use it."""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.app.console import note
from sppnet.app.options import (
    BackboneChoice,
    Config,
    DataFolder,
    Debug,
    Device,
    Download,
    DryRun,
    Fresh,
    ImageSources,
    Levels,
    ModelFolder,
    Out,
    SettingsSeed,
    Threads,
    WeightsChoice,
    Workers,
    command_app,
    number_option,
    parse_numbers,
)
from sppnet.errors import UsageError

app = command_app("Find things in photos of any size.")
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Part of the data; the usual one if not given."),
]
Sizes = Annotated[
    str | None,
    typer.Option("--imgsz", metavar="N[,N...]", help="Short sides at which images are convolved."),
]
Layer = Annotated[
    str | None, typer.Option("--layer", metavar="NAME", help="Node of the trunk to cut after.")
]
Proposals = Annotated[
    str | None,
    typer.Option(
        "--proposals",
        metavar="METHOD[+METHOD]|FILE",
        help="Where windows come from: graph, selective_search, selective_search_quality, "
        "edge_boxes, grid, or a file (npz, mat, COCO json).",
    ),
]
Anchors = Annotated[
    bool | None,
    typer.Option("--anchors/--no-anchors", help="Learn to propose windows from the maps, too."),
]
Tune = Annotated[
    str | None,
    typer.Option("--tune", metavar="none|head|network", help="What is fine-tuned before the SVMs."),
]
WindowLayer = Annotated[
    str | None,
    typer.Option("--features", metavar="pooled|fc6|fc7", help="What the SVMs see of a window."),
]
Scorer = Annotated[
    str | None,
    typer.Option("--classifier", metavar="svm|softmax|kernel", help="What judges windows."),
]
Mirror = Annotated[
    str | None,
    typer.Option("--mirror", metavar="auto|on|off", help="Whether mirror images teach, too."),
]
MaxProposals = Annotated[
    int | None, typer.Option("--max-proposals", min=1, max=100_000, help="Most windows per image.")
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Where maps and windows are kept; OUT/cache."),
]
Combine = Annotated[
    list[Path] | None,
    typer.Option(
        "--combine", metavar="MODEL", help="Another detector to combine with; repeatable."
    ),
]
Flip = Annotated[
    bool, typer.Option("--flip", help="Look at mirror images, too; scores are averaged.")
]
Nms = Annotated[
    str | None,
    typer.Option("--nms", metavar="hard|soft", help="What becomes of boxes that overlap a better."),
]


def choose_split(data: Path, given: str | None, preferred: tuple[str, ...]) -> str | None:
    """Take the split that was asked for, else the usual one, else the whole of an undivided set.

    Args:
        data: Folder of the data set.
        given: What ``--split`` says; None if it was not given.
        preferred: Names to look for, the best first.

    Returns:
        Name of the split; None for all images of a data set without splits.

    Raises:
        UsageError: If the data set does not exist, or has only splits of other names.
    """
    from sppnet.images import list_splits  # here, so that --help stays quick

    if given is not None:
        return given
    splits = list_splits(data)
    usual = next((name for name in preferred if name in splits), None)
    if usual is None and splits:
        raise UsageError(f"choose one with --split: {', '.join(splits)}", path=data)
    note(f"using split {usual!r}" if usual else "no splits here: using every image")
    return usual


@app.command()
def train(
    data: DataFolder,
    out: Out,
    split: Split = None,
    backbone: BackboneChoice = None,
    weights: WeightsChoice = None,
    imgsz: Sizes = None,
    levels: Levels = None,
    layer: Layer = None,
    proposals: Proposals = None,
    max_proposals: MaxProposals = None,
    anchors: Anchors = None,
    tune: Tune = None,
    features: WindowLayer = None,
    classifier: Scorer = None,
    mirror: Mirror = None,
    config: Config = None,
    cache: CacheFolder = None,
    seed: SettingsSeed = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    download: Download = False,
    debug: Debug = False,
) -> None:
    """Learn a detector from labelled photos; leaves OUT/model and OUT/metrics.json."""
    from sppnet.app.detect.train import TrainingJob
    from sppnet.app.settings import load_settings
    from sppnet.detection.config import DetectionConfig

    flags = {
        "backbone": backbone,
        "weights": weights,
        "layer": layer,
        "imgsz": parse_numbers("--imgsz", imgsz),
        "levels": parse_numbers("--levels", levels),
        "proposals": proposals,
        "max_proposals": max_proposals,
        "anchors": anchors,
        "tune": tune,
        "features": features,
        "classifier": classifier,
        "mirror": mirror,
        "seed": seed,
    }
    settings = load_settings(DetectionConfig, config, flags)
    part = choose_split(data, split, ("train", "trainval"))
    job = TrainingJob(data, part, out, settings, device, workers, cache, download)
    if dry_run:
        job.explain()
        return
    code = job.run(fresh=fresh)
    raise typer.Exit(code)


@app.command()
def val(
    model: ModelFolder,
    data: DataFolder,
    out: Out,
    split: Split = None,
    combine: Combine = None,
    flip: Flip = False,
    nms: Nms = None,
    proposals: Proposals = None,
    max_proposals: MaxProposals = None,
    device: Device = "auto",
    threads: Threads = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Score a detector on labelled photos; leaves OUT/metrics.json and OUT/report.html."""
    from sppnet.app.detect.val import ScoringJob

    part = choose_split(data, split, ("test", "val"))
    rule, proposals_file = read_rule(flip, nms, proposals, max_proposals)
    job = ScoringJob([model, *(combine or [])], data, part, out, device, rule, proposals_file)
    if dry_run:
        job.explain()
        return
    raise typer.Exit(job.run(fresh=fresh))


@app.command()
def predict(
    model: ModelFolder,
    images: ImageSources,
    out: Out,
    score_threshold: Annotated[
        float, number_option("--score-threshold", low=-10, high=10, text="Least score to report.")
    ] = -1.0,
    show_above: Annotated[
        float, number_option("--show-above", low=-10, high=10, text="Least score to draw.")
    ] = 0.0,
    combine: Combine = None,
    flip: Flip = False,
    nms: Nms = None,
    proposals: Proposals = None,
    max_proposals: MaxProposals = None,
    device: Device = "auto",
    threads: Threads = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Find things in images, folders and globs; leaves detections.json, .csv and overlays."""
    from sppnet.app.detect.predict import PredictionJob

    rule, proposals_file = read_rule(flip, nms, proposals, max_proposals)
    models = [model, *(combine or [])]
    job = PredictionJob(
        models, images, out, device, rule, proposals_file, score_threshold, show_above
    )
    if dry_run:
        job.explain()
        return
    job.run(fresh=fresh)


def read_rule(
    flip: bool, nms: str | None, proposals: str | None, max_proposals: int | None
) -> tuple[dict[str, object], Path | None]:
    """Fields of a detector's rule that options change, and the file of windows, if one is named."""
    from sppnet.detection.proposals.precomputed import proposals_file

    path = None if proposals is None else proposals_file(proposals)
    method = proposals if path is None else None
    wanted = {"flip": flip or None, "nms": nms, "proposals": method, "max_proposals": max_proposals}
    return {name: value for name, value in wanted.items() if value is not None}, path
