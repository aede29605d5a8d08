r"""Runs the commands of the reliability bar and keeps their figures; makes the table of the docs.

    python benchmarks/reliability/run.py --list
    python benchmarks/reliability/run.py A1 E3
    python benchmarks/reliability/run.py --quick
    python benchmarks/reliability/run.py --table

``bars.py`` says which command belongs to which id. Figures go to figures.json beside it, one entry
an id: what the command said, its date, seconds, and the machine. ``--quick`` runs all but the slow
ones. ``--take ID FILE`` takes the JSON that a program wrote. ``--table`` writes the table into
docs/reliability.md, between its two marks.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bars import BARS, MET, NOT_MEASURED, NOT_MET, PARTLY, Bar

ROOT = Path(__file__).parents[2]
FIGURES = Path(__file__).with_name("figures.json")
PAGE = ROOT / "docs" / "reliability.md"
MARKS = ("<!-- the table -->", "<!-- the end of the table -->")
TAIL, MOST_LETTERS = 600, 280
# what is no figure of its own: it stands in the JSON that the program wrote
LONG = (
    "environment",
    "things",
    "counts",
    "kinds",
    "each",
    "examples",
    "survivors",
    "faults",
    "statuses",
)
SERVED = (
    "answers_wrong",
    "answers_lost_beyond_kills",
    "answers_500",
    "server_crashes",
    "edits_lost",
)
FUZZED = ("signal", "traceback", "hang", "peak")


def run(bar: Bar) -> dict[str, Any]:
    """Run the command of an id; its figure."""
    words = shlex.split(bar.command)
    begin = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    figure = figure_of(done.stdout)
    return {
        "figure": figure,
        "well": done.returncode == 0,
        **about(time.monotonic() - begin),
        **({} if done.returncode == 0 else {"said": (done.stdout + done.stderr)[-TAIL:]}),
    }


def about(seconds: float | None) -> dict[str, Any]:
    """When, how long, and on what."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": None if seconds is None else round(seconds, 1),
        "processor": processor(),
        "threads": 1,
    }


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else "unknown"


def figure_of(said: str) -> str:
    """The figure in what a command said: JSON, or the last line of pytest."""
    if (start := said.find("{\n")) >= 0:
        try:
            return words_of(json.loads(said[start:]))
        except ValueError:
            pass
    if total := re.findall(r"^TOTAL.*?(\d+%)$", said, re.M):
        return f"{total[-1]} of lines and branches"
    found = re.findall(
        r"^[= ]*(\d+ (?:passed|failed)[^=\n]*?)(?: in [\d.:a-z ()]+)?[= ]*$", said, re.M
    )
    if found:
        passed = re.sub(r", \d+ (deselected|warnings?|xfailed)", "", found[-1])
        return f"{passed} (tests)"
    return (said.strip().splitlines() or [""])[-1]


def words_of(found: dict[str, Any]) -> str:
    """The figures of a program, in a line."""
    if isinstance(found.get("things"), dict) and "lie" in found:
        return "; ".join(
            f"{name}: {each['wrong']} of {each['points']} points wrong ({each['calls']:,} calls)"
            for name, each in found["things"].items()
        )
    if isinstance(found.get("things"), dict):
        return f"{found['wrong']} of {found['faults']:,} faults end wrong"
    if isinstance(found.get("rooms"), dict):
        return "; ".join(
            f"{room}: {each['killed']} of {each['judged']} killed "
            f"({each['interval'][0]:.0%} to {each['interval'][1]:.0%} of all)"
            for room, each in found["rooms"].items()
        )
    if "refused" in found and "hang" in found:
        faults = sum(found[name] for name in FUZZED)
        slowest = f"slowest {found['slowest_seconds']:.2f} s"
        return f"{faults} of {found['inputs']:,} spoilt inputs at fault; {slowest}"
    parts = []
    for name, value in found.items():
        if name in LONG or value is None or value == []:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        parts.append(f"{name.replace('_', ' ')}: {value}")
    said = "; ".join(parts)
    return said if len(said) <= MOST_LETTERS else said[:MOST_LETTERS].rpartition("; ")[0]


def verdict_of(bar: Bar, figure: dict[str, Any] | None) -> str:
    """What holds, given what the command said."""
    if bar.verdict == NOT_MEASURED or (bar.command and figure is None):
        return NOT_MEASURED
    return NOT_MET if figure is not None and not figure["well"] else bar.verdict


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The table of the page."""
    lines = [
        "| id | what is promised | figure | | date | command |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for bar in BARS:
        figure = figures.get(bar.id)
        verdict = verdict_of(bar, figure)
        said = figure["figure"] if figure else "-"
        left = f": {bar.left}" if bar.left else ""
        command = f"`{bar.command}`" if bar.command else "-"
        cells = [
            bar.id,
            bar.promise,
            said,
            f"**{verdict}**{left}",
            figure["date"] if figure else "-",
            command,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    counts = {
        verdict: sum(verdict_of(bar, figures.get(bar.id)) == verdict for bar in BARS)
        for verdict in (MET, PARTLY, NOT_MET, NOT_MEASURED)
    }
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"Of {len(BARS)} ids: {total}.\n\n" + "\n".join(lines) + "\n"


def page_with(text: str, figures: dict[str, dict[str, Any]]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{table(figures)}{MARKS[1]}{after}"


def main() -> None:
    """Run what is asked for; leave with 1 if one of it went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--quick", action="store_true", help="All that take minutes at most.")
    parser.add_argument("--list", action="store_true", help="Ids and commands.")
    parser.add_argument("--table", action="store_true", help="Write the table of the docs.")
    parser.add_argument("--take", nargs=2, metavar=("ID", "FILE"), help="JSON of a program.")
    chosen = parser.parse_args()
    taken: dict[str, dict[str, Any]] = {}
    known = {bar.id: bar for bar in BARS}
    wanted = [known[name] for name in chosen.ids]
    wanted += [bar for bar in BARS if chosen.quick and bar.command and not bar.slow]
    if chosen.list:
        for bar in BARS:
            print(f"{bar.id:4} {'slow ' if bar.slow else '     '}{bar.command or '-'}")
    if chosen.take:
        found = json.loads(Path(chosen.take[1]).read_text())
        parts = found["things"].values() if "lie" in found else [found]
        wrong = sum(each.get(name, 0) for each in parts for name in ("wrong", *FUZZED, *SERVED))
        wrong += len(found.get("beyond", ()))
        save(
            chosen.take[0],
            {"figure": words_of(found), "well": not wrong, **about(found.get("seconds"))},
        )
    for bar in wanted:
        figure = taken[bar.id] = run(bar)
        print(bar.id, "well" if figure["well"] else "WRONG", figure["figure"], flush=True)
        save(bar.id, figure)
    if chosen.table:
        figures = json.loads(FIGURES.read_text())
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")
    sys.exit(1 if any(not figure["well"] for figure in taken.values()) else 0)


def save(name: str, figure: dict[str, Any]) -> None:
    """Keep the figure of an id, beside those that other runs have kept meanwhile."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    order = {bar.id: place for place, bar in enumerate(BARS)}
    ordered = dict(sorted({**figures, name: figure}.items(), key=lambda item: order[item[0]]))
    text = json.dumps(ordered, indent=1) + "\n"
    places = {sys.prefix: "ENVIRONMENT", str(ROOT): "REPOSITORY", str(Path.home()): "HOME"}
    for place, name in places.items():  # of this machine, which are of no use on another
        text = text.replace(place, name)
    FIGURES.write_text(text)


if __name__ == "__main__":
    main()
