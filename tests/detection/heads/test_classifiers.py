"""Every classifier gives what its formula gives on the vectors of the proposals, saved or not."""

import pytest
import torch
from torch import Tensor

from sppnet.detection import Encoder
from sppnet.detection.heads.classifiers import (
    LinearRegionClassifier,
    RegionClassifier,
    SoftmaxRegionClassifier,
    TwoStageRegionClassifier,
    classifier_from_config,
)
from sppnet.detection.heads.hard_negatives import NEVER
from sppnet.detection.heads.kernel_svm import KernelRegionClassifier
from sppnet.detection.heads.region_head import RegionFeatures, RegionHead
from sppnet.errors import UnusableFileError

K = 3


@pytest.fixture
def scene(make_encoder, make_picture, make_boxes):
    """An encoder with two scales, an image, and regions of more proposals than one chunk."""
    encoder = make_encoder((96, 160), levels=(1, 2))
    encoded = encoder.encode(make_picture(90, 130))
    return encoder, encoded, encoder.assign_regions(encoded, make_boxes(600, 90, 130))


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def _head(encoder: Encoder) -> RegionHead:
    torch.manual_seed(0)
    return RegionHead(encoder.length, K, widths=(16, 8), ranks=(4, 0)).eval()


def _classifiers(encoder: Encoder) -> dict[str, RegionClassifier]:
    head = _head(encoder)
    fc7, fc6 = RegionFeatures("fc7", head), RegionFeatures("fc6", head)
    linear = LinearRegionClassifier(_draw(encoder.length, K) / 50, _draw(K))
    kernel = KernelRegionClassifier(_draw(9, 16).abs(), 3.0, _draw(9, K), _draw(K), fc6)
    return {
        "linear": linear,
        "fc7": LinearRegionClassifier(_draw(8, K), _draw(K), fc7),
        "softmax": SoftmaxRegionClassifier(head),
        "kernel": kernel,
        "kernel on pooled": KernelRegionClassifier(
            _draw(9, encoder.length).abs(), 40.0, _draw(9, K), _draw(K)
        ),
        "prefiltered": TwoStageRegionClassifier(linear, kernel, 25),
    }


NAMES = ["linear", "fc7", "softmax", "kernel", "kernel on pooled", "prefiltered"]


def _kernel_by_hand(classifier: KernelRegionClassifier, rows: Tensor) -> Tensor:
    distances = torch.cdist(rows.double(), classifier.centres.double())
    likeness = torch.exp(-(distances**2) / (2 * classifier.width**2))
    return likeness @ classifier.weights.double() + classifier.bias.double()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "prefiltered"])
def test_scores_are_the_formula_on_the_vectors(scene, name: str) -> None:
    encoder, encoded, regions = scene
    classifier = _classifiers(encoder)[name]
    classifier.check(encoder)
    pooled = encoder.pool(encoded, regions)
    head = _head(encoder)
    fc7 = head.describe(pooled).double()
    odds = head(pooled).double()
    expected = {
        "linear": lambda s: pooled.double() @ s.weights.double() + s.bias,
        "fc7": lambda s: fc7 @ s.weights.double() + s.bias,
        "softmax": lambda _: torch.stack(
            [odds[:, k] - odds[:, [j for j in range(K + 1) if j != k]].logsumexp(1)
             for k in range(K)], 1),
        "kernel": lambda s: _kernel_by_hand(s, head.describe(pooled, "fc6")),
        "kernel on pooled": lambda s: _kernel_by_hand(s, pooled),
    }[name](classifier)  # fmt: skip
    found = classifier.score(encoder, encoded, regions)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-4, rtol=1e-4)


def test_only_the_best_proposals_reach_the_second_classifier(scene) -> None:
    encoder, encoded, regions = scene
    classifiers = _classifiers(encoder)
    first = classifiers["linear"].score(encoder, encoded, regions).amax(1)
    second = classifiers["kernel"].score(encoder, encoded, regions)
    found = classifiers["prefiltered"].score(encoder, encoded, regions)
    looked = set(first.argsort(descending=True)[:25].tolist())
    for row in range(len(regions)):
        if row in looked:
            torch.testing.assert_close(found[row], second[row])
        else:
            assert found[row].tolist() == [NEVER] * K


def test_few_proposals_all_reach_the_second_classifier(scene) -> None:
    encoder, encoded, regions = scene
    classifiers = _classifiers(encoder)
    found = classifiers["prefiltered"].score(encoder, encoded, regions[:25])
    assert torch.equal(found, classifiers["kernel"].score(encoder, encoded, regions[:25]))


@pytest.mark.parametrize("name", NAMES)
def test_no_proposal_gives_no_score(scene, name: str) -> None:
    encoder, encoded, regions = scene
    assert _classifiers(encoder)[name].score(encoder, encoded, regions[:0]).shape == (0, K)


@pytest.mark.parametrize("name", NAMES)
def test_scorer_comes_back_bit_for_bit(scene, name: str) -> None:
    encoder, encoded, regions = scene
    classifier = _classifiers(encoder)[name]
    again = classifier_from_config(classifier.config(), classifier.tensors())
    assert type(again) is type(classifier)
    assert again.num_classes == K
    before, after = (s.score(encoder, encoded, regions) for s in (classifier, again))
    assert torch.equal(before, after)
    moved = again.to("cpu")
    assert torch.equal(moved.score(encoder, encoded, regions), before)


@pytest.mark.parametrize("name", NAMES)
def test_proposals_of_another_length_are_refused(scene, make_encoder, name: str) -> None:
    encoder, _, _ = scene
    other = make_encoder((96,), levels=(1,))
    if name in ("fc7", "kernel"):
        other.levels = (1, 2, 3)
    with pytest.raises(ValueError, match="vectors of regions must have"):
        _classifiers(encoder)[name].check(other)


def test_parts_that_do_not_fit_are_refused(scene) -> None:
    encoder, _, _ = scene
    with pytest.raises(ValueError, match=r"weights must be \(D, K\) and bias \(K,\)"):
        LinearRegionClassifier(torch.ones(4, 2), torch.ones(3))
    with pytest.raises(ValueError, match=r"weights must have shape \(5, 2\)"):
        KernelRegionClassifier(torch.ones(5, 4), 1.0, torch.ones(5, 3), torch.ones(2))
    with pytest.raises(ValueError, match="head must be given for layer 'fc6'"):
        RegionFeatures("fc6")
    with pytest.raises(ValueError, match="keep must be at least 1"):
        TwoStageRegionClassifier(
            _classifiers(encoder)["linear"], _classifiers(encoder)["kernel"], 0
        )


def test_spoiled_files_are_refused(scene) -> None:
    encoder, _, _ = scene
    classifier = _classifiers(encoder)["kernel"]
    tensors = classifier.tensors()
    with pytest.raises(UnusableFileError, match="kind of a classifier must be one of linear, head"):
        classifier_from_config({"kind": "forest"}, tensors)
    for config, kept in (
        (classifier.config(), {k: v for k, v in tensors.items() if k != "bias"}),
        (classifier.config(), tensors | {"bias": torch.ones(7)}),
    ):
        with pytest.raises(UnusableFileError, match="the saved classifier does not fit together"):
            classifier_from_config(config, kept)
