"""Fits on every split: images to score on decide nothing, and frozen features are told apart."""

from pathlib import Path

import pytest
import torch

from classification.transfer.noisy_classes import noisy_rows
from small_photos import draw_folders
from sppnet.backbones import build_backbone
from sppnet.classification import (
    Split,
    SplitConfig,
    View,
    build_classifier,
    build_pool,
    extract_features,
    fit_svm_classifier,
    open_class_data,
    predict_files,
)
from sppnet.classification.transfer.features import FeatureSet
from sppnet.classification.transfer.fit import ExtractedFeatures, NetworkExtractor, fit_splits


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
