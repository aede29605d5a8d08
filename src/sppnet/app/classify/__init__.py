"""``sppnet classify``: fit or train a classifier on class folders, score it, use it.

This module has the flags. ``fit.py`` does the work of ``fit``, ``train.py`` of ``train``,
``predict.py`` of ``val`` and ``predict``; ``shared.py`` opens the data and prints the figures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sppnet.app.options import (
    DataFolder,
    Download,
    Fresh,
    ImageSources,
    KeepCache,
    ModelFolder,
    Out,
    RunFlags,
    Split,
    WorkerFlags,
    Workers,
    command_app,
    number_option,
)
from sppnet.app.settings import with_group, with_settings
from sppnet.config.classification import FitConfig, TrainConfig
from sppnet.config.fields import Within

app = command_app("Name images of any size: fit or train a classifier, score it, use it.")
TestView = Annotated[
    str | None,
    typer.Option(
        "--view",
        metavar="crop|10|full|96|98",
        help="Views to score and average; the model's own if not given.",
    ),
]
TestSide = Annotated[
    int | None,
    typer.Option(
        "--imgsz",
        metavar="N",
        min=1,
        max=4096,
        help="Short side of whole images; windows and scales follow. The model's if not given.",
    ),
]
Top = Annotated[
    int, typer.Option("--top", metavar="N", min=1, max=1000, help="Classes to write per image.")
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Where features are kept; OUT/cache if not given."),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol", metavar="classes|voc07", help="Kind of DATA; found by looking if not given."
    ),
]
SaveSeconds = Annotated[
    float,
    number_option("--save-seconds", rule=Within(0, 1e6), text="Time between states in an epoch."),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", metavar="", help="Write TensorBoard's files as well.")
]
SkipSeen = Annotated[
    bool,
    typer.Option("--skip-seen", metavar="", help="Leave out images that the model was fitted on."),
]


@dataclass(frozen=True)
class SplitFlags:
    """How undivided images are split into those to learn from and those to score on."""

    train_per_class: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Images of each class to fit on, at random."),
    ] = None
    test_per_class: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Most images of each class to score on."),
    ] = None
    splits: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="Random splits to average.")
    ] = 1


@app.command()
@with_settings(FitConfig)
@with_group(SplitFlags, "division", "Splits")
@with_group(RunFlags, "run")
def fit(
    data: DataFolder,
    out: Out,
    protocol: Protocol = None,
    cache: Cache = None,
    keep_cache: KeepCache = False,
    fresh: Fresh = False,
    download: Download = False,
    *,
    division: SplitFlags,
    settings: FitConfig,
    run: RunFlags,
) -> None:
    """Fit linear SVMs on frozen features of whole images: minutes on a CPU.

    DATA is a folder of class folders, or of `train` and `test` (or `val`) folders of class folders.
    Without the latter and without --train-per-class, 20 % of each class are held out; the figures
    in OUT/metrics.json are always from images that the saved model was not fitted on. A Pascal VOC
    folder is fitted on trainval and scored on test, an SVM and an average precision for each class.
    """
    from sppnet.app.classify.fit import run_fit  # imported here so that --help stays quick
    from sppnet.app.classify.shared import RunOptions, read_split_config

    split_config = read_split_config(
        division.train_per_class, division.test_per_class, division.splits, settings.seed
    )
    options = RunOptions(data, out, run.device, download, fresh, run.dry_run)
    run_fit(settings, split_config, options, cache, protocol, keep_cache)


@app.command()
@with_settings(TrainConfig)
@with_group(SplitFlags, "division", "Splits")
@with_group(RunFlags, "run")
def train(
    data: DataFolder,
    out: Out,
    save_seconds: SaveSeconds = 60.0,
    tensorboard: TensorBoard = False,
    fresh: Fresh = False,
    download: Download = False,
    workers: Workers = 1,
    *,
    division: SplitFlags,
    settings: TrainConfig,
    run: RunFlags,
) -> None:
    """Train trunk and head together at several input sizes, from random or trained weights.

    DATA is as for `fit`. Killed at any moment, the same command goes on from the last saved state,
    and on a CPU it ends with the same bits. Several processes train together under torchrun:
    `torchrun --nproc-per-node 2 -m sppnet classify train ...`.
    """
    from sppnet.app.classify.shared import RunOptions, read_split_config
    from sppnet.app.classify.train import RuntimeOptions, run_train

    split_config = read_split_config(
        division.train_per_class, division.test_per_class, division.splits, settings.seed
    )
    options = RunOptions(data, out, run.device, download, fresh, run.dry_run)
    run_train(settings, split_config, options, RuntimeOptions(save_seconds, tensorboard, workers))


@app.command()
@with_group(RunFlags, "run")
def val(
    model: ModelFolder,
    data: DataFolder,
    out: Out,
    split: Split = None,
    view: TestView = None,
    imgsz: TestSide = None,
    skip_seen: SkipSeen = False,
    *,
    run: RunFlags,
) -> None:
    """Score a classifier on class folders: OUT/metrics.json and OUT/report.html.

    Takes DATA's `test` or `val` folder if there is one, all images otherwise.
    """
    from sppnet.app.classify.predict import run_val

    run_val(
        model,
        data,
        out,
        split,
        view=view,
        imgsz=imgsz,
        skip_seen=skip_seen,
        device=run.device,
        dry_run=run.dry_run,
    )


@app.command()
@with_group(WorkerFlags, "workers", "Many machines")
@with_group(RunFlags, "run")
def predict(
    model: ModelFolder,
    images: ImageSources,
    out: Out,
    view: TestView = None,
    imgsz: TestSide = None,
    top: Top = 5,
    fresh: Fresh = False,
    *,
    workers: WorkerFlags,
    run: RunFlags,
) -> None:
    """Name images of any sizes: OUT/predictions.json and OUT/predictions.csv.

    With --engine ray, OUT/rows holds Parquet files of a row a photo instead.
    """
    if workers.by_ray:
        from sppnet.app.embed import RowJob
        from sppnet.bulk.rows import Naming

        return RowJob(Naming(model, view, imgsz, top), images, out, workers, run).run(fresh=fresh)
    from sppnet.app.classify.predict import forget_unfinished, run_predict

    if fresh and not run.dry_run:
        forget_unfinished(out)
    return run_predict(
        model, images, out, view=view, imgsz=imgsz, top=top, device=run.device, dry_run=run.dry_run
    )
