"""``sppnet reproduce``: measures a table of the paper again and shows both numbers side by side.

This module reads the flags; ``job.py`` runs the table and writes JSON and page. What is measured,
and how, stands in :mod:`sppnet.paper`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sppnet.app.options import (
    Download,
    Fresh,
    RunFlags,
    Seed,
    command_app,
    number_option,
    parse_numbers,
)
from sppnet.app.settings import with_group
from sppnet.config.fields import Within
from sppnet.errors import UsageError

app = command_app("Measure a table of the paper again and show both numbers side by side.")
TABLE_NUMBERS = tuple(range(1, 14))  # a test compares it with sppnet.paper.TABLES
Table = Annotated[int, typer.Argument(metavar="TABLE", help="Number in the paper, 1 to 13.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder with imagenet/, caltech101/, VOCdevkit/VOC2007/, or one data set itself.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="Most images to score on, drawn with the seed; 9-12: also to learn from.",
    ),
]
Splits = Annotated[
    int,
    typer.Option("--splits", metavar="N", min=1, max=1000, help="Random splits of table 7."),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats",
        metavar="N",
        min=1,
        max=1000,
        help="Seeds to train each detector with, tables 9-13; mean and deviation are shown.",
    ),
]
OutOrUsual = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder for the results; runs/table-N if not given."),
]


@dataclass(frozen=True)
class NetworkFlags:
    """Which networks are measured, and what stands in for those that are not there."""

    models: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Trained networks: zf5-no-spp/, zf5-multi/, ..."),
    ] = None
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Networks to take: ZF-5,Overfeat-7; all if not given."
        ),
    ] = None
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Convolution trunk, by its name.")
    ] = None
    weights: Annotated[
        str | None, typer.Option(metavar="DEFAULT|none|FILE", help="Weights of the trunk.")
    ] = None
    second: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stand-in for table 12's second network.")
    ] = None
    second_weights: Annotated[
        str, typer.Option(metavar="DEFAULT|none|FILE", help="Weights of the second stand-in.")
    ] = "DEFAULT"


@dataclass(frozen=True)
class TrainingFlags:
    """How networks that are not there are trained."""

    train: Annotated[
        bool,
        typer.Option(
            "--train", metavar="", help="Train networks that are not there (tables 2 to 4)."
        ),
    ] = False
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Passes over the images for --train; 70 or 90 if not given."
        ),
    ] = None
    imgsz: Annotated[str, typer.Option(metavar="N,N,...", help="Training sizes for --train.")] = (
        "180,224"
    )
    hidden: Annotated[
        str,
        typer.Option(
            metavar="N,N,...",
            help="Fully connected layers for --train, and new ones of tables 9-12.",
        ),
    ] = "4096,4096"
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Images per update.")] = (
        128
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the fully connected layers."""
        return parse_numbers("--hidden", self.hidden)


@dataclass(frozen=True)
class DetectionFlags:
    """How much of the detection protocol is done, for tables 9 to 13."""

    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="paper|best", help="The paper's rows, or ours beside them; both if not given."
        ),
    ] = None
    proposals: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Proposals: graph, grid, ...; the recipe's if not given."
        ),
    ] = None
    windows: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Most proposals per image; the recipe's if not given."
        ),
    ] = None
    updates: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Steps of the fine-tuning; the recipe's if not given."
        ),
    ] = None
    timed: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images to time, tables 9 and 10.")
    ] = 100
    share: Annotated[
        float,
        number_option(
            "--share",
            rule=Within(0, 1, above=True),
            text="Part of the proposals to time R-CNN on.",
        ),
    ] = 1.0
    only: Annotated[
        str | None,
        typer.Option(metavar="precision|speed", help="Part of tables 9 and 10; both if not given."),
    ] = None


@app.command()
@with_group(NetworkFlags, "networks", "Networks")
@with_group(TrainingFlags, "training", "Training")
@with_group(DetectionFlags, "detection", "Detection")
@with_group(RunFlags, "run")
def reproduce(
    table: Table,
    data: Data = None,
    limit: Limit = None,
    splits: Splits = 10,
    repeats: Repeats = 1,
    out: OutOrUsual = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    download: Download = False,
    *,
    networks: NetworkFlags,
    training: TrainingFlags,
    detection: DetectionFlags,
    run: RunFlags,
) -> None:
    """Measure a table of the paper again: OUT/table-N.json and OUT/table-N.html.

    What is missing is named, with the place where it goes; the rest is measured. Where the paper's
    networks are not there, --backbone and --weights stand in for the tables of frozen features.
    """
    if table not in TABLE_NUMBERS:
        legal = ", ".join(map(str, TABLE_NUMBERS))
        raise UsageError(f"TABLE must be one of {legal}, got {table}")
    from sppnet.app.options import choose_device  # imported here so that --help stays quick
    from sppnet.app.reproduce.job import read_budget, read_networks, run_table
    from sppnet.paper import NetworkTrainingConfig, Resources

    sides = parse_numbers("--imgsz", training.imgsz)
    resources = Resources(
        out=out or Path(f"runs/table-{table}"),
        data=data,
        models=networks.models,
        backbone=networks.backbone or "",
        weights=networks.weights or "DEFAULT",
        second=networks.second or "",
        second_weights=networks.second_weights,
        training=NetworkTrainingConfig(training.epochs, sides, training.widths, training.batch)
        if training.train
        else None,
        networks=read_networks(networks.networks),
        limit=limit,
        splits=splits,
        repeats=repeats,
        download=download,
        seed=seed,
        device=choose_device(run.device),
        budget=read_budget(
            detection.proposals,
            detection.windows,
            detection.updates,
            training.widths,
            detection.timed,
            detection.share,
            detection.only,
            detection.recipe,
        ),
    )
    run_table(table, resources, fresh=fresh, dry_run=run.dry_run)
