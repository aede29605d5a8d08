"""Frozen features and linear SVMs: fits on one part of the images, scores on another."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.features import FeatureSet
from sppnet.classification.image_classifier import ImageClassifier
from sppnet.classification.linear_svm import LinearSvm
from sppnet.classification.network import build_head
from sppnet.classification.protocol import Split, mean_figures
from sppnet.classification.row_sources import NetworkWay, RowSource
from sppnet.classification.scoring import Task, class_task
from sppnet.classification.selection import Choice, fit_best
from sppnet.classification.views import View
from sppnet.progress import Track, no_tracking


@dataclass(frozen=True)
class FitResult:
    """A fitted classifier and its figures on images that it was not fitted on.

    Args:
        classifier: Fitted on the training part of the first split.
        figures: What the task's figures are; the mean over the splits.
        per_split: The same for each split.
        summary: Mean, deviation and values over the splits; None for one split.
        choices: What was chosen for each split, on its training images alone.
    """

    classifier: ImageClassifier
    figures: dict[str, Any]
    per_split: list[dict[str, Any]]
    summary: dict[str, Any] | None
    choices: list[Choice] = field(default_factory=list)


def fit_splits(
    sources: Sequence[RowSource],
    task: Task,
    splits: Sequence[Split],
    *,
    costs: Sequence[float] = (1.0,),
    loss: str = "hinge",
    seed: int = 0,
    about: dict[str, Any] | None = None,
    track: Track = no_tracking,
) -> FitResult:
    """Fit SVMs on every split of the same images and score each on the rest of them.

    Where there are several sources or costs, each split chooses on validation parts of its own
    training images; its test images decide nothing.

    Args:
        sources: Rows of the same N images, at least one.
        task: What is to be told of them.
        splits: At least one; positions among the N images.
        costs: Costs of a margin violation to choose from.
        loss: ``"hinge"`` or ``"squares"``.
        seed: Decides the validation parts.
        about: Plain values to keep with the classifier.
        track: Shows the progress over the classes.

    Returns:
        The classifier of the first split, and the figures of all.

    Raises:
        ValueError: If there is no split, no source or no cost.
    """
    first: ImageClassifier | None = None
    per_split, choices = [], []
    for split in splits:
        options = [source.rows_of(split.train) for source in sources]
        targets = task.targets[split.train]
        svm, choice = fit_best(
            options, targets, task.figure, costs=costs, loss=loss, seed=seed, track=track
        )
        source = sources[choice.option]
        classifier = source.way.assemble(
            svm_head(svm, source.way.row_length),
            task.names,
            seen=source.features.digests[split.train],
            about=about,
        )
        scores = classifier.score_rows(source.features.rows[split.test])
        per_split.append(task.figures(scores, task.targets[split.test]))
        choices.append(choice)
        first = first or classifier
    if first is None:
        raise ValueError("splits must be at least one, got none")
    figures, summary = mean_figures(per_split)
    return FitResult(first, figures, per_split, summary, choices)


def fit_svm_classifier(
    features: FeatureSet,
    labels: Tensor,
    names: Sequence[str],
    backbone: Backbone,
    pool: nn.Module,
    view: View,
    splits: Sequence[Split],
    *,
    c: float = 1.0,
    about: dict[str, Any] | None = None,
    track: Track = no_tracking,
) -> FitResult:
    """Fit SVMs on one pooled map of images of one class each: :func:`fit_splits` in its plain form.

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
    source = RowSource(features, NetworkWay(backbone, pool, view))
    task = class_task(labels, names)
    return fit_splits([source], task, splits, costs=(c,), about=about, track=track)


def svm_head(svm: LinearSvm, row_length: float | None) -> nn.Sequential:
    """Put fitted SVMs into a head that scales its rows first.

    Args:
        svm: Fitted on rows of that length.
        row_length: Length that rows are scaled to; None leaves them.

    Returns:
        A head from (N, D) to (N, K) margins.
    """
    head = build_head(*svm.weights_.shape, feature_norm=row_length)
    last = len(head) - 1  # a norm may come first
    weights = {f"{last}.weight": svm.weights_.T.contiguous(), f"{last}.bias": svm.bias_}
    head.load_state_dict(weights)
    return head
