"""A whole detector by the command: a file that onnxruntime runs, and a page that detects alone.

The page needs the npm package onnxruntime-web and chromium. One command runs that part, too:
``npm install --prefix /tmp/ort onnxruntime-web &&
ONNXRUNTIME_WEB=/tmp/ort/node_modules/onnxruntime-web
pytest tests/app/test_export_page.py -m slow``
"""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from detection.test_onnx_whole import draw_detector
from label_page import WAIT, find_browser, running_browser
from sppnet.app.export import RUNTIME_FILES, page_facts
from sppnet.app.main import main
from sppnet.detection import Detector
from sppnet.evaluation import OperatingPoints, ScoreCalibration
from sppnet.images import resize_image, to_image
from sppnet.pooling.onnx.export import open_session

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    draw_detector().save(tmp_path / "model")
    return tmp_path / "model"


def test_whole_detector_is_written(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "whole.onnx"
    assert main(["export", str(model), str(out), "--whole"]) == 0
    assert "image -> boxes, scores, labels" in capsys.readouterr().out
    facts = open_session(out.read_bytes()).get_modelmeta().custom_metadata_map
    assert json.loads(facts["sppnet.kind"]) == "whole detector"
    assert json.loads(facts["sppnet.proposals"]) == "anchors"


def test_mistakes_are_named(model: Path, tmp_path: Path, capsys) -> None:
    detector = Detector.load(model)
    detector.anchors = None
    detector.save(tmp_path / "no_anchors")
    page, out = str(tmp_path / "page"), str(tmp_path / "whole.onnx")
    for command, code, message in (
        ([str(model)], 2, "OUT.onnx or --web DIR is needed"),
        ([str(model), "--web", page, "--runtime", str(tmp_path)], 2, "npm install onnxruntime-web"),
        (["pooling", out, "--whole"], 2, "go with a detector"),
        ([str(tmp_path / "no_anchors"), out, "--whole"], 6, "it has no anchors"),
    ):
        assert main(["export", *command]) == code
        assert message in capsys.readouterr().err
    assert not Path(out).exists()
    assert not Path(page).exists()


def test_page_holds_all_that_it_needs(model: Path, tmp_path: Path) -> None:
    runtime = tmp_path / "dist"
    runtime.mkdir()
    for name in RUNTIME_FILES.values():
        (runtime / name).write_text("const a = '</script>{{model}}';")
    page = tmp_path / "page"
    assert main(["export", str(model), "--web", str(page), "--runtime", str(tmp_path)]) == 0
    text = (page / "index.html").read_text()
    assert [path.name for path in page.iterdir()] == ["index.html"]
    assert r"const a = '<\/script>{{model}}';" in text  # is no end of the script, no place to fill
    assert text.count("</script>") == 6
    assert "src=" not in text
    assert "href=" not in text


def test_page_shows_what_counts_and_how_sure_it_is() -> None:
    about = {"names": ["cup", "pen"], "encoder": {"short_sides": [96], "max_long_side": 2000}}
    facts = page_facts(about)
    assert facts["thresholds"] == [0.0, 0.0]
    assert "curves" not in facts
    assert (facts["short_side"], facts["max_long_side"]) == (96, 2000)
    right = [False, True] * 20
    calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, right, 2)
    points = OperatingPoints((0.5, -0.25), calibration, "val", 40, (30, 0)).config()
    facts = page_facts({**about, "operating_points": points})
    assert facts["thresholds"] == [0.5, -0.25]
    assert facts["curves"] == [points["calibration"]["shared"]] * 2  # of a pen nothing was seen


def draw_photos(folder: Path) -> list[Path]:
    """One that is shrunk, one that is stretched, one on its side; the last has the right size."""
    draw = torch.Generator().manual_seed(0)
    photos = []
    for number, (height, width) in enumerate(((300, 417), (70, 64), (200, 150), (128, 160))):
        small = torch.rand(3, 12, 16, generator=draw)
        pixels = (resize_image(small, (height, width)) * 255).byte().permute(1, 2, 0)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 2 else 1
        kind = ("jpg", "png", "jpg", "png")[number]
        photos.append(folder / f"{number}.{kind}")
        Image.fromarray(pixels.numpy()).save(photos[-1], exif=exif, quality=95)
    return photos


@pytest.mark.slow
def test_page_detects_in_a_browser_without_a_server(model: Path, tmp_path: Path) -> None:
    page_folder, browser = tmp_path / "page", find_browser()
    assert browser is not None, "apt-get install chromium"
    runtime = os.environ.get("ONNXRUNTIME_WEB", "node_modules/onnxruntime-web/dist")
    assert main(["export", str(model), "--web", str(page_folder), "--runtime", runtime]) == 0
    photos = draw_photos(tmp_path)
    answers = []
    with running_browser(browser) as chromium:
        page = chromium.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((page_folder / "index.html").as_uri(), timeout=WAIT)
        page.wait_for_selector("body[data-ready=yes]", timeout=WAIT, state="attached")
        for photo in photos:
            page.set_input_files("#file", photo)
            page.wait_for_selector("body[data-done=yes]", timeout=WAIT, state="attached")
            answers.append(json.loads(page.get_attribute("body", "data-found") or "[]"))
            page.evaluate("delete document.body.dataset.done")
        page.fill("#threshold", "-1.5")
        assert page.locator("#rows tr").count() == len(answers[-1])
        page.fill("#threshold", "1.5")
        sure = [each for each in answers[-1] if each["sure"] >= 1.5]
        assert page.locator("#rows tr").count() == len(sure) < len(answers[-1])
        (tmp_path / "bad.png").write_text("no photo")
        page.set_input_files("#file", tmp_path / "bad.png")
        page.wait_for_selector("body[data-done=no]", timeout=WAIT, state="attached")
        assert "This photo cannot be used" in page.inner_text("#state")
    assert {url.split(":")[0] for url in asked} <= {"file", "blob", "data"}
    detector = Detector.load(model)
    for photo, found in zip(photos, answers, strict=True):
        encoded = detector.encode(to_image(photo))
        proposals, _ = detector.anchors.propose(encoded, detector.inference.max_anchors)
        expected = detector.detect(encoded, proposals)
        assert len(found) == len(expected.labels) > 0
        assert [each["label"] for each in found] == expected.labels.tolist()
        scores = torch.tensor([each["score"] for each in found])
        boxes = torch.tensor([each["box"] for each in found])
        assert torch.allclose(scores, expected.scores, atol=1e-4)
        assert torch.allclose(boxes, expected.boxes, atol=0.01)
