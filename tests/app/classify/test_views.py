"""``--view`` and ``--imgsz`` of ``sppnet classify val`` and ``predict``, for each kind of model."""

import json
from pathlib import Path

import pytest
import torch

from small_photos import draw_folders
from sppnet.app.main import main
from sppnet.backbones import build_backbone
from sppnet.classification import (
    Classifier,
    View,
    build_classifier,
    build_head,
    load_classifier,
)
from sppnet.classification.transfer.features import FeatureEncoder
from sppnet.classification.transfer.fit import TransferClassifier
from sppnet.classification.transfer.recipe import Block, FeatureRecipe
from sppnet.errors import UnusableFileError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("photos") / "data", 2)


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network and a recipe with the data's classes."""
    folder, names = tmp_path_factory.mktemp("models"), sorted(p.name for p in data.iterdir())
    torch.manual_seed(0)
    Classifier(build_classifier("small5", 4), View("full", 32), names).save(folder / "network")
    recipe = FeatureRecipe((Block(short_side=32),))
    encoder = FeatureEncoder(build_backbone("small5"), recipe)
    TransferClassifier(encoder, build_head(4800, 4), names).save(folder / "recipe")
    return folder


def _predict(model: Path, data: Path, out: Path, *words: str) -> dict:
    assert main(["classify", "predict", str(model), str(data), *words, "--out", str(out)]) == 0
    return json.loads((out / "predictions.json").read_text())


def test_own_view_is_the_default(models: Path, data: Path, tmp_path: Path) -> None:
    found = _predict(models / "network", data, tmp_path / "own")
    same = _predict(models / "network", data, tmp_path / "full", "--view", "full")
    assert found["view"] == {"kind": "full", "short_side": 32}
    assert same["view"]["whole_side"] == 32
    assert found["images"] == same["images"]


@pytest.mark.parametrize("view", ["crop", "10", "96", "98"])
def test_views_of_predict_and_val(models: Path, data: Path, tmp_path: Path, view: str) -> None:
    found = _predict(models / "network", data, tmp_path / "p", "--view", view, "--imgsz", "64")
    classifier = load_classifier(models / "network")
    assert isinstance(classifier, Classifier)
    plan = classifier.resolve_view(view, 64)
    assert found["view"] == json.loads(json.dumps(plan.config()))
    for record in found["images"]:
        scores = classifier.scores(record["path"], plan)[0]
        assert record["scores"] == [scores[label].item() for label in record["labels"]]
    command = ["classify", "val", str(models / "network"), str(data), "--view", view]
    assert main([*command, "--imgsz", "64", "--out", str(tmp_path / "v")]) == 0
    metrics = json.loads((tmp_path / "v" / "metrics.json").read_text())
    assert metrics["view"] == found["view"]
    truth = [Path(record["file"]).parent.name for record in found["images"]]
    right = [r["names"][0] == name for r, name in zip(found["images"], truth, strict=True)]
    assert metrics["top1"] == pytest.approx(sum(right) / len(right))


def test_other_short_side_of_the_own_view(models: Path, data: Path, tmp_path: Path) -> None:
    found = _predict(models / "network", data, tmp_path / "out", "--imgsz", "48")
    assert found["view"] == {"kind": "full", "short_side": 48}


def test_a_killed_run_in_another_view_is_not_taken_up(
    models: Path, data: Path, tmp_path: Path
) -> None:
    from sppnet.classification import predict_files
    from sppnet.storage import FeatureCache

    classifier, paths = load_classifier(models / "network"), sorted(data.rglob("*.png"))[:2]
    rows = {
        view: predict_files(classifier, paths, view, cache=FeatureCache(tmp_path / "cache")).rows
        for view in (None, "10", "98", View("warp", 40))
    }
    for view, found in rows.items():
        assert torch.equal(found, predict_files(classifier, paths, view).rows)
    assert len({tuple(found.flatten().tolist()) for found in rows.values()}) == len(rows)


def test_recipes_have_their_own_views(models: Path, data: Path, tmp_path: Path, capsys) -> None:
    found = _predict(models / "recipe", data, tmp_path / "out")
    assert found["view"] == "own"
    assert isinstance(load_classifier(models / "recipe"), TransferClassifier)
    for words in (["--view", "98"], ["--imgsz", "64"]):
        command = ["classify", "predict", str(models / "recipe"), str(data), *words]
        assert main([*command, "--out", str(tmp_path / "no")]) == 2
        assert "--view and --imgsz are for networks" in capsys.readouterr().err


def test_unknown_view_is_a_mistake_of_the_caller(
    models: Path, data: Path, tmp_path: Path, capsys
) -> None:
    command = ["classify", "val", str(models / "network"), str(data), "--view", "97"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "view must be one of crop, 10, full, 96, 98, got '97'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_classifier_are_refused(tmp_path: Path) -> None:
    from sppnet.storage import save_model

    with pytest.raises(UnusableFileError):
        load_classifier(tmp_path / "none")
    save_model(tmp_path / "other", "detector", {}, {"w": torch.ones(1)})
    with pytest.raises(UnusableFileError, match="the model is a 'detector'"):
        load_classifier(tmp_path / "other")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "manifest.json").write_text("[]")
    with pytest.raises(UnusableFileError):
        load_classifier(tmp_path / "list")


def test_digest_follows_every_number(models: Path) -> None:
    for kind in ("network", "recipe"):
        one, two = (load_classifier(models / kind) for _ in range(2))
        assert one.digest() == two.digest()
    with torch.no_grad():
        next(two.head.parameters()).flatten()[0] += 1
    assert one.digest() != two.digest()
