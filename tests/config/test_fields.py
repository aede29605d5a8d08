"""Rules of settings: one text for errors, one for help, and no number that is none."""

from dataclasses import dataclass
from math import inf, nan
from typing import Annotated

import pytest

from sppnet.config.fields import (
    Count,
    Each,
    Flag,
    OneOf,
    Seed,
    Share,
    Within,
    check_field,
    check_fields,
    metadata,
    rules_of,
)


@dataclass(frozen=True)
class Baking:
    """How to bake."""

    degrees: Annotated[int, Within(20, 300), Flag("DEGREES", "Oven")] = 180
    minutes: Count = 25
    steam: Share = 0.0
    heat: Annotated[str, OneOf(("", "top", "bottom"))] = ""
    trays: Annotated[tuple[int, ...], Each(Within(1, 5), least=1)] = (2,)
    seed: Seed = 0
    vegan: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


WRONG = [
    ("degrees", 19, "at least 20 and at most 300, got 19"),
    ("degrees", 301, "at least 20 and at most 300, got 301"),
    ("minutes", 0, "at least 1, got 0"),
    ("minutes", 10**400, "at least 1, got 1"),
    ("steam", 1.0, "at least 0 and below 1, got 1.0"),
    ("steam", nan, "at least 0 and below 1, got nan"),
    ("heat", "left", "one of top, bottom, got 'left'"),
    ("trays", (), r"1 or more numbers, each at least 1 and at most 5, got \(\)"),
    ("trays", (1, 6), r"1 or more numbers, each at least 1 and at most 5, got \(1, 6\)"),
    ("seed", 2**32, "at least 0 and at most 4294967295, got 4294967296"),
]


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_a_value_that_breaks_its_rule_is_refused_by_name(name: str, value, rule: str) -> None:
    for refused in (lambda: Baking(**{name: value}), lambda: check_field(Baking, name, value)):
        with pytest.raises(ValueError, match=f"^{name} must be {rule}"):
            refused()


def test_what_is_legal_is_taken_and_fields_without_rule_take_anything() -> None:
    Baking(20, 1, 0.999, "top", (1, 5), 2**32 - 1, vegan=True)
    Baking(degrees=300, heat="")
    check_field(Baking, "vegan", "perhaps")


@pytest.mark.parametrize("rule", [Within(), Within(0), Within(high=3), Within(0, above=True)])
def test_no_range_holds_what_is_not_a_finite_number(rule: Within) -> None:
    assert [rule.accepts(value) for value in (nan, inf, -inf)] == [False] * 3
    assert rule.accepts(1.5)


@pytest.mark.parametrize(
    ("rule", "words", "signs"),
    [
        (Within(), "a finite number", ""),
        (Within(1), "at least 1", "x>=1"),
        (Within(0, above=True), "above 0", "x>0"),
        (Within(0, 1, above=True), "above 0 and at most 1", "0<x<=1"),
        (Within(0, 1, True, True), "above 0 and below 1", "0<x<1"),
        (Within(high=3), "at most 3", "x<=3"),
        (Within(0, 2**32 - 1), "at least 0 and at most 4294967295", "0<=x<=4294967295"),
        (Within(1, 10**9), "at least 1", "x>=1"),
    ],
)
def test_a_range_is_said_in_words_and_in_signs(rule: Within, words: str, signs: str) -> None:
    assert (str(rule), rule.signs) == (words, signs)


def test_a_pair_is_two_numbers() -> None:
    pair = Each(Within(0), 2, 2)
    assert [pair.accepts(value) for value in ((1,), (1, 2), (1, 2, 3), (1, -1))] == [
        False,
        True,
        False,
        False,
    ]
    assert str(pair) == "2 numbers, each at least 0"


def test_rules_come_in_the_order_of_the_fields() -> None:
    assert list(rules_of(Baking)) == ["degrees", "minutes", "steam", "heat", "trays", "seed"]
    assert metadata(Baking, Flag) == {
        "degrees": Flag("DEGREES", "Oven"),
        "seed": Flag("", "Options"),
    }
