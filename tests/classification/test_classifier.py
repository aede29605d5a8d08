"""A classifier predicts from the image alone, and comes back from disk as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.classification import (
    Classifier,
    View,
    build_classifier,
    build_pool,
    predict_files,
)
from sppnet.classification.classifier import (
    pool_from_config,
    pool_to_config,
    rank_scores,
)
from sppnet.errors import InputError, UnusableFileError

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [(1, 1), (40, 40), (40, 40), (200, 10), (10, 200), (33, 57), (64, 31), (1, 300)]


@pytest.fixture(scope="module", params=["probability", "margin"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    hidden = (32,) if request.param == "probability" else ()
    network = build_classifier("small5", 6, hidden=hidden, dropout=0.5, feature_norm=1.0)
    names = ("a", "b", "c", "d", "e", "f")
    return Classifier(network, View("full", 40), names, score_kind=request.param)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in SIZES * 5]


def test_batch_mates_change_no_bit(classifier: Classifier, images: list[torch.Tensor]) -> None:
    together = classifier.scores(images)
    assert together.isfinite().all()
    for index in range(len(SIZES)):
        assert torch.equal(classifier.scores(images[index])[0], together[index])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    shuffled = classifier.scores([images[i] for i in order.tolist()])
    assert torch.equal(shuffled, together[order])
    assert torch.equal(classifier.scores(images[3:20]), together[3:20])


def test_predictions_are_ranked(classifier: Classifier, images: list[torch.Tensor]) -> None:
    for found in classifier.predict(images[:4]):
        assert sorted(found["labels"].tolist()) == list(range(6))
        assert (found["scores"].diff() <= 0).all()
    (best,) = classifier.predict(images[0], top=2)
    assert best["labels"].shape == best["scores"].shape == (2,)
    assert best["labels"].dtype == torch.int64


def test_equal_scores_go_by_class_number() -> None:
    assert rank_scores(torch.tensor([0.5, 0.2, 0.5]))["labels"].tolist() == [0, 2, 1]


def test_probabilities_add_up_to_one(classifier: Classifier, images: list[torch.Tensor]) -> None:
    if classifier.score_kind == "probability":
        assert torch.allclose(classifier.scores(images[:3]).sum(1), torch.ones(3))


def test_every_kind_of_image_gives_the_same(classifier: Classifier, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [path, str(path), Image.fromarray(pixels), pixels, tensor, tensor.float() / 255]
    scores = classifier.scores(kinds)
    assert all(torch.equal(row, scores[0]) for row in scores)
    assert all(torch.equal(classifier.scores(kind)[0], scores[0]) for kind in kinds)
    assert torch.equal(predict_files(classifier, [path]).rows[0], scores[0])


def test_saved_classifier_predicts_the_same_bits(
    classifier: Classifier, images: list[torch.Tensor], tmp_path: Path
) -> None:
    assert all(each.is_contiguous() for each in classifier.tensors().values())
    classifier.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.names == classifier.names
    assert loaded.view == classifier.view
    assert loaded.score_kind == classifier.score_kind
    assert torch.equal(loaded.scores(images[:8]), classifier.scores(images[:8]))


def test_no_images(classifier: Classifier) -> None:
    assert classifier.predict([]) == []


def test_wrong_input_is_named(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="top must be at least 1"):
        classifier.predict(torch.rand(3, 4, 4), top=0)
    with pytest.raises(InputError, match="does not exist"):
        classifier.predict(tmp_path / "none.png")
    with pytest.raises(TypeError):
        classifier.predict([None])
    with pytest.raises(ValueError, match="names must be 6"):
        Classifier(classifier.network, View(), ("a",))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_damaged_folder_is_refused(classifier: Classifier, tmp_path: Path, name: str) -> None:
    classifier.save(tmp_path / "model")
    file = tmp_path / "model" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(UnusableFileError):
        Classifier.load(tmp_path / "model")


def test_folder_that_does_not_fit_together_is_refused(
    classifier: Classifier, tmp_path: Path
) -> None:
    from sppnet.storage import save_model

    tensors = {**classifier.network.state_dict(), "seen": classifier.seen}
    for change in ({"names": ["a"]}, {"pool": {"kind": "sum"}}, {"view": {"kind": "x"}}):
        save_model(tmp_path / "m", "classifier", {**classifier.config(), **change}, tensors)
        with pytest.raises(UnusableFileError, match="does not fit together"):
            Classifier.load(tmp_path / "m")
    tensors.pop("seen")
    save_model(tmp_path / "m", "classifier", classifier.config(), tensors)
    with pytest.raises(UnusableFileError):
        Classifier.load(tmp_path / "m")


@pytest.mark.parametrize("kind", ["spp", "spp+avg", "6x6", "avg", "max"])
def test_pools_come_back_from_their_description(kind: str) -> None:
    maps, pool = torch.rand(2, 4, 9, 7), build_pool(kind, (1, 3))
    description = json.loads(json.dumps(pool_to_config(pool)))
    assert torch.equal(pool_from_config(description)(maps), pool(maps))
