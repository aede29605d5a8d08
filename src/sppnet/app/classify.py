"""``sppnet classify``: fit or train a classifier on class folders, score it, use it."""

from pathlib import Path
from typing import Annotated

import typer

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
    Seed,
    Split,
    Threads,
    WeightsChoice,
    command_app,
    number_option,
    parse_numbers,
)

app = command_app("Name images of any size: fit or train a classifier, score it, use it.")

TrainPerClass = Annotated[
    int | None,
    typer.Option("--train-per-class", min=1, help="Images of each class to fit on, at random."),
]
TestPerClass = Annotated[
    int | None,
    typer.Option("--test-per-class", min=1, help="Most images of each class to score on."),
]
Splits = Annotated[int, typer.Option("--splits", min=1, max=1000, help="Random splits to average.")]
Top = Annotated[int, typer.Option("--top", min=1, max=1000, help="Classes to write per image.")]


@app.command()
def fit(
    data: DataFolder,
    out: Out,
    backbone: BackboneChoice = None,
    weights: WeightsChoice = None,
    layer: Annotated[str | None, typer.Option(help="Earlier layer of the trunk to pool.")] = None,
    pool: Annotated[str | None, typer.Option(metavar="spp|6x6|avg|max", help="Pooling.")] = None,
    levels: Levels = None,
    view: Annotated[
        str | None, typer.Option(metavar="full|crop|warp", help="What of an image is seen.")
    ] = None,
    imgsz: Annotated[int | None, typer.Option(min=1, max=4096, help="Short side, pixels.")] = None,
    c: Annotated[
        float | None, number_option("--c", low=0, high=1e9, above=True, text="Cost of the SVMs.")
    ] = None,
    train_per_class: TrainPerClass = None,
    test_per_class: TestPerClass = None,
    splits: Splits = 1,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where features are kept; OUT/cache if not given."),
    ] = None,
    config: Config = None,
    seed: Seed = 0,
    device: Device = "auto",
    download: Download = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Fit linear SVMs on frozen features of whole images: minutes on a CPU.

    DATA is a folder of class folders, or of `train` and `test` (or `val`) folders of class folders.
    Without the latter and without --train-per-class, 20 % of each class are held out; the figures
    in OUT/metrics.json are always from images that the saved model was not fitted on.
    """
    from sppnet.app.classify_fit import run_fit  # imported here so that --help stays quick
    from sppnet.app.classify_steps import RunOptions, read_rule
    from sppnet.app.settings import load_settings
    from sppnet.classification.settings import FitSettings

    flags = {
        "backbone": backbone,
        "weights": weights,
        "layer": layer,
        "pool": pool,
        "levels": parse_numbers("--levels", levels),
        "view": view,
        "imgsz": imgsz,
        "c": c,
    }
    settings = load_settings(FitSettings, config, flags)
    rule = read_rule(train_per_class, test_per_class, splits, seed)
    options = RunOptions(data, out, seed, device, download, fresh, dry_run)
    run_fit(settings, rule, options, cache)


@app.command()
def train(
    data: DataFolder,
    out: Out,
    backbone: BackboneChoice = None,
    weights: WeightsChoice = None,
    levels: Levels = None,
    imgsz: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", help="Input sizes that take turns, one epoch each: 180,224."
        ),
    ] = None,
    test_imgsz: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Short side of whole images at test.")
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Hidden layers of the head: 4096,4096.")
    ] = None,
    dropout: Annotated[
        float | None, number_option("--dropout", low=0, high=1, below=True, text="In the head.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=4096, help="Images per update.")] = None,
    lr: Annotated[
        float | None,
        number_option("--lr", low=0, high=100, above=True, text="Highest learning rate."),
    ] = None,
    trunk_lr: Annotated[
        float | None,
        number_option(
            "--trunk-lr", low=0, high=100, text="The trunk's rate over the head's; 0 freezes."
        ),
    ] = None,
    train_per_class: TrainPerClass = None,
    test_per_class: TestPerClass = None,
    splits: Splits = 1,
    config: Config = None,
    seed: Seed = 0,
    device: Device = "auto",
    download: Download = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Train trunk and head together at several input sizes, from random or trained weights.

    DATA is as for `fit`. Killed at any moment, the same command goes on from the last whole epoch,
    and on a CPU with the same number of threads it ends with the same bits.
    """
    from sppnet.app.classify_steps import RunOptions, read_rule
    from sppnet.app.classify_train import run_train
    from sppnet.app.settings import load_settings
    from sppnet.classification.settings import TrainSettings

    flags = {
        "backbone": backbone,
        "weights": weights,
        "levels": parse_numbers("--levels", levels),
        "imgsz": parse_numbers("--imgsz", imgsz),
        "test_imgsz": test_imgsz,
        "hidden": parse_numbers("--hidden", hidden),
        "dropout": dropout,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "trunk_lr": trunk_lr,
    }
    settings = load_settings(TrainSettings, config, flags)
    rule = read_rule(train_per_class, test_per_class, splits, seed)
    run_train(settings, rule, RunOptions(data, out, seed, device, download, fresh, dry_run))


@app.command()
def val(
    model: ModelFolder,
    data: DataFolder,
    out: Out,
    split: Split = None,
    skip_seen: Annotated[
        bool, typer.Option("--skip-seen", help="Leave out images that the model was fitted on.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Score a classifier on class folders: OUT/metrics.json and OUT/report.html.

    Takes DATA's `test` or `val` folder if there is one, all images otherwise.
    """
    from sppnet.app.classify_use import run_val

    run_val(model, data, out, split, skip_seen=skip_seen, device=device, dry_run=dry_run)


@app.command()
def predict(
    model: ModelFolder,
    images: ImageSources,
    out: Out,
    top: Top = 5,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Name images of any sizes: OUT/predictions.json and OUT/predictions.csv."""
    from sppnet.app.classify_use import run_predict

    run_predict(model, images, out, top=top, device=device, dry_run=dry_run)
