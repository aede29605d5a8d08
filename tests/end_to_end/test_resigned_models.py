"""A saved model with any one field or tensor changed, checksums and all, works or is refused."""

import json
import shutil
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from resigned_models import make_classifier, make_detector, sign, spoil_tensors, spoiled
from small_photos import draw_folders
from sppnet.app.main import main
from sppnet.classification import Classifier
from sppnet.classification.transfer.fit import TransferClassifier
from sppnet.detection import Detector
from sppnet.errors import UnusableFileError
from sppnet.storage.tensors import bytes_to_tensors, tensors_to_bytes
from sppnet.training.checkpoints import Checkpoints, TrainingState
from sppnet.training.trainer import Trainer

SECONDS = 5.0  # of a processor, for one model; an ordinary one takes some hundredths
IMAGE = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
DETECTORS = ["linear", "softmax", "kernel", "prefiltered"]
CLASSIFIERS = ["spp", "average", "hidden", "carried", "transfer"]


def _outcome(load: Callable[[Path], Any], folder: Path) -> str:
    """What becomes of a model: "works", "refused", or what is wrong with it."""
    begin = time.process_time()
    try:
        load(folder).predict(IMAGE)
        found = "works"
    except UnusableFileError as error:
        found = "refused" if "\n" not in str(error) and len(str(error)) < 3000 else str(error)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"[:200]
    seconds = time.process_time() - begin
    return found if seconds < SECONDS else f"{found} after {seconds:.0f} s"


def _faults(load: Callable[[Path], Any], folder: Path, every: int) -> list[str]:
    """The changes that neither work nor are refused, of every so manieth."""
    config = json.loads((folder / "config.json").read_bytes())
    data = (folder / "model.safetensors").read_bytes()
    assert _outcome(load, folder) == "works"
    faults, counts = [], {"works": 0, "refused": 0}
    for words, text in islice(spoiled(config), 0, None, every):
        sign(folder, text)
        found = _outcome(load, folder)
        counts[found] = counts.get(found, 0) + 1
        if found not in ("works", "refused"):
            faults.append(f"{words}: {found}")
    whole = json.dumps(config).encode()
    for words, tensors in islice(spoil_tensors(bytes_to_tensors(data)), 0, None, min(every, 2)):
        sign(folder, whole, tensors_to_bytes(tensors))
        found = _outcome(load, folder)
        if found not in ("works", "refused") or (found == "works" and "too many" in words):
            faults.append(f"{words}: {found}")
    assert counts["refused"] > counts["works"]
    return faults


@pytest.fixture(autouse=True, scope="module")
def only_one_thread(one_thread: None) -> None:
    """The networks here are so small that they gain nothing from more."""


# One of 29 changes meets most fields once; all of them are for longer runs.
EVERY = [29, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("kind", DETECTORS)
def test_detectors(kind: str, every: int, tmp_path: Path) -> None:
    make_detector(kind).save(tmp_path / "model")
    assert _faults(Detector.load, tmp_path / "model", every) == []


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers(kind: str, every: int, tmp_path: Path) -> None:
    make_classifier(kind).save(tmp_path / "model")
    load = TransferClassifier.load if kind == "transfer" else Classifier.load
    assert _faults(load, tmp_path / "model", every) == []


def test_training_states(tmp_path: Path) -> None:
    """A state that says something else is damaged; the run begins anew or stops with a line."""
    rows = [{"epoch": 1, "loss": 0.5, "validation_loss": 0.25}]
    state = TrainingState(1, 2, 0.5, 3, 1.5, rows, 2, 4, 5, {"network.w": torch.ones(2)})
    Checkpoints(tmp_path).save(state)
    (folder,) = tmp_path.iterdir()
    whole = (folder / "config.json").read_bytes()
    refused = 0
    for words, text in spoiled(json.loads(whole)):
        sign(folder, text)
        checkpoints = Checkpoints(tmp_path)
        found = checkpoints.newest()
        assert (found is None) == bool(checkpoints.damaged), words
        refused += found is None
        if found is not None:
            assert all(type(v) in (int, float) for row in found.history for v in row.values())
    assert refused > 100
    sign(folder, whole)
    assert Checkpoints(tmp_path).newest() is not None


def _stopped_run(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """Stop a training after its first epoch: the words that go on with it."""
    data = draw_folders(folder / "data", 3)
    words = ("classify", "train", str(data), "--backbone", "small5", "--weights", "none", *words)
    command = [*words, "--imgsz", "24", "--epochs", "2", "--out", str(folder / "run")]
    end_epoch = Trainer._end_epoch

    def stop(self: Trainer, *arguments: Any) -> None:
        end_epoch(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", stop)
        assert main(command) == 130
    return command


@pytest.mark.parametrize("every", [59, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("words", [("--ema", "0.9"), ("--optimizer", "adamw")], ids=" ".join)
def test_a_run_that_goes_on_from_a_changed_state(
    tmp_path: Path, monkeypatch, capsys, words: tuple[str, ...], every: int
) -> None:
    """It refuses it in a line, begins anew with a line, or goes on; it never ends as a bug."""
    command = _stopped_run(tmp_path, monkeypatch, *words)
    (state,) = (tmp_path / "run" / "checkpoints").rglob("epoch-*")
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    config = (state / "config.json").read_bytes()
    tensors = bytes_to_tensors((state / "model.safetensors").read_bytes())
    changes: list[tuple[str, bytes, bytes | None]] = [
        (what, text, None) for what, text in islice(spoiled(json.loads(config)), 0, None, every)
    ]
    for what, changed in islice(spoil_tensors(tensors), 0, None, every):
        changes.append((what, config, tensors_to_bytes(changed)))
    codes = []
    for what, text, data in changes:
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / "kept", tmp_path / "run")
        sign(state, text, data)
        capsys.readouterr()
        codes.append(main(command))
        said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert codes[-1] in (0, 5), (what, said)
        assert len(said) == (codes[-1] == 5), (what, said)
    assert {0, 5} <= set(codes)
