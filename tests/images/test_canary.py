"""The picture that all have, and the comparison of what was said about it."""

import hashlib
import math

import pytest
import torch

from sppnet.images.canary import as_answers, canary_boxes, canary_image, largest_difference


def test_the_picture_never_changes() -> None:
    pixels = (canary_image() * 255).round().to(torch.uint8)
    digest = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    assert digest == "7d644980cfe7214d4f76e1adcbb412c0116c158fdfd17a2a69643c1413fcffca"


def test_boxes_lie_in_the_picture_and_differ() -> None:
    boxes = canary_boxes()
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert bool((boxes.min(0).values >= 0).all())
    assert boxes[:, 2].max() <= 256
    assert boxes[:, 3].max() <= 192
    assert len(torch.unique(boxes, dim=0)) == len(boxes)


def test_answers_survive_being_written() -> None:
    said = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    again = torch.tensor(as_answers(said)["numbers"]).reshape(3, 7)
    torch.testing.assert_close(again, said, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "then",
    [{}, {"numbers": "far"}, {"numbers": None}, {"numbers": [1.0]}, {"numbers": [1.0, math.nan]}],
)
def test_what_is_no_answer_is_infinitely_far(then) -> None:
    assert largest_difference({"numbers": [1.0, 2.0]}, then) == math.inf


def test_difference_is_relative_to_large_numbers_only() -> None:
    assert largest_difference({"numbers": [0.1]}, {"numbers": [0.0]}) == pytest.approx(0.1)
    assert largest_difference({"numbers": [110.0]}, {"numbers": [100.0]}) == pytest.approx(0.1)
    assert largest_difference({"numbers": []}, {"numbers": []}) == 0
