"""Pooled windows are those of the drawn boxes, at drawn scales, mirrored images among them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sppnet.detection import PreparedImages
from sppnet.detection.fc_plan import FcPlan
from sppnet.detection.fc_tuning import tune_head
from sppnet.detection.fc_windows import gather_windows
from sppnet.detection.window_sampling import SamplingRule, label_windows
from sppnet.geometry import flip_boxes
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.storage import FeatureCache

PLAN = FcPlan(per_image=16, rule=SamplingRule(batch=16), updates=20, check_every=10, widths=(8, 8))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 6, seed=1)
    return open_detection_dataset(folder)


@pytest.fixture
def prepared(make_encoder, scenes, tmp_path: Path) -> PreparedImages:
    encoder = make_encoder((64, 96))
    cache = FeatureCache(tmp_path / "cache")
    return PreparedImages(scenes.images, encoder, cache, "grid", 60)


def _known(prepared: PreparedImages, flips: tuple[bool, ...], num_classes: int, *, best: bool):
    """All vectors that may be drawn, with their labels, as (vector in float16, label)."""
    encoder, known = prepared.encoder, []
    for image in prepared.images:
        boxes = torch.cat([image.boxes, prepared.windows(image)])
        labels = label_windows(boxes, image, num_classes)
        for flipped in flips:
            seen = flip_boxes(boxes, image.size_hw[1]) if flipped else boxes
            encoded = prepared.encoded(image.mirror() if flipped else image)
            for scale in (None,) if best else (0, 1):
                of = None if scale is None else torch.full((len(seen),), scale)
                rows = encoder.describe_cells(encoded, encoder.locate(encoded, seen, of)).half()
                known.append((rows, labels))
    return torch.cat([rows for rows, _ in known]), torch.cat([labels for _, labels in known])


@pytest.mark.parametrize(
    ("flips", "best"), [((False,), False), ((False, True), False), ((False,), True)]
)
def test_every_gathered_window_is_one_of_an_image(prepared, scenes, flips, best: bool) -> None:
    num_classes = len(scenes.names)
    plan = replace(PLAN, flip=True in flips)
    pool = gather_windows(prepared, scenes.images, num_classes, plan, random_scale=not best)
    rows, labels = _known(prepared, flips, num_classes, best=best)
    assert len(pool.rows) == len(pool.labels) == 16 * 6 * len(flips)
    for row, label in zip(pool.rows, pool.labels.tolist(), strict=True):
        same = (rows == row).all(1)
        assert label in labels[same].tolist()
    assert int((pool.labels < num_classes).sum()) > 0
    assert int((pool.labels == num_classes).sum()) > 16


def test_both_scales_are_drawn(prepared, scenes, monkeypatch) -> None:
    drawn = []
    locate = prepared.encoder.locate
    monkeypatch.setattr(
        prepared.encoder, "locate", lambda e, b, s: drawn.append(s) or locate(e, b, s)
    )
    gather_windows(prepared, scenes.images, len(scenes.names), PLAN)
    share = torch.cat(drawn).float().mean()
    assert 0.3 < float(share) < 0.7


def test_gathering_twice_gives_the_same_bits_and_the_budget_holds(prepared, scenes) -> None:
    num_classes = len(scenes.names)
    first, second = (gather_windows(prepared, scenes.images, num_classes, PLAN) for _ in "ab")
    assert torch.equal(first.rows, second.rows)
    assert torch.equal(first.labels, second.labels)
    tight = replace(PLAN, budget_bytes=2 * prepared.encoder.length * 10)
    small = gather_windows(prepared, scenes.images, num_classes, tight)
    assert 0 < len(small.rows) <= 10


def test_head_is_tuned_from_prepared_images(prepared, scenes) -> None:
    num_classes = len(scenes.names)
    plan = replace(PLAN, validation_share=0.3, flip=True)
    tuned = tune_head(prepared, num_classes, plan)
    assert tuned.head.length == prepared.encoder.length
    assert tuned.head.num_classes == num_classes
    assert len(tuned.history) == 2
    assert all(row["validation_loss"] > 0 for row in tuned.history)
