"""The work of ``sppnet reproduce``: run a table, print it, write JSON and page."""

from dataclasses import asdict
from typing import Any

import typer

from sppnet.app.console import NOTHING_USABLE, SOME_FAILED, note, say, say_table
from sppnet.app.progress import track
from sppnet.errors import UsageError
from sppnet.evaluation.page import Page, Tile, paragraph, table, tiles
from sppnet.evaluation.report_blocks import add_origin_section
from sppnet.paper import PaperTable, Supplies, TableResult, find_table
from sppnet.paper.printed import NETWORKS
from sppnet.storage import RunFolder, write_json, write_text
from sppnet.storage.surroundings import surroundings

HEADER = ("what", "column", "paper", "measured", "deviation", "what differs")
SOURCE = "He, Zhang, Ren, Sun: Spatial Pyramid Pooling, arXiv 1406.4729 v4"


def read_networks(text: str | None) -> tuple[str, ...]:
    """Read a list of the paper's networks.

    Raises:
        UsageError: If the paper has no such network.

    Example:
        >>> read_networks("zf-5, Overfeat-7")
        ('ZF-5', 'Overfeat-7')
    """
    known = {name.lower(): name for name in NETWORKS}
    words = [word.strip().lower() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise UsageError(f"--networks must be among {', '.join(NETWORKS)}, got {word!r}")
    return tuple(known[word] for word in words)


def run_table(number: int, supplies: Supplies, *, fresh: bool, dry_run: bool) -> None:
    """Do the whole command."""
    entry = find_table(number)
    say(f"table {number}: {entry.printed.title}; {entry.printed.measure}")
    for line in entry.wants:
        note(f"needs {line}")
    if dry_run:
        return
    configuration = _settings(supplies)
    name = f"table-{number}"
    with RunFolder.open(
        supplies.out, f"reproduce {number}", configuration, supplies.seed, fresh=fresh
    ) as run:
        with run.stage(name):
            result = entry.run(supplies, track)
        record = _record(entry, result, configuration, run.seconds())
        write_json(run.path / f"{name}.json", record)
        write_text(run.path / f"{name}.html", render_page(entry, result, configuration))
    say_table(HEADER, [row for row in table_rows(result) if row[3] != "-"])
    for reason, cells in result.reasons().items():
        note(f"{cells} number{'s' if cells > 1 else ''} not measured: {reason}")
    say(f"written: {supplies.out / name}.json, {supplies.out / name}.html")
    if result.not_run:
        raise typer.Exit(code=SOME_FAILED if result.measured else NOTHING_USABLE)


def table_rows(result: TableResult) -> list[tuple[str, ...]]:
    """Write every cell as a row under `HEADER`; a dash where there is nothing."""
    rows: list[tuple[str, ...]] = []
    for cell in result.records():
        rows.append(
            (
                cell["row"],
                cell["column"],
                _number(cell["paper"]),
                _number(cell["measured"]),
                _number(cell.get("deviation")),
                cell.get("differs") or cell.get("not_run") or "",
            )
        )
    return rows


def render_page(entry: PaperTable, result: TableResult, configuration: dict[str, Any]) -> str:
    """Write the page."""
    printed = entry.printed
    page = Page(f"Table {printed.number}: {printed.title}", printed.measure, SOURCE)
    counts = [
        Tile("measured", str(len(result.measured))),
        Tile("not measured", str(len(result.not_run)), "the reasons are below"),
    ]
    page.add_section("", tiles(counts))
    page.add_section("Printed and measured", table(HEADER, table_rows(result)))
    reasons = [paragraph(f"{count}: {reason}") for reason, count in result.reasons().items()]
    if reasons:
        page.add_section("Not measured", *reasons)
    if entry.wants:
        page.add_section("What the table needs", *map(paragraph, entry.wants))
    add_origin_section(page, configuration, surroundings()["versions"])
    return page.render()


def _record(
    entry: PaperTable,
    result: TableResult,
    configuration: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Everything that the JSON file holds."""
    printed = entry.printed
    return {
        "table": printed.number,
        "title": printed.title,
        "measure": printed.measure,
        "section": printed.section,
        "source": SOURCE,
        "cells": result.records(),
        "not_measured": result.reasons(),
        "configuration": configuration,
        "seconds": seconds,
        **surroundings(),
    }


def _settings(supplies: Supplies) -> dict[str, Any]:
    """All that decides the numbers, as plain values."""
    values = asdict(supplies)
    del values["out"], values["seed"]
    values["device"] = str(supplies.device)
    return values


def _number(value: float | None) -> str:
    """Two decimals, fewer for whole numbers; a dash for what is not there."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"
