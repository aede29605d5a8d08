"""Tables 9 to 12 run on a small drawn set with a small trunk: the same code as on VOC 2007."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from reproduce_runs import reproduce
from sppnet.app.main import main
from sppnet.classification import Classifier, View
from sppnet.classification.network import build_classifier
from sppnet.detection import DetectionConfig
from sppnet.detection.train import inference_config
from sppnet.paper import Budget
from sppnet.paper.detection import METHODS
from sppnet.paper.detection_experiment import method_config
from sppnet.paper.detection_setup import ZF, Method
from sppnet.paper.printed import (
    BOTH,
    CONV,
    CONV_SPEED_UP,
    FC,
    FIRST,
    OUR_COLUMN,
    OURS,
    POOLING,
    PRE_TRAINED,
    RCNN_ALEX,
    RCNN_ZF,
    SECOND,
    SPEED_UP,
    SPP_1,
    SPP_5,
    TOTAL,
    VOC_POOL5,
)

STAND_IN = ("--backbone", "small5", "--weights", "none")
LITTLE = ("--hidden", "8,8", "--updates", 4, "--windows", 6, "--proposals", "grid", "--limit", 3)
PAPER = ("--recipe", "paper")
SMALL = (*STAND_IN, *LITTLE, *PAPER)
QUICK = ("--timed", 1, "--share", 0.5)

Cells = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(autouse=True)
def small_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's five scales would take seconds for every image."""
    monkeypatch.setitem(METHODS, SPP_1, Method(ZF, (96,)))
    monkeypatch.setitem(METHODS, SPP_5, Method(ZF, (64, 96, 128)))


def run(*words: object) -> tuple[int, Cells, dict[str, Any]]:
    """Run the command: exit code, cells that were measured, and all that was written."""
    code, record = reproduce(*words)
    cells = {(cell["row"], cell["column"]): cell for cell in record["cells"]}
    return code, {k: cell for k, cell in cells.items() if cell["measured"] is not None}, record


def test_table_10_measures_precision_and_seconds_of_both_methods(
    drawn: Path, tmp_path: Path
) -> None:
    code, cells, _ = run(10, "--data", drawn, *SMALL, *QUICK, "--out", tmp_path)
    assert code == 0
    for column in (SPP_1, SPP_5, RCNN_ZF):
        for row in ("ft fc7", "ft fc7 bb"):
            assert 0 <= cells[row, column]["measured"] <= 100
            assert "small5, weights none" in cells[row, column]["differs"]
            assert "6 classes" in cells[row, column]["differs"]
            assert "4 updates" in cells[row, column]["differs"]
            assert cells[row, column]["network"] == "small5"  # and not the printed ZF-5
        stages = [cells[row, column]["measured"] for row in (CONV, FC)]
        pooling = cells[POOLING, column]["measured"] if column != RCNN_ZF else 0.0
        assert cells[TOTAL, column]["measured"] == pytest.approx(sum(stages) + pooling)
    ratio = cells[TOTAL, RCNN_ZF]["measured"] / cells[TOTAL, SPP_1]["measured"]
    assert cells[SPEED_UP, SPP_1]["measured"] == pytest.approx(ratio)
    assert cells["ft fc7", RCNN_ZF]["paper"] == 55.1
    assert "50% of the proposals" in cells[TOTAL, RCNN_ZF]["differs"]
    page = (tmp_path / "table-10.html").read_text()
    assert POOLING in page
    assert "55.10 [" in page
    assert " small5 a]" in page  # not the same differs everywhere
    assert " small5 c]" in page


def test_a_second_run_takes_the_scores_that_are_kept(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--data", drawn, *SMALL, "--networks", "ZF-5", "--only", "precision")
    code, first, record = run(9, *words, "--out", tmp_path)
    assert code == 3  # fc6 asks for layers that were trained
    assert {row for row, _ in first} == {"pool5", "ft fc6", "ft fc7", "ft fc7 bb"}
    assert any("no fully connected layers" in reason for reason in record["not_measured"])
    monkeypatch.setattr("sppnet.paper.detection_experiment.SvmTrainer", None)
    again = run(9, *words, "--fresh", "--out", tmp_path)[1]
    assert {k: c["measured"] for k, c in first.items()} == {
        k: c["measured"] for k, c in again.items()
    }


def test_our_recipe_stands_beside_the_papers_and_is_called_ours(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    choice = "sppnet.detection.train.choose_short_sides"
    monkeypatch.setattr(choice, lambda *_, **__: (96,))
    words = ("--data", drawn, *STAND_IN, *LITTLE, "--networks", "ZF-5", "--only", "precision")
    code, cells, record = run(9, *words, "--repeats", 2, "--out", tmp_path)
    assert code == 3  # fc6 asks for layers that were trained
    ours, paper = cells[OURS, OUR_COLUMN], cells["ft fc7 bb", SPP_1]
    assert "--recipe best" in ours["differs"]
    assert "best" not in paper["differs"]
    assert ours["network"] == paper["network"] == "small5"
    assert ours["deviation"] is not None
    assert paper["deviation"] is not None
    shown = capsys.readouterr()
    assert " ± " in shown.out
    assert OURS in shown.out
    assert "needs VOC" not in shown.err  # they were given
    configured = record["configuration"]
    assert (configured["repeats"], configured["effort"]["recipes"]) == (2, ["best", "paper"])


def test_rows_of_the_paper_use_the_papers_constants() -> None:
    spp, rcnn = (method_config(METHODS[name], Budget(), 3) for name in (SPP_5, RCNN_ALEX))
    assert spp == DetectionConfig(recipe="paper", imgsz=(64, 96, 128), max_box_samples=5000, seed=3)
    assert (rcnn.box_strength, rcnn.box_overlap, rcnn.negative_overlap) == (1000, 0.6, 1)
    assert (rcnn.extra_positives, spp.extra_positives, spp.box_stages) == (0, 0, 1)
    testing = inference_config(spp)
    assert (testing.vote_overlap, testing.rescore, testing.max_per) == (1, False, "class")


def test_table_13_measures_networks_that_are_there_and_refuses_the_rest(
    drawn: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 4, hidden=(8, 6))
    kept = Classifier(network, View("full", 64), ("a", "b", "c", "d"))
    kept.save(tmp_path / "nets" / "zf5-det499")
    words = ("--data", drawn, *LITTLE, "--models", tmp_path / "nets", "--out", tmp_path / "out")
    code, cells, record = run(13, *words)
    assert code == 3
    assert set(cells) == {("pre-trained on DET, 499 classes", VOC_POOL5)}
    reasons = " ".join(record["not_measured"])
    assert "test labels are not public" in reasons
    for kind in set(PRE_TRAINED.values()) - {"det499"}:
        assert str(tmp_path / "nets" / f"zf5-{kind}") in reasons


def test_layers_that_were_trained_are_taken_up(drawn: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 4, hidden=(8, 6))
    Classifier(network, View("full", 64), ("a", "b", "c", "d")).save(tmp_path / "net")
    words = ("--data", drawn, *LITTLE, *PAPER, "--backbone", tmp_path / "net")
    words = (*words, "--only", "precision")
    code, cells, _ = run(9, *words, "--out", tmp_path / "out")
    assert code == 0
    rows = {"pool5", "fc6", "ft fc6", "ft fc7", "ft fc7 bb"}
    assert set(cells) == {(row, column) for row in rows for column in (SPP_1, SPP_5, RCNN_ALEX)}
    assert "new fc layers" not in cells["ft fc7", SPP_1]["differs"]


def test_table_11_has_columns_of_its_own_for_other_classes(drawn: Path, tmp_path: Path) -> None:
    code, cells, record = run(11, "--data", drawn, *SMALL, "--networks", "ZF-5", "--out", tmp_path)
    assert code == 0
    names = {column for row, column in cells if row == "SPP bb (ZF-5)"} - {"mAP"}
    assert names
    assert all(cells["SPP bb (ZF-5)", name]["paper"] is None for name in names)
    values = [cells["SPP bb (ZF-5)", name]["measured"] for name in names]
    mean = cells["SPP bb (ZF-5)", "mAP"]["measured"]
    assert mean == pytest.approx(sum(values) / len(values), abs=1e-3)
    dpm = [cell for cell in record["cells"] if cell["row"] == "DPM"]
    assert len(dpm) == 21
    assert all(cell["measured"] is None for cell in dpm)


def test_table_12_joins_two_networks(drawn: Path, tmp_path: Path) -> None:
    words = ("--second", "small5", "--second-weights", "none", "--out", tmp_path)
    code, cells, _ = run(12, "--data", drawn, *SMALL, *words)
    assert code == 0
    assert {row for row, _ in cells} == {FIRST, SECOND, BOTH}
    code, cells, record = run(12, "--data", drawn, *SMALL, "--fresh", "--out", tmp_path)
    assert code == 3
    assert {row for row, _ in cells} == {FIRST}
    assert any("--second NAME" in reason for reason in record["not_measured"])


def test_seconds_need_no_boxes(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(drawn.rglob("*.jpg"))[:2]:
        shutil.copy(path, photos)
    (photos / "broken.jpg").write_bytes(b"no image")
    words = ("--data", photos, *SMALL, "--timed", 5, "--out", tmp_path / "out")
    code, cells, record = run(10, *words, "--only", "speed")
    assert code == 3  # for the broken one
    assert {row for row, _ in cells} == {CONV, POOLING, FC, TOTAL, SPEED_UP, CONV_SPEED_UP}
    assert cells[TOTAL, SPP_5]["images"] == 2
    assert [Path(problem["path"]).name for problem in record["problems"]] == ["broken.jpg"]
    code, cells, _ = run(10, *words, "--fresh")
    assert code == 3
    assert "VOC 2007 is not there" in capsys.readouterr().err
    assert ("ft fc7", SPP_1) not in cells


def test_what_is_missing_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    code, _, record = run(9, "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 4
    reasons = " ".join(record["not_measured"])
    assert str(tmp_path / "nowhere" / "VOCdevkit" / "VOC2007") in reasons
    assert str(tmp_path / "out" / "models" / "zf5-multi") in reasons
    assert str(tmp_path / "torch") in reasons  # AlexNet's weights
    assert "or --train" not in reasons  # which trains nothing here


def test_wrong_words_are_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "9", "--only", "ap", "--out", str(tmp_path)]) == 2
    assert "precision or speed" in capsys.readouterr().err
    assert main(["reproduce", "9", "--recipe", "ours", "--out", str(tmp_path)]) == 2
    assert "best or paper" in capsys.readouterr().err
    assert main(["reproduce", "9", "--proposals", "magic", "--out", str(tmp_path)]) == 2
