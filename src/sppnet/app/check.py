"""``sppnet check``: the data-set doctor."""

from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.app.console import DONE, SOME_FAILED, say, say_table
from sppnet.app.options import DataFolder, Debug, JsonFile, Split, command_app
from sppnet.app.progress import track

if TYPE_CHECKING:
    from sppnet.images import CheckReport

app = command_app("Look through a data set and name what is wrong, file and line.")

Deep = Annotated[
    bool,
    typer.Option("--deep", help="Decode every image, too; finds damaged pixels, takes longer."),
]


@app.command()
def check(
    data: DataFolder,
    split: Split = None,
    deep: Deep = False,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Look through a data set (VOC, COCO, YOLO or class folders) and name what is wrong in it.

    Every finding names the file, the line, and what training will do about it. Nothing is changed.
    """
    from sppnet.images import check_dataset

    report = check_dataset(data, split, deep=deep, track=track)
    if json_file is not None:
        from sppnet.storage import write_json

        write_json(json_file, report.to_json())
    _say_report(report)
    raise typer.Exit(SOME_FAILED if report.problems else DONE)


def _say_report(report: "CheckReport") -> None:
    """Print counts, classes, then what is wrong, what will be left out last."""
    splits = f", splits {', '.join(report.splits)}" if report.splits else ""
    say(f"{report.layout} layout{splits}")
    say(", ".join(f"{count} {name}" for name, count in report.counts.items()))
    say()
    things = "boxes" if "boxes" in report.counts else "images"
    say_table(["class", things], report.per_class.items())
    say()
    for finding in report.notes:
        say(f"note: {finding}")
    for finding in report.problems:
        say(f"problem: {finding}")
    say(f"{len(report.problems)} problems, {len(report.notes)} notes")
