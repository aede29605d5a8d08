"""Average precision against readable loops, pycocotools, and cases worked out by hand.

COCO's twelve numbers equal those of pycocotools and of faster-coco-eval.
"""

import math
import random
import time

import numpy as np
import pytest
import torch

from evaluation_scenes import as_detections, as_images, random_scene
from oracles import slow_average_precision as slow
from oracles.coco_references import STATS, faster_coco_eval_says, pycocotools_says
from oracles.slow_average_precision import Thing
from sppnet.evaluation import coco_measures, evaluate_detections, summarise_detections
from sppnet.evaluation.average_precision import COCO_IOU_THRESHOLDS, COCO_RECALLS
from sppnet.geometry import Detections

NAMES = ["a", "b", "c", "d"]


def score(truth: list[Thing], found: list[Thing], images: int, metric: str, iou: float | None):
    return evaluate_detections(as_images(truth, images), as_detections(found), NAMES, metric, iou)


# --- against the loops ------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(150))
def test_voc_equals_the_loop(seed: int) -> None:
    truth, found, images, classes = random_scene(seed, difficult=True, crowd=False)
    threshold = [0.3, 0.5, 0.75, 1.0][seed % 4]
    for metric, average in (("voc07", slow.voc07), ("voc10", slow.voc10), ("area", slow.voc10)):
        result = score(truth, found, images, metric, threshold)
        expected = {}
        for label in range(classes):
            recall, precision, positives = slow.voc_curve(truth, found, label, threshold)
            expected[NAMES[label]] = average(recall, precision) if positives else None
            if positives:
                np.testing.assert_array_equal(result.curves[NAMES[label]], [recall, precision])
            assert result.num_truth[NAMES[label]] == positives
        check(result, expected)


@pytest.mark.parametrize("seed", range(100))
def test_coco_equals_the_loop(seed: int) -> None:
    truth, found, images, classes = random_scene(
        seed, difficult=seed % 2 == 0, crowd=True, many=seed % 10 == 0
    )
    expected = {}
    for label in range(classes):
        each = []
        for threshold in COCO_IOU_THRESHOLDS:
            recall, precision, positives = slow.coco_curve(truth, found, label, threshold)
            each.append(slow.coco_points(recall, precision, COCO_RECALLS))
        expected[NAMES[label]] = sum(each) / 10 if positives else None
    check(score(truth, found, images, "coco", None), expected)


def check(result, expected: dict) -> None:
    """Compare each class and the mean; classes that the scene lacks have no objects."""
    for name in NAMES:
        if expected.get(name) is None:
            assert result.per_class[name] is None
            assert result.curves[name][0].size == 0
        else:
            assert result.per_class[name] == pytest.approx(expected[name], abs=1e-12)
    known = [value for value in expected.values() if value is not None]
    assert result.mean_ap == pytest.approx(np.mean(known) if known else math.nan, nan_ok=True)


# --- against pycocotools ----------------------------------------------------------------------
def coco_says(truth: list[Thing], found: list[Thing], images: int) -> tuple:
    """AP, AP50, AP75 and AP per class by the reference implementation."""
    judge = pycocotools_says(truth, found, images, len(NAMES), None)
    precision = judge.eval["precision"][:, :, :, 0, 2]  # (T, R, K): all areas, 100 detections
    per_class = [
        None if (values := precision[:, :, k])[0, 0] < 0 else values.mean() for k in range(4)
    ]
    return *judge.stats[:3], per_class


@pytest.mark.parametrize("seed", range(120))
def test_coco_equals_pycocotools(seed: int) -> None:
    truth, found, images, _ = random_scene(1000 + seed, difficult=False, crowd=seed % 3 > 0)
    ap, ap50, ap75, per_class = coco_says(truth, found, images)
    ours = score(truth, found, images, "coco", None)
    if all(value is None for value in per_class):
        assert math.isnan(ours.mean_ap)
        return
    assert list(ours.per_class.values()) == pytest.approx(per_class, abs=1e-12)
    assert ours.mean_ap == pytest.approx(ap, abs=1e-12)
    assert score(truth, found, images, "coco", 0.5).mean_ap == pytest.approx(ap50, abs=1e-12)
    assert score(truth, found, images, "coco", 0.75).mean_ap == pytest.approx(ap75, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_only_a_hundred_detections_count_as_in_pycocotools(seed: int) -> None:
    truth, found, images, _ = random_scene(seed, difficult=False, crowd=True, many=True)
    found = [thing._replace(label=0) for thing in found]
    truth = [Thing(0, 0, (1, 1, 9, 9)), *(thing._replace(label=0) for thing in truth)]
    assert score(truth, found, images, "coco", None).mean_ap == pytest.approx(
        coco_says(truth, found, images)[0], abs=1e-12
    )


# --- by hand ----------------------------------------------------------------------------------
CAR = Thing(0, 0, (1, 1, 10, 10))


FAR = (31, 31, 40, 40)


def found_at(box: tuple, points: float, image: int = 0) -> Thing:
    return Thing(image, 0, box, points)


@pytest.mark.parametrize(
    ("truth", "found", "voc07", "voc10"),
    [
        ([], [], None, None),
        ([], [found_at(CAR.box, 1)], None, None),
        ([CAR], [], 0, 0),
        ([CAR], [found_at(CAR.box, 1)], 1, 1),
        # exactly half overlaps: it counts
        ([CAR], [found_at((1, 1, 10, 5), 1)], 1, 1),
        ([CAR], [found_at((1, 1, 10, 4), 1)], 0, 0),
        # found twice: the second is a false positive, after full recall it costs nothing
        ([CAR], [found_at(CAR.box, 0.9), found_at(CAR.box, 0.8)], 1, 1),
        ([CAR, CAR._replace(box=FAR)], [found_at(CAR.box, 0.9)] * 2, 6 / 11, 0.5),
        # a false positive before the true positive halves the precision
        ([CAR], [found_at(FAR, 0.9), found_at(CAR.box, 0.8)], 0.5, 0.5),
        # equal scores: as given
        ([CAR], [found_at(CAR.box, 0.5), found_at(FAR, 0.5)], 1, 1),
        ([CAR], [found_at(FAR, 0.5), found_at(CAR.box, 0.5)], 0.5, 0.5),
        # equal scores in two images: the first image first
        ([CAR], [found_at(CAR.box, 0.5), found_at(FAR, 0.5, image=1)], 1, 1),
        ([CAR._replace(image=1)], [found_at(FAR, 0.5), found_at(CAR.box, 0.5, image=1)], 0.5, 0.5),
        # the same box in another image finds nothing
        ([CAR], [found_at(CAR.box, 0.5, image=1)], 0, 0),
        # the wrong class
        ([CAR], [found_at(CAR.box, 1)._replace(label=1)], 0, 0),
        # difficult: neither reward nor punishment, however often
        ([CAR._replace(difficult=True)], [found_at(CAR.box, 1)], None, None),
        (
            [CAR, Thing(0, 0, FAR, difficult=True)],
            [found_at(FAR, 0.9), found_at(FAR, 0.8), found_at(CAR.box, 0.7)],
            1,
            1,
        ),
        # crowd: what lies inside it is ignored, small as it may be
        (
            [CAR, Thing(0, 0, (20, 20, 60, 60), crowd=True)],
            [found_at((30, 30, 33, 33), 0.9), found_at(CAR.box, 0.7)],
            1,
            1,
        ),
        # an object inside a crowd is still found
        ([CAR, Thing(0, 0, (1, 1, 60, 60), crowd=True)], [found_at((1, 1, 10, 9), 0.9)], 1, 1),
    ],
)
def test_small_cases(truth: list, found: list, voc07: float | None, voc10: float | None) -> None:
    for metric, expected in (("voc07", voc07), ("voc10", voc10)):
        result = score(truth, found, 2, metric, None)
        assert result.per_class["a"] == (None if expected is None else pytest.approx(expected))
        assert result.iou_thresholds == (0.5,)
        if expected is None:
            assert math.isnan(result.mean_ap)


def test_a_better_but_taken_object_makes_a_false_positive_in_voc_not_in_coco() -> None:
    """VOC looks at the best object only; COCO goes on to the next free one."""
    truth = [CAR, Thing(0, 0, (1, 1, 10, 12))]
    found = [found_at(CAR.box, 0.9), found_at(CAR.box, 0.8)]
    assert score(truth, found, 1, "voc10", 0.5).mean_ap == 0.5
    assert score(truth, found, 1, "coco", 0.5).mean_ap == 1.0


def test_classes_without_objects_stay_out_of_the_mean() -> None:
    found = [found_at(CAR.box, 1), found_at(CAR.box, 1)._replace(label=2)]
    result = score([CAR, CAR._replace(label=1)], found, 1, "voc07", None)
    assert result.per_class == {"a": 1.0, "b": 0.0, "c": None, "d": None}
    assert result.mean_ap == 0.5


def test_nothing_at_all() -> None:
    for metric in ("voc07", "voc10", "area", "coco"):
        result = evaluate_detections([], {}, [], metric)
        assert math.isnan(result.mean_ap)
        assert result.per_class == {}
        assert math.isnan(evaluate_detections([], {}, ["a"], metric).mean_ap)


def test_summary_holds_every_measure() -> None:
    truth, found, images, _ = random_scene(7, difficult=True, crowd=True)
    summary = summarise_detections(as_images(truth, images), as_detections(found), NAMES)
    for measure, metric, iou in [
        ("ap50", "voc10", 0.5),
        ("ap75", "voc10", 0.75),
        ("ap", "coco", None),
        ("ap50_voc07", "voc07", 0.5),
    ]:
        result = score(truth, found, images, metric, iou)
        assert summary[measure] == result.mean_ap
        assert summary["per_class_by_measure"][measure] == result.per_class
    assert summary["per_class"] == summary["per_class_by_measure"]["ap50"]


def test_plain_dicts_are_checked() -> None:
    images = as_images([CAR], 1)
    boxes, labels = images[0].boxes, images[0].labels
    plain = {"boxes": boxes, "scores": torch.tensor([0.5]), "labels": labels}
    assert evaluate_detections(images, {0: plain}, NAMES).mean_ap == 1
    for bad in (float("nan"), float("inf")):
        broken = {**plain, "scores": torch.tensor([bad])}
        with pytest.raises(ValueError, match="scores must be finite"):
            evaluate_detections(images, {0: broken}, NAMES)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"metric": "voc12"}, "metric must be one of voc07, voc10, area, coco, got 'voc12'"),
        ({"iou_threshold": 0.0}, "iou_threshold must be above 0"),
        ({"iou_threshold": float("nan")}, "iou_threshold must be above 0"),
        ({"iou_threshold": 1.1}, "iou_threshold must be above 0"),
        ({"names": []}, "labels in truth must be"),
        ({"detections": {"x": Detections.empty()}}, "got image 'x'"),
        (
            {"detections": as_detections([CAR._replace(label=4)])},
            r"labels in detections must be 0\.\.3, got 4",
        ),
        ({"truth": as_images([CAR], 1) * 2}, "one image per image_id, got 0 twice"),
    ],
)
def test_callers_mistakes_are_named(change: dict, rule: str) -> None:
    arguments = {"truth": as_images([CAR], 1), "detections": {}, "names": NAMES}
    with pytest.raises(ValueError, match=rule):
        evaluate_detections(**(arguments | change))


def test_the_order_of_the_mapping_does_not_matter() -> None:
    truth, found, images, _ = random_scene(3, difficult=True, crowd=True)
    by_image = as_detections(found)
    backwards = dict(reversed(by_image.items()))
    for metric in ("voc07", "coco"):
        one = evaluate_detections(as_images(truth, images), by_image, NAMES, metric)
        other = evaluate_detections(as_images(truth, images), backwards, NAMES, metric)
        assert one.per_class == other.per_class


def test_a_thousand_images_are_scored_in_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    images, by_image = [], {}
    for number in range(1000):  # a fifth of VOC's test set, at 100 detections per image
        corners = torch.rand(103, 2, generator=generator) * 300
        boxes = torch.cat(
            [corners, corners + 20 + torch.rand(103, 2, generator=generator) * 200], 1
        )
        labels = torch.randint(20, (103,), generator=generator)
        boxes[3:13] = boxes[:3].repeat(4, 1)[:10] + 2
        labels[3:13] = labels[:3].repeat(4)[:10]
        image = as_images([], 1)[0]
        image.image_id, image.boxes, image.labels = number, boxes[:3], labels[:3]
        image.difficult = image.crowd = torch.zeros(3, dtype=torch.bool)
        images.append(image)
        scores = torch.rand(100, generator=generator)
        by_image[number] = Detections(boxes[3:], scores, labels[3:])
    start = time.perf_counter()
    summarise_detections(images, by_image, [str(label) for label in range(20)])
    assert time.perf_counter() - start < 10


def scaled_scene(seed: int) -> tuple[list[Thing], list[Thing], int, list[float]]:
    """A scene with ties, crowds and empty images, objects of all three sizes, odd areas."""
    truth, found, images, _ = random_scene(seed, difficult=False, crowd=seed % 3 > 0)
    draw = random.Random(seed)
    scale = [1, 3, 8][seed % 3]

    def grown(thing: Thing) -> Thing:
        x1, y1, x2, y2 = thing.box
        return thing._replace(
            box=((x1 - 1) * scale + 1, (y1 - 1) * scale + 1, x2 * scale, y2 * scale)
        )

    truth, found = [grown(one) for one in truth], [grown(one) for one in found]
    areas = [draw.choice([1024.0, 9216.0, draw.uniform(0, 20_000)]) for _ in truth]
    return truth, found, images, areas


def with_areas(images, truth, areas):
    """Areas as a COCO file gives them, those of the segments."""
    for image in images:
        here = [
            area for thing, area in zip(truth, areas, strict=True) if thing.image == image.image_id
        ]
        image.areas = torch.tensor(here, dtype=torch.float64)
    return images


def known(value: float) -> float:
    """COCO's -1 means that there is nothing to measure."""
    return math.nan if value == -1 else value


@pytest.mark.parametrize("says", [pycocotools_says, faster_coco_eval_says])
@pytest.mark.parametrize("seed", range(60))
def test_twelve_numbers_equal_the_references(says, seed: int) -> None:
    truth, found, images, areas = scaled_scene(seed)
    ours = coco_measures(
        with_areas(as_images(truth, images), truth, areas), as_detections(found), NAMES
    )
    judge = says(truth, found, images, len(NAMES), areas)
    expected = [known(value) for value in list(judge.stats)[:12]]
    assert list(ours.mean) == list(STATS)
    assert list(ours.mean.values()) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_numbers_of_each_class_equal_pycocotools(seed: int) -> None:
    truth, found, images, areas = scaled_scene(seed)
    ours = coco_measures(
        with_areas(as_images(truth, images), truth, areas), as_detections(found), NAMES
    )
    precision = pycocotools_says(truth, found, images, len(NAMES), areas).eval["precision"]
    for measure, area in (("AP", 0), ("APsmall", 1), ("APmedium", 2), ("APlarge", 3)):
        expected = [known(precision[:, :, k, area, 2].mean()) for k in range(len(NAMES))]
        values = list(ours.per_class[measure].values())
        assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_without_areas_those_of_the_boxes_count() -> None:
    truth, found, images, _ = scaled_scene(4)
    ours = coco_measures(as_images(truth, images), as_detections(found), NAMES)
    judge = pycocotools_says(truth, found, images, len(NAMES), None)
    expected = [known(value) for value in judge.stats]
    assert list(ours.mean.values()) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_more_than_a_hundred_detections_in_an_image(seed: int) -> None:
    truth, found, images, _ = random_scene(seed, difficult=False, crowd=True, many=True)
    truth = [Thing(0, 0, (1, 1, 9, 9)), *(thing._replace(label=0) for thing in truth)]
    found = [thing._replace(label=0) for thing in found]
    ours = coco_measures(as_images(truth, images), as_detections(found), NAMES)
    for says in (pycocotools_says, faster_coco_eval_says):
        stats = list(says(truth, found, images, len(NAMES), None).stats)[:12]
        expected = [known(value) for value in stats]
        assert list(ours.mean.values()) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_average_precision_is_that_of_the_single_measure() -> None:
    truth, found, images, _ = random_scene(5, difficult=True, crowd=True)
    ours = coco_measures(as_images(truth, images), as_detections(found), NAMES)
    for measure, iou in (("AP", None), ("AP50", 0.5), ("AP75", 0.75)):
        single = evaluate_detections(
            as_images(truth, images), as_detections(found), NAMES, "coco", iou
        )
        assert ours.mean[measure] == pytest.approx(single.mean_ap, abs=1e-12)


def test_coco_measures_of_nothing() -> None:
    for names in ([], ["a"]):
        assert all(np.isnan(list(coco_measures([], {}, names).mean.values())))
