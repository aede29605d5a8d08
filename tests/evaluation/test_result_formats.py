"""Tables and COCO results: files, confidences, what counts, and what no spreadsheet computes."""

import csv
import json
from pathlib import Path

import torch

from sppnet.evaluation import write_coco_results, write_counts, write_csv
from sppnet.evaluation.result_formats import exact_text
from sppnet.geometry import Detections

NAMES = ("cat", "=dog")


def two(confidence: list[float] | None = None) -> Detections:
    boxes = torch.tensor([[1.0, 2, 4, 6.5], [0, 0, 5, 5]])
    sure = None if confidence is None else torch.tensor(confidence)
    return Detections(boxes, torch.tensor([0.5, -0.25]), torch.tensor([0, 1]), sure)


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_results_name_the_file_say_how_sure_and_whether_it_counts(tmp_path: Path) -> None:
    found, files = {"x": two([0.75, 0.125])}, {"x": "cam1/x.jpg"}
    thresholds = [0.5, 0.0]
    write_coco_results(tmp_path / "a.json", found, NAMES, files=files, thresholds=thresholds)
    entries = json.loads((tmp_path / "a.json").read_text())
    assert [e["file"] for e in entries] == ["cam1/x.jpg"] * 2
    assert [e["image_id"] for e in entries] == ["x"] * 2
    assert [e["confidence"] for e in entries] == [0.75, 0.125]
    assert [e["above_threshold"] for e in entries] == [True, False]


def test_a_table_names_the_file_and_says_how_sure(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"x": two([0.75, 0.125])}, NAMES, files={"x": "cam1/x.jpg"})
    header, first, second = _rows(tmp_path / "a.csv")
    assert header == ["file", "class", "score", "confidence", "x1", "y1", "x2", "y2"]
    assert first == ["cam1/x.jpg", "cat", "0.5", "0.7500", "1.00", "2.00", "4.00", "6.50"]
    assert second[1:4] == ["'=dog", "-0.25", "0.1250"]


def test_counts_have_a_line_for_each_image(tmp_path: Path) -> None:
    counts = {"a.jpg": [2, 1], "-b.jpg": [0, 0], "damaged.jpg": None}
    write_counts(tmp_path / "counts.csv", counts, NAMES)
    rows = _rows(tmp_path / "counts.csv")
    assert rows == [
        ["file", "cat", "'=dog", "total"],
        ["a.jpg", "2", "1", "3"],
        ["'-b.jpg", "0", "0", "0"],
        ["damaged.jpg", "", "", ""],
    ]
    assert exact_text(rows[2][0]) == "-b.jpg"
