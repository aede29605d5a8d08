"""Models go to a hub and come back with the same answers; nothing but their own files is read."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from sppnet.backbones import build_backbone
from sppnet.classification import Classifier, View, build_classifier
from sppnet.detection import Detector, Encoder, InferenceConfig, LinearRegionClassifier
from sppnet.errors import MissingPackageError, OutputError, UnusableFileError
from sppnet.storage.hub import CARD, FILES, model_card

pytestmark = pytest.mark.usefixtures("one_thread")
FIGURES = {"ap50": 0.91234, "ap": 0.5, "ap75": float("nan"), "per_class": {"cup": 0.9}, "images": 3}


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("small5"), (64,))
    scores = LinearRegionClassifier(torch.randn(encoder.length, 2), torch.randn(2))
    config = InferenceConfig(proposals="grid", max_proposals=20)
    return Detector(encoder, scores, None, ("cup", "`pen`: blue"), config)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_classifier("small5", 2), View("full", 32), ("cat", "dog"))


def put_into_cache(folder: Path, cache: Path, name: str) -> None:
    """Lay a repository into the hub's cache as it lies there after a download."""
    place = cache / f"models--{name.replace('/', '--')}"
    commit = "0123456789012345678901234567890123456789"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "blobs").mkdir()
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        shutil.copyfile(file, place / "blobs" / file.name)
        (snapshot / file.name).symlink_to(place / "blobs" / file.name)


def test_detector_is_saved_and_read(detector: Detector, tmp_path: Path) -> None:
    image = torch.rand(3, 60, 80)
    for _ in range(2):  # an older one is replaced
        detector.save_pretrained(tmp_path / "model", metrics=FIGURES, data="cups", license="mit")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {*FILES, CARD}
    loaded = Detector.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / CARD).write_text("of somebody else")
    with pytest.raises(OutputError, match=r"README\.md"):
        detector.save_pretrained(tmp_path / "model")
    assert torch.equal(loaded.predict(image).scores, detector.predict(image).scores)
    assert torch.equal(
        Detector.load(tmp_path / "model").predict(image).boxes, loaded.predict(image).boxes
    )


def test_classifier_is_read_from_the_cache_of_the_hub(
    classifier: Classifier, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path / "model", metrics={"top1": 0.75})
    (tmp_path / "model" / "weights.pkl").write_bytes(b"\x80\x04.")  # is not looked at
    put_into_cache(tmp_path / "model", tmp_path / "cache", "someone/cats")
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    loaded = Classifier.from_pretrained("someone/cats", **options)
    image = torch.rand(3, 40, 50)
    assert torch.equal(loaded.scores(image), classifier.scores(image))
    blob = tmp_path / "cache" / "models--someone--cats" / "blobs" / "model.safetensors"
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(UnusableFileError, match=r"model\.safetensors"):
        Classifier.from_pretrained("someone/cats", **options)
    with pytest.raises(UnusableFileError):
        Detector.from_pretrained("someone/cats", **options)


def test_card_is_what_the_hub_reads(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({**FIGURES, "ap75": None}))
    text = model_card(detector, metrics=tmp_path / "metrics.json", data="cups: test", license="mit")
    card = ModelCard(text)
    assert card.data.library_name == "sppnet"
    assert card.data.pipeline_tag == "object-detection"
    assert card.data.license == "mit"
    results = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert results == {"ap50": 0.9123, "ap": 0.5}
    assert {each.dataset_name for each in card.data.eval_results} == {"cups: test"}
    assert "`cup`, `'pen': blue`" in card.text
    assert "| AP at overlap 0.5 | 0.9123 |" in card.text
    head = card.data.to_dict()["model-index"]
    assert head[0]["results"][0]["task"] == {"type": "object-detection"}


def test_card_without_figures_claims_none(classifier: Classifier) -> None:
    card = ModelCard(model_card(classifier))
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results is None
    assert card.data.license is None
    assert "Measured" not in card.text
    assert "Classifier.from_pretrained" in card.text


def test_model_is_pushed_as_the_library_takes_it(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Api:
        """Stands for HfApi: takes what its signature takes, and keeps the files."""

        def __init__(self, **options: Any) -> None:
            inspect.signature(HfApi).bind(**options)

        def create_repo(self, *args: Any, **options: Any) -> str:
            bound = inspect.signature(HfApi.create_repo).bind(self, *args, **options)
            calls.append(f"create {bound.arguments['repo_id']} {bound.arguments['private']}")
            return "https://hub.example/someone/cups"

        def upload_folder(self, **options: Any) -> None:
            bound = inspect.signature(HfApi.upload_folder).bind(self, **options).arguments
            calls.append(f"upload {bound['repo_id']}")
            shutil.copytree(bound["folder_path"], tmp_path / "pushed")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = detector.push_to_hub("someone/cups", metrics=FIGURES)
    assert address == "https://hub.example/someone/cups"
    assert calls == ["create someone/cups True", "upload someone/cups"]
    assert {path.name for path in (tmp_path / "pushed").iterdir()} == {*FILES, CARD}
    assert Detector.load(tmp_path / "pushed").names == detector.names


def test_missing_packages_are_named(detector: Detector, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'sppnet\[hub\]'"):
        detector.save_pretrained(tmp_path / "model")
    with pytest.raises(MissingPackageError, match="pip install mlflow"):
        detector.save_mlflow(tmp_path / "model")
    assert not (tmp_path / "model").exists()
