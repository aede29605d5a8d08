"""``sppnet evaluate`` scores detections of others against truth in any layout."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from html_checks import check_page
from image_files import write_image
from sppnet import evaluation
from sppnet.app.main import main
from sppnet.geometry import Detections
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


def write_table(path: Path, boxes: list[tuple[str, str, list[float]]]) -> Path:
    """Write a CSV table, columns in another order than ours."""
    table = path.with_suffix(".csv")
    lines = ["xmin,ymin,xmax,ymax,confidence,name,file"]
    lines += [",".join(map(str, (*box, 0.5, name, stem))) for stem, name, box in boxes]
    table.write_text("\n".join(lines), encoding="utf-8")
    return table


@pytest.mark.parametrize("metric", ["voc07", "voc10", "coco"])
@pytest.mark.parametrize("writer", [write_coco_results, write_text_files, write_table])
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


def test_every_number_and_the_page_are_written(scenes: Path, tmp_path: Path, capsys) -> None:
    boxes = true_boxes(scenes)
    lost, (stem, name, box) = boxes[0], boxes[1]
    moved = (stem, name, [box[0] - 400, box[1], box[2] - 400, box[3]])
    found = write_coco_results(tmp_path / "found.json", [*boxes[1:], boxes[1], moved])
    out, figures = tmp_path / "page", tmp_path / "figures.json"
    assert (
        main(["evaluate", str(scenes), str(found), "--out", str(out), "--json", str(figures)]) == 0
    )
    written = json.loads(figures.read_text(encoding="utf-8"))
    assert written["errors"]["counts"] == {
        "localisation": 0,
        "classification": 0,
        "duplicate": 1,
        "background": 1,
        "both": 0,
        "missed": 1,
    }
    counts = written["confusion"]["counts"]
    assert sum(map(sum, counts)) == len(boxes) + 2
    names = written["confusion"]["names"]
    assert counts[names.index(lost[1])][-1] == 1
    assert written["coco"]["mean"]["AP"] < 1
    assert written["operating_point"]["misses"] == 1
    assert written["reliability"]["source"] == "scores"
    assert written["metric"] == "voc10"
    beside = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert beside["errors"] == written["errors"]
    assert "Kinds of mistakes" in (out / "report.html").read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    for part in ("APsmall", "duplicate", "expected calibration error (scores)", "report.html"):
        assert part in shown


def random_coco_files(folder: Path, seed: int, beyond: bool = False) -> tuple[Path, Path]:
    """A COCO set of blank images with crowds, areas of segments and empty images; and results."""
    draw = random.Random(seed)

    def box() -> list[float]:
        if beyond:
            width, height = draw.uniform(4, 150), draw.uniform(4, 150)
            return [draw.uniform(2 - width, 498), draw.uniform(2 - height, 398), width, height]
        x, y, side = draw.uniform(0, 300), draw.uniform(0, 200), draw.choice([12, 60, 150])
        return [x, y, draw.uniform(4, side), draw.uniform(4, side)]

    images, objects, found = [], [], []
    for number in range(1, 13):
        image = {"id": number * 10, "file_name": f"{number}.png", "height": 400, "width": 500}
        Image.new("L", (500, 400)).save(folder / image["file_name"])
        images.append(image)
        for _ in range(draw.choice([0, 1, 6])):
            place = {"image_id": number * 10, "category_id": draw.choice([3, 5, 90])}
            bbox = box()
            area = bbox[2] * bbox[3] * draw.uniform(0.3, 1)
            extra = {"id": len(objects) + 1, "area": area, "iscrowd": int(draw.random() < 0.2)}
            objects.append({**place, **extra, "bbox": bbox})
            for _ in range(draw.choice([0, 1, 3])):
                least = [-200, -200, 0.5, 0.5] if beyond else [0.5] * 4
                moved = [
                    max(low, side + draw.gauss(0, 3)) for low, side in zip(least, bbox, strict=True)
                ]
                found.append({**place, "bbox": moved, "score": round(draw.gauss(0, 1), 1)})
        found.append({"image_id": number * 10, "category_id": 5, "bbox": box(), "score": 0.1})
    categories = [{"id": number, "name": f"thing {number}"} for number in (3, 5, 90)]
    truth, results = folder / "truth.json", folder / "results.json"
    content = {"info": {}, "images": images, "annotations": objects, "categories": categories}
    truth.write_text(json.dumps(content), encoding="utf-8")
    results.write_text(json.dumps(found), encoding="utf-8")
    return truth, results


@pytest.mark.parametrize("seed", range(12))
def test_files_of_coco_score_as_in_pycocotools(seed: int, tmp_path: Path, capsys) -> None:
    """Boxes beyond the image, too, which no judge clips."""
    truth, results = random_coco_files(tmp_path, seed, beyond=seed >= 8)
    assert main(["evaluate", str(truth), str(results), "--json", str(tmp_path / "f.json")]) == 0
    ours = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["coco"]["mean"]
    index = COCO(str(truth))
    judge = COCOeval(index, index.loadRes(str(results)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    expected = [None if value == -1 else value for value in judge.stats]
    assert list(ours.values()) == pytest.approx(expected, abs=1e-9)


def write_lone_coco(folder: Path, bbox: list[float], image_id: object = 1) -> Path:
    """A COCO set of one image and one object, and the same box as a result."""
    Image.new("L", (60, 40)).save(folder / "a.png")
    truth = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    found = [{"image_id": image_id, "category_id": image_id, "bbox": bbox, "score": 1.0}]
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


@pytest.mark.parametrize("metric", ["coco", "voc07", "voc10"])
@pytest.mark.parametrize(
    ("bbox", "image_id"), [([-40, -30, 60, 50], 1), ([5, 5, 20, 20], 1.0), ([5, 5, 20, 20], "1")]
)
def test_a_box_beyond_the_image_and_ids_as_pandas_writes_them(
    metric: str, bbox: list[float], image_id: object, tmp_path: Path
) -> None:
    folder = write_lone_coco(tmp_path, bbox, image_id)
    command = ["evaluate", str(folder / "truth.json"), str(folder / "found.json")]
    assert main([*command, "--metric", metric, "--json", str(tmp_path / "f.json")]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["mean_ap"] == 1.0


def test_images_that_differ_in_their_ending_only(tmp_path: Path, capsys) -> None:
    for name in ("x.jpg", "x.png"):
        Image.new("L", (60, 40)).save(tmp_path / name)
    (tmp_path / "x.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    table = tmp_path / "found.csv"
    table.write_text("image,class,score,x1,y1,x2,y2\n" + "x.jpg,cat,1,15,10,45,30\n")
    assert main(["evaluate", str(tmp_path), str(table), "--json", str(tmp_path / "f.json")]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["mean_ap"] == 0.5
    table.write_text(table.read_text() + "x,cat,1,15,10,45,30\n")
    assert main(["evaluate", str(tmp_path), str(table)]) == 3
    assert "line 3: image 'x' may be 'x.jpg' and 'x.png'" in capsys.readouterr().err


def test_boxes_of_the_truth_that_cannot_be_asked_for_are_counted(tmp_path: Path, capsys) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "width": 36, "height": 24}]
    boxes = [[1, 1, 9, 9], [3, 3, 0.5, 4], [40, 3, 5, 5]]
    objects = [{"id": n, "image_id": 1, "category_id": 1, "bbox": b} for n, b in enumerate(boxes)]
    whole = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    write_image(tmp_path / "a.jpg")
    (tmp_path / "truth.json").write_text(json.dumps(whole))
    found = [{"image_id": 1, "category_id": 1, "bbox": boxes[0], "score": 1}]
    (tmp_path / "found.json").write_bytes(json.dumps(found).encode("utf-16"))
    assert main(["evaluate", str(tmp_path / "truth.json"), str(tmp_path / "found.json")]) == 3
    assert "2 boxes of the truth cannot be used" in capsys.readouterr().err


def scored(folder: Path, shift: float) -> Path:
    """Leave the report of scenes whose boxes were moved by a share of their side."""
    data = folder.parent / "scenes"
    if not data.exists():
        draw_detection_set(data, count=12, seed=0)
    dataset = open_detection_dataset(data)
    random = np.random.default_rng(1)
    found = {}
    for image in dataset.images:
        sides = (image.boxes[:, 2:] - image.boxes[:, :2]).repeat(1, 2)
        moved = image.boxes + sides * shift * torch.tensor(random.choice([0, 1], (len(sides), 1)))
        scores = torch.tensor(random.random(len(sides)), dtype=torch.float32)
        found[image.image_id] = Detections(moved.float(), scores, image.labels)
    evaluation.write_coco_results(
        folder.with_suffix(".json"), found, dataset.names, dataset.category_ids, files=dataset.files
    )
    words = ["evaluate", str(data), str(folder.with_suffix(".json")), "--out", str(folder)]
    assert main(words) == 0
    return folder


def test_two_runs_are_compared_photo_by_photo(tmp_path: Path, capsys) -> None:
    good, bad = scored(tmp_path / "good", 0.05), scored(tmp_path / "bad", 0.9)
    figures = tmp_path / "compared"
    capsys.readouterr()
    assert main(["compare", str(bad), str(good), "--out", str(figures)]) == 0
    shown = capsys.readouterr().out
    saved = json.loads((figures / "compare.json").read_text(encoding="utf-8"))
    first = saved["differences"][0]
    for name, folder in (("first", bad), ("second", good)):
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert first[name] == pytest.approx(report["mean"]["ap50"], abs=1e-9)
    assert 0 < first["low"] <= first["second"] - first["first"] <= first["high"] <= 1
    assert saved["verdict"].startswith("B is better")
    assert "B is better" in shown
    assert saved["changed"]
    assert all(change["gain"] > 0 for change in saved["changed"])
    text = check_page((figures / "compare.html").read_text(encoding="utf-8")).visible_text()
    assert saved["changed"][0]["file"] in text


def test_a_run_compared_with_itself_shows_no_difference(tmp_path: Path, capsys) -> None:
    run = scored(tmp_path / "good", 0.3)
    assert main(["compare", str(run), str(run), "--out", str(tmp_path / "same")]) == 0
    saved = json.loads((tmp_path / "same" / "compare.json").read_text(encoding="utf-8"))
    assert saved["changed"] == []
    assert {(each["low"], each["high"]) for each in saved["differences"]} == {(0.0, 0.0)}
    assert saved["verdict"].startswith("no difference")


def test_runs_that_cannot_be_compared_are_one_line(tmp_path: Path, capsys) -> None:
    run = scored(tmp_path / "good", 0.3)
    out = ["--out", str(tmp_path / "x")]
    capsys.readouterr()
    assert main(["compare", str(run), str(tmp_path), *out]) == 2
    assert "no photos.json in it" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "photos.json").write_text('{"names": ["a"], "threshold": 0}')
    assert main(["compare", str(run), str(other), *out]) == 5
    text = (run / "photos.json").read_text(encoding="utf-8")
    saved = json.loads(text)
    saved["names"] = [f"other {name}" for name in saved["names"]]
    (other / "photos.json").write_text(json.dumps(saved))
    assert main(["compare", str(run), str(other), *out]) == 2
    saved = json.loads(text)
    saved["photos"][0]["objects"][0] += 1
    (other / "photos.json").write_text(json.dumps(saved))
    assert main(["compare", str(run), str(other), *out]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("sppnet: error: ") for line in errors] == [True] * 3
