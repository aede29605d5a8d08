"""The bar of ``benchmarks/reliability``: every id is there, the table is that of the figures."""

import json
import re
from pathlib import Path

import bars
import pytest
import run
import supply

ROOT = Path(__file__).parents[1]
COUNTS = {"A": 12, "B": 4, "C": 13, "D": 13, "E": 16, "F": 15}


def test_every_id_has_a_line() -> None:
    wanted = [f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)]
    assert [bar.id for bar in bars.BARS] == wanted


def test_table_of_the_page_is_that_of_the_figures() -> None:
    figures = json.loads(run.FIGURES.read_text())
    text = run.PAGE.read_text(encoding="utf-8")
    assert run.page_with(text, figures) == text


def test_files_in_the_commands_exist() -> None:
    places = {
        place for bar in bars.BARS for place in re.findall(r"(?:tests|benchmarks)/\S+", bar.command)
    }
    assert len(places) > 30
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_what_nothing_shows_is_not_called_met() -> None:
    for bar in bars.BARS:
        assert bar.command or bar.left, bar.id
        assert run.verdict_of(bar, {"well": False}) in (bars.NOT_MET, bars.NOT_MEASURED)
        if bar.command:
            assert run.verdict_of(bar, None) == bars.NOT_MEASURED


@pytest.mark.parametrize(
    ("said", "figure"),
    [
        ("...\n3 passed, 2 deselected in 4.21s\n", "3 passed (tests)"),
        ("== 1 failed, 2 passed in 65.0s (0:01:05) ==\n", "1 failed, 2 passed (tests)"),
        ('text\n{\n "files": 12,\n "wrong": 0,\n "counts": {}\n}\n', "files: 12; wrong: 0"),
        ("TOTAL    100   3   40   2    96%\n", "96% of lines and branches"),
    ],
)
def test_figures_are_read_from_what_commands_say(said: str, figure: str) -> None:
    assert run.figure_of(said) == figure


def test_old_packages_are_seen() -> None:
    assert supply.below(supply.FLOORS, {"pillow": "13.0.0"}) == []
    assert supply.below(supply.FLOORS, {"pillow": "12.2.0"})[0].startswith("pillow 12.2.0 < 13")
