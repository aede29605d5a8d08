"""What the paper prints: shapes, and relations that its own text states."""

import pytest

from sppnet.app.reproduce import TABLE_NUMBERS
from sppnet.paper import TABLES, find_table
from sppnet.paper.printed import (
    BOTH,
    CONV,
    FC,
    FIRST,
    PRE_TRAINED,
    RCNN_ALEX,
    RCNN_ZF,
    SECOND,
    SPEED_UP,
    SPP_1,
    SPP_1_MODEL,
    SPP_5,
    SPP_6_MODELS,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    TABLE_9,
    TABLE_10,
    TABLE_11,
    TABLE_12,
    TABLE_13,
    TOTAL,
    VOC_POOL5,
    Printed,
)


@pytest.mark.parametrize("number", TABLE_NUMBERS)
def test_every_row_has_a_value_for_every_column(number: int) -> None:
    printed = find_table(number).printed
    assert printed.number == number
    assert all(len(values) == len(printed.columns) for values in printed.rows.values())


def test_the_command_line_names_the_tables_that_can_be_run() -> None:
    assert tuple(TABLES) == TABLE_NUMBERS


def test_a_table_that_cannot_be_run_is_refused_with_the_legal_numbers() -> None:
    with pytest.raises(ValueError, match=r"table must be one of 1, 2, .* 12, 13, got 14"):
        find_table(14)


# The gains over no SPP that table 2 prints in brackets.
GAINS = {
    "(b) SPP single-size trained, top-1": (1.01, 0.55, 1.26, 1.65),
    "(c) SPP multi-size trained, top-1": (1.39, 0.99, 1.87, 2.33),
    "(b) SPP single-size trained, top-5": (0.62, 0.38, 0.72, 0.85),
    "(c) SPP multi-size trained, top-5": (1.12, 0.59, 1.19, 1.02),
}


@pytest.mark.parametrize(("row", "gains"), GAINS.items())
def test_table_2_adds_up_to_the_gains_that_it_prints(row: str, gains: tuple[float, ...]) -> None:
    base = TABLE_2.rows[f"(a) no SPP, {row[-5:]}"]
    for without, value, gain in zip(base, TABLE_2.rows[row], gains, strict=True):
        assert without is not None
        assert value is not None
        assert without - value == pytest.approx(gain, abs=0.011)


def test_the_whole_image_beats_the_crop_in_every_row_of_table_3() -> None:
    assert all(full < crop for crop, full in TABLE_3.rows.values())  # type: ignore[operator]


def test_tables_share_the_numbers_that_they_both_print() -> None:
    best = TABLE_8.rows["SPP-net"]
    assert best == (
        TABLE_6.value("fc7/9", "(e) SPP, O-7, full 364"),
        TABLE_7.value("SPP pool5/7", "(d) SPP, O-7, full 224"),
    )
    ten_views = TABLE_4.rows["SPP-net O-7, 1 scale, 10 views"]
    assert ten_views[0] == TABLE_2.value("(c) SPP multi-size trained, top-1", "Overfeat-7")
    assert ten_views[1] == TABLE_2.value("(c) SPP multi-size trained, top-5", "Overfeat-7")


@pytest.mark.parametrize("table", [TABLE_11, TABLE_12], ids=lambda table: f"table {table.number}")
def test_the_mean_of_the_classes_is_the_printed_mean(table: Printed) -> None:
    for row, (mean, *classes) in table.rows.items():
        assert len(classes) == 20
        worst = 0.1 if row == "SS" else 0.05  # its mean is printed as 33.8, of its classes as 33.7
        assert sum(classes) / 20 == pytest.approx(mean, abs=worst), row  # type: ignore[arg-type]


def test_the_two_networks_together_are_best_in_17_of_20_classes() -> None:
    first, second, both = (TABLE_12.rows[row][1:] for row in (FIRST, SECOND, BOTH))
    better = [c > max(a, b) for a, b, c in zip(first, second, both, strict=True)]  # type: ignore[type-var]
    assert sum(better) == 17


def test_detection_tables_share_the_numbers_that_they_both_print() -> None:
    for row in TABLE_10.rows.keys() - {SPEED_UP}:
        for column in (SPP_1, SPP_5):
            assert TABLE_9.value(row, column) == TABLE_10.value(row, column)
    means = {
        "SPP ft fc7 (ZF-5)": TABLE_9.value("ft fc7", SPP_5),
        "SPP bb (ZF-5)": TABLE_9.value("ft fc7 bb", SPP_5),
        "R-CNN ft fc7 (Alex-5)": TABLE_9.value("ft fc7", RCNN_ALEX),
        "R-CNN bb (Alex-5)": TABLE_9.value("ft fc7 bb", RCNN_ALEX),
        "R-CNN ft fc7 (ZF-5)": TABLE_10.value("ft fc7", RCNN_ZF),
        "R-CNN bb (ZF-5)": TABLE_10.value("ft fc7 bb", RCNN_ZF),
    }
    assert means == {row: TABLE_11.rows[row][0] for row in means}


@pytest.mark.parametrize("table", [TABLE_9, TABLE_10], ids=lambda table: f"table {table.number}")
def test_seconds_add_up_and_give_the_printed_speed_up(table: Printed) -> None:
    conv, fc, total, speed_up = (table.rows[row] for row in (CONV, FC, TOTAL, SPEED_UP))
    for parts in zip(conv, fc, total, strict=True):
        assert parts[0] + parts[1] == pytest.approx(parts[2], abs=0.0051)  # type: ignore[operator]
    for seconds, times in zip(total[:-1], speed_up[:-1], strict=True):
        assert round(total[-1] / seconds) == times  # type: ignore[operator]


def test_deviations_stand_beside_numbers_that_are_printed() -> None:
    found = {place for table in TABLES.values() for place in table.printed.deviations}
    assert len(found) == 7
    assert all(TABLE_8.value(*place) is not None for place in found)


def test_the_paper_counts_its_six_models_and_its_one_in_table_13() -> None:
    assert TABLE_13.rows[SPP_6_MODELS][0] - TABLE_13.rows[SPP_1_MODEL][0] == pytest.approx(3.27)
    assert TABLE_13.value(next(iter(PRE_TRAINED)), VOC_POOL5) == TABLE_9.value("pool5", SPP_1)
