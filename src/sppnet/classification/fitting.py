"""Frozen features and linear SVMs: fits on one part of the images, scores on another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sppnet.backbones import Backbone
from sppnet.classification.classifier import Classifier
from sppnet.classification.features import FeatureSet
from sppnet.classification.linear_svm import LinearSvm
from sppnet.classification.network import FixedNorm, SppNet, build_head
from sppnet.classification.protocol import Split, mean_figures
from sppnet.classification.scoring import score_predictions
from sppnet.classification.views import View
from sppnet.errors import Track, no_tracking


@dataclass(frozen=True)
class FitResult:
    """A fitted classifier and its figures on images that it was not fitted on.

    Args:
        classifier: Fitted on the training part of the first split.
        figures: dict(top1, top5, mean_class_accuracy, per_class); the mean over the splits.
        per_split: The same for each split.
        summary: Mean, deviation and values over the splits; None for one split.
    """

    classifier: Classifier
    figures: dict[str, Any]
    per_split: list[dict[str, Any]]
    summary: dict[str, Any] | None


def fit_svm_classifier(
    features: FeatureSet,
    labels: Tensor,
    names: Sequence[str],
    backbone: Backbone,
    pool: torch.nn.Module,
    view: View,
    splits: Sequence[Split],
    *,
    c: float = 1.0,
    about: dict[str, Any] | None = None,
    track: Track = no_tracking,
) -> FitResult:
    """Fit SVMs on every split of the same features and score each on the rest of its images.

    Args:
        features: N images.
        labels: (N,) int64, their classes.
        names: K class names.
        backbone: The trunk that the features came from.
        pool: The pooling that they came from.
        view: The view that they came from.
        splits: At least one; positions among the N images.
        c: Cost of a margin violation.
        about: Plain values to keep with the classifier.
        track: Shows the progress over the classes.

    Returns:
        The classifier of the first split, and the figures of all.
    """
    first: Classifier | None = None
    per_split = []
    for split in splits:
        head = fit_svm_head(features.rows[split.train], labels[split.train], len(names), c, track)
        classifier = Classifier(
            SppNet(backbone, pool, head),
            view,
            names,
            score_kind="margin",
            seen=features.digests[split.train],
            about=about,
        )
        scores = classifier.score_rows(features.rows[split.test])
        per_split.append(score_predictions(scores, labels[split.test], names))
        first = first or classifier
    if first is None:
        raise ValueError("splits must be at least one, got none")
    figures, summary = mean_figures(per_split)
    return FitResult(first, figures, per_split, summary)


def fit_svm_head(
    rows: Tensor, labels: Tensor, num_classes: int, c: float = 1.0, track: Track = no_tracking
) -> torch.nn.Sequential:
    """Fit linear SVMs on L2-normalised rows and put them into a head that does both steps.

    Args:
        rows: (N, D) pooled features of any length.
        labels: (N,) int64.
        num_classes: K.
        c: Cost of a margin violation.
        track: Shows the progress over the classes.

    Returns:
        A head from (N, D) to (N, K) margins: one product, whatever the number of support vectors.
    """
    svm = LinearSvm(c).fit(FixedNorm(1.0)(rows), labels, num_classes, track)
    head = build_head(rows.shape[1], num_classes, feature_norm=1.0)
    weights = {"1.weight": svm.weights_.T.contiguous(), "1.bias": svm.bias_}  # 0 is the norm
    head.load_state_dict(weights)
    return head
