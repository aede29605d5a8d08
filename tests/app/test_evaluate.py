"""``sppnet evaluate`` scores detections of others against truth in any layout."""

import json
from pathlib import Path

import pytest

from sppnet.app.main import main
from sppnet.images import draw_detection_set, open_detection_dataset


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    draw_detection_set(tmp_path / "scenes", count=4, seed=3)
    return tmp_path / "scenes"


def true_boxes(scenes: Path) -> list[tuple[str, str, list[float]]]:
    """Every object as (stem, class, xyxy)."""
    dataset = open_detection_dataset(scenes)
    return [
        (image.path.stem, dataset.names[label], box)
        for image in dataset
        for box, label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
    ]


def write_coco_results(path: Path, boxes: list[tuple[str, str, list[float]]]) -> Path:
    """Write COCO results with stems for image ids and names for category ids."""
    records = [
        {
            "image_id": stem,
            "category_name": name,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.5,
        }
        for stem, name, (x1, y1, x2, y2) in boxes
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_text_files(folder: Path, boxes: list[tuple[str, str, list[float]]]) -> Path:
    """Write a text file per image, class score x1 y1 x2 y2."""
    folder.mkdir()
    for stem, name, box in boxes:
        with (folder / f"{stem}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name} 0.5 {' '.join(map(str, box))}\n")
    return folder


@pytest.mark.parametrize("metric", ["voc07", "voc10", "coco"])
@pytest.mark.parametrize("writer", [write_coco_results, write_text_files])
def test_the_truth_itself_scores_1(
    writer, metric: str, scenes: Path, tmp_path: Path, capsys
) -> None:
    found, figures = writer(tmp_path / "found", true_boxes(scenes)), tmp_path / "figures.json"
    words = ["evaluate", str(scenes), str(found), "--metric", metric, "--json", str(figures)]
    assert main(words) == 0
    written = json.loads(figures.read_text(encoding="utf-8"))
    assert written["mean_ap"] == pytest.approx(1.0)
    assert {value for value in written["per_class"].values() if value is not None} == {1.0}
    assert "mean AP" in capsys.readouterr().out


def test_fewer_hits_score_less_and_a_strict_overlap_less_still(
    scenes: Path, tmp_path: Path
) -> None:
    boxes = [
        (stem, name, [x1, y1, x2, y1 + 0.8 * (y2 - y1)])
        for stem, name, (x1, y1, x2, y2) in true_boxes(scenes)
    ]
    found = write_coco_results(tmp_path / "found.json", boxes)
    scores = []
    for iou in ("0.5", "0.9"):
        words = ["evaluate", str(scenes), str(found), "--iou", iou, "--json", str(tmp_path / "f")]
        assert main(words) == 0
        scores.append(json.loads((tmp_path / "f").read_text(encoding="utf-8"))["mean_ap"])
    assert scores == [1.0, 0.0]


def test_unusable_detections_are_code_5_and_one_line(scenes: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "found.json"
    broken.write_text('[{"image_id": ', encoding="utf-8")
    assert main(["evaluate", str(scenes), str(broken)]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sppnet: error: '{broken}'")


def test_detections_of_unknown_images_are_named_and_left_out(
    scenes: Path, tmp_path: Path, capsys
) -> None:
    strangers = [("nowhere", "circle", [0.0, 0.0, 9.0, 9.0])]
    mixed = write_coco_results(tmp_path / "mixed.json", true_boxes(scenes) + strangers)
    assert main(["evaluate", str(scenes), str(mixed)]) == 3
    assert "'nowhere' is not in the data set" in capsys.readouterr().err
    foreign = write_coco_results(tmp_path / "foreign.json", strangers)
    assert main(["evaluate", str(scenes), str(foreign)]) == 4


@pytest.mark.parametrize("value", ["0", "-1", "1.01", "nan", "inf", "half", ""])
def test_overlap_out_of_range_is_wrong_usage(value: str, scenes: Path, capsys) -> None:
    assert main(["evaluate", str(scenes), str(scenes), "--iou", value]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_figures_that_cannot_be_written_are_code_6(scenes: Path, tmp_path: Path) -> None:
    found = write_coco_results(tmp_path / "found.json", true_boxes(scenes))
    words = ["evaluate", str(scenes), str(found), "--json", str(tmp_path / "missing" / "f.json")]
    assert main(words) == 6
