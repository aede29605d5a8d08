"""``sppnet check`` names what is wrong, file and line, and says so in its exit code."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from sppnet.app.check import compare_looks
from sppnet.app.main import main
from sppnet.images import draw_class_folders, draw_detection_set, open_detection_dataset


def test_sound_data_ends_with_0(tmp_path: Path, capsys) -> None:
    draw_detection_set(tmp_path / "scenes", count=3, seed=0)
    assert main(["check", str(tmp_path / "scenes")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("voc layout")
    assert shown.endswith("0 problems, 0 notes\n")


def test_faults_are_named_with_file_line_and_action(tmp_path: Path, capsys) -> None:
    root, figures = tmp_path / "scenes", tmp_path / "check.json"
    draw_detection_set(root, count=3, seed=0)
    annotation = sorted((root / "Annotations").glob("*.xml"))[0]
    text = annotation.read_text(encoding="utf-8")
    annotation.write_text(
        text.replace("<bndbox>", "<bndbox><oops/>", 1).replace("<xmin>", "<xmin>9", 1)
    )
    image = sorted((root / "JPEGImages").iterdir())[1]
    image.write_bytes(image.read_bytes()[:-20])
    assert main(["check", str(root), "--json", str(figures)]) == 3
    shown = capsys.readouterr().out
    report = json.loads(figures.read_text(encoding="utf-8"))
    assert {Path(problem["path"]).name for problem in report["problems"]} == {
        annotation.name,
        image.name,
    }
    assert all(f"problem: {problem['path']!r}" in shown for problem in report["problems"])
    assert any(problem["line"] for problem in report["problems"])


def test_class_folders_are_counted(tmp_path: Path, capsys) -> None:
    draw_class_folders(tmp_path / "classes", per_class=2, seed=0)
    assert main(["check", str(tmp_path / "classes")]) == 0
    assert "class folders layout" in capsys.readouterr().out


def test_missing_and_empty_folders_are_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "missing")]) == 2
    assert main(["check", str(tmp_path / "empty")]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("sppnet: error: '") for line in lines)


def test_two_boxes_without_area_are_found_in_real_data(shared_data: Path, capsys) -> None:
    assert main(["check", str(shared_data / "bccd")]) == 3
    shown = capsys.readouterr().out
    assert "BloodImage_00338.xml': line 163" in shown
    assert "2 problems" in shown


def test_the_pixel_limit_is_an_option(tmp_path: Path, capsys, monkeypatch) -> None:
    draw_detection_set(tmp_path / "scenes", count=2, seed=0)
    monkeypatch.setenv("SPPNET_MAX_PIXELS", "100000000")  # put back afterwards
    assert main(["check", str(tmp_path / "scenes"), "--max-pixels", "100"]) != 0
    shown = capsys.readouterr()
    assert "at most 100 pixels" in shown.out + shown.err
    assert main(["check", str(tmp_path / "scenes"), "--max-pixels", "100000000"]) == 0


def test_page_shows_planted_wrong_labels_first(tmp_path: Path, capsys) -> None:
    random = np.random.default_rng(0)
    for number, (name, colour) in enumerate(
        [("sky", (90, 140, 220)), ("soil", (120, 80, 40))] * 12
    ):
        folder = tmp_path / "classes" / (name if number != 6 else "soil")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.normal(colour, 25, (40, 60, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}_{number:02d}.png")
    assert main(["check", str(tmp_path / "classes"), "--page", str(tmp_path / "page")]) == 0
    assert "1 label looks like another class)" in capsys.readouterr().out
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    titles = re.findall(r"<figcaption><strong>([^<]*)</strong>([^<]*)", page)
    assert len(titles) == 24 == len(list((tmp_path / "page" / "labels").iterdir()))
    assert titles[0] == ("soil", "looks like sky; soil/sky_06.png")
    assert "script" not in page


def test_page_has_every_box_once_whatever_its_split(tmp_path: Path, capsys) -> None:
    root = tmp_path / "scenes"
    draw_detection_set(root, count=6, seed=0)
    assert main(["check", str(root), "--page", str(tmp_path / "page")]) == 0
    boxes = sum(len(image.labels) for image in open_detection_dataset(root))
    pictures = sorted((tmp_path / "page" / "labels").iterdir())
    assert len(pictures) == boxes > 6
    # so few labels of so many classes: nearly all have other classes beside them
    assert "like another class: too many to say much" in capsys.readouterr().out
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "so the order says little" in page
    assert all(
        f'src="labels/{path.name}"' in (tmp_path / "page" / "index.html").read_text()
        for path in pictures
    )


def test_labels_of_another_class_are_odd_in_any_order() -> None:
    random = np.random.default_rng(0)
    numbers = random.permutation(np.repeat([0, 1, 2], 30))
    looks = (numbers[:, None] + random.normal(0, 0.01, (90, 4))).astype(np.float32)
    given = numbers.copy()
    given[[5, 50]] = (given[[5, 50]] + 1) % 3
    oddness, looks_like = compare_looks(looks, given, 3)
    assert sorted(np.argsort(-oddness)[:2].tolist()) == [5, 50]
    assert looks_like[[5, 50]].tolist() == numbers[[5, 50]].tolist()
