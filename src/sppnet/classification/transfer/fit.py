"""Fits linear SVMs on frozen features of one part of the images, and scores them on the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.classifier import Classifier, ImageClassifier
from sppnet.classification.network import FixedNorm, SppNet
from sppnet.classification.scoring import Task, class_task, mean_figures
from sppnet.classification.splits import Split
from sppnet.classification.transfer.classifier import TransferClassifier
from sppnet.classification.transfer.features import FeatureEncoder, FeatureSet, extract_features
from sppnet.classification.transfer.svm import Choice, fit_best, svm_head
from sppnet.classification.views import View
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache


class FeatureExtractor(Protocol):
    """Turns image files into features, and a head for these features into a classifier."""

    @property
    def feature_norm(self) -> float | None:
        """Length to which rows are scaled before the SVMs see them; None leaves them."""
        ...

    def extract(
        self,
        paths: Sequence[str | Path],
        *,
        cache: FeatureCache | None = None,
        track: Track = no_tracking,
    ) -> FeatureSet:
        """Compute the features of image files."""
        ...

    def assemble(self, head: nn.Module, names: Sequence[str], **more: Any) -> ImageClassifier:
        """Make the classifier; ``more`` holds its ``seen`` and ``about``."""
        ...


@dataclass(frozen=True)
class NetworkExtractor:
    """Extracts one pooled map; with the SVMs as its head this is an ordinary network.

    Args:
        backbone: The trunk, in evaluation mode on its device.
        pool: From (N, C, h, w) to (N, D).
        view: What of an image the trunk sees.
    """

    backbone: Backbone
    pool: nn.Module
    view: View

    @property
    def feature_norm(self) -> float | None:
        """Rows are scaled to length 1."""
        return 1.0

    def extract(
        self,
        paths: Sequence[str | Path],
        *,
        cache: FeatureCache | None = None,
        track: Track = no_tracking,
    ) -> FeatureSet:
        """Convolve and pool image files."""
        return extract_features(
            paths, self.backbone, self.pool, self.view, cache=cache, track=track
        )

    def assemble(self, head: nn.Module, names: Sequence[str], **more: Any) -> Classifier:
        """Put trunk, pooling and head together."""
        network = SppNet(self.backbone, self.pool, head)
        return Classifier(network, self.view, names, score_kind="margin", **more)


@dataclass(frozen=True)
class RecipeExtractor:
    """Extracts the blocks of a recipe.

    Args:
        encoder: Trunk and recipe, on their device.
    """

    encoder: FeatureEncoder

    @property
    def feature_norm(self) -> float | None:
        """Length of whole rows, as the recipe has it."""
        return self.encoder.recipe.feature_norm

    def extract(
        self,
        paths: Sequence[str | Path],
        *,
        cache: FeatureCache | None = None,
        track: Track = no_tracking,
    ) -> FeatureSet:
        """Encode image files."""
        return self.encoder.extract(paths, cache=cache, track=track)

    def assemble(self, head: nn.Module, names: Sequence[str], **more: Any) -> TransferClassifier:
        """Put encoder and head together."""
        return TransferClassifier(self.encoder, head, names, **more)


@dataclass(frozen=True)
class ExtractedFeatures:
    """Features of all images of a fit, and what they were extracted with.

    Args:
        features: Rows of N images, not yet scaled.
        extractor: Where they come from.
    """

    features: FeatureSet
    extractor: FeatureExtractor

    def scaled_rows(self, positions: Tensor) -> Tensor:
        """Rows of some images as the SVMs see them: (n,) positions -> (n, D)."""
        rows = self.features.rows[positions]
        length = self.extractor.feature_norm
        return rows if length is None else FixedNorm(length)(rows)


@dataclass(frozen=True)
class FitResult:
    """A fitted classifier and its figures on images that it was not fitted on.

    Args:
        classifier: Fitted on the training part of the first split.
        figures: The task's figures, averaged over the splits.
        per_split: The figures of each split.
        summary: Mean, deviation and values over the splits; None for one split.
        choices: What was chosen for each split, on its training images alone.
    """

    classifier: ImageClassifier
    figures: dict[str, Any]
    per_split: list[dict[str, Any]]
    summary: dict[str, Any] | None
    choices: list[Choice] = field(default_factory=list)


def fit_splits(
    candidates: Sequence[ExtractedFeatures],
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

    Where there are several candidates or costs, each split chooses on validation parts of its own
    training images; its test images decide nothing.

    Args:
        candidates: Features of the same N images, at least one, to choose from.
        task: What is to be predicted for the images.
        splits: At least one; positions among the N images.
        costs: Costs of a margin violation to choose from.
        loss: ``"hinge"`` or ``"squares"``.
        seed: Decides the validation parts.
        about: Plain values to keep with the classifier.
        track: Shows the progress over the classes.

    Returns:
        The classifier of the first split, and the figures of all.

    Raises:
        ValueError: If there is no split, no candidate or no cost.
    """
    first: ImageClassifier | None = None
    per_split, choices = [], []
    for split in splits:
        targets = task.targets[split.train]
        svm, choice = fit_best(
            [candidate.scaled_rows(split.train) for candidate in candidates],
            targets,
            task.figure,
            costs=costs,
            loss=loss,
            seed=seed,
            track=track,
        )
        chosen = candidates[choice.candidate]
        classifier = chosen.extractor.assemble(
            svm_head(svm, chosen.extractor.feature_norm),
            task.names,
            seen=chosen.features.digests[split.train],
            about=about,
        )
        scores = classifier.score_rows(chosen.features.rows[split.test])
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
    """Fit SVMs on one pooled map of images of one class each, at one cost; see :func:`fit_splits`.

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
    extracted = ExtractedFeatures(features, NetworkExtractor(backbone, pool, view))
    task = class_task(labels, names)
    return fit_splits([extracted], task, splits, costs=(c,), about=about, track=track)
