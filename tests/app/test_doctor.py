"""``sppnet doctor``: damage and other numbers are found, whatever kind of model it is."""

import json
import shutil

import pytest

from resigned_models import make_classifier, make_detector
from sppnet.app.main import main
from sppnet.storage.models import load_model, save_model

DETECTORS = ["softmax", "linear", "kernel", "prefiltered"]
CLASSIFIERS = ["spp", "transfer", "carried", "hidden", "average"]
KINDS = [*DETECTORS, *CLASSIFIERS]


def _saved(kind: str, folder):
    make = make_detector if kind in DETECTORS else make_classifier
    make(kind).save(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_answer_as_they_did(kind, tmp_path, capsys) -> None:
    folder = _saved(kind, tmp_path / "model")
    assert main(["doctor", str(folder), "--json", str(tmp_path / "found.json")]) == 0
    assert "every byte as saved, the same numbers as on " in capsys.readouterr().out
    (finding,) = json.loads((tmp_path / "found.json").read_text())
    assert finding["largest_difference"] == 0


@pytest.mark.parametrize("kind", [DETECTORS[0], CLASSIFIERS[0]])
def test_other_weights_with_a_manifest_that_fits_are_noticed(kind, tmp_path, capsys) -> None:
    folder = _saved(kind, tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    config, tensors = load_model(folder, manifest["kind"])
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.mul_(1.5)
    save_model(folder, manifest["kind"], config, tensors, manifest["answers"])
    assert main(["doctor", str(folder)]) == 5
    error = capsys.readouterr().err
    assert "its answers differ by " in error
    assert str(folder) in error
    assert "(E_ANSWERS)" in error


def test_a_damaged_model_is_an_error_and_the_next_is_looked_at(tmp_path, capsys) -> None:
    good = _saved(DETECTORS[0], tmp_path / "good")
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    data = bytearray((bad / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (bad / "model.safetensors").write_bytes(data)
    assert main(["doctor", str(bad), str(tmp_path / "none"), str(good)]) == 5
    shown = capsys.readouterr()
    assert shown.err.count("sppnet: error: ") == 2
    assert "E_CHECKSUM" in shown.err
    assert f"{good}: detector of " in shown.out


def test_a_model_without_answers_says_so(tmp_path, capsys) -> None:
    folder = _saved(DETECTORS[0], tmp_path / "model")
    config, tensors = load_model(folder, "detector")
    save_model(folder, "detector", config, tensors)
    assert main(["doctor", str(folder)]) == 0
    assert "keeps no answers to compare" in capsys.readouterr().out
