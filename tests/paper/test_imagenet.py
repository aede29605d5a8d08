"""Tables 1 to 4 on small class folders: the same code as on ImageNet."""

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from reproduce_runs import measured, reproduce
from sppnet.classification import Classifier, View, build_classifier
from sppnet.paper import Resources, find_table, imagenet
from sppnet.progress import no_tracking


def test_table_1_has_the_printed_map_sizes(tmp_path: Path) -> None:
    result = find_table(1).run(Resources(tmp_path), no_tracking)
    assert not result.not_run
    assert len(result.measured) == 23
    *measured, padded = result.measured
    assert (padded.value, padded.column) == (27, "ZF-5")  # what padding gives the printed number
    for cell in measured:
        expected = result.printed.value(cell.row, cell.column)
        if (cell.column, cell.row) == ("ZF-5", "conv2"):
            expected = 26  # the printed 27 cannot be the released network's
            assert "a padding of 1 gives the printed 27" in cell.differs
        assert cell.value == expected, cell


def test_tables_2_to_4_train_and_score_on_class_folders(
    small_folders: Path, tmp_path: Path
) -> None:
    common = ("--data", small_folders, "--models", tmp_path / "nets", "--train", "--epochs", 1)
    small = ("--imgsz", "48,64", "--hidden", 8, "--batch", 16, "--limit", 3)
    words = (*common, *small, "--networks", "ZF-5", "--out", tmp_path / "two")
    code, record = reproduce(2, *words)
    assert code == 0
    found = measured(record)
    assert len(found) == 6
    assert all(0 <= value <= 100 for value in found.values())
    assert (tmp_path / "two" / "table-2.html").is_file()
    assert (tmp_path / "nets" / "zf5-no-spp" / "model" / "model.safetensors").is_file()
    cell = next(cell for cell in record["cells"] if cell["measured"] is not None)
    assert "6 classes instead of ImageNet's 1000" in cell["differs"]
    for words in ("1 epoch instead of 70", "fc layers 8", "batch 16", "mean of 128"):
        assert words in cell["differs"]
    assert {cell.get("network") for cell in record["cells"]} >= {"zf5-no-spp", "zf5-multi"}

    trained = ("--data", small_folders, "--models", tmp_path / "nets", "--limit", 3)
    code, record = reproduce(3, *trained, "--networks", "ZF-5", "--out", tmp_path / "three")
    assert code == 0  # the networks that table 2 trained are taken
    assert len(measured(record)) == 4


def test_table_5_measures_the_networks_that_are_there_as_one(
    small_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(imagenet.PLANS, "98", imagenet.PLANS["full"])  # 98 views take seconds
    names = sorted(each.name for each in small_folders.iterdir())
    for seed, name in enumerate(("zf5-multi", "zf5-multi-2", "overfeat7-single")):
        torch.manual_seed(seed)
        network = build_classifier("small5", len(names))
        Classifier(network, View("full", 32), names).save(tmp_path / "nets" / name)
    words = ("--data", small_folders, "--models", tmp_path / "nets", "--limit", 9)
    code, record = reproduce(5, *words, "--out", tmp_path / "out")
    assert code == 0
    (cell,) = (cell for cell in record["cells"] if cell["measured"] is not None)
    assert 0 <= cell["measured"] <= 100
    assert "3 networks of 11; validation images" in cell["differs"]
    assert cell["network"] == "zf5-multi, zf5-multi-2, overfeat7-single"


def test_networks_are_trained_as_in_the_paper_unless_told_otherwise() -> None:
    usual, own = imagenet.NetworkTrainingConfig(), imagenet.NetworkTrainingConfig(epochs=3)
    zf5, overfeat = (imagenet.ModelSpec(name, "multi") for name in ("ZF-5", "Overfeat-7"))
    assert imagenet.trainer_config(zf5, usual, 0).augmentation.crops == "paper"
    epochs = [imagenet.trainer_config(spec, usual, 0).epochs for spec in (zf5, overfeat)]
    assert epochs == [70, 90]
    assert imagenet.training_differs(zf5, usual) == imagenet.TRAINED_DIFFERS
    assert "3 epochs instead of 90" in imagenet.training_differs(overfeat, own)


def test_missing_data_and_networks_are_named(
    small_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, record = reproduce(2, "--data", tmp_path / "nowhere", "--out", tmp_path / "a")
    assert code == 4
    assert not measured(record)
    assert str(tmp_path / "nowhere" / "imagenet") in capsys.readouterr().err
    code, record = reproduce(4, "--data", small_folders, "--out", tmp_path / "b")
    assert code == 4
    said = capsys.readouterr().err
    assert str(tmp_path / "b" / "models" / "overfeat7-multi") in said
    assert "not public" in said
    assert "or --train" in said
    code, record = reproduce(5, "--data", small_folders, "--out", tmp_path / "c")
    assert code == 4
    said = capsys.readouterr().err
    assert "eleven networks were never released" in said
    assert "no network is in" in said


@pytest.mark.parametrize("has_training", [False, True])
def test_networks_trained_on_other_images_are_not_taken_in_silence(
    small_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_training: bool
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_folders, data)
    spec, names = imagenet.ModelSpec("ZF-5", "multi"), sorted(each.name for each in data.iterdir())
    key = imagenet.digest_labels(imagenet.images_to_train(data, 0))
    trained = Classifier(
        build_classifier("small5", len(names)),
        View("full", 32),
        names,
        about={"command": "reproduce", "settings": {"images": key}},
    )
    trained.save(tmp_path / "models" / spec.name)
    train = Mock(return_value=(trained, []))
    monkeypatch.setattr(imagenet, "train_model", train)
    training = imagenet.NetworkTrainingConfig(1) if has_training else None
    resources = Resources(tmp_path, data, training=training, limit=1)

    def measure() -> str:
        places = [("top1", "row", "column")]
        (cell,) = imagenet.measure_model(spec, "full", places, resources, no_tracking)
        return cell.differs

    assert "other images" not in measure()
    for path in [each for each in data.rglob("*") if each.is_file()]:
        path.rename(path.with_name(f"renamed-{path.name}"))
    if has_training:
        with pytest.warns(UserWarning, match="zf5-multi was trained on other images"):
            measure()
    else:
        assert "trained on other images than are there now" in measure()
    assert train.called == has_training
