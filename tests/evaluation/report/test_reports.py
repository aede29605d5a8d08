"""Both reports, from nothing at all to 80 classes, and on real photos."""

import json
import math

import numpy as np
import pytest
import torch

from html_checks import check_page
from sppnet.errors import InputError, Problem
from sppnet.evaluation.error_analysis import best_and_worst, best_operating_point, count_matches
from sppnet.evaluation.proposal_recall import ProposalRecall, proposal_recall_curve
from sppnet.evaluation.report.classification import (
    ClassificationFigures,
    write_classification_report,
)
from sppnet.evaluation.report.detection import write_detection_report
from sppnet.evaluation.report.detection_figures import PAPER_AP, VOC_NAMES, DetectionFigures
from sppnet.evaluation.report.html import Tile
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage

HOSTILE = "<script>alert(1)</script>"
MEAN = {"ap50": 0.904, "ap75": 0.7, "ap": 0.6, "ap50_voc07": 0.89}


def image(image_id, boxes, labels=None, difficult=None):
    count = len(boxes)
    none = torch.zeros(count, dtype=torch.bool)
    return LabelledImage(
        path=f"{image_id}.jpg",
        image_id=image_id,
        size_hw=(120, 160),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or [0] * count, dtype=torch.int64),
        difficult=none if difficult is None else torch.tensor(difficult),
        crowd=none,
        truncated=none,
    )


def found(boxes, scores, labels=None):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    )


def load_white(path):
    return torch.ones(3, 120, 160)


def load_nothing(path):
    raise InputError("the file is empty", path=path)


A, B, C = [10, 10, 60, 60], [80, 20, 140, 100], [0, 0, 20, 20]
IMAGES = [image("good", [A, B]), image("bad", [A, B]), image("blank", [])]
DETECTIONS = {"good": found([A, B], [0.9, 0.8]), "bad": found([C, B], [0.85, 0.2])}


def figures_of(names):
    per_class = {key: dict.fromkeys(names, MEAN[key]) for key in MEAN}
    curves = {name: (np.linspace(0, 1, 9), np.linspace(1, 0.5, 9)) for name in names}
    recall = {0.5: np.array([0.2, 0.6, 0.9]), 0.7: np.array([0.1, 0.3, 0.6])}
    return DetectionFigures(
        names,
        MEAN,
        per_class,
        curves,
        proposal_recall=ProposalRecall(np.array([1, 100, 2000]), recall, 4, 2000.0),
        seconds={"proposals": 30.0, "maps": 60.0},
        seconds_per_image=1.5,
        problems=[Problem(f"{HOSTILE}.xml", "box has zero area", "E_BOX", 12, "left out")],
        config={"backbone": HOSTILE, "svm": {"c": 0.001}},
        versions={"torch": "2.6"},
    )


def test_detection_report_shows_every_part(tmp_path):
    path = tmp_path / "report.html"
    write_detection_report(
        path, IMAGES, DETECTIONS, figures_of(["a", "b"]), subtitle="demo", load=load_white
    )
    document = check_page(path.read_text(encoding="utf-8"))
    text = document.visible_text()
    for part in ("0.904", "AP75", "VOC07", "Precision and recall", "Recall of the proposals"):
        assert part in text
    for part in ("proposals", "box has zero area", "line", "12", "left out", "svm.c", "1.5 s"):
        assert part in text
    assert "demo \u00b7 3 images \u00b7 4 objects \u00b7 2 classes" in text.replace("\u00a0", " ")
    assert document.count("img") == 2
    assert "paper" not in text


def test_numbers_beside_the_report_are_those_that_were_drawn(tmp_path):
    path = tmp_path / "report.html"
    returned = write_detection_report(path, IMAGES, DETECTIONS, figures_of(["a"]), load=load_white)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["mean"] == MEAN
    assert saved["precision_recall"]["a"]["recall"] == np.linspace(0, 1, 9).tolist()
    assert saved["proposal_recall"]["recall"]["0.7"] == [0.1, 0.3, 0.6]
    assert saved["images"] == {"worst": ["bad"], "best": ["good"]}
    assert saved["operating_point"]["hits"] == 3
    assert saved == json.loads(json.dumps(returned))


@pytest.mark.parametrize("names", [[], ["one"], [f"{HOSTILE}{i}" for i in range(80)]])
@pytest.mark.parametrize("load", [load_white, load_nothing])
def test_detection_report_of_any_number_of_classes(tmp_path, names, load):
    path = tmp_path / "report.html"
    images = IMAGES if names else []
    write_detection_report(path, images, DETECTIONS, figures_of(names), title=HOSTILE, load=load)
    markup = path.read_text(encoding="utf-8")
    check_page(markup)
    assert "<script" not in markup


def test_detection_report_of_nothing(tmp_path):
    path = tmp_path / "report.html"
    write_detection_report(path, [], {}, DetectionFigures([], {}, {}))
    check_page(path.read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "report.json").read_text())["precision_recall"] == {}


def test_measured_figures_are_those_of_the_evaluation(tmp_path):
    recall = proposal_recall_curve(IMAGES, {"good": torch.tensor([A, B], dtype=torch.float32)})
    figures = DetectionFigures.measure(
        IMAGES, DETECTIONS, ["a", "never seen"], proposal_recall=recall, seconds_per_image=0.2
    )
    # best score first: right, false, right, right of four objects, precision made monotone
    assert figures.mean["ap50"] == pytest.approx(1 / 4 + 2 * (3 / 4) / 4)
    assert math.isnan(figures.per_class["ap50"]["never seen"])
    path = tmp_path / "report.html"
    returned = write_detection_report(path, IMAGES, DETECTIONS, figures, load=load_white)
    assert "0.625" in check_page(path.read_text(encoding="utf-8")).visible_text()
    assert returned["proposal_recall"]["recall"]["0.5"] == [0.25, 0.5]


def test_mistakes_sizes_and_reliability_are_shown_and_in_the_numbers(tmp_path):
    figures = DetectionFigures.measure(IMAGES, DETECTIONS, ["a", HOSTILE])
    path = tmp_path / "report.html"
    write_detection_report(path, IMAGES, DETECTIONS, figures, load=load_white)
    text = check_page(path.read_text(encoding="utf-8")).visible_text()
    for part in ("By size, as COCO counts", "AR100", "Kinds of mistakes", "an object of another"):
        assert part in text
    for part in ("Confusion", "Reliability of the scores", "as they are", "small", "costs AP50"):
        assert part in text
    saved = json.loads((tmp_path / "report.json").read_text())
    # at the best threshold, 0.2: three right; one wrong at (0, 0), which overlaps too little
    assert saved["confusion"]["counts"] == [[3, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert saved["errors"]["counts"]["background"] == 1
    assert saved["errors"]["counts"]["missed"] == 1
    assert saved["coco"]["mean"]["AR100"] == pytest.approx(0.75)
    assert saved["coco"]["mean"]["APsmall"] is None
    assert sum(saved["reliability"]["counts"]) == 4


def test_mixed_up_classes_are_named(tmp_path):
    figures = DetectionFigures.measure(
        IMAGES, {"good": found([A, B], [0.9, 0.8], [1, 0])}, ["cat", "dog"]
    )
    write_detection_report(tmp_path / "r.html", IMAGES, {}, figures, load=load_white)
    text = check_page((tmp_path / "r.html").read_text(encoding="utf-8")).visible_text()
    assert "Classes mixed up most" in text
    assert figures.analysis.errors.counts["classification"] == 1


def test_detector_that_finds_nothing(tmp_path):
    figures = DetectionFigures(["a"], {"ap50": math.nan}, {"ap50": {"a": math.nan}})
    path = tmp_path / "report.html"
    write_detection_report(path, IMAGES, {}, figures, load=load_white)
    text = check_page(path.read_text(encoding="utf-8")).visible_text()
    assert "No detection is right." in text
    assert "2 false negatives" in text
    saved = json.loads((tmp_path / "report.json").read_text())  # strict: no NaN or Infinity inside
    assert saved["mean"]["ap50"] is None


def test_long_lists_of_problems_are_cut_and_say_so(tmp_path):
    problems = [Problem(f"{i}.xml", "bad", "E_BOX") for i in range(700)]
    path = tmp_path / "report.html"
    write_detection_report(path, [], {}, DetectionFigures([], {}, {}, problems=problems))
    text = check_page(path.read_text(encoding="utf-8")).visible_text()
    assert "700 findings, the first 500 of them below" in text


def test_paper_is_shown_only_for_the_test_images_of_voc_2007(tmp_path):
    path = tmp_path / "report.html"
    figures = figures_of(list(VOC_NAMES))
    for count, is_shown in ((4952, True), (4951, False)):
        images = [image(number, []) for number in range(count)]
        write_detection_report(path, images, {}, figures, load=load_white)
        assert ("paper (VOC07)" in path.read_text(encoding="utf-8")) is is_shown
    assert sum(PAPER_AP) / 20 == pytest.approx(0.592, abs=0.0005)  # the mean that the paper prints


def test_best_threshold_balances_precision_and_recall():
    point = best_operating_point(IMAGES, DETECTIONS)
    # 0.9 right, 0.85 false, 0.8 right, 0.2 right: F1 is 2*3/(4+4) with all, 2*2/(3+4) down to 0.8,
    # 2*1/(1+4) with the first alone
    assert point.score_threshold == pytest.approx(0.2)
    assert (point.true_positives, point.false_positives, point.false_negatives) == (3, 1, 1)
    assert point.precision == point.recall == 0.75


def test_equal_scores_are_taken_together():
    images = [image("x", [A])]
    point = best_operating_point(images, {"x": found([A, C, C], [0.5, 0.5, 0.5])})
    assert (point.true_positives, point.false_positives) == (1, 2)


def test_difficult_objects_count_neither_way():
    images = [image("x", [A, B], difficult=[True, False])]
    point = best_operating_point(images, {"x": found([A, B], [0.9, 0.8])})
    assert (point.true_positives, point.false_positives, point.false_negatives) == (1, 0, 0)


def test_worst_images_have_most_mistakes_and_none_is_shown_twice():
    counts = count_matches(IMAGES, DETECTIONS, 0.5)
    assert [(e.true_positives, e.false_positives, e.false_negatives) for e in counts] == [
        (2, 0, 0),
        (0, 1, 2),
        (0, 0, 0),
    ]
    best, worst = best_and_worst(counts)
    assert [entry.image.image_id for entry in worst] == ["bad"]
    assert [entry.image.image_id for entry in best] == ["good"]


SCORES = [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]]


def test_classification_report_shows_every_part(tmp_path):
    path = tmp_path / "report.html"
    figures = ClassificationFigures(
        ["cat", HOSTILE], [0, 0, 0, 1], SCORES, extra=[Tile("Splits", "3")], seconds={"fit": 1.0}
    )
    returned = write_classification_report(path, list("abcd"), figures, load=load_white)
    document = check_page(path.read_text(encoding="utf-8"))
    text = document.visible_text()
    for part in (
        "0.750",
        "0.833",
        "Surest mistakes",
        "Surest correct answers",
        "is cat",
        "cat 0.90",
        "Splits",
    ):
        assert part in text
    assert document.count("img") == 4
    assert returned["top1"] == 0.75
    assert returned["mean_class_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert returned["confusion"]["counts"] == [[2, 1], [0, 1]]
    assert json.loads((tmp_path / "report.json").read_text()) == returned


@pytest.mark.parametrize("num_classes", [0, 1, 6, 80])
@pytest.mark.parametrize("num_images", [0, 40])
def test_classification_report_of_any_size(tmp_path, num_classes, num_images):
    if not num_classes:
        num_images = 0
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(1, num_classes), num_images)
    figures = ClassificationFigures(
        [f"class {i}" for i in range(num_classes)], labels, rng.random((num_images, num_classes))
    )
    path = tmp_path / "report.html"
    write_classification_report(path, ["x.jpg"] * num_images, figures, load=load_nothing)
    assert check_page(path.read_text(encoding="utf-8")).count("img") == 0


def test_classification_report_refuses_numbers_that_do_not_belong_together(tmp_path):
    figures = ClassificationFigures(["a", "b"], [0], SCORES)
    with pytest.raises(ValueError, match="labels and scores must have shapes"):
        write_classification_report(tmp_path / "r.html", ["x"], figures)


def test_report_on_real_photos(tmp_path, shared_data):
    paths = sorted((shared_data / "raccoon" / "JPEGImages").iterdir())[:3]
    images = [
        LabelledImage(p, p.stem, (1, 1), *(getattr(IMAGES[0], k) for k in
                      ("boxes", "labels", "difficult", "crowd", "truncated")))
        for p in paths
    ]  # fmt: skip
    detections = {entry.image_id: DETECTIONS["good"] for entry in images}
    path = tmp_path / "report.html"
    write_detection_report(path, images, detections, figures_of(["raccoon"]))
    assert check_page(path.read_text(encoding="utf-8")).count("img") == 3
