"""Sections that the reports share: time per stage, problems in the input, how it was made."""

import math
from collections.abc import Mapping, Sequence

from sppnet.errors import Problem
from sppnet.evaluation.chart_axes import seconds_text
from sppnet.evaluation.charts import bar_chart
from sppnet.evaluation.markup import Html
from sppnet.evaluation.page import Page, details, figure, figures, name_values, paragraph, table

LARGEST_OPEN_TABLE = 10
MOST_PROBLEMS = 500
MOST_BARS = 30


def add_time_section(page: Page, seconds: Mapping[str, float]) -> None:
    """Append the time per stage as bars; nothing if nothing was measured.

    Args:
        page: Appended to.
        seconds: By stage, in the order of the work.
    """
    if not seconds:
        return
    total = math.fsum(seconds.values())
    bars = bar_chart(
        list(seconds),
        list(seconds.values()),
        label="time per stage",
        largest=None,
        value_text=seconds_text,
    )
    page.add_section("Time", figures(figure(bars, "Per stage", f"{seconds_text(total)} in all.")))


def add_problem_section(page: Page, problems: Sequence[Problem]) -> None:
    """Append what was wrong with the input files: the file, the rule, what was done.

    Args:
        page: Appended to.
        problems: Findings; a long list is folded, a very long one cut, and it says so.
    """
    if not problems:
        page.add_section("Problems in the input", "None: every file could be used as it is.")
        return
    rows = [
        (entry.path, entry.line, entry.rule, entry.action or None, entry.code)
        for entry in problems[:MOST_PROBLEMS]
    ]
    listing = table(("file", "line", "what is wrong", "what was done", "code"), rows)
    number = f"{len(problems):,} finding{'s' if len(problems) > 1 else ''}"
    if len(problems) > MOST_PROBLEMS:
        number += f", the first {MOST_PROBLEMS} of them below"
    shown = listing if len(rows) <= LARGEST_OPEN_TABLE else details("Show all", listing)
    page.add_section("Problems in the input", paragraph(f"{number}. The rest was used."), shown)


def add_origin_section(
    page: Page, configuration: Mapping[str, object], versions: Mapping[str, str]
) -> None:
    """Append what it takes to make the page again.

    Args:
        page: Appended to.
        configuration: Every setting of the run.
        versions: Of the packages.
    """
    named = (("Configuration", configuration), ("Versions", versions))
    blocks = [details(title, name_values(values)) for title, values in named if values]
    if blocks:
        page.add_section("How this was made", *blocks)


def in_columns(*blocks: Html | None) -> Html:
    """Figures that exist, side by side."""
    return figures(*(block for block in blocks if block))


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, on one line.

    Example:
        >>> [counted(n, "class").replace("\u00a0", " ") for n in (1, 1200)]
        ['1 class', '1,200 classes']
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,}\u00a0{noun}{ending}"


def class_bars(values: Mapping[str, float], title: str) -> Html:
    """Bars of the classes, the best on top; of more than 30 only the best and the worst 15.

    Args:
        values: By class name, 0..1; NaN for a class that could not be measured.
        title: What is measured.

    Returns:
        A figure.
    """
    ranked, note = ranked_names(values), "Sorted; a full bar is 1."
    if len(ranked) > MOST_BARS:
        half = MOST_BARS // 2
        ranked = [*ranked[:half], *ranked[-half:]]
        note = f"The best {half} and the worst {half} classes; a full bar is 1."
    bars = bar_chart(ranked, [values[name] for name in ranked], label=title)
    return figure(bars, title, note)


def ranked_names(values: Mapping[str, float]) -> list[str]:
    """Names by value, the highest first, those without a value last.

    Example:
        >>> ranked_names({"a": 0.2, "b": float("nan"), "c": 0.9})
        ['c', 'a', 'b']
    """
    return sorted(values, key=lambda name: -values[name] if math.isfinite(values[name]) else 2.0)
