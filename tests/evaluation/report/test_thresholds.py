"""The slider of a report: its numbers are those of the evaluation, and a browser shows them."""

import json
import re

import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright

from html_checks import check_page
from label_page import ARGUMENTS, find_browser
from report_scenes import DETECTIONS, IMAGES, A, B, found, image, load_white
from sppnet.evaluation import confuse_detections, find_error_types
from sppnet.evaluation.error_analysis import ERROR_TYPES, count_by_threshold
from sppnet.evaluation.report.detection import write_detection_report
from sppnet.evaluation.report.detection_figures import DetectionFigures
from sppnet.evaluation.report.thresholds import ThresholdSweep, _BoxDrawing
from sppnet.geometry import Detections

NAMES = ["cat", "dog", "cow"]
THRESHOLDS = np.array([-2.0, 0.1, 0.25, 0.5, 0.75, 0.95, 2.0])


def random_scenes(seed, count=12):
    """Images and detections in which every kind of mistake happens, scores with ties."""
    random = np.random.default_rng(seed)
    images, detections = [], {}
    for number in range(count):
        corners = random.integers(0, 90, (random.integers(0, 7), 2))
        boxes = np.concatenate([corners, corners + random.integers(10, 50, corners.shape)], 1)
        labels = random.integers(0, 3, len(boxes))
        difficult = (random.random(len(boxes)) < 0.2).tolist()
        images.append(image(number, boxes.tolist(), labels.tolist(), difficult or None))
        near = np.repeat(boxes, 2, 0) + random.integers(-6, 7, (2 * len(boxes), 4))
        seen = np.where(random.random(len(near)) < 0.7, np.repeat(labels, 2), 1)
        scores = random.integers(0, 20, len(near)) / 20
        detections[number] = found(near.tolist(), scores.tolist(), seen.tolist())
    return images, detections


@pytest.mark.parametrize("seed", range(6))
def test_counts_at_each_threshold_are_those_of_one_threshold_alone(seed):
    images, detections = random_scenes(seed)
    counts = count_by_threshold(images, detections, NAMES, THRESHOLDS)
    assert counts.kinds[1].sum() > 0
    for step, threshold in enumerate(THRESHOLDS):
        errors = find_error_types(images, detections, NAMES, threshold)
        assert counts.kinds[step].tolist() == [errors.counts[kind] for kind in ERROR_TYPES]
        table = confuse_detections(images, detections, NAMES, threshold).counts
        assert counts.confusion[step].tolist() == table.tolist()
        assert counts.true_positives[step].tolist() == np.diag(table)[:3].tolist()


def test_too_many_pairs_leave_only_the_matrix_out(monkeypatch):
    images, detections = random_scenes(0)
    whole = count_by_threshold(images, detections, NAMES, THRESHOLDS)
    monkeypatch.setattr("sppnet.evaluation.error_analysis.MOST_PAIRS", 0)
    part = count_by_threshold(images, detections, NAMES, THRESHOLDS)
    assert part.confusion.shape == (0, 4, 4)
    assert part.kinds.tolist() == whole.kinds.tolist()


def test_boxes_lie_where_they_are_in_the_smaller_picture():
    drawing = _BoxDrawing((50, 40), (0.5, 0.25), ["a"], 0.5)
    text = str(drawing._box(np.array([10.0, 20.0, 30.0, 60.0]), "tp", 0.9, "0.90"))
    sides = {name: float(re.search(rf'<rect[^>]* {name}="([^"]+)"', text)[1])
             for name in ("x", "y", "width", "height")}  # fmt: skip
    assert sides == {"x": 5, "y": 5, "width": 10, "height": 10}


def test_thresholds_are_of_what_the_detections_know():
    assert ThresholdSweep.measure(IMAGES, DETECTIONS, ["a"]).scale == "confidence"
    margins = {"good": found([A, B], [3.0, -2.0])}
    assert ThresholdSweep.measure(IMAGES, margins, ["a"]).scale == "score"  # two are too few
    sure = torch.tensor([0.9, 0.4])
    with_confidence = {"good": Detections(**margins["good"], confidence=sure)}
    sweep = ThresholdSweep.measure(IMAGES, with_confidence, ["a"])
    assert sweep.scale == "confidence"
    assert sweep.thresholds[sweep.start] == pytest.approx(0.4)
    assert (sweep.point.recall, sweep.point.precision) == (0.5, 1.0)


def test_first_tile_says_what_a_user_gets(tmp_path):
    figures = DetectionFigures.measure(IMAGES, DETECTIONS, ["a"])
    saved = write_detection_report(tmp_path / "r.html", IMAGES, DETECTIONS, figures)
    text = " ".join(check_page((tmp_path / "r.html").read_text("utf-8")).visible_text().split())
    assert "At a confidence of 0.20 finds 75 % 75 % of what it says is right AP50" in text.replace(
        "\u00a0", " "
    )
    assert saved["sentence"] == "at a confidence of 0.20: finds 75%, 75% of what it says is right"


def test_a_threshold_just_below_zero_is_written_without_its_sign(tmp_path):
    margins = {"good": found([A, B], [-0.001, -0.002]), "bad": found([B], [-0.003])}
    figures = DetectionFigures.measure(IMAGES, margins, ["a"])
    write_detection_report(tmp_path / "r.html", IMAGES, margins, figures, load=load_white)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "0.00" in page
    assert re.findall(r"-0\.0+(?![\d.])", page) == []


@pytest.mark.skipif(find_browser() is None, reason="no chromium to show the page in")
def test_slider_moves_numbers_matrix_and_boxes(tmp_path):
    images, detections = random_scenes(3)
    figures = DetectionFigures.measure(images, detections, NAMES)
    path = tmp_path / "r.html"
    write_detection_report(path, images, detections, figures, load=load_white)
    data = json.loads(re.search(r'id="live-data">(.*?)</script>', path.read_text("utf-8"))[1])
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=find_browser(), args=ARGUMENTS)
        page = browser.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(path.as_uri())
        at_first = page.content()
        for value in (0.5, 0.9):
            step = int(np.searchsorted(data["thresholds"], value))
            page.evaluate(
                "n => { const s = document.getElementById('threshold'); s.value = n;"
                " s.dispatchEvent(new Event('input')); }",
                step,
            )
            threshold = data["thresholds"][step]
            table = confuse_detections(images, detections, NAMES, threshold).counts
            cells = page.eval_on_selector_all(
                "[data-cell]",
                "all => all.map(e => e.getAttribute('display') === 'none' ? 0"
                " : Number(e.querySelector('text').textContent))",
            )
            assert cells == table.reshape(-1).tolist()
            rows = page.eval_on_selector_all("[data-row]", "all => all.map(e => e.textContent)")
            assert rows == [str(total) for total in table.sum(1)]
            boxes = page.eval_on_selector_all(
                "[data-from]", "all => all.map(e => [+e.dataset.from, e.getAttribute('display')])"
            )
            assert boxes
            assert all((limit >= threshold) == (display != "none") for limit, display in boxes)
        assert page.content() != at_first
        assert page.get_by_label("Confidence from").get_attribute("aria-valuetext") == "0.90"
        browser.close()
    assert faults == []
