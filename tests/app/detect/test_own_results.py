"""``predict`` whose results lie among its images, and its file of proposals, looked at first."""

import json
from pathlib import Path

import numpy as np
import pytest

from image_files import write_image
from resigned_models import make_classifier, make_detector
from sppnet.app.main import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "shelf").mkdir(parents=True)
    for number in range(2):
        write_image(folder / "shelf" / f"{number}.jpg", 50, 70, seed=number)
    return folder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    make_detector("linear").save(tmp_path / "detector")
    return tmp_path / "detector"


def test_detect_predict_leaves_its_own_pictures_out(photos: Path, detector: Path, capsys) -> None:
    out = photos / "found"
    words = ["detect", "predict", str(detector), str(photos), "--out", str(out)]
    contents = []
    for number in range(3):
        capsys.readouterr()
        assert main(words) == 0
        said = capsys.readouterr().err
        assert ("left out 2 pictures that detect predict drew" in said) == (number > 0)
        contents.append((out / "detections.json").read_bytes())
        assert len(list((out / "overlays").rglob("*.jpg"))) == 2
    assert contents[0] == contents[1] == contents[2]


def test_classify_predict_leaves_them_out_too(
    photos: Path, detector: Path, tmp_path: Path, capsys
) -> None:
    make_classifier("spp").save(tmp_path / "classifier")
    detected = ["detect", "predict", str(detector), str(photos), "--out", str(photos / "found")]
    assert main(detected) == 0
    out = photos / "named"
    words = ["classify", "predict", str(tmp_path / "classifier"), str(photos), "--out", str(out)]
    for _ in range(2):
        capsys.readouterr()
        assert main(words) == 0
        assert "left out 2 pictures that detect predict drew" in capsys.readouterr().err
        found = json.loads((out / "predictions.json").read_text())["images"]
        assert [Path(each["file"]).name for each in found] == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize("command", ["predict", "val"])
def test_a_dry_run_reads_the_file_of_proposals(
    photos: Path, detector: Path, tmp_path: Path, capsys, command: str
) -> None:
    from sppnet.images import draw_detection_set

    source = photos if command == "predict" else draw_detection_set(tmp_path / "data", 4, 0)
    words = ["detect", command, str(detector), str(source), "--out", str(tmp_path / "out")]
    bad, good = tmp_path / "bad.npz", tmp_path / "good.npz"
    bad.write_bytes(b"no archive")
    np.savez(good, **{"0.jpg": np.array([[0.0, 0, 9, 9]])})
    assert main([*words, "--dry-run", "--proposals", str(tmp_path / "none.npz")]) == 5
    assert main([*words, "--dry-run", "--proposals", str(bad)]) == 5
    assert "is no npz of plain arrays" in capsys.readouterr().err
    if command == "predict":
        assert main([*words, "--dry-run", "--proposals", str(good)]) == 0
    assert not (tmp_path / "out").exists()
