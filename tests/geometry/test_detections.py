"""The record of what was found: a dict that is checked when it is made."""

import copy
import math
import re

import pytest
import torch

from sppnet.geometry import Detections

BOXES = torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 3], [5, 5, 5, 9]])
SCORES, LABELS = torch.tensor([0.9, -1.5, 0.2]), torch.tensor([3, 0, 3])


@pytest.fixture
def found() -> Detections:
    return Detections(BOXES, SCORES, LABELS)


def test_it_is_a_plain_dict_of_three_tensors(found: Detections) -> None:
    assert isinstance(found, dict)
    assert list(found) == ["boxes", "scores", "labels"]
    assert len(found) == 3
    assert found.count == 3
    assert found["boxes"] is found.boxes
    assert found["scores"] is found.scores
    assert found["labels"] is found.labels
    assert torch.equal(found.boxes, BOXES)
    assert {**found}.keys() == found.keys()


def test_empty_has_the_agreed_shapes() -> None:
    empty = Detections.empty()
    assert empty.count == 0
    assert [tuple(values.shape) for values in empty.values()] == [(0, 4), (0,), (0,)]
    assert [v.dtype for v in empty.values()] == [torch.float32, torch.float32, torch.int64]


@pytest.mark.parametrize("floating", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("integer", [torch.uint8, torch.int32])
def test_kinds_become_float32_and_int64(floating: torch.dtype, integer: torch.dtype) -> None:
    found = Detections(BOXES.to(floating), SCORES.to(floating), LABELS.to(integer))
    assert [v.dtype for v in found.values()] == [torch.float32, torch.float32, torch.int64]
    assert torch.equal(found.boxes, BOXES)
    assert torch.equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([1, 1, 1, 1]), [1, 1, 1, 1]),
        (torch.tensor([-1]), [2]),
        (torch.tensor([], dtype=torch.int64), []),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([False] * 3), []),
    ],
)
def test_rows_are_taken_by_index_or_mask(found: Detections, rows, expected: list[int]) -> None:
    some = found.select(rows)
    assert isinstance(some, Detections)
    assert some.count == len(expected)
    for name in found:
        assert torch.equal(some[name], found[name][expected])


@pytest.mark.parametrize("rows", [torch.tensor([3]), torch.tensor([True, False])])
def test_rows_that_do_not_exist_are_refused(found: Detections, rows: torch.Tensor) -> None:
    with pytest.raises(IndexError):
        found.select(rows)


def test_copies_are_detections(found: Detections) -> None:
    twin = copy.deepcopy(found)
    assert isinstance(twin, Detections)
    assert twin.boxes is not found.boxes
    assert torch.equal(twin.boxes, found.boxes)


def with_value(values: torch.Tensor, row: int, value: float) -> torch.Tensor:
    """Copy with one value replaced."""
    values = values.clone()
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "rule"),
    [
        (BOXES[:2], SCORES, LABELS, "scores must have shape (2,), got (3,)"),
        (BOXES, SCORES[:2], LABELS, "scores must have shape (3,), got (2,)"),
        (BOXES, SCORES, LABELS[:0], "labels must have shape (3,), got (0,)"),
        (BOXES, SCORES[:, None], LABELS, "scores must have shape (3,), got (3, 1)"),
        (BOXES[:, :3], SCORES, LABELS, "boxes must have shape (K, 4), got (3, 3)"),
        (
            with_value(BOXES, 1, math.nan),
            SCORES,
            LABELS,
            "boxes must be finite, got [nan, nan, nan",
        ),
        (
            -BOXES,
            SCORES,
            LABELS,
            "boxes must have x1 <= x2 and y1 <= y2, got [-0.0, -0.0, -4.0, -2.0]",
        ),
        (BOXES, with_value(SCORES, 2, math.nan), LABELS, "scores must be finite, got nan in row 2"),
        (
            BOXES,
            with_value(SCORES, 0, -math.inf),
            LABELS,
            "scores must be finite, got -inf in row 0",
        ),
        (BOXES, SCORES, with_value(LABELS, 1, -1), "labels must be 0 or more, got -1 in row 1"),
        # finite as float64, infinite as the float32 that is kept
        (
            BOXES,
            with_value(SCORES.double(), 1, 1e300),
            LABELS,
            "scores must be finite, got inf in row 1",
        ),
        (
            BOXES.double() * 1e300,
            SCORES,
            LABELS,
            "boxes must be finite, got [0.0, 0.0, inf, inf] in row 0",
        ),
    ],
)
def test_values_that_break_the_rules_are_refused(boxes, scores, labels, rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        Detections(boxes, scores, labels)


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "rule"),
    [
        (BOXES.tolist(), SCORES, LABELS, "boxes must be a floating-point tensor, got list"),
        (BOXES.long(), SCORES, LABELS, "boxes must be a floating-point tensor, got torch.int64"),
        (BOXES, SCORES.tolist(), LABELS, "scores must be a tensor, got list"),
        (BOXES, SCORES.long(), LABELS, "scores must be floating point, got torch.int64"),
        (BOXES, SCORES, LABELS.tolist(), "labels must be a tensor, got list"),
        (BOXES, SCORES, LABELS.float(), "labels must be integers, got torch.float32"),
        (BOXES, SCORES, LABELS.bool(), "labels must be integers, got torch.bool"),
        (BOXES, SCORES, LABELS.cfloat(), "labels must be integers, got torch.complex64"),
    ],
)
def test_kinds_that_break_the_rules_are_refused(boxes, scores, labels, rule: str) -> None:
    with pytest.raises(TypeError, match=re.escape(rule)):
        Detections(boxes, scores, labels)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_confidences_reach_from_0_to_1(edge: float) -> None:
    found = Detections(BOXES, SCORES, LABELS, torch.full((len(BOXES),), edge, dtype=torch.float64))
    assert found.confidence is not None
    assert found.confidence.dtype == torch.float32
    assert found.confidence.tolist() == [edge] * len(BOXES)


@pytest.mark.parametrize("wrong", [-0.01, 1.01, math.nan, math.inf])
def test_other_confidences_are_refused_by_row(wrong: float) -> None:
    sure = with_value(torch.ones(len(BOXES)), 1, wrong)
    with pytest.raises(ValueError, match=r"confidence must be 0\.\.1, got .* in row 1"):
        Detections(BOXES, SCORES, LABELS, sure)
    with pytest.raises(TypeError, match="confidence must be floating point"):
        Detections(BOXES, SCORES, LABELS, torch.ones(len(BOXES), dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"confidence must have shape \({len(BOXES)},\)"):
        Detections(BOXES, SCORES, LABELS, torch.ones(len(BOXES) + 1))
