"""The report of a detector, from nothing at all to 80 classes, and on real photos."""

import json
import math

import numpy as np
import pytest
import torch

from html_checks import check_page
from report_scenes import DETECTIONS, HOSTILE, IMAGES, A, B, found, image, load_nothing, load_white
from sppnet.errors import Problem
from sppnet.evaluation.overlaps import ProposalRecall, proposal_recall_curve
from sppnet.evaluation.report.detection import write_detection_report
from sppnet.evaluation.report.detection_figures import PAPER_AP, VOC_NAMES, DetectionFigures
from sppnet.images.dataset import LabelledImage

MEAN = {"ap50": 0.904, "ap75": 0.7, "ap": 0.6, "ap50_voc07": 0.89}


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
    assert "<script>alert" not in markup


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


def test_paper_is_shown_only_for_the_test_images_of_voc_2007(tmp_path):
    path = tmp_path / "report.html"
    figures = figures_of(list(VOC_NAMES))
    for count, is_shown in ((4952, True), (4951, False)):
        images = [image(number, []) for number in range(count)]
        write_detection_report(path, images, {}, figures, load=load_white)
        assert ("paper (VOC07)" in path.read_text(encoding="utf-8")) is is_shown
    assert sum(PAPER_AP) / 20 == pytest.approx(0.592, abs=0.0005)  # the mean that the paper prints


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
