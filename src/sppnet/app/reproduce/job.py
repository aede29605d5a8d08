"""Runs one table of the paper, or its claims: prints them, writes JSON and page."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import typer
from markupsafe import Markup

from sppnet.app.console import (
    NOTHING_USABLE,
    SOME_FAILED,
    note,
    report_problems,
    say,
    say_table,
    tells_cache,
)
from sppnet.app.progress import Plan, Stage, announce, track
from sppnet.errors import (
    InputError,
    NothingUsableError,
    UnusableFileError,
    UsageError,
)
from sppnet.evaluation.report import (
    Page,
    Tile,
    add_origin_section,
    add_problem_section,
    details,
    figure,
    figures,
    grouped_bar_chart,
    paragraph,
    table,
    tiles,
)
from sppnet.paper import (
    CLAIMS,
    Claim,
    PaperTable,
    Resources,
    TableResult,
    find_table,
    leave_out,
)
from sppnet.storage import RunFolder, read_json, write_json, write_text
from sppnet.storage.runs import environment

MOST_CHARTS = 8
HEADER = ("what", "column", "network", "paper", "measured", "what differs")
_KEYS = {"budget": "effort", "max_proposals": "windows"}  # what run.json calls them
SOURCE = "He, Zhang, Ren, Sun: Spatial Pyramid Pooling, arXiv 1406.4729 v4"


def run_table(number: int, resources: Resources, *, fresh: bool, dry_run: bool) -> None:
    """Run the whole command."""
    entry = find_table(number)
    say(f"table {number}: {entry.printed.title}; {entry.printed.measure}")
    missing = entry.missing(resources)
    if dry_run:
        for need in entry.needs:
            say(f"{'missing' if need.text in missing else 'there'}: {need.text}")
        return
    for line in missing:
        note(f"needs {line}")
    config = _settings(resources)
    name = f"table-{number}"
    with RunFolder.open(
        resources.out, f"reproduce {number}", config, resources.seed, fresh=fresh
    ) as run:
        kept = resources.out / "cache"
        with tells_cache(kept, "the other rows and tables go on from"), run.stage(name):
            result = entry.run(resources, track)
        record = _record(entry, result, config, run.seconds())
        write_json(run.path / f"{name}.json", record)
        write_text(run.path / f"{name}.html", render_page(entry, result, config))
    if result.measured:
        _say_measured(result)
    _end([result], resources.out / name)


def _end(results: Sequence[TableResult], written: Path) -> None:
    """Say what is missing and where the rest is; the exit code says which of both there is."""
    code = report_problems(list(dict.fromkeys(p for each in results for p in each.problems)))
    for result in results:
        for reason, cells in result.reasons().items():
            note(f"{cells} number{'s' if cells > 1 else ''} not measured: {reason}")
    say(f"written: {written}.json, {written}.html")
    if any(result.not_run for result in results):
        code = SOME_FAILED if any(each.measured for each in results) else NOTHING_USABLE
    raise typer.Exit(code=code)


Found = list[tuple[Claim, TableResult]]
CLAIM_HEADER = ("claim", "gain", "the paper's", "here", "verdict")
HOW_JUDGED = (
    "Means over splits, seeds or images, ± the standard deviation. The gain is taken split by "
    "split. A claim holds here if its gain is above the gain's own deviation; one of being as good "
    "holds unless its loss is above it."
)


def run_claims(
    resources: Resources, boxes: Path | None, only: Sequence[int], *, fresh: bool, dry_run: bool
) -> None:
    """Measure the claims that there is data for, and write the page of all that are measured.

    Each claim is written as soon as it is there, so that a run that was stopped, or one that was
    asked for a few of them, is gone on with. One that was measured on other files is measured anew.
    """
    on_boxes = replace(resources, data=boxes or resources.data)
    parts = [
        (claim, on_boxes if claim.on_boxes else resources)
        for claim in CLAIMS
        if not only or claim.printed.number in only
    ]
    for claim, own in parts:
        missing = claim.missing(own)
        if not dry_run:
            for line in missing:
                note(f"claim {claim.printed.number} needs {line}")
            continue
        say(f"claim {claim.printed.number}: {claim.printed.title}")
        for need in claim.needs:
            say(f"  {'missing' if need.text in missing else 'there'}: {need.text}")
    if dry_run:
        return
    config = {**_settings(resources), "boxes": None if boxes is None else str(boxes)}
    with RunFolder.open(
        resources.out, "reproduce claims", config, resources.seed, fresh=fresh
    ) as run:
        kept = KeptClaims(run.path, digest_files(resources, boxes), fresh=fresh)
        done = {claim.printed.number: one for claim in CLAIMS if (one := kept.read(claim))}
        stages = [
            Stage(claim.printed.title, claim.seconds(own), done=claim.printed.number in done)
            for claim, own in parts
            if not claim.missing(own)
        ]
        if stages:
            announce(stages)
        plan = Plan(stages, run.stage)
        with tells_cache(resources.out / "cache", "the next run goes on from"):
            for claim, own in parts:
                if claim.printed.number in done:
                    continue
                with plan.stage(claim.printed.title):
                    done[claim.printed.number] = result = _measure_claim(claim, own)
                kept.write(claim, result)
        found: Found = [(c, done[c.printed.number]) for c in CLAIMS if c.printed.number in done]
        write_json(run.path / "claims.json", _claims_record(found, config, run.seconds()))
        write_text(run.path / "claims.html", render_claims(found, config))
    say_table(CLAIM_HEADER, claim_rows(found))
    _end([result for _, result in found], resources.out / "claims")


class KeptClaims:
    """Claims that are measured, a file for each, so that a run can be stopped between two of them.

    Args:
        folder: Folder of the run.
        data: What the files were that they were measured on.
        fresh: Forget those that are there.
    """

    def __init__(self, folder: Path, data: str, *, fresh: bool) -> None:
        self._folder, self._data = folder, data
        for claim in CLAIMS if fresh else ():
            self._path(claim).unlink(missing_ok=True)

    def _path(self, claim: Claim) -> Path:
        return self._folder / f"claim-{claim.printed.number}.json"

    def read(self, claim: Claim) -> TableResult | None:
        """Read what was measured; None if nothing was, on these files."""
        if not self._path(claim).is_file():
            return None
        try:
            record = read_json(self._path(claim))
            if record["data"] != self._data:
                return None
            return TableResult.from_config(claim.printed, record)
        except (KeyError, TypeError, UnusableFileError):
            return None  # measured again and written anew

    def write(self, claim: Claim, result: TableResult) -> None:
        """Keep what was measured; a claim with a number that is missing is tried again."""
        if result.measured and not result.not_run:
            write_json(self._path(claim), {**result.config(), "data": self._data})


def digest_files(resources: Resources, boxes: Path | None) -> str:
    """SHA-256 over names, sizes and dates of all files that the claims are measured with."""
    digest, own = hashlib.sha256(), resources.out.resolve()
    named = (Path(name) for name in (resources.backbone, resources.weights) if name)
    for root in filter(None, (resources.data, boxes, resources.models, *named)):
        files = [root] if root.is_file() else sorted(root.rglob("*")) if root.is_dir() else []
        for path in files:
            if path.is_file() and not path.resolve().is_relative_to(own):
                status = path.stat()
                digest.update(f"{str(path)!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _measure_claim(claim: Claim, resources: Resources) -> TableResult:
    """Measure a claim; data that are no good for it do not stop the others."""
    try:
        return claim.run(resources, track)
    except (UsageError, InputError, NothingUsableError, UnusableFileError) as error:
        result = TableResult(claim.printed)
        for cell in leave_out(claim.claim, str(error)):
            result.add(cell)
        return result


def claim_rows(found: Found) -> list[tuple[str, ...]]:
    """Write what each claim gains, under `CLAIM_HEADER`."""
    rows = []
    for claim, result in found:
        row = claim.claim.gain_row
        numbers = {cell[0]: cell[3:5] for cell in table_rows(result)}.get(row, ("-", "-"))
        rows.append((claim.printed.title, row, *numbers, claim.verdict(result)))
    return rows


def render_claims(found: Found, config: dict[str, Any]) -> str:
    """Write the page of the claims: a chart for each that was measured, words for the others."""
    page = Page("The paper's claims, measured here", HOW_JUDGED, SOURCE)
    measured = [result for _, result in found if result.measured]
    holding = sum(claim.verdict(result).startswith("holds") for claim, result in found)
    counts = [
        Tile("claims measured", f"{len(measured)} of {len(found)}"),
        Tile("hold here", str(holding), "by the rule above"),
    ]
    page.add_section("", tiles(counts), table(CLAIM_HEADER, claim_rows(found)))
    for claim, result in found:
        printed, rows = claim.claim, table_rows(result)
        charts = comparison_charts(result, without=printed.gain_row)
        page.add_section(
            f"{printed.number}. {printed.title}",
            paragraph(f"Verdict: {claim.verdict(result)}."),
            *(paragraph(f"Left out: {reason}.") for reason in result.reasons()),
            figures(*charts) if charts else "",
            table((HEADER[0], *HEADER[2:5]), [(row[0], *row[2:5]) for row in rows]) if rows else "",
            paragraph(f"The paper's numbers, section {printed.section}: {printed.origin}."),
            *(paragraph(f"What differs here: {words}.") for words in result.differences()),
        )
    problems = list(dict.fromkeys(each for _, result in found for each in result.problems))
    if problems:
        add_problem_section(page, problems)
    add_origin_section(page, config, environment()["versions"])
    return page.render()


def _say_measured(result: TableResult) -> None:
    """Print the numbers; what differs is said once, with a letter where it is not the same."""
    letters = difference_letters(result)
    rows = [(*row[:-1], letters.get(row[-1], "")) for row in table_rows(result) if row[4] != "-"]
    if any(letters.values()):
        say_table(HEADER, rows)
    else:
        say_table(HEADER[:-1], [row[:-1] for row in rows])
    for words, letter in letters.items():
        say(f"{letter or 'what differs'}: {words}")


def difference_letters(result: TableResult) -> dict[str, str]:
    """Give a letter to each set of differences; none where there is only one."""
    differences = result.differences()
    if len(differences) < 2:
        return dict.fromkeys(differences, "")
    return {words: _letter(place) for place, words in enumerate(differences)}


def _letter(place: int) -> str:
    """Name places in the manner of footnotes.

    Example:
        >>> [_letter(place) for place in (0, 25, 26)]
        ['a', 'z', 'aa']
    """
    more, letter = divmod(place, 26)
    return ascii_lowercase[letter] * (more + 1)


def table_rows(result: TableResult) -> list[tuple[str, ...]]:
    """Write every cell as a row under `HEADER`; a dash where there is nothing."""
    rows: list[tuple[str, ...]] = []
    for cell in result.records():
        rows.append(
            (
                cell["row"],
                cell["column"],
                cell.get("network", ""),
                _with_deviation(cell["paper"], cell["paper_deviation"]),
                _with_deviation(cell["measured"], cell.get("deviation")),
                cell.get("differs") or cell.get("not_run") or "",
            )
        )
    return rows


def grid_rows(result: TableResult) -> list[list[str]]:
    """Write the table as it is printed, measured numbers in brackets."""
    letters = difference_letters(result)
    cells = {(cell["row"], cell["column"]): cell for cell in result.records()}
    return [
        [row, *(_grid_cell(cells.get((row, column)), letters) for column in result.columns)]
        for row in result.rows
    ]


def _grid_cell(cell: dict[str, Any] | None, letters: dict[str, str]) -> str:
    """Both numbers of one cell and the letter of its difference; a dash where nothing is."""
    if cell is None:
        return "-"
    if cell["measured"] is None:
        return _with_deviation(cell["paper"], cell["paper_deviation"])
    number = _with_deviation(cell["measured"], cell["deviation"])
    found = " ".join(filter(None, [number, cell["network"], letters.get(cell["differs"], "")]))
    paper = _with_deviation(cell["paper"], cell["paper_deviation"])
    return f"[{found}]" if cell["paper"] is None else f"{paper} [{found}]"


def render_page(entry: PaperTable, result: TableResult, config: dict[str, Any]) -> str:
    """Write the page."""
    printed, notes = entry.printed, difference_letters(result)
    page = Page(f"Table {printed.number}: {printed.title}", printed.measure, SOURCE)
    counts = [
        Tile("measured", str(len(result.measured))),
        Tile("not measured", str(len(result.not_run)), "why: below" if result.not_run else ""),
    ]
    page.add_section("", tiles(counts))
    page.add_section(
        "Printed and measured",
        paragraph(
            "The paper's number, then in brackets the one measured here, with the network that it "
            "is of; letters: what differs."
        ),
        table(("", *result.columns), grid_rows(result)),
        *(paragraph(f"{letter or 'What differs'}: {words}.") for words, letter in notes.items()),
        details("Every number", table(HEADER, table_rows(result))),
    )
    drawn = comparison_charts(result)
    if drawn:
        page.add_section("As bars", figures(*drawn))
    reasons = [paragraph(f"{count}: {reason}") for reason, count in result.reasons().items()]
    if reasons:
        page.add_section("Not measured", *reasons)
    if result.problems:
        add_problem_section(page, result.problems)
    if entry.needs:
        page.add_section("What the table needs", *(paragraph(need.text) for need in entry.needs))
    add_origin_section(page, config, environment()["versions"])
    return page.render()


def comparison_charts(result: TableResult, without: str = "") -> list[Markup]:
    """Draw the printed and the measured numbers as bars, a chart for each column or for each row.

    The groups are the longer side of the table, so that a table of 20 classes is one chart.

    Args:
        result: What is drawn.
        without: A row that is left out.
    """
    by_row = len(result.columns) > len(result.rows)
    charts, groups = ("row", "column") if by_row else ("column", "row")
    titles = result.rows if by_row else result.columns
    drawn = []
    for title in titles[:MOST_CHARTS]:
        cells = [
            cell
            for cell in result.records()
            if cell[charts] == title and cell["measured"] is not None and cell["row"] != without
        ]
        if not cells:
            continue
        series = {
            name: [math.nan if cell[name] is None else cell[name] for cell in cells]
            for name in ("paper", "measured")
        }
        for name in [name for name, values in series.items() if all(map(math.isnan, values))]:
            del series[name]
        around = [math.nan if cell["deviation"] is None else cell["deviation"] for cell in cells]
        bars = grouped_bar_chart(
            [cell[groups] for cell in cells],
            series,
            label=title,
            largest=None,
            value_text=_bar_text,
            spreads={"measured": around},
        )
        drawn.append(figure(bars, title))
    return drawn


def _bar_text(value: float) -> str:
    """A number beside its bar."""
    return _number(None if math.isnan(value) else value)


def _record(
    entry: PaperTable,
    result: TableResult,
    config: dict[str, Any],
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
        "problems": [asdict(problem) for problem in result.problems],
        "configuration": config,
        "seconds": seconds,
        **environment(),
    }


def _claims_record(
    found: Found, config: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Everything that the JSON file of the claims holds."""
    claims = [
        {
            "number": claim.printed.number,
            "claim": claim.printed.title,
            "measure": claim.printed.measure,
            "section": claim.printed.section,
            "origin": claim.claim.origin,
            "verdict": claim.verdict(result),
            "cells": result.records(),
            "not_measured": result.reasons(),
            "problems": [asdict(problem) for problem in result.problems],
        }
        for claim, result in found
    ]
    return {
        "claims": claims,
        "source": SOURCE,
        "configuration": config,
        "seconds": seconds,
        **environment(),
    }


def _settings(resources: Resources) -> dict[str, Any]:
    """Everything that decides the numbers, as plain values under the keys of earlier runs."""
    values = {_KEYS.get(key, key): value for key, value in asdict(resources).items()}
    del values["out"], values["seed"]
    if resources.part == 1:  # earlier runs did not know it
        del values["part"]
    values["device"] = str(resources.device)
    values["effort"] = {_KEYS.get(key, key): value for key, value in values["effort"].items()}
    return values


def _with_deviation(value: float | None, deviation: float | None) -> str:
    """Write a number and what is behind its plus-minus, if anything is.

    Example:
        >>> _with_deviation(93.42, 0.5), _with_deviation(None, None)
        ('93.42 ± 0.5', '-')
    """
    return _number(value) + ("" if deviation is None else f" ± {_number(deviation)}")


def _number(value: float | None) -> str:
    """Two decimals, fewer for whole numbers, three digits below 1; a dash for what is not there.

    Example:
        >>> [_number(value) for value in (None, 64.0, 54.5, 0.0531)]
        ['-', '64', '54.50', '0.0531']
    """
    if value is None:
        return "-"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:z.2f}" if abs(value) >= 1 else f"{value:z.3g}"
