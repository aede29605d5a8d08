"""``sppnet detect``: train a detector on labelled photos, score it, use it.

This module has the flags. ``train.py``, ``val.py`` and ``predict.py`` do the work; the last also
has how a detector goes over many images, which ``val`` does, too.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sppnet.app.console import in_silence, note, tells_cache
from sppnet.app.options import (
    Budget,
    CacheSize,
    DataFolder,
    Download,
    Fresh,
    ImageSources,
    KeepCache,
    ModelFolder,
    Out,
    RunFlags,
    WorkerFlags,
    Workers,
    command_app,
    number_option,
)
from sppnet.app.settings import with_group, with_overrides, with_settings
from sppnet.config.detection import DetectionConfig, InferenceConfig, proposals_file
from sppnet.config.fields import Within
from sppnet.errors import UsageError

app = command_app("Find things in photos of any size.")
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Part of the data; the usual one if not given."),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="DIR", help="Where maps and proposals are kept; OUT/cache if not given."
    ),
]
Combine = Annotated[
    list[Path] | None,
    typer.Option(
        "--combine", metavar="MODEL", help="Another detector to combine with; repeatable."
    ),
]
Keep = Annotated[
    bool | None,
    typer.Option(
        "--keep/--no-keep",
        help="Whether the operating point found here is kept in MODEL; see above.",
    ),
]
# of testing: what is not given is as in the training; below a score nothing is reported
with_inference = with_overrides(InferenceConfig, "inference", without=("score_threshold",))


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
    from sppnet.images import usual_split  # here, so that --help stays quick

    if given is not None:
        return given
    usual = usual_split(data, None, preferred)
    note(f"using split {usual!r}" if usual else "no splits here: using every image")
    return usual


@app.command()
@with_settings(DetectionConfig)
@with_group(RunFlags, "run")
def train(
    data: DataFolder,
    out: Out,
    split: Split = None,
    cache: CacheFolder = None,
    cache_size: CacheSize = None,
    keep_cache: KeepCache = False,
    fresh: Fresh = False,
    download: Download = False,
    workers: Workers = 2,
    budget: Budget = None,
    *,
    settings: DetectionConfig,
    run: RunFlags,
) -> None:
    """Learn a detector from labelled photos; leaves OUT/model and OUT/metrics.json.

    With --budget, settings that none of the flags names are tried on photos that are held out, as
    long as there is time, and the model has those that scored best.
    """
    from sppnet.app.detect.train import TrainingJob  # imported here so that --help stays quick

    # of several processes the first one speaks
    with in_silence(os.environ.get("RANK", "0") != "0"):
        part = choose_split(data, split, ("train", "trainval"))
    if budget is not None and settings.tune != "none":
        raise UsageError("--budget tries settings without a fine-tuning, so --tune must be none")
    job = TrainingJob(
        *(data, part, out, settings, run.device, workers, cache, download, keep_cache, budget),
        cache_size=cache_size,
    )
    if run.dry_run:
        job.explain()
        return
    raise typer.Exit(job.run(fresh=fresh))


@app.command()
@with_inference
@with_group(RunFlags, "run")
def val(
    model: ModelFolder,
    data: DataFolder,
    out: Out,
    split: Split = None,
    keep: Keep = None,
    combine: Combine = None,
    fresh: Fresh = False,
    *,
    inference: Mapping[str, Any],
    run: RunFlags,
) -> None:
    """Score a detector on labelled photos; leaves OUT/metrics.json, report.html, detections.json.

    The score from which on detections count, and how sure each is, are found on these photos, too,
    and kept in MODEL for `predict`: if none of the photos was trained on and no option of testing
    is given.

    Proposals and detections are chosen as the model was trained to; a flag changes one thing.
    """
    from sppnet.app.detect.val import ScoringJob

    part = choose_split(data, split, ("test", "val"))
    changed, file = split_inference(inference)
    job = ScoringJob([model, *(combine or [])], data, part, out, run.device, changed, file, keep)
    if run.dry_run:
        check_proposals(file)
        job.explain()
        return
    with tells_cache(out / "cache"):
        raise typer.Exit(job.run(fresh=fresh))


@app.command()
@with_inference
@with_group(WorkerFlags, "workers", "Many machines")
@with_group(RunFlags, "run")
def predict(
    model: ModelFolder,
    images: ImageSources,
    out: Out,
    score_threshold: Annotated[
        float | None,
        number_option(
            "--score-threshold",
            rule=Within(-10, 10),
            text="Least score to report; if not given, the model's operating point decides.",
        ),
    ] = None,
    show_above: Annotated[
        float | None,
        number_option(
            "--show-above",
            rule=Within(-10, 10),
            text="Least score to draw; what counts if not given.",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option("--every", metavar="N", min=1, help="Of videos: one of so many frames.")
    ] = 1,
    combine: Combine = None,
    fresh: Fresh = False,
    *,
    inference: Mapping[str, Any],
    workers: WorkerFlags,
    run: RunFlags,
) -> None:
    """Find things in images, folders and globs, or in videos; leaves counts.csv and more.

    detections.csv, counts.csv, overlays and index.html hold what counts by the operating point
    that `detect val`, or else the training, found; detections.json holds all, for `evaluate`.
    Of each video, NAME-counts.csv and NAME-detections.csv have the frames, NAME.mp4 is drawn.
    Proposals and detections are chosen as the model was trained to; a flag changes one thing.
    With --engine ray, OUT/rows holds Parquet files of a row a photo, and nothing is drawn.
    """
    from sppnet.app.detect.predict import PredictionJob, VideoJob
    from sppnet.images.video import find_videos, is_video

    changed, file = split_inference(inference)
    models = [model, *(combine or [])]
    if workers.by_ray:
        if show_above is not None or every != 1:
            raise UsageError("--show-above and --every are for what is drawn; Ray draws nothing")
        from sppnet.app.embed import RowJob
        from sppnet.bulk.rows import Detecting

        work = Detecting(tuple(models), changed, file, score_threshold)
        return RowJob(work, images, out, workers, run).run(fresh=fresh)
    if any(map(is_video, images)):
        if not all(map(is_video, images)) or file is not None or show_above is not None:
            words = "videos go without pictures, a file of proposals and --show-above"
            raise UsageError(words)
        videos = find_videos(images)
        watching = VideoJob(models, videos, out, run.device, changed, score_threshold, every)
        return watching.explain() if run.dry_run else watching.run()
    job = PredictionJob(models, images, out, run.device, changed, file, score_threshold, show_above)
    if run.dry_run:
        check_proposals(file)
        return job.explain()
    with tells_cache(out / "cache"):
        return job.run(fresh=fresh)


def check_proposals(path: Path | None) -> None:
    """Read a file of proposals, if one is named, before anything is computed.

    Raises:
        UnusableFileError: If it cannot be read or breaks its format.
    """
    from sppnet.detection import ExternalProposals

    if path is not None:
        ExternalProposals.open(path)


def split_inference(inference: Mapping[str, Any]) -> tuple[dict[str, Any], Path | None]:
    """Split the constants of testing that were given from the file of proposals, if one is named.

    Example:
        >>> split_inference({"proposals": "runs/boxes.npz", "nms": "soft"})[0]
        {'nms': 'soft'}
    """
    path = proposals_file(inference.get("proposals", ""))
    return {name: v for name, v in inference.items() if path is None or name != "proposals"}, path
