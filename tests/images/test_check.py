"""The doctor names every planted fault once: file, line, what is wrong, what training does."""

import json
import time
from pathlib import Path

import pytest

from image_files import make_voc, tree_hash, voc_object, voc_xml, write_image, write_split
from images.readers.layout_shapes import (
    NAMES,
    cvat_voc,
    official_coco,
    roboflow_coco,
    roboflow_yolo,
)
from sppnet.images import (
    check_dataset,
    draw_class_folders,
    draw_detection_set,
    open_detection_dataset,
)
from sppnet.images.check import find_repeated, give_hints


def told(findings) -> list[tuple[str, int | None, str]]:
    """File name, line and action of each finding."""
    found = [(Path(finding.path).name, finding.line, finding.action) for finding in findings]
    return sorted(found, key=str)


def rule_of(findings, line: int) -> str:
    (found,) = [finding.rule for finding in findings if finding.line == line]
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


ROWS = [
    ("0 0.5 0.5 0.5 0.5", None, None),
    ("9 0.5 0.5 0.2 0.2", "the class must be in 0..2, is 9", "box left out"),
    ("0 nan 0.5 0.2 0.2", "must hold finite numbers", "box left out"),
    ("1 0.5 0.5 0 0.2", "has no area", "box left out"),
    ("1 2.5 0.5 0.2 0.2", "less than 1 px", "box left out"),
    ("cat 0.5 0.5 0.2 0.2", "must hold numbers", "box left out"),
    ("0 0.5 0.5 0.2", "must have 5 numbers", "box left out"),
    ("2 0.9 0.5 0.4 0.2", "reaches beyond the image of 60 x 40", "clipped to the image"),
    ("0 0.5 0.5 0.5 0.5", "repeats another of class '7'", "both kept"),
]


def test_every_fault_of_a_yolo_set(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    train = tmp_path / "train"
    (train / "labels" / "a.txt").write_text("".join(f"{row}\n" for row, _, _ in ROWS))
    (train / "labels" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    write_image(train / "images" / "alone.jpg", seed=8)
    (train / "images" / "text.jpg").write_text("no image " * 20)
    cut(write_image(train / "images" / "cut.jpg", seed=9))
    write_image(train / "images" / "twice.jpg", 40, 60, seed=1)
    write_image(tmp_path / "valid" / "images" / "leak.jpg", 40, 60, seed=3)
    before = tree_hash(tmp_path)
    report = check_dataset(tmp_path)
    lines = {(n, rule, action) for n, (_, rule, action) in enumerate(ROWS, start=1) if rule}
    for line, rule, action in lines:
        findings = (
            report.notes if action in ("both kept", "clipped to the image") else report.problems
        )
        assert rule in rule_of(findings, line)
    left_out = [("a.txt", line, "box left out") for line in range(2, 8)]
    assert told(report.problems) == sorted([
        *left_out,
        ("cut.jpg", None, "image left out"),
        ("gone.txt", None, "labels left out"),
        ("leak.jpg", None, "used in both; scores on 'val' come out too high"),
        ("text.jpg", None, "image left out"),
    ], key=str)  # fmt: skip
    assert told(report.notes) == [
        ("a.txt", 8, "clipped to the image"),
        ("a.txt", 9, "both kept"),
        ("twice.jpg", None, "both used"),
    ]
    assert report.counts["images without boxes"] == 5  # alone, c, cut, twice, leak
    assert "5 images have no boxes: used as negatives" in report.hints
    assert tree_hash(tmp_path) == before
    quick = check_dataset(tmp_path, quick=True)
    assert {Path(p.path).name for p in report.problems} - {
        Path(p.path).name for p in quick.problems
    } == {"cut.jpg"}


def test_every_fault_of_a_voc_set(tmp_path: Path) -> None:
    cvat_voc(tmp_path)
    xml, photos = tmp_path / "Annotations", tmp_path / "JPEGImages"
    good = voc_object((1, 1, 30, 20))
    faults = [
        voc_object((5, 5, 5, 9)),
        voc_object(("x", 1, 9, 9)),
        voc_object((100, 1, 120, 9)),
        voc_object((9, 9, 2, 2)),
        "<object><name></name></object>\n",
        voc_object((50, 30, 75, 40)),
        good,
    ]
    size = "<size><width>99</width><height>40</height></size>"
    text = f"<annotation><filename>a.jpg</filename>{size}\n{good}{''.join(faults)}</annotation>"
    (xml / "a.xml").write_text(text)
    (xml / "broken.xml").write_text("<annotation>\n<object></annotation>")
    (xml / "lonely.xml").write_text("<annotation></annotation>")
    write_image(photos / "unlabelled.jpg", seed=8)
    cut(photos / "c.jpg")
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "test.txt").write_text("a\nb\nnowhere\n")
    report = check_dataset(tmp_path)
    assert told(report.problems) == sorted([
        *(("a.xml", line, "box left out") for line in range(3, 8)),
        ("a.jpg", None, "used in both; scores on 'test' come out too high"),
        ("b.jpg", None, "used in both; scores on 'test' come out too high"),
        ("broken.xml", 2, "image left out"),
        ("c.jpg", None, "image left out"),
        ("lonely.xml", None, "image left out"),
        ("nowhere.xml", None, "image left out"),
        ("unlabelled.jpg", None, "image left out"),
    ], key=str)  # fmt: skip
    assert told(report.notes) == sorted([
        ("a.xml", None, "the image's own size is used"),
        ("a.xml", 8, "clipped to the image"),
        ("a.xml", 9, "both kept"),
    ], key=str)  # fmt: skip


def test_every_fault_of_a_coco_set(tmp_path: Path) -> None:
    official_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    good = {"image_id": 1, "category_id": 0, "bbox": [1, 1, 20, 20]}
    changes = {
        11: ({"category_id": 77}, "annotation 11 has an unknown category_id, 77"),
        12: ({"image_id": 99}, "annotation 12 has an unknown image_id, 99"),
        13: ({"bbox": [1, 1, 0, 5]}, "the box of annotation 13 has no area"),
        14: ({"bbox": [1, 1, float("nan"), 5]}, "annotation 14 must have a bbox of 4 finite"),
        15: ({"bbox": [500, 1, 5, 5]}, "less than 1 px of the box of annotation 15"),
        16: ({"bbox": [50, 1, 40, 5]}, "the box of annotation 16 reaches beyond"),
        17: ({}, None),
        18: ({}, "the box of annotation 18 repeats another"),
    }
    content["annotations"] += [{**good, "id": n, **change} for n, (change, _) in changes.items()]
    content["annotations"].append({**good, "id": 17, "bbox": [2, 2, 9, 9]})
    content["images"][1] |= {"width": 61}
    content["images"].append({"id": 5, "file_name": "gone.jpg"})
    path.write_text(json.dumps(content))
    write_image(tmp_path / "train2017" / "stranger.jpg", seed=8)
    write_image(tmp_path / "val2017" / "same.jpg", 40, 60, seed=1)
    report = check_dataset(tmp_path)
    rules = [rule for _, rule in changes.values() if rule]
    rules += ["there is no image 'gone.jpg' in train2017"]
    rules += ["image 2 ('c.jpg') says 61 x 40, the image is 60 x 40"]
    rules += [f"1 image is in no annotation file, such as '{n}.jpg'" for n in ("same", "stranger")]
    said = [finding.rule for finding in (*report.problems, *report.notes)]
    for rule in rules:
        assert sum(rule in one for one in said) == 1, rule
    assert len(said) == len(rules)
    assert [problem.action for problem in report.problems].count("box left out") == 5


def test_sound_splits_are_counted_and_summarised(tmp_path: Path) -> None:
    roboflow_coco(tmp_path)
    report = check_dataset(tmp_path)
    assert report.by_split["train"] == {NAMES[0]: 1, NAMES[1]: 0, NAMES[2]: 1}
    assert report.summary["short_side_of_boxes"] == [20, 20, 20]
    assert report.summary["short_side_of_images"] == [40, 40, 40]
    assert report.summary["boxes_per_image"] == [0, 1, 2]
    assert report.summary["sizes"] == {"small": 1.0, "medium": 0.0, "large": 0.0}
    assert report.summary["share_of_image"] == 0.25
    hints = " ".join(report.hints)
    assert "no objects to train on" in hints
    assert "100% of the boxes are at most 32 x 32 pixels" in hints
    only = check_dataset(tmp_path, "valid")
    assert only.counts["images"] == 1
    assert json.loads(json.dumps(report.to_json()))["by_split"]["valid"][NAMES[1]] == 1


def test_classes_that_differ_in_spelling_only(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [Cat, cat, dog]\n")
    hints = check_dataset(tmp_path).hints
    assert "classes 'Cat' and 'cat' differ in spelling only" in hints


def test_hints_of_many_names_take_no_time() -> None:
    names = [f"name {number}" for number in range(50_000)]
    start = time.perf_counter()
    assert give_hints([*names, "Name  7"], {"images without boxes": 0}, {"val": {}}, {}) == [
        "classes 'name 7' and 'Name  7' differ in spelling only"
    ]
    assert time.perf_counter() - start < 2


def test_a_set_without_splits_is_told_so(tmp_path: Path) -> None:
    draw_detection_set(tmp_path, count=2, seed=0)
    for path in (tmp_path / "ImageSets" / "Main").iterdir():
        path.unlink()
    assert any("no splits" in hint for hint in check_dataset(tmp_path).hints)


@pytest.mark.parametrize("lists", [("train", "trainval"), ("val", "trainval"), ("train", "mini")])
def test_splits_that_may_share_images(tmp_path: Path, lists: tuple[str, str]) -> None:
    draw_detection_set(tmp_path, count=3, seed=0)
    folder = tmp_path / "ImageSets" / "Main"
    stems = "".join(f"{path.stem}\n" for path in (tmp_path / "Annotations").iterdir())
    for path in folder.iterdir():
        path.unlink()
    for name in lists:
        (folder / f"{name}.txt").write_text(stems)
    assert check_dataset(tmp_path).problems == ()
    (folder / "test.txt").write_text(stems)
    problems = check_dataset(tmp_path).problems
    assert {problem.code for problem in problems} == {"E_LEAK"}
    assert len(problems) == 3


def test_a_split_without_usable_image_is_a_problem(tmp_path: Path) -> None:
    cvat_voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("")
    problems = check_dataset(tmp_path).problems
    assert [problem.action for problem in problems] == ["split left out"]


def test_the_leak_in_real_data_is_found(shared_data: Path) -> None:
    report = check_dataset(shared_data / "raccoon")
    (leak,) = report.problems
    names = {Path(leak.path).stem, *(s for s in ("raccoon-83", "raccoon-120") if s in leak.rule)}
    assert names == {"raccoon-83", "raccoon-120"}
    train, test = (open_detection_dataset(shared_data / "raccoon", s) for s in ("train", "test"))
    bytes_of = {image.path.read_bytes() for image in train}
    assert sum(image.path.read_bytes() in bytes_of for image in test) == 1


def test_equal_bytes_are_grouped(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"2", "c": b"1", "d": b"11", "e": b"1"}.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in ("a", "b", "gone", "c", "d", "e", "a")]
    assert find_repeated(paths) == [[tmp_path / "a", tmp_path / "c", tmp_path / "e"]]


def test_an_image_that_lost_all_its_boxes_is_left_out(tmp_path: Path) -> None:
    """Training would take it for background, although something is on it."""
    for write, path in ((roboflow_yolo, "train/labels/a.txt"), (cvat_voc, "Annotations/a.xml")):
        root = tmp_path / write.__name__
        write(root)
        bad = voc_object((5, 5, 5, 9)) if path.endswith("xml") else ""
        text = f"<annotation>{bad}</annotation>" if bad else "1 0.5 0.5 0 0.2\n"
        (root / path).write_text(text)
        problems = check_dataset(root).problems
        assert (Path(path).name, None, "image left out") in told(problems)
        assert any("no box of 'a.jpg' can be used" in problem.rule for problem in problems)


def test_an_image_of_other_classes_only_is_a_negative_indeed(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    dataset = open_detection_dataset(tmp_path, "val", names=["cat"])
    assert [len(image.boxes) for image in dataset] == [0]
    assert told(dataset.notes) == [("b.txt", None, "used as an image without boxes")]


def test_check_of_a_detection_set(tmp_path):
    good = voc_object((1, 1, 10, 10))
    root = make_voc(
        tmp_path / "set",
        {"a": voc_xml(good + voc_object((5, 5, 5, 9))), "b": voc_xml(), "c": voc_xml(good)},
        {"a.jpg": (40, 60), "b.jpg": (40, 60), "c.jpg": (200, 300)},
    )
    cut = root / "JPEGImages" / "c.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    before = tree_hash(root)
    report = check_dataset(root, quick=True)
    expected = {"images": 3, "boxes": 2, "images without boxes": 1, "classes": 1}
    assert report.counts == expected
    assert report.layout == "voc"
    assert [problem.line for problem in report.problems] == [3]
    deep = check_dataset(root)
    assert [problem.code for problem in deep.problems] == ["E_BOX", "E_TRUNCATED"]
    assert json.loads(json.dumps(deep.to_json()))["problems"][0]["line"] == 3
    assert tree_hash(root) == before


def test_check_of_class_folders(tmp_path):
    root = draw_class_folders(tmp_path / "set", per_class=1)
    (root / "ball" / "text.jpg").write_text("no image")
    (root / "empty").mkdir()
    report = check_dataset(root)
    assert report.layout == "class folders"
    assert report.counts == {"images": 7, "classes": 6}
    assert sorted(problem.code for problem in report.problems) == ["E_FORMAT", "E_NOTHING"]
    assert len(check_dataset(root).problems) == 2


def test_check_of_real_sets(shared_data):
    report = check_dataset(shared_data / "bccd")
    assert report.splits == ("test", "train", "trainval", "val")
    assert report.counts["boxes"] == 4886
    assert [problem.line for problem in report.problems] == [163, 55]


def test_a_set_without_any_box_is_checked_split_by_split(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "set", {"a": voc_xml(filename="a.jpg")}, {"a.jpg": (20, 30)})
    write_split(root, "train", "a\n")
    write_split(root, "val", "b\n")
    report = check_dataset(root)
    assert report.counts["images"] == 1
    assert report.counts["boxes"] == 0
    assert any("val" in str(problem) for problem in report.problems)
