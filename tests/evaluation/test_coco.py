"""COCO's twelve numbers equal those of pycocotools and of faster-coco-eval."""

import math
import random

import numpy as np
import pytest
import torch

from evaluation_scenes import as_detections, as_images, random_scene
from oracles.coco_references import STATS, faster_coco_eval_says, pycocotools_says
from oracles.slow_average_precision import Thing
from sppnet.evaluation import coco_measures, evaluate_detections

NAMES = ["a", "b", "c", "d"]


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


def test_nothing_at_all() -> None:
    for names in ([], ["a"]):
        assert all(np.isnan(list(coco_measures([], {}, names).mean.values())))
