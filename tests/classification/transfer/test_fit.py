"""Fits on every split: images to score on decide nothing, and frozen features are told apart.

Transfer classifiers: saved and loaded, alone and in company, the same bits; hostile folders.
"""

import json
from pathlib import Path

import pytest
import torch

from classification.transfer.noisy_classes import noisy_rows
from small_photos import draw_folders
from sppnet.backbones import build_backbone
from sppnet.classification import (
    Split,
    SplitConfig,
    SppNet,
    View,
    build_classifier,
    build_head,
    build_pool,
    extract_features,
    fit_svm_classifier,
    open_class_data,
    predict_files,
)
from sppnet.classification.predict import load_classifier
from sppnet.classification.transfer.features import FeatureEncoder, FeatureSet
from sppnet.classification.transfer.fit import (
    ExtractedFeatures,
    NetworkExtractor,
    TransferClassifier,
    fit_splits,
)
from sppnet.classification.transfer.recipe import Block, FeatureRecipe
from sppnet.errors import UnusableFileError
from sppnet.images import list_images

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("cat", "dog", "eel")


def test_images_to_score_on_decide_nothing(labels, task) -> None:
    """Whatever the rows of test images are, the choice and the machine stay the same bits."""
    network = build_classifier("small5", 3)
    extractor = NetworkExtractor(network.backbone, network.pool, View())
    split = Split(torch.arange(24), torch.arange(24, 36))
    results = []
    for shift in (0, 1):  # the second time, test images look like the next class
        candidates = []
        for noise in (0.5, 4.0):
            rows = noisy_rows(labels, noise).repeat(1, 80)  # (36, 4800)
            rows[split.test] = rows[split.test].roll(shift, dims=0)
            kept, digests = torch.arange(36), torch.arange(36)
            candidates.append(ExtractedFeatures(FeatureSet(rows, kept, digests, ()), extractor))
        results.append(fit_splits(candidates, task, [split], costs=(1.0, 10.0)))
    first, second = results
    assert first.choices == second.choices
    assert len(first.choices[0].figures) == 4
    heads = [result.classifier.network.head.state_dict() for result in results]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert first.figures != second.figures


def test_no_split_is_refused(task) -> None:
    with pytest.raises(ValueError, match="splits must be at least one"):
        fit_splits([], task, [])


def test_svms_on_frozen_features_learn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = open_class_data(draw_folders(tmp_path / "d", 20), SplitConfig(seed=0))
    backbone, pool, view = build_backbone("small5"), build_pool("spp"), View("full", 64)
    features = extract_features(data.paths, backbone, pool, view)
    splits = [*data.splits(), Split(torch.arange(0, 80, 2), torch.arange(1, 80, 2))]
    result = fit_svm_classifier(features, data.labels, data.names, backbone, pool, view, splits)
    assert result.figures["top1"] > 0.6  # chance is 0.25
    assert result.summary is not None
    assert result.summary["count"] == 2
    (split, _) = splits
    assert torch.equal(result.classifier.seen, features.digests[split.train])
    # the saved way from a file to a score is the way that was measured
    paths = [data.paths[i] for i in split.test.tolist()]
    rows = result.classifier.score_rows(features.rows[split.test])
    assert torch.equal(predict_files(result.classifier, paths).rows, rows)


def make_classifier(hidden: bool) -> TransferClassifier:
    """A small classifier on two layers of a trunk, or on a map and a fully connected layer."""
    torch.manual_seed(0)
    recipe = FeatureRecipe(
        (
            Block(levels=(1, 2), short_side=40),
            Block("fc6" if hidden else "relu3", "avg", view="warp", short_side=48, flip=True),
        )
    )
    network: SppNet = build_classifier("small5", 4, levels=(1,), hidden=(12,)).eval()
    encoder = (
        FeatureEncoder.of_network(network, recipe)
        if hidden
        else FeatureEncoder(build_backbone("small5"), recipe)
    )
    length = encoder.encode([torch.zeros(3, 50, 50)]).shape[1]
    head = build_head(length, len(NAMES), feature_norm=recipe.feature_norm)
    seen = torch.tensor([5, -7])
    return TransferClassifier(encoder, head, NAMES, seen=seen, about={"made": "here"})


@pytest.fixture(params=[False, True], ids=["layers", "hidden layer"])
def classifier(request: pytest.FixtureRequest) -> TransferClassifier:
    return make_classifier(request.param)


@pytest.fixture
def images() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3, 30 + 7 * n, 80 - 9 * (n % 3)) for n in range(5)]


def test_loaded_classifier_is_the_saved_one(classifier, images, tmp_path: Path) -> None:
    assert all(each.is_contiguous() for each in classifier.tensors().values())
    classifier.save(tmp_path / "m")
    loaded = load_classifier(tmp_path / "m")
    assert isinstance(loaded, TransferClassifier)
    assert torch.equal(loaded.scores(images), classifier.scores(images))
    assert loaded.digest() == classifier.digest()
    assert json.dumps(loaded.config()) == json.dumps(classifier.config())
    assert (loaded.names, loaded.about, loaded.score_kind) == (NAMES, {"made": "here"}, "margin")
    assert loaded.seen.tolist() == [5, -7]


def test_company_and_order_change_no_bit(classifier, images) -> None:
    together = classifier.scores(images)
    assert torch.equal(classifier.scores(images[::-1]).flip(0), together)
    for image, row in zip(images, together, strict=True):
        assert torch.equal(classifier.scores(image)[0], row)


def test_prediction_ranks_the_scores(classifier, images) -> None:
    found = classifier.predict(images, top=2)
    for each, row in zip(found, classifier.scores(images), strict=True):
        assert each["labels"].tolist() == row.argsort(descending=True)[:2].tolist()
        assert torch.equal(each["scores"], row[each["labels"]])
    assert classifier.predict([]) == []


def test_files_give_the_same_bits(classifier, tmp_path: Path) -> None:
    paths = list_images([draw_folders(tmp_path / "d", 1)]).paths
    assert torch.equal(predict_files(classifier, paths).rows, classifier.scores(paths))


def test_digest_tells_weights_and_recipe(classifier) -> None:
    other = make_classifier(classifier.encoder.source_head is not None)
    assert other.digest() == classifier.digest()
    with torch.no_grad():
        other.head[-1].bias[0] += 1e-3
    assert other.digest() != classifier.digest()


def test_wrong_calls_are_named(classifier, images) -> None:
    with pytest.raises(ValueError, match="top must be at least 1"):
        classifier.predict(images, top=0)
    with pytest.raises(ValueError, match="the recipe has its own"):
        classifier.scores(images, view="98")
    with pytest.raises(ValueError, match="names must be 3"):
        TransferClassifier(classifier.encoder, classifier.head, ("cat",))


def _edit(folder: Path, classifier: TransferClassifier, **changes) -> None:
    """Save a folder whose configuration says something else than its tensors."""
    from sppnet.storage import save_model

    tensors = {**classifier.tensors(), "seen": classifier.seen}
    save_model(folder, "transfer classifier", {**classifier.config(), **changes}, tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"blocks": []}},
        {"recipe": {"blocks": [{"layer": "no such layer"}]}},
        {"recipe": 3},
        {"head": {"in_features": 3}},
        {"names": ["cat"]},
        {"source_pool": {"kind": "median"}},
    ],
    ids=str,
)
def test_folder_that_does_not_fit_is_refused(classifier, tmp_path: Path, changes: dict) -> None:
    _edit(tmp_path / "m", classifier, **changes)
    with pytest.raises(UnusableFileError):
        TransferClassifier.load(tmp_path / "m")
