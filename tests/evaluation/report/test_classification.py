"""The report of a classifier, from nothing at all to 80 classes."""

import json

import numpy as np
import pytest

from html_checks import check_page
from report_scenes import HOSTILE, load_nothing, load_white
from sppnet.evaluation.report.classification import (
    ClassificationFigures,
    write_classification_report,
)
from sppnet.evaluation.report.html import Tile

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
