"""``sppnet detect train`` again after the data were changed, its plan, and what it leaves."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from sppnet.app.main import main
from sppnet.detection import CachedFeatures
from sppnet.images import draw_detection_set
from sppnet.storage import FeatureCache

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = [
    *("--backbone", "small5", "--weights", "none", "--proposals", "grid", "--imgsz", "64"),
    *("--max-anchors", "40", "--mirror", "off", "--crops", "off"),
]
TUNED = ["--tune", "head", "--tune-updates", "4", "--widths", "8,8"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return draw_detection_set(tmp_path / "data", 8, seed=0)


def _train(data: Path, run: Path, *words: str) -> bytes:
    """Train into a folder: the tensors of the model that lies there afterwards."""
    words = ("--max-proposals", "20", "--cache", str(data.parent / "cache"), *words)
    assert main(["detect", "train", str(data), *SMALL, *words, "--out", str(run)]) == 0
    return (run / "model" / "model.safetensors").read_bytes()


def _correct_a_label(data: Path) -> None:
    """Give the first object of the training another class that is there."""
    stem = (data / "ImageSets" / "Main" / "train.txt").read_text().split()[0]
    path = data / "Annotations" / f"{stem}.xml"
    text = path.read_text()
    names = sorted(
        {
            line.split("<name>")[1].split("</name>")[0]
            for each in (data / "Annotations").iterdir()
            for line in each.read_text().splitlines()
            if "<name>" in line
        }
    )
    old = next(name for name in names if f"<name>{name}</name>" in text)
    other = next(name for name in names if name != old)
    path.write_text(text.replace(f"<name>{old}</name>", f"<name>{other}</name>", 1))


def _exchange_a_photo(data: Path) -> None:
    stem = (data / "ImageSets" / "Main" / "train.txt").read_text().split()[0]
    path = data / "JPEGImages" / f"{stem}.jpg"
    with Image.open(path) as picture:
        flipped = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    flipped.save(path)


def _drop_a_photo(data: Path) -> None:
    path = data / "ImageSets" / "Main" / "train.txt"
    path.write_text("\n".join(path.read_text().split()[1:]))


CHANGES: dict[str, Callable[[Path], None]] = {
    "have other labels": _correct_a_label,
    "have another content": _exchange_a_photo,
    "removed": _drop_a_photo,
}


def test_corrected_labels_train_again_on_the_maps_that_are_there(
    data: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    before = _train(data, tmp_path / "run")
    _correct_a_label(data)

    def refuse(*args):
        raise AssertionError("convolved again")

    monkeypatch.setattr(CachedFeatures, "_convolve", refuse)
    capsys.readouterr()
    after = _train(data, tmp_path / "run")
    assert "1 of 6 images have other labels" in capsys.readouterr().err
    assert after != before
    assert after == _train(data, tmp_path / "fresh")
    capsys.readouterr()
    assert _train(data, tmp_path / "run") == after
    assert "holds a finished run" in capsys.readouterr().err


@pytest.mark.parametrize("words", CHANGES)
def test_other_data_give_what_a_fresh_folder_gives(
    data: Path, tmp_path: Path, capsys, words: str
) -> None:
    before = _train(data, tmp_path / "run", *TUNED)
    CHANGES[words](data)
    capsys.readouterr()
    after = _train(data, tmp_path / "run", *TUNED)
    assert words in capsys.readouterr().err
    assert after == _train(data, tmp_path / "fresh", *TUNED)
    assert after != before


def test_a_run_without_a_record_of_its_data_trains_again(
    data: Path, tmp_path: Path, capsys
) -> None:
    before = _train(data, tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    shutil.rmtree(tmp_path / "run" / "model")
    assert _train(data, tmp_path / "run") == before
    assert "not known which data" in capsys.readouterr().err


def test_another_file_of_weights_of_the_same_name_trains_again(
    data: Path, tmp_path: Path, capsys
) -> None:
    import torch
    from safetensors.torch import save_file

    from sppnet.backbones import build_backbone

    weights = tmp_path / "own.safetensors"
    words = ["--weights", str(weights)]
    torch.manual_seed(1)
    save_file(build_backbone("small5").state_dict(), weights)
    before = _train(data, tmp_path / "run", *words)
    save_file(build_backbone("small5").state_dict(), weights)
    assert _train(data, tmp_path / "run", *words) != before
    assert "has another content" in capsys.readouterr().err


def test_fresh_forgets_the_states_of_a_fine_tuning(data: Path, tmp_path: Path) -> None:
    _train(data, tmp_path / "run", *TUNED)
    other = [*TUNED, "--seed", "3", "--fresh"]
    assert _train(data, tmp_path / "run", *other) == _train(data, tmp_path / "new", *other)


def test_the_cache_goes_when_the_model_stands(data: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("sppnet.app.console.CACHE_WORTH_A_WORD", 1)
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "20", "--out"]
    model = Path("model") / "model.safetensors"
    assert main([*words, str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "removed" in said
    assert "--keep-cache" in said
    assert not (tmp_path / "run" / "cache").exists()
    assert main([*words, str(tmp_path / "kept"), "--keep-cache"]) == 0
    assert "kept/cache holds" in capsys.readouterr().err
    assert list((tmp_path / "kept" / "cache").rglob("*.record"))
    before = (tmp_path / "run" / model).read_bytes()
    assert (tmp_path / "kept" / model).read_bytes() == before
    _correct_a_label(data)
    assert main([*words, str(tmp_path / "run")]) == 0
    assert main([*words, str(tmp_path / "kept"), "--keep-cache"]) == 0
    after = (tmp_path / "run" / model).read_bytes()
    assert (tmp_path / "kept" / model).read_bytes() == after != before


def test_a_stopped_run_keeps_its_cache_and_says_so(data: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("sppnet.app.console.CACHE_WORTH_A_WORD", 1)
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "20"]
    with monkeypatch.context() as patch:
        patch.setattr("sppnet.app.detect.train.announce", Mock(side_effect=KeyboardInterrupt))
        assert main([*words, "--out", str(tmp_path / "run")]) == 130
    assert "the same command goes on from; it may be deleted" in capsys.readouterr().err
    assert list((tmp_path / "run" / "cache").rglob("*.record"))
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "cache").exists()


@pytest.mark.parametrize("more", [[], TUNED], ids=["plain", "tuned"])
def test_the_plan_has_every_stage_of_the_run(data: Path, tmp_path: Path, capsys, more: list[str]):
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "20", *more]
    words += ["--out", str(tmp_path / "run")]
    assert main([*words, "--dry-run"]) == 0
    plan = next(line for line in capsys.readouterr().err.splitlines() if "plan:" in line)
    assert not (tmp_path / "run").exists()
    assert main(words) == 0
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["seconds"]
    assert len(stages) == 9  # a tuned network has no operating point, and a stage of tuning
    for name in stages.keys() - {"total"}:
        assert re.search(rf"\b{name} \d", plan), (name, plan)


def test_a_budget_tries_settings_and_goes_on_with_what_was_tried(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    data = draw_detection_set(tmp_path / "data", 12, seed=0)
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "20"]
    words += ["--no-operating-point", "--out", str(tmp_path / "run"), "--budget", "30"]
    trials = tmp_path / "run" / "trials" / "trials.json"
    tries = iter(range(9))

    def score(pairs: list, names: object, config: object, *rest: object, **more: object) -> dict:
        number = next(tries)
        if number == 3:
            raise KeyboardInterrupt
        return {"ap50": 0.1 * (config.levels == (1, 2, 3, 6)), "ap75": 0.0}

    monkeypatch.setattr("sppnet.app.detect.budget.cross_validate", score)
    assert main(words) == 130
    before = json.loads(trials.read_text())["trials"]
    assert [each["changes"] for each in before][:2] == [{}, {"levels": [1, 2, 3, 6]}]
    assert main(words) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["trials"][:3] == before
    assert metrics["settings"]["levels"] == [1, 2, 3, 6]
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["training"]["levels"] == [1, 2, 3, 6]
    assert (
        "tried levels 1,2,3,6: AP50 0.100, AP75 0.000; the best so far" in capsys.readouterr().err
    )


def test_a_budget_of_no_time_trains_as_given_and_one_beside_tuning_is_refused(
    data: Path, tmp_path: Path, capsys
) -> None:
    plain = _train(data, tmp_path / "plain", "--no-operating-point")
    assert _train(data, tmp_path / "none", "--no-operating-point", "--budget", "0") == plain
    assert "do not fit" in capsys.readouterr().err
    words = ["detect", "train", str(data), *SMALL, *TUNED, "--budget", "1"]
    assert main([*words, "--out", str(tmp_path / "tuned")]) == 2
    assert "--tune must be none" in capsys.readouterr().err


def test_a_budget_says_why_there_is_no_trial(data: Path, tmp_path: Path, capsys) -> None:
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "20", "--budget", "30"]
    assert main([*words, "--dry-run", "--out", str(tmp_path / "dry")]) == 0
    assert "would try settings on held-out photos, 30 min" in capsys.readouterr().out
    few = [*words, "--no-operating-point", "--out", str(tmp_path / "few")]
    _drop_a_photo(data)  # five are left
    assert main(few) == 0
    assert "fewer than 6 photos with objects say nothing of others" in capsys.readouterr().err


def test_a_small_cache_gives_the_same_model_and_the_plan_says_so(
    data: Path, tmp_path: Path, capsys
) -> None:
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "20", "--keep-cache"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    limit = ["--cache-size", "0.0001"]  # GB
    assert main([*words, "--out", str(tmp_path / "b"), *limit, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert " a photo; at most 100.0 kB of them are kept" in said
    assert main([*words, "--out", str(tmp_path / "b"), *limit]) == 0
    whole, bound = (FeatureCache(tmp_path / name / "cache").num_bytes() for name in "ab")
    assert bound <= 100_000 < whole
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("way", ["dry run", "run", "budget", "small cache"])
def test_a_disk_that_will_not_do_is_said_before_the_work(
    data: Path, tmp_path: Path, capsys, monkeypatch, way: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Mock(free=100_000))
    more = {
        "dry run": ["--dry-run"],
        "budget": ["--budget", "0"],
        "small cache": ["--cache-size", "0.00005"],
    }
    out = ["--out", str(tmp_path / "run"), "--max-proposals", "20"]
    assert main(["detect", "train", str(data), *SMALL, *out, *more.get(way, [])]) == 0
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "100.0 kB are free; --cache DIR" in line]
    assert len(lines) == (way != "small cache")
    if way == "run":
        assert said.index(lines[0]) < said.index("sppnet: plan: ")
        assert main(["detect", "train", str(data), *SMALL, *out]) == 0
        assert "are free" not in capsys.readouterr().err
