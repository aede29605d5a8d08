"""Detectors that answer as one: the union of what each finds, suppressed once more."""

import pytest
import torch

from sppnet.detection import DetectionRule, Detector, LinearScorer
from sppnet.detection.combination import CombinedDetector
from sppnet.geometry import nms_per_class

NAMES = ("dog", "cat")


@pytest.fixture
def make_linear(make_encoder):
    """A detector with random weights and a trunk of its own scale."""

    def build(seed: int, short_side: int = 96, names=NAMES, **rule) -> Detector:
        encoder = make_encoder((short_side,))
        draw = torch.Generator().manual_seed(seed)
        weights = torch.randn(encoder.length, len(names), generator=draw) / encoder.length**0.5
        scorer = LinearScorer(weights, torch.zeros(len(names)))
        wanted = {"proposals": "grid", "max_proposals": 120, **rule}
        return Detector(encoder, scorer, None, names, DetectionRule(**wanted))

    return build


def test_everything_found_comes_from_one_of_them_and_copies_are_gone(
    make_linear, make_picture
) -> None:
    parts = [make_linear(1), make_linear(2, 64)]
    image = make_picture(90, 120)
    combined = CombinedDetector(parts).predict(image)
    alone = [part.predict(image) for part in parts]
    rows = {
        (label, score, *box)
        for found in alone
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    }
    assert 0 < combined.count < len(rows)
    seen = [
        (label, score, *box)
        for label, score, box in zip(
            combined.labels.tolist(), combined.scores.tolist(), combined.boxes.tolist(), strict=True
        )
    ]
    assert set(seen) <= rows
    kept = nms_per_class(combined.boxes, combined.scores, combined.labels, 0.3)
    assert len(kept) == combined.count
    assert combined.scores[0] == max(found.scores[0] for found in alone)


def test_the_same_detector_twice_finds_what_it_finds_alone(make_linear, make_picture) -> None:
    detector, image = make_linear(1), make_picture(90, 120)
    alone, twice = detector.predict(image), CombinedDetector([detector] * 2).predict(image)
    best = alone.scores >= twice.scores.min()
    assert torch.equal(alone.scores[best], twice.scores)


def test_windows_are_those_of_all_each_once(make_linear, make_picture) -> None:
    parts, image = [make_linear(1), make_linear(2, max_proposals=60)], make_picture(90, 120)
    combined = CombinedDetector(parts)
    windows = combined.windows(image, combined.encode(image))
    each = [part.windows(image, part.encode(image)) for part in parts]
    assert {tuple(w) for w in windows.tolist()} == {tuple(w) for w in torch.cat(each).tolist()}
    assert len(windows.unique(dim=0)) == len(windows)


def test_detectors_of_other_classes_are_refused(make_linear) -> None:
    with pytest.raises(ValueError, match="detectors must have the same classes"):
        CombinedDetector([make_linear(1), make_linear(2, names=("cat", "dog"))])
    with pytest.raises(ValueError, match="detectors must be two or more, got 1"):
        CombinedDetector([make_linear(1)])
