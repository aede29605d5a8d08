"""``sppnet reproduce``: a table of the paper, its numbers beside those measured here."""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.app.options import (
    BackboneChoice,
    Debug,
    Device,
    DryRun,
    Fresh,
    Seed,
    Threads,
    WeightsChoice,
    command_app,
    parse_numbers,
)
from sppnet.errors import UsageError

app = command_app("Measure a table of the paper again and show both numbers side by side.")
TABLE_NUMBERS = (1, 2, 3, 4, 6, 7, 8)  # a test compares it with sppnet.paper.TABLES

Table = Annotated[
    int, typer.Argument(metavar="TABLE", help="Number in the paper: 1, 2, 3, 4, 6, 7 or 8.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder with imagenet/, caltech101/, VOCdevkit/VOC2007/, or one data set itself.",
    ),
]
Models = Annotated[
    Path | None,
    typer.Option("--models", metavar="DIR", help="Trained networks: zf5-no-spp/, zf5-multi/, ..."),
]
OutOrUsual = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder for the results; runs/table-N if not given."),
]


@app.command()
def reproduce(
    table: Table,
    data: Data = None,
    models: Models = None,
    backbone: BackboneChoice = None,
    weights: WeightsChoice = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train networks that are not there (tables 2 to 4).")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images for --train.")] = 70,
    imgsz: Annotated[
        str, typer.Option(metavar="N,N,...", help="Training sizes for --train.")
    ] = "180,224",
    hidden: Annotated[
        str, typer.Option(metavar="N,N,...", help="Fully connected layers for --train.")
    ] = "4096,4096",
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images per update.")] = 128,
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Networks to take: ZF-5,Overfeat-7; all if not given."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most images to score on, drawn with the seed.")
    ] = None,
    splits: Annotated[int, typer.Option(min=1, max=1000, help="Random splits of table 7.")] = 10,
    out: OutOrUsual = None,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Measure a table of the paper again: OUT/table-N.json and OUT/table-N.html.

    What is missing is named, with the place where it goes; the rest is measured. Where the paper's
    networks are not there, --backbone and --weights stand in for the tables of frozen features.
    """
    if table not in TABLE_NUMBERS:
        legal = ", ".join(map(str, TABLE_NUMBERS))
        raise UsageError(f"TABLE must be one of {legal}, got {table}")
    from sppnet.app.device import choose_device  # imported here so that --help stays quick
    from sppnet.app.reproduce_job import read_networks, run_table
    from sppnet.paper import Supplies
    from sppnet.paper.supplies import Training

    training = Training(
        epochs,
        parse_numbers("--imgsz", imgsz) or (),
        parse_numbers("--hidden", hidden) or (),
        batch,
    )
    supplies = Supplies(
        out=out or Path(f"runs/table-{table}"),
        data=data,
        models=models,
        backbone=backbone or "",
        weights=weights or "DEFAULT",
        training=training if train else None,
        networks=read_networks(networks),
        limit=limit,
        splits=splits,
        seed=seed,
        device=choose_device(device),
    )
    run_table(table, supplies, fresh=fresh, dry_run=dry_run)
