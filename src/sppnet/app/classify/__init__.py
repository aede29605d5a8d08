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
    SettingsSeed,
    Split,
    Threads,
    WeightsChoice,
    Workers,
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
        min=1,
        max=4096,
        help="Short side of whole images; windows and scales follow. The model's if not given.",
    ),
]
Top = Annotated[int, typer.Option("--top", min=1, max=1000, help="Classes to write per image.")]


@app.command()
def fit(
    data: DataFolder,
    out: Out,
    backbone: BackboneChoice = None,
    weights: WeightsChoice = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="paper|best|FILE", help="Features by recipe.")
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Layers to pool; last is the last map."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(metavar="spp|6x6|avg|max|spp+avg", help="Pooling.")
    ] = None,
    levels: Levels = None,
    view: Annotated[
        str | None, typer.Option(metavar="full|crop|warp|native", help="What of an image is seen.")
    ] = None,
    imgsz: Annotated[
        str | None,
        typer.Option(metavar="N,...|auto", help="Short sides, pixels; auto chooses one."),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(metavar="l2|power|none", help="Scale of the features.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mean of image and mirror image.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="hinge|squares", help="What the SVMs minimise.")
    ] = None,
    c: Annotated[
        str | None, typer.Option("--c", metavar="C|auto", help="Cost of the SVMs; auto chooses it.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="classes|voc07", help="Kind of DATA; found by looking if not given."),
    ] = None,
    train_per_class: TrainPerClass = None,
    test_per_class: TestPerClass = None,
    splits: Splits = 1,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where features are kept; OUT/cache if not given."),
    ] = None,
    config: Config = None,
    seed: SettingsSeed = None,
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
    in OUT/metrics.json are always from images that the saved model was not fitted on. A Pascal VOC
    folder is fitted on trainval and scored on test, an SVM and an average precision for each class.
    """
    from sppnet.app.classify.fit import run_fit  # imported here so that --help stays quick
    from sppnet.app.classify.shared import RunOptions, number_or_word, read_split_config
    from sppnet.app.settings import load_settings
    from sppnet.classification.config import FitConfig

    flags = {
        "backbone": backbone,
        "weights": weights,
        "recipe": recipe,
        "layer": layer,
        "pool": pool,
        "levels": parse_numbers("--levels", levels),
        "view": view,
        "imgsz": number_or_word(imgsz, int),
        "norm": norm,
        "flip": flip,
        "loss": loss,
        "c": number_or_word(c, float),
        "seed": seed,
    }
    settings = load_settings(FitConfig, config, flags)
    split_config = read_split_config(train_per_class, test_per_class, splits, settings.seed)
    options = RunOptions(data, out, device, download, fresh, dry_run)
    run_fit(settings, split_config, options, cache, protocol)


@app.command()
def train(
    data: DataFolder,
    out: Out,
    backbone: BackboneChoice = None,
    weights: WeightsChoice = None,
    pool: Annotated[
        str | None, typer.Option(metavar="spp|6x6|avg|max|spp+avg", help="Pooling of the map.")
    ] = None,
    levels: Levels = None,
    imgsz: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="224; 180,224 (one epoch each); 180-224 (drawn per epoch); natural[:SIZES].",
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
    feature_norm: Annotated[
        float | None,
        number_option("--feature-norm", low=0, high=1e6, text="Length of pooled vectors; 0: any."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=4096, help="Images per update.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Parts of a batch, to need less memory.")
    ] = None,
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
    schedule: Annotated[
        str | None, typer.Option(metavar="plateau|cosine", help="How the rate falls.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="sgd|adamw", help="Way down the gradient.")
    ] = None,
    label_smoothing: Annotated[
        float | None,
        number_option(
            "--label-smoothing", low=0, high=1, below=True, text="Share spread over all classes."
        ),
    ] = None,
    ema: Annotated[
        float | None,
        number_option("--ema", low=0, high=1, below=True, text="Decay of the weights' average."),
    ] = None,
    amp: Annotated[bool | None, typer.Option("--amp/--no-amp", help="Compute in bfloat16.")] = None,
    crops: Annotated[
        str | None, typer.Option(metavar="random|paper|centre", help="Where crops are cut.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the images.")
    ] = None,
    colour_noise: Annotated[
        float | None,
        number_option("--colour-noise", low=0, high=10, below=True, text="Noise of colours; 0.1."),
    ] = None,
    train_per_class: TrainPerClass = None,
    test_per_class: TestPerClass = None,
    splits: Splits = 1,
    save_seconds: Annotated[
        float,
        number_option("--save-seconds", low=0, high=1e6, text="Time between states in an epoch."),
    ] = 60.0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's files as well.")
    ] = False,
    workers: Workers = 1,
    config: Config = None,
    seed: SettingsSeed = None,
    device: Device = "auto",
    download: Download = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Train trunk and head together at several input sizes, from random or trained weights.

    DATA is as for `fit`. Killed at any moment, the same command goes on from the last saved state,
    and on a CPU it ends with the same bits. Several processes train together under torchrun:
    `torchrun --nproc-per-node 2 -m sppnet classify train ...`.
    """
    from sppnet.app.classify.shared import RunOptions, read_split_config
    from sppnet.app.classify.train import RuntimeOptions, run_train
    from sppnet.app.settings import load_settings
    from sppnet.classification.config import TrainConfig

    flags = {
        "backbone": backbone,
        "weights": weights,
        "pool": pool,
        "levels": parse_numbers("--levels", levels),
        "imgsz": imgsz,
        "test_imgsz": test_imgsz,
        "hidden": parse_numbers("--hidden", hidden),
        "dropout": dropout,
        "feature_norm": feature_norm,
        "epochs": epochs,
        "batch": batch,
        "accumulate": accumulate,
        "lr": lr,
        "trunk_lr": trunk_lr,
        "schedule": schedule,
        "optimizer": optimizer,
        "label_smoothing": label_smoothing,
        "ema": ema,
        "amp": amp,
        "crops": crops,
        "flip": flip,
        "colour_noise": colour_noise,
        "seed": seed,
    }
    settings = load_settings(TrainConfig, config, flags)
    split_config = read_split_config(train_per_class, test_per_class, splits, settings.seed)
    options = RunOptions(data, out, device, download, fresh, dry_run)
    run_train(settings, split_config, options, RuntimeOptions(save_seconds, tensorboard, workers))


@app.command()
def val(
    model: ModelFolder,
    data: DataFolder,
    out: Out,
    split: Split = None,
    view: TestView = None,
    imgsz: TestSide = None,
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
    from sppnet.app.classify.predict import run_val

    run_val(
        model,
        data,
        out,
        split,
        view=view,
        imgsz=imgsz,
        skip_seen=skip_seen,
        device=device,
        dry_run=dry_run,
    )


@app.command()
def predict(
    model: ModelFolder,
    images: ImageSources,
    out: Out,
    view: TestView = None,
    imgsz: TestSide = None,
    top: Top = 5,
    seed: Seed = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Name images of any sizes: OUT/predictions.json and OUT/predictions.csv."""
    from sppnet.app.classify.predict import run_predict

    run_predict(model, images, out, view=view, imgsz=imgsz, top=top, device=device, dry_run=dry_run)
