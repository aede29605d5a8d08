"""``sppnet demo`` as a stranger runs it: killed once, gone on with, looked at, and used.

Always with few drawings, and with ``-m slow`` as the command does it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from end_to_end import small_demo
from html_checks import check_page
from readme_blocks import Block, readme_blocks, run_python
from sppnet import Detector
from sppnet.app.demo.job import guess
from sppnet.app.demo.steps import DemoConfig
from sppnet.app.main import main
from sppnet.classification import Classifier
from sppnet.detection import InferenceConfig
from sppnet.images import open_detection_dataset

SPPNET = [sys.executable, "-m", "sppnet"]
LONGEST = 1800  # seconds; a minute on two quiet cores, and tests run on busy ones


@dataclass
class Demo:
    """A finished demo that was killed once on its way."""

    folder: Path
    config: DemoConfig
    output: str
    log: str
    drawn_at: dict[str, int]

    @property
    def is_full(self) -> bool:
        return self.config == DemoConfig()

    def metrics(self) -> dict:
        return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))


def drawings(folder: Path) -> dict[str, int]:
    """When each drawing was written."""
    parts = (folder / "scenes", folder / "things")
    return {str(path): path.stat().st_mtime_ns for part in parts for path in part.rglob("*.jpg")}


def kill_in_training(command: list[str], folder: Path) -> None:
    """Start the demo and kill it as ``kill -9`` does when the classifier has learnt two epochs."""
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LONGEST
    states = folder / "demo" / "work" / "checkpoints"
    while not (states / "epoch-00002" / "manifest.json").exists():
        assert process.poll() is None, "the demo ended before it was killed"
        assert time.monotonic() < end, "the classifier did not begin to learn"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session", params=["small", pytest.param("full", marks=pytest.mark.slow)])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The one run of the demo that the tests look at."""
    is_full = request.param == "full"
    command = [*SPPNET, "demo", "--out", "demo"] if is_full else small_demo.COMMAND
    folder = tmp_path_factory.mktemp("stranger")
    kill_in_training(command, folder)
    assert not (folder / "demo" / "report.html").exists()
    drawn_at = drawings(folder / "demo")
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert done.returncode == 0, done.stderr
    config = DemoConfig() if is_full else small_demo.SMALL
    return Demo(folder / "demo", config, done.stdout, done.stderr, drawn_at)


@pytest.fixture
def run_again(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command of the same demo, in this process."""
    if not demo.is_full:
        monkeypatch.setattr("sppnet.app.demo.job.DemoJob", small_demo.small_job)
    return lambda *words: main(["demo", *words])


def test_a_killed_run_goes_on_with_what_was_finished(demo: Demo) -> None:
    assert "draw (done already)" in demo.log
    assert drawings(demo.folder) == demo.drawn_at
    assert [epoch["epoch"] for epoch in demo.metrics()["history"]] == list(
        range(demo.config.epochs)
    )


def test_it_leaves_what_it_promises(demo: Demo) -> None:
    for name in ("report.html", "metrics.json", "detections.jpg", "trunk.safetensors"):
        assert (demo.folder / name).stat().st_size > 1000, name
    assert len(Detector.load(demo.folder / "detector").names) == 6
    assert len(Classifier.load(demo.folder / "classifier").names) == 6
    assert len(open_detection_dataset(demo.folder / "scenes", "train")) == demo.config.train_scenes
    size = sum(path.stat().st_size for path in demo.folder.rglob("*") if path.is_file())
    assert size < 60e6  # the maps, ten times that, are gone


def test_learning_is_real(demo: Demo) -> None:
    detector, classifier = (demo.metrics()[name] for name in ("detector", "classifier"))
    assert classifier["chance"]["top1"] == pytest.approx(1 / 6)
    assert classifier["trained"]["top1"] >= classifier["chance"]["top1"] + 0.1
    assert detector["trained"]["ap50"] >= detector["chance"]["ap50"] + 0.1
    if not demo.is_full:  # so few drawings teach no more
        return
    assert detector["trained"]["ap50"] >= 0.7
    assert detector["trained"]["ap50"] >= detector["untrained"]["ap50"] + 0.05
    assert detector["trained"]["ap"] > detector["untrained"]["ap"]
    assert detector["chance"]["ap50"] < 0.05
    assert classifier["trained"]["top1"] >= 0.85
    assert classifier["trained"]["top1"] >= classifier["untrained"]["top1"] + 0.2


def test_figures_are_those_of_the_models_on_disk(demo: Demo, tmp_path: Path) -> None:
    model, data = str(demo.folder / "detector"), str(demo.folder / "scenes")
    words = ["detect", "val", model, data, "--split", "test", "--out", str(tmp_path)]
    quick = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # on a busy machine, six times as quick
    subprocess.run([*SPPNET, *words], env=quick, check=True, capture_output=True)
    scored = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert scored["ap50"] == pytest.approx(demo.metrics()["detector"]["trained"]["ap50"], abs=1e-3)


def test_nothing_is_scored_that_was_learnt_from(demo: Demo) -> None:
    train, test = (
        {image.image_id for image in open_detection_dataset(demo.folder / "scenes", split)}
        for split in ("train", "test")
    )
    assert not train & test
    assert demo.metrics()["test_scenes"] == len(test) == demo.config.test_scenes
    seen = Classifier.load(demo.folder / "classifier").seen
    drawn = [*(demo.folder / "things").rglob("*.jpg")]
    assert len(seen) + demo.metrics()["test_things"] == len(drawn)


def test_report_stands_alone_and_says_the_figures(demo: Demo) -> None:
    page = check_page((demo.folder / "report.html").read_text(encoding="utf-8"))
    text, metrics = page.visible_text(), demo.metrics()
    assert page.count("img") >= 10
    assert page.count("svg") >= 7
    for contender in ("trained", "untrained", "chance"):
        assert f"{metrics['detector'][contender]['ap50']:.3f}" in text
        assert f"{metrics['classifier'][contender]['top1']:.3f}" in text


def test_it_says_where_the_report_is(demo: Demo) -> None:
    assert demo.output.splitlines()[-1] == "report: demo/report.html"
    assert "untrained" in demo.output


def test_it_says_what_is_left_after_each_step(demo: Demo) -> None:
    steps = [line for line in demo.log.splitlines() if " done in " in line]
    assert [line.split()[1] for line in steps] == ["classifier", "detector", "untrained"]
    assert all("left for" in line and line.endswith("score") for line in steps)


def test_picture_for_the_readme_is_a_small_jpeg(demo: Demo) -> None:
    path = demo.folder / "detections.jpg"
    assert path.stat().st_size < 250_000
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.width == 1200


def test_a_second_run_is_quick_and_changes_nothing(
    demo: Demo, run_again, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(demo.folder.parent)
    before = (demo.folder / "report.html").stat().st_mtime_ns
    begin = time.monotonic()
    assert run_again("--out", "demo") == 0
    assert time.monotonic() - begin < 10
    said = capsys.readouterr()
    assert said.out == demo.output
    assert "holds a finished demo" in said.err
    assert (demo.folder / "report.html").stat().st_mtime_ns == before


def test_another_seed_in_the_same_folder_is_refused(demo: Demo, run_again, capsys) -> None:
    assert run_again("--out", str(demo.folder), "--seed", "1") == 2
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "block", readme_blocks("python demo"), ids=lambda block: f"line{block.line}"
)
def test_python_of_the_readme_runs_after_the_demo(block: Block, demo: Demo, monkeypatch) -> None:
    monkeypatch.chdir(demo.folder.parent)
    run_python(block)


def test_dry_run_says_the_plan_and_writes_nothing(tmp_path: Path, capsys) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "150 scenes" in said
    assert "about 85 s" in said
    assert [*tmp_path.iterdir()] == []


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "mine.txt").write_text("keep")
    for words in ([], ["--fresh"]):
        assert main(["demo", "--out", str(tmp_path), *words]) == 2
        assert "'scenes'" in capsys.readouterr().err
    (tmp_path / "run.json").write_text('{"command": "detect train", "configuration": {}}')
    assert main(["demo", "--out", str(tmp_path), "--fresh"]) == 2
    assert (tmp_path / "scenes" / "mine.txt").read_text() == "keep"


def test_guessing_knows_nothing_but_the_windows() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [20.0, 20.0, 30.0, 44.0]])
    first, again, other = (
        guess({"a": boxes}, 3, InferenceConfig(), seed)["a"] for seed in (0, 0, 1)
    )
    assert first.count == 6
    assert torch.equal(first.scores, again.scores)
    assert not torch.equal(first.scores, other.scores)
    assert {tuple(box) for box in first.boxes.tolist()} == {tuple(box) for box in boxes.tolist()}
