"""``sppnet check``: finds what is wrong in a data set."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.app.console import DONE, SOME_FAILED, say, say_table
from sppnet.app.options import DataFolder, Debug, JsonFile, MaxPixels, Split, command_app
from sppnet.app.progress import track

if TYPE_CHECKING:
    from sppnet.images import CheckReport

app = command_app("Look through a data set and name what is wrong, file and line.")

Quick = Annotated[
    bool,
    typer.Option("--quick", help="Read headers only; images damaged behind them stay unnoticed."),
]


@app.command()
def check(
    data: DataFolder,
    split: Split = None,
    quick: Quick = False,
    json_file: JsonFile = None,
    max_pixels: MaxPixels = None,
    debug: Debug = False,
) -> None:
    """Look through a data set of any layout, or a label store, and name what is wrong in it.

    Every finding names the file, the line, and what training will do about it: problems are left
    out or spoil a score, notes are used. All splits are looked at, and what they have in common.
    Nothing is changed.
    """
    from sppnet.images import check_dataset

    report = check_dataset(data, split, quick=quick, track=track)
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
    parts = list(report.by_split)
    rows = [
        [name, count, *(report.by_split[part].get(name, 0) for part in parts)]
        for name, count in report.per_class.items()
    ]
    say_table(["class", things, *parts], rows)
    for line in _summary_lines(report.summary):
        say(line)
    say()
    for finding in report.notes:
        say(f"note: {finding}")
    for finding in report.problems:
        say(f"problem: {finding}")
    for hint in report.hints:
        say(f"hint: {hint}")
    say(f"{len(report.problems)} problems, {len(report.notes)} notes")


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    """Sizes in words."""
    spreads = {name: spread for name, spread in summary.items() if isinstance(spread, list)}
    lines = [
        f"{name.replace('_', ' ')}: {low:g} to {high:g}, half of them up to {middle:g}"
        for name, (low, middle, high) in spreads.items()
    ]
    if "sizes" in summary:
        sizes = ", ".join(f"{share:.0%} {name}" for name, share in summary["sizes"].items())
        lines.append(f"sizes of boxes as COCO counts: {sizes}")
        lines.append(f"half of the boxes take up to {summary['share_of_image']:.1%} of their image")
    return ["", *lines] if lines else []
