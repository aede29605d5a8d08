"""Models go to a hub and come back with the same answers; nothing but their own files is read.

What MLflow and FiftyOne make of them needs these, each in an environment of its own:
``pip install mlflow && pytest tests/storage/test_hub.py -m slow -k mlflow``, and
``pip install fiftyone && pytest tests/storage/test_hub.py -m slow -k fiftyone``.
"""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image

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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own, of the libraries below it
def test_mlflow_answers_as_the_model_does(
    detector: Detector, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    import pandas

    photos = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, path in enumerate(photos):
        draw = torch.Generator().manual_seed(number)
        pixels = (torch.rand(50 + number, 70, 3, generator=draw) * 255).byte().numpy()
        Image.fromarray(pixels).save(path)
    detector.save_mlflow(tmp_path / "detects")
    classifier.save_mlflow(tmp_path / "names")
    saved = [path.name for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle")]
    assert saved == []
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    with mlflow.start_run(
        experiment_id=mlflow.create_experiment("cups", f"{tmp_path}/runs")
    ) as run:
        mlflow.log_artifacts(str(tmp_path / "detects"), "model")
    for address in (str(tmp_path / "detects"), f"runs:/{run.info.run_id}/model"):
        found = mlflow.pyfunc.load_model(address).predict(photos)
        expected = [detector.predict(path) for path in photos]
        assert found["score"].tolist() == [s for each in expected for s in each.scores.tolist()]
        corners = found[["x0", "y0", "x1", "y1"]].to_numpy().tolist()
        assert corners == [box for each in expected for box in each.boxes.tolist()]
        paths = [path for path, each in zip(photos, expected, strict=True) for _ in each.labels]
        assert found["path"].tolist() == paths
        assert set(found["name"]) <= set(detector.names)
    assert len(found) > 3
    table = pandas.DataFrame({"path": photos})
    named = mlflow.pyfunc.load_model(str(tmp_path / "names")).predict(table)
    best = [classifier.predict([path], top=1)[0] for path in photos]
    assert named["name"].tolist() == [classifier.names[int(each["labels"][0])] for each in best]
    assert named["score"].tolist() == [float(each["scores"][0]) for each in best]


def test_folder_for_fiftyone_holds_code_and_model(detector: Detector, tmp_path: Path) -> None:
    place = tmp_path / "zoo" / "cups-2.0"
    for _ in range(2):  # an older one is replaced
        detector.save_fiftyone(place, license="mit")
    assert {path.name for path in place.iterdir()} == {"__init__.py", "manifest.json", "model"}
    manifest = json.loads((place / "manifest.json").read_text())
    [entry] = manifest["models"]
    assert (manifest["name"], entry["base_name"], entry["license"]) == ("cups-2.0",) * 2 + ("mit",)
    assert (place / entry["base_filename"]).is_file()
    assert entry["tags"] == ["detection", "torch"]
    assert Detector.load(place / "model").names == detector.names
    for name in ("..", "cups@1", "a b", "-cups"):
        with pytest.raises(ValueError, match="folder must have a name of letters"):
            detector.save_fiftyone(tmp_path / "wrong" / name)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # FiftyOne's own, of the libraries below it
def test_fiftyone_labels_as_the_model_does(
    detector: Detector, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    import fiftyone
    from fiftyone.core.models import Model
    from fiftyone.zoo import load_zoo_model

    monkeypatch.setattr(fiftyone.config, "model_zoo_dir", str(tmp_path))
    detector.save_fiftyone(tmp_path / "cups")
    classifier.save_fiftyone(tmp_path / "pets")
    finds, tells = load_zoo_model("cups"), load_zoo_model("pets")
    assert isinstance(finds, Model)
    assert finds.media_type == "image"
    draw = torch.Generator().manual_seed(0)
    photos = [(torch.rand(50, side, 3, generator=draw) * 255).byte().numpy() for side in (40, 70)]
    for photo, found in zip(photos, finds.predict_all(photos), strict=True):
        expected = detector.predict(photo)
        labels = expected.to_fiftyone(photo.shape[:2], detector.names).detections
        assert len(labels) == len(expected.labels) > 0
        for one, other in zip(found.detections, labels, strict=True):
            assert one.bounding_box == other.bounding_box
            assert (one.label, one.confidence) == (other.label, other.confidence)
        told, [best] = tells.predict(photo), classifier.predict([photo], top=1)
        assert told.label == classifier.names[int(best["labels"][0])]
        assert told.confidence == float(best["scores"][0])


def test_missing_packages_are_named(detector: Detector, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'sppnet\[hub\]'"):
        detector.save_pretrained(tmp_path / "model")
    with pytest.raises(MissingPackageError, match="pip install mlflow"):
        detector.save_mlflow(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["owner/nothing", "no such/name/at all"])
def test_what_neither_a_folder_nor_the_hub_has_is_named_in_one_line(name: str, tmp_path) -> None:
    with pytest.raises(UnusableFileError, match=f"^'{name}': is no folder here, .* hub") as caught:
        Detector.from_pretrained(name, local_files_only=True, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
