"""Goals, losses and unsteady times as table and charts show them."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from sppnet.app.benchmark.report import (
    HEADER,
    Comparison,
    Goal,
    Growth,
    Results,
    check_equal,
    log_chart,
    table_rows,
)
from sppnet.evaluation.report import stand_alone
from tiny_benchmark import SHAKY, STEADY


def test_difference_of_shapes_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"shapes \(2,\) and \(1, 2\)"):
        check_equal("a case", torch.ones(2), torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="1 of 2 numbers differ"):
        check_equal("a case", torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))


def test_missed_goals_are_shown_as_missed() -> None:
    slower = Comparison("5", "a loss", 1, STEADY, "peer", replace(STEADY, median_ms=9.0), Goal(8))
    faster = Comparison("5", "a win", 1, STEADY, "peer", replace(STEADY, median_ms=90.0), Goal(8))
    unjudged = Comparison("5", "no goal", 1, STEADY, "peer", STEADY)
    steep = Growth("9", "regions", "C=2", 1, [], slope=1.3, goal=Goal(1.1, at_most=True))
    results = Results([slower, faster, unjudged], [steep])
    assert [dict(zip(HEADER, row, strict=True))["met"] for row in table_rows(results)] == [
        "MISSED",
        "yes",
        "-",
        "MISSED",
    ]
    assert table_rows(results)[0][HEADER.index("ratio")] == "0.90"
    assert results.to_json()["goals"] == {"met": 1, "missed": 2}
    assert [row["met"] for row in results.to_json()["comparisons"]] == [False, True, None]


def test_goal_that_is_a_most_counts_how_many_times_as_long() -> None:
    fill = replace(STEADY, median_ms=5.0)
    comparison = Comparison("1", "fill", 2, STEADY, "fill", fill, Goal(2.5, at_most=True))
    assert comparison.ratio == 2.0
    assert comparison.to_json()["met"] is True
    assert not Goal(2.5, at_most=True).is_met(2.6)


def test_unsteady_times_are_marked() -> None:
    comparison = Comparison("5", "shaken", 1, SHAKY, "peer", STEADY)
    assert comparison.to_json()["unsteady"] is True
    row = dict(zip(HEADER, table_rows(Results([comparison]))[0], strict=True))
    assert (row["ours, ms"], row["peer, ms"]) == ("~10", "10")


def test_both_axes_of_a_chart_are_logarithmic() -> None:
    markup = log_chart({"a": [(1, 1), (10, 10), (100, 100)]}, "x", "y")
    root = ElementTree.fromstring(stand_alone(markup))
    dots = [
        (float(each.get("cx")), float(each.get("cy"))) for each in root.iter() if each.get("cx")
    ]
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.02)
