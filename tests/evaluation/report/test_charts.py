"""The charts: numbers at the right places, no overlaps, well-formed for any data."""

import math
from itertools import pairwise

import numpy as np
import pytest

from html_checks import check_page, drawing, has_class
from sppnet.evaluation.report.axes import text_width
from sppnet.evaluation.report.charts import (
    BAR_HEIGHT,
    ROW_HEIGHT,
    WIDTH,
    Series,
    bar_chart,
    confusion_chart,
    grouped_bar_chart,
    line_chart,
)

EIGHTY = [f"class {i} with a rather long name \u6f22\u5b57" for i in range(80)]


def bar_widths(markup):
    root = drawing(markup)
    tracks = [float(e.get("width")) for e in has_class(root, "track")]
    bars = [float(e.get("width")) for e in root.iter("rect") if e.get("class") != "track"]
    return bars, tracks


def path_points(markup):
    path = drawing(markup).find(".//path").get("d")
    return [tuple(map(float, p.split())) for p in path.replace("L", "M").split("M")[1:]]


def test_a_bar_of_a_half_is_half_as_long():
    bars, tracks = bar_widths(bar_chart(["a", "b", "c"], [1.0, 0.5, 0.25], label="x"))
    assert bars[0] == pytest.approx(tracks[0], abs=0.02)
    assert bars[1] == pytest.approx(bars[0] / 2, abs=0.02)
    assert bars[2] == pytest.approx(bars[0] / 4, abs=0.02)


def test_longest_bar_sets_the_scale_of_times():
    bars, tracks = bar_widths(bar_chart(["a", "b"], [30.0, 60.0], label="x", largest=None))
    assert bars == pytest.approx([tracks[0] / 2, tracks[0]], abs=0.02)


def test_bars_of_zero_and_of_nothing():
    markup = bar_chart(["a", "b", "c"], [0.0, math.nan, -1.0], label="x")
    assert bar_widths(markup)[0] == []
    values = [e.text for e in has_class(drawing(markup), "value")]
    assert values == ["0.000", "\u2013", "-1.000"]


def test_bar_chart_names_a_wrong_number_of_values():
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
        bar_chart(["a", "b"], [1.0], label="x")
    with pytest.raises(ValueError, match="in series 'SPP'"):
        grouped_bar_chart(["a"], {"SPP": [1.0, 2.0]}, label="x")


def test_deviations_are_drawn_to_either_side_and_written():
    series = {"paper": [90.0, 80.0], "here": [50.0, 100.0]}
    spreads = {"here": [10.0, math.nan]}
    markup = grouped_bar_chart(["a", "b"], series, label="x", largest=None, spreads=spreads)
    (line,) = has_class(drawing(markup), "spread")
    bars, _ = bar_widths(markup)
    start = float(has_class(drawing(markup), "track")[0].get("x"))
    ends = [float(line.get(name)) - start for name in ("x1", "x2")]
    assert ends == pytest.approx([bars[1] * 0.8, bars[1] * 1.2], abs=0.02)  # 40 and 60 of 50
    assert line.get("y1") == line.get("y2")
    values = [e.text for e in has_class(drawing(markup), "value")]
    assert values == ["90.000", "50.000 ± 10.000", "80.000", "100.000"]


def test_grouped_bars_do_not_overlap():
    markup = grouped_bar_chart(["a", "b"], {"SPP": [0.9, 0.8], "GAP": [0.5, 0.4]}, label="x")
    tracks = has_class(drawing(markup), "track")
    spans = sorted((float(e.get("y")), float(e.get("height"))) for e in tracks)
    assert len(spans) == 4
    for (y, height), (below, _) in pairwise(spans):
        assert y + height < below
    assert check_page(markup).count("li") == 2


@pytest.mark.parametrize("names", [[], ["one"], EIGHTY, ["<script>alert(1)</script>"]])
def test_bar_charts_of_any_number_of_names(names):
    markup = bar_chart(names, np.linspace(0, 1, len(names)), label="<script>")
    check_page(markup)
    assert len(has_class(drawing(markup), "track")) == len(names)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_name_takes_a_row_and_a_bar_for_each_further_series(count):
    series = {f"series {number}": [1.0, 0.5, 0.2] for number in range(count)}
    tracks = has_class(drawing(grouped_bar_chart("abc", series, label="x")), "track")
    tops = sorted(float(each.get("y")) for each in tracks)
    step = tops[count] - tops[0]
    assert step == pytest.approx(tops[2 * count] - tops[count])
    assert step == ROW_HEIGHT + (count - 1) * (BAR_HEIGHT + 3)


def test_long_names_end_before_the_bars():
    root = drawing(bar_chart(EIGHTY, np.ones(80), label="x"))
    start = min(float(e.get("x")) for e in has_class(root, "track"))
    for name in has_class(root, "name"):
        shown = "".join(name.itertext()).removeprefix(name.findtext("title") or "")
        assert float(name.get("x")) < start
        assert text_width(shown) <= float(name.get("x")) + 1


def test_points_of_a_curve_lie_where_the_axes_say():
    markup = line_chart([Series("a", [0, 0.5, 1], [1, 0.5, 0])], x_label="r", y_label="p")
    (x0, y0), (x1, y1), (x2, y2) = path_points(markup)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert x0 < x2
    assert y0 < y2  # SVG counts downwards: precision 1 is on top
    labelled = [e for e in drawing(markup).iter("text") if e.text == "1"]
    assert any(float(e.get("x")) == pytest.approx(x2, abs=0.1) for e in labelled)


def test_equal_ratios_take_equal_space_on_a_logarithmic_axis():
    curve = Series("a", [1, 10, 100], [0, 0.5, 1])
    markup = line_chart([curve], x_label="n", y_label="r", x_range=(1, 100), log_x=True)
    x = [point[0] for point in path_points(markup)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)


def test_logarithmic_axis_refuses_zero():
    with pytest.raises(ValueError, match="above 0"):
        line_chart([], x_label="n", y_label="r", x_range=(0, 100), log_x=True)


def test_gaps_break_a_curve():
    curve = Series("a", [0, 0.2, 0.4, 0.6], [1, math.nan, 0.5, 0.4])
    path = drawing(line_chart([curve], x_label="r", y_label="p")).find(".//path").get("d")
    assert path.count("M") == 2
    assert path.count("L") == 1


def test_curves_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        line_chart([Series("a", [0, 1], [1])], x_label="r", y_label="p")


@pytest.mark.parametrize("count", [0, 1, 80])
def test_line_charts_of_any_number_of_curves(count):
    series = [Series(f"<script>{i}", [0, 1], [1, 0], is_faint=i > 5) for i in range(count)]
    document = check_page(line_chart(series, x_label="r", y_label="p"))
    assert document.count("path") == count
    assert document.count("li") == min(count, 7)  # six coloured ones and "74 others"


def test_empty_and_single_point_curves():
    markup = line_chart([Series("a", [], []), Series("b", [0.5], [0.5])], x_label="", y_label="")
    assert len(drawing(markup).findall(".//path")) == 1


def test_long_curves_are_thinned_and_keep_their_ends():
    x = np.linspace(0, 1, 100_000)
    points = path_points(line_chart([Series("a", x, x)], x_label="r", y_label="p"))
    assert len(points) == 240
    assert points[0][0] == 44
    assert points[-1][0] == WIDTH - 16


def cells(markup):
    root = drawing(markup)
    return {
        e.findtext("title"): e.find("rect") for e in root.iter("g") if e.find("title") is not None
    }


def test_confusion_matrix_has_truth_by_row_and_shades_by_share():
    found = cells(confusion_chart([[8, 2], [0, 5]], ["cat", "dog"]))
    assert set(found) == {
        "cat recognised: 8 of 10",
        "cat taken for dog: 2 of 10",
        "dog recognised: 5 of 5",
    }
    right, wrong = found["cat recognised: 8 of 10"], found["cat taken for dog: 2 of 10"]
    assert float(right.get("fill-opacity")) == 0.8
    assert float(wrong.get("fill-opacity")) == 0.2
    assert float(wrong.get("x")) > float(right.get("x"))
    assert wrong.get("y") == right.get("y")


@pytest.mark.parametrize("names", [[], ["one"], EIGHTY, ["<script>", "b"], EIGHTY[:12]])
def test_confusion_matrix_of_any_size_fits(names):
    markup = confusion_chart(np.eye(len(names), dtype=int), names)
    check_page(markup)
    frame = has_class(drawing(markup), "frame")[0]
    assert float(frame.get("x")) + float(frame.get("width")) <= WIDTH


def test_confusion_matrix_refuses_other_shapes_and_negative_counts():
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        confusion_chart([[1, 2]], ["a", "b"])
    with pytest.raises(ValueError, match="negative"):
        confusion_chart([[-1]], ["a"])
