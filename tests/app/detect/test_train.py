"""``sppnet detect train`` in a folder with a run, after the data were changed: no old model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sppnet.app.main import main
from sppnet.detection import CachedFeatures
from sppnet.images import draw_detection_set

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--backbone", "small5", "--weights", "none", "--proposals", "grid", "--imgsz", "64"]
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
