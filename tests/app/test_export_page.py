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
from label_page import ARGUMENTS, WAIT, find_browser
from sppnet.app.export import RUNTIME_FILES, page_facts
from sppnet.app.main import main
from sppnet.detection import Detector
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


def test_page_shows_what_counts() -> None:
    about = {"names": ["cup"], "encoder": {"short_sides": [96], "max_long_side": 2000}}
    assert page_facts(about)["threshold"] == 0.0
    points = {"thresholds": [None, 0.5, 0.25]}
    assert page_facts({**about, "operating_points": points})["threshold"] == 0.25


@pytest.mark.slow
def test_page_detects_in_a_browser_without_a_server(model: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    page_folder, browser = tmp_path / "page", find_browser()
    assert browser is not None, "apt-get install chromium"
    runtime = os.environ.get("ONNXRUNTIME_WEB", "node_modules/onnxruntime-web/dist")
    assert main(["export", str(model), "--web", str(page_folder), "--runtime", runtime]) == 0
    torch.manual_seed(0)
    pixels = (torch.rand(128, 160, 3) * 255).byte().numpy()  # of the detector's own short side
    Image.fromarray(pixels).resize((160, 128)).save(tmp_path / "photo.png")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=ARGUMENTS)
        page = chromium.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((page_folder / "index.html").as_uri(), timeout=WAIT)
        page.wait_for_selector("body[data-ready=yes]", timeout=WAIT, state="attached")
        page.set_input_files("#file", tmp_path / "photo.png")
        page.wait_for_selector("body[data-done=yes]", timeout=WAIT, state="attached")
        found = json.loads(page.get_attribute("body", "data-found") or "[]")
        (tmp_path / "bad.png").write_text("no photo")
        page.set_input_files("#file", tmp_path / "bad.png")
        page.wait_for_selector("body[data-done=no]", timeout=WAIT, state="attached")
        assert "This photo cannot be used" in page.inner_text("#state")
        chromium.close()
    assert {url.split(":")[0] for url in asked} <= {"file", "blob", "data"}
    detector = Detector.load(model)
    encoded = detector.encode(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    proposals, _ = detector.anchors.propose(encoded, detector.inference.max_anchors)
    expected = detector.detect(encoded, proposals)
    assert len(found) == len(expected.labels) > 0
    assert [each["label"] for each in found] == expected.labels.tolist()
    scores = torch.tensor([each["score"] for each in found])
    boxes = torch.tensor([each["box"] for each in found])
    assert torch.allclose(scores, expected.scores, atol=1e-3)
    assert torch.allclose(boxes, expected.boxes, atol=0.05)
