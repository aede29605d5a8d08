"""``sppnet doctor``: what is wrong with this installation, a model or its server has a line."""

import json
import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from resigned_models import make_classifier, make_detector
from sppnet.app import doctor
from sppnet.app.doctor import installation
from sppnet.app.main import main
from sppnet.detection import InferenceConfig
from sppnet.errors import InputError
from sppnet.storage.models import load_model, save_model

DETECTORS = ["softmax", "linear", "kernel", "prefiltered"]
CLASSIFIERS = ["spp", "transfer", "carried", "hidden", "average"]
KINDS = [*DETECTORS, *CLASSIFIERS]
MOST_SECONDS = 60.0  # of a processor, for the installation and a small model


def _saved(kind: str, folder):
    make = make_detector if kind in DETECTORS else make_classifier
    make(kind).save(folder)
    return folder


@pytest.fixture
def alone(monkeypatch) -> None:
    """Only what a model says of itself: the rest takes a while, and is the same for all kinds."""
    monkeypatch.setattr(doctor, "check_installation", dict)
    monkeypatch.setattr(doctor, "check_served", lambda *_: {})


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_answer_as_they_did(kind, tmp_path, capsys, alone) -> None:
    folder = _saved(kind, tmp_path / "model")
    assert main(["doctor", str(folder), "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "every byte as saved, the same numbers as on " in shown
    assert "5 of 5 checks ok" in shown
    (finding,) = json.loads((tmp_path / "found.json").read_text())
    assert finding["largest_difference"] == 0
    assert finding["checks"] == dict.fromkeys(doctor.MODEL, "ok")


@pytest.mark.parametrize("kind", [DETECTORS[0], CLASSIFIERS[0]])
def test_other_weights_with_a_manifest_that_fits_are_noticed(kind, tmp_path, capsys, alone) -> None:
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


def test_a_damaged_model_is_an_error_and_the_next_is_looked_at(tmp_path, capsys, alone) -> None:
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


def test_a_model_without_answers_says_so(tmp_path, capsys, alone) -> None:
    folder = _saved(DETECTORS[0], tmp_path / "model")
    config, tensors = load_model(folder, "detector")
    save_model(folder, "detector", config, tensors)
    assert main(["doctor", str(folder)]) == 0
    assert "keeps no answers to compare" in capsys.readouterr().out


def test_a_detector_whose_proposals_lie_in_a_file_is_asked_about_a_grid(
    tmp_path, capsys, alone
) -> None:
    detector = make_detector("softmax")
    detector.inference = InferenceConfig("boxes.npz", max_proposals=20)
    detector.save(tmp_path / "model")
    assert main(["doctor", str(tmp_path / "model")]) == 0
    assert "5 of 5 checks ok" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="times of processes are told otherwise there")
def test_installation_model_and_server_are_more_than_30_checks_within_a_minute(tmp_path) -> None:
    import resource

    folder, out = _saved("linear", tmp_path / "model"), tmp_path / "found.json"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "sppnet", "doctor", str(folder), "--json", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    (finding,) = json.loads(out.read_text())
    assert len(finding["checks"]) > 30
    assert set(finding["checks"].values()) == {"ok"}
    assert done.stdout.count("\n  ok  ") == len(finding["checks"])
    spent = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert spent < MOST_SECONDS


# What is wrong with an installation, and a check that must see it.


def _taken(*_: object, **__: object) -> torch.Tensor:
    """Takes whatever it is given."""
    return torch.zeros(3, 192, 256)


class ProgramThatDiffers(installation.SpatialPyramidPool):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features) + int(torch.compiler.is_exporting())


class CacheThatTrusts(installation.FeatureCache):
    def get(self, _: str) -> dict[str, torch.Tensor]:
        return {"maps": installation.draw(2, 3)}


class CacheThatForgets(installation.FeatureCache):
    def get(self, _: str) -> None:
        return None


def _pool_wrongly(maps, *levels, **more):
    if isinstance(maps, torch.Tensor) and 0 in maps.shape:
        return torch.zeros(0, 7)
    if isinstance(maps, list):
        return torch.rand(len(maps), 3 * 50)
    found = installation_pool(maps, *levels, **more)
    return found + torch.rand(()).to(found.dtype)


def _lose_half_of_gradients(maps, *levels, **more):
    fixed = maps.detach() if isinstance(maps, torch.Tensor) else maps
    return installation_pool(fixed if fixed is maps else (maps + fixed) / 2, *levels, **more)


def _move_gradients(maps, *levels, **more):
    if isinstance(maps, torch.Tensor):
        turned = maps.flip(-1)
        maps = maps.detach() + turned - turned.detach()
    return installation_pool(maps, *levels, **more)


installation_pool = installation.spatial_pyramid_pool
FAULTS = {
    "pooling": {"spatial_pyramid_pool": _pool_wrongly},
    "half gradients": {"spatial_pyramid_pool": _lose_half_of_gradients},
    "other gradients": {"spatial_pyramid_pool": _move_gradients},
    "regions": {"pool_regions": lambda *_, **__: torch.zeros(1, 1)},
    "programs": {"SpatialPyramidPool": ProgramThatDiffers},
    "onnx": {"export_onnx": lambda *_: (b"", [SimpleNamespace(matches=lambda *_: False)])},
    "suppression": {"nms": lambda boxes, *_: torch.arange(len(boxes))},
    "photos": {"decode_image": _taken, "load_image": _taken},
    "models": {"load_model": lambda *_: ({"a": 2}, {"weights": torch.zeros(1)})},
    "saving": {"save_model": lambda *_: None},
    "cache": {"FeatureCache": CacheThatTrusts},
    "forgetful cache": {"FeatureCache": CacheThatForgets},
}


def test_each_check_of_the_installation_sees_a_fault(monkeypatch, tmp_path) -> None:
    seen: dict[str, list[str]] = {}
    for number, (fault, planted) in enumerate(FAULTS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patch:
            for name, value in planted.items():
                patch.setattr(installation, name, value)
            checks = installation.checks_of(folder)
            if fault != "onnx":  # it takes long, and its fault is planted once
                checks = {name: each for name, each in checks.items() if "ONNX" not in name}
            if fault != "programs":
                checks.pop("an exported program gives the same")
            for name, result in doctor.run_checks(checks).items():
                if result != "ok":
                    seen.setdefault(name, []).append(fault)
    assert set(seen) == set(installation.checks_of(tmp_path))
    gradients = seen["gradients arrive whole, at the largest cells"]
    assert gradients == ["half gradients", "other gradients"]
    assert seen["the kernel here and plain torch agree"][:2] == ["pooling", "regions"]
    assert seen["pickles are refused"][0] == "models"


def test_what_is_wrong_with_the_installation_is_an_error(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(doctor, "check_served", lambda *_: {})
    monkeypatch.setattr(
        doctor, "check_installation", lambda: {"a": "ok", "b": "not here: onnx", "c": "differs"}
    )
    assert main(["doctor", str(_saved("spp", tmp_path / "model"))]) == 5
    shown = capsys.readouterr()
    assert "this installation: 1 of 3 checks ok" in shown.out
    assert "  --  c: differs" in shown.out
    assert shown.err == "sppnet: error: c: differs (E_ANSWERS)\n"


class OddModel:
    """A classifier that says what it is told to; each call another answer."""

    device = torch.device("cpu")

    def __init__(self, *values: float) -> None:
        self.values, self.calls = values, count()

    def scores(self, images) -> torch.Tensor:
        value = self.values[next(self.calls) % len(self.values)]
        return torch.full((len(images), 2), value)


def test_each_check_of_a_model_sees_a_fault() -> None:
    fickle = doctor.run_checks(doctor.MODEL, OddModel(*range(97)))
    shapes, *others = doctor.MODEL
    assert all(fickle[name] != "ok" for name in others)
    without = doctor.run_checks({shapes: doctor.MODEL[shapes]}, OddModel(1.0, 2.0, float("nan")))
    assert without[shapes] == "no finite number of a photo of 1 x 50 pixels"


def test_each_check_of_a_server_sees_a_fault() -> None:
    def takes_all(photo: bytes, path: str = "", **headers: str):
        return 200, {"images": [{}], "error": {}}

    served = SimpleNamespace(ask=takes_all, answer=lambda *_: {"labels": [1]})
    assert "ok" not in doctor.run_checks(doctor.SERVED, served).values()


def test_a_server_that_does_not_start_is_a_check_that_failed(tmp_path) -> None:
    found = doctor.check_served(Path(tmp_path / "none"), OddModel(1.0))
    assert list(found) == ["a server starts, and ends"]
    assert found["a server starts, and ends"].startswith("it ended with ")


def test_errors_of_another_kind_are_no_refusals() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(installation.Wrong, match="refused with KeyError, not InputError"):
        installation.require_error(InputError, fail)
    with pytest.raises(installation.Wrong, match="taken, not refused"):
        installation.require_error(InputError, dict)
