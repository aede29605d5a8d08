"""``sppnet reproduce``: measures a table of the paper, or its claims, and shows both numbers.

This module reads the flags; ``job.py`` runs tables and claims and writes JSON and page. What is
measured, and how, stands in :mod:`sppnet.paper`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from sppnet.app.console import options_to_blame
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

if TYPE_CHECKING:
    from sppnet.paper import Budget

app = command_app("Measure a table or the claims of the paper and show both numbers.")
TABLE_NUMBERS = tuple(range(1, 14))  # a test compares it with sppnet.paper.TABLES
CLAIMS = "claims"
CLAIMS_OF_PAPER = 7  # a test compares it with sppnet.paper.CLAIMS
Table = Annotated[
    str,
    typer.Argument(
        metavar="TABLE|claims", help="Number in the paper, 1 to 13; or claims, on photos of yours."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder with imagenet/, caltech101/, VOCdevkit/VOC2007/, or one data set itself.",
    ),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        "--boxes",
        metavar="DIR",
        help="Data set with boxes for the claims about detection; that of --data if not given.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="Most images to score on, drawn with the seed; 9-12, claims: also to learn from.",
    ),
]
Splits = Annotated[
    int | None,
    typer.Option(
        "--splits",
        metavar="N",
        min=1,
        max=1000,
        help="Random splits of table 7 and of claims; 10 and 5 if not given.",
    ),
]
TrainPerClass = Annotated[
    int | None,
    typer.Option(
        "--train-per-class",
        metavar="N",
        min=1,
        help="Images of each class to fit SVMs to, table 7 and claims 1, 2 and 6; 30 if not given.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        metavar="",
        help="Claims in a few minutes: less of everything that no flag asks for.",
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(
        "--repeats",
        metavar="N",
        min=1,
        max=1000,
        help="Seeds of training, tables 9-13 and claims; 1 and 3 if not given.",
    ),
]
OutOrUsual = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder for results; runs/table-N or runs/claims if not given.",
    ),
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
    imgsz: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Training sizes; 180,224 (claims: 96,128)."),
    ] = None
    hidden: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", help="New fully connected layers; 4096,4096 (claims: 256,256)."
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=4096, help="Images per update; 128 (claims: 32)."),
    ] = None


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
        int | None,
        typer.Option(metavar="N", min=1, help="Images to time, tables 9, 10: 100; claims: 4."),
    ] = None
    share: Annotated[
        float | None,
        number_option(
            "--share",
            rule=Within(0, 1, above=True),
            text="Part of the proposals to time R-CNN on; 1 (claims: 0.05).",
        ),
    ] = None
    only: Annotated[
        str | None,
        typer.Option(
            metavar="precision|speed|N,N,...",
            help="Part of tables 9 and 10, or numbers of claims; all if not given.",
        ),
    ] = None


class Usual(NamedTuple):
    """What is done where no flag says otherwise; `part` is of the images of a claim."""

    splits: int = 10
    repeats: int = 1
    epochs: int | None = None
    imgsz: str = "180,224"
    hidden: str = "4096,4096"
    batch: int = 128
    proposals: str | None = None
    updates: int | None = None
    timed: int = 100
    share: float = 1.0
    windows: int | None = None
    part: float = 1.0


OF_TABLES = Usual()
OF_CLAIMS = Usual(5, 3, 12, "96,128", "256,256", 32, "graph", 200, 4, 0.05)  # tens of minutes
OF_QUICK = Usual(3, 2, 4, "64,96", "64,64", 16, "graph", 50, 2, 0.02, windows=32, part=0.3)


def read_networks(text: str | None) -> tuple[str, ...]:
    """Read a list of the paper's networks.

    Raises:
        UsageError: If the paper has no such network.

    Example:
        >>> read_networks("zf-5, Overfeat-7")
        ('ZF-5', 'Overfeat-7')
    """
    from sppnet.paper.printed import NETWORKS

    known = {name.lower(): name for name in NETWORKS}
    words = [word.strip().lower() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise UsageError(f"--networks must be among {', '.join(NETWORKS)}, got {word!r}")
    return tuple(known[word] for word in words)


def read_budget(
    proposals: str | None,
    max_proposals: int | None,
    updates: int | None,
    widths: Sequence[int],
    timed: int,
    share: float,
    only: str | None,
    recipe: str | None = None,
) -> "Budget":
    """Read how much of the detection protocol is done.

    Raises:
        UsageError: If a word is none of the legal ones.

    Example:
        >>> read_budget("grid", 50, 10, (8, 8), 2, 0.5, "speed").parts
        ('speed',)
    """
    from sppnet.config.detection import split_methods
    from sppnet.paper import Budget

    with options_to_blame():
        split_methods(proposals or "grid")
    if recipe not in (None, *Budget.recipes):
        raise UsageError(f"--recipe must be {' or '.join(Budget.recipes)}, got {recipe!r}")
    if only not in (None, *Budget.parts):
        raise UsageError(f"--only must be precision or speed, got {only!r}")
    # networks of tables 2 to 4 may have other numbers of layers
    layers = (widths[0], widths[-1]) if widths else Budget.widths
    parts = Budget.parts if only is None else (only,)
    recipes = Budget.recipes if recipe is None else (recipe,)
    return Budget(proposals, max_proposals, updates, layers, timed, share, parts, recipes)


def read_claims(text: str | None) -> tuple[int, ...]:
    """Read which claims are to be measured.

    Raises:
        UsageError: If the paper makes no such claim.

    Example:
        >>> read_claims("3,1"), read_claims(None)
        ((3, 1), ())
    """
    chosen = () if text is None else parse_numbers("--only", text)
    if text is not None and not (chosen and max(chosen) <= CLAIMS_OF_PAPER):
        raise UsageError(f"--only must be numbers of claims, 1 to {CLAIMS_OF_PAPER}, got {text!r}")
    return chosen


@app.command()
@with_group(NetworkFlags, "networks", "Networks")
@with_group(TrainingFlags, "training", "Training")
@with_group(DetectionFlags, "detection", "Detection")
@with_group(RunFlags, "run")
def reproduce(
    table: Table,
    data: Data = None,
    boxes: Boxes = None,
    limit: Limit = None,
    splits: Splits = None,
    train_per_class: TrainPerClass = None,
    repeats: Repeats = None,
    quick: Quick = False,
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
    "claims" measures what the paper claims, on any class folders and any images with boxes, with
    means and deviations: OUT/claims.json and OUT/claims.html.
    """
    if table not in (CLAIMS, *map(str, TABLE_NUMBERS)):
        legal = ", ".join(map(str, TABLE_NUMBERS))
        raise UsageError(f"TABLE must be one of {legal}, or {CLAIMS}, got {table!r}")
    if boxes is not None and table != CLAIMS:
        raise UsageError(f"--boxes is for {CLAIMS}; tables take --data")
    if quick and table != CLAIMS:
        raise UsageError(f"--quick is for {CLAIMS}; tables take --limit, --windows and the like")
    only = read_claims(detection.only) if table == CLAIMS else ()
    from sppnet.app.options import choose_device  # imported here so that --help stays quick
    from sppnet.app.reproduce.job import run_claims, run_table
    from sppnet.paper import NetworkTrainingConfig, Resources

    usual = (OF_QUICK if quick else OF_CLAIMS) if table == CLAIMS else OF_TABLES
    sides = parse_numbers("--imgsz", training.imgsz or usual.imgsz)
    widths = parse_numbers("--hidden", training.hidden or usual.hidden)
    plan = NetworkTrainingConfig(
        training.epochs or usual.epochs, sides, widths, training.batch or usual.batch
    )
    name = CLAIMS if table == CLAIMS else f"table-{table}"
    resources = Resources(
        out=out or Path(f"runs/{name}"),
        data=data,
        models=networks.models,
        backbone=networks.backbone or "",
        weights=networks.weights or "DEFAULT",
        second=networks.second or "",
        second_weights=networks.second_weights,
        training=plan if training.train or table == CLAIMS else None,
        networks=read_networks(networks.networks),
        limit=limit,
        splits=splits or usual.splits,
        train_per_class=train_per_class,
        repeats=repeats or usual.repeats,
        download=download,
        seed=seed,
        device=choose_device(run.device),
        part=usual.part,
        budget=read_budget(
            detection.proposals or usual.proposals,
            detection.windows or usual.windows,
            detection.updates or usual.updates,
            widths,
            detection.timed or usual.timed,
            detection.share or usual.share,
            None if table == CLAIMS else detection.only,
            detection.recipe,
        ),
    )
    if table == CLAIMS:
        run_claims(resources, boxes, only, fresh=fresh, dry_run=run.dry_run)
    else:
        run_table(int(table), resources, fresh=fresh, dry_run=run.dry_run)
