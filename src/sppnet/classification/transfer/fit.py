"""Fits linear SVMs on frozen features of one part of the images, and scores them on the rest.

What comes out is a classifier: a network with a linear head, or, where several layers and views
are pooled, a :class:`TransferClassifier`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone, as_device, restore_backbone
from sppnet.classification.classifier import (
    AnyView,
    Classifier,
    ImageClassifier,
    check_names,
    check_row_length,
    head_to_config,
    pool_from_config,
    pool_to_config,
    restore_head,
)
from sppnet.classification.data import Split
from sppnet.classification.network import FixedNorm, SppNet, apply_in_blocks, device_of
from sppnet.classification.scoring import Task, class_task, mean_figures
from sppnet.classification.transfer.choice import Choice, fit_best
from sppnet.classification.transfer.features import FeatureEncoder, FeatureSet, extract_features
from sppnet.classification.transfer.recipe import FeatureRecipe
from sppnet.classification.transfer.svm import svm_head
from sppnet.classification.views import View
from sppnet.config.fields import OneOf, restore_fields
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache, put_under, tensors_under


@dataclass(frozen=True)
class SavedTransferClassifier:
    """What :meth:`TransferClassifier.config` writes; the parts read their own."""

    backbone: dict[str, Any]
    recipe: dict[str, Any]
    source_pool: dict[str, Any] | None
    source_head: dict[str, Any] | None
    head: dict[str, Any]
    names: tuple[str, ...]
    score_kind: Annotated[str, OneOf(("margin",))]
    about: dict[str, Any]


class TransferClassifier(ImageClassifier):
    """Names images by linear SVMs on several layers and views of a frozen network.

    Its views belong to its recipe: a call that gives another is refused.

    Args:
        encoder: Turns images into rows.
        head: Turns rows (N, D) into (N, K) margins, made by ``build_head``.
        names: Names of the K classes, in the order of the head's outputs.
        seen: (M,) int64 content numbers of the images it was fitted on, so that a test can tell.
        about: Plain values that go into the saved file: what it was fitted on and how.

    Raises:
        ValueError: If the names are not as many as the head's outputs.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> from sppnet.classification import build_head
        >>> from sppnet.classification.transfer.recipe import Block
        >>> recipe = FeatureRecipe((Block(short_side=32), Block("relu2", "avg", short_side=48)))
        >>> encoder = FeatureEncoder(build_backbone("small5"), recipe)
        >>> classifier = TransferClassifier(encoder, build_head(4848, 2), ("cat", "dog"))
        >>> classifier.scores([torch.rand(3, 40, 50)]).shape
        torch.Size([1, 2])
    """

    kind = "transfer classifier"

    def __init__(
        self,
        encoder: FeatureEncoder,
        head: nn.Module,
        names: Sequence[str],
        *,
        seen: Tensor | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(head, names, "margin", seen, about)
        self.encoder = encoder.eval()
        self.head = head.eval()

    def score_images(self, images: Iterable[Tensor], view: AnyView = None) -> Tensor:
        """Score decoded images: n of (3, H, W) -> (n, K) float32 on the CPU."""
        if view is not None:
            raise ValueError(f"view must be None, the recipe has its own, got {view!r}")
        alone = self.device.type == "cpu"  # where each has the same bits alone
        batches = ([image] for image in images) if alone else [list(images)]
        rows = [self.encoder.encode(batch) for batch in batches if batch]
        return self.score_rows(torch.cat(rows)) if rows else torch.empty(0, len(self.names))

    @torch.inference_mode()
    def score_rows(self, rows: Tensor) -> Tensor:
        """Score rows of the encoder: (N, D) -> (N, K) float32 on the CPU."""
        if not len(rows):
            return torch.empty(0, len(self.names))
        return apply_in_blocks(self.head, rows.to(self.device)).float().cpu()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self.head)

    def to(self, device: str | torch.device) -> Self:
        """Move all of it and return the classifier."""
        self.encoder.to(as_device(device))
        self.head.to(device)
        return self

    def config(self) -> dict[str, Any]:
        """All but the numbers, as plain values."""
        pool, head = self.encoder.source_pool, self.encoder.source_head
        return {
            "backbone": self.encoder.backbone.config(),
            "recipe": self.encoder.recipe.config(),
            "source_pool": None if pool is None else pool_to_config(pool),
            "source_head": None if head is None else head_to_config(head),
            "head": head_to_config(self.head),
            "names": list(self.names),
            "score_kind": self.score_kind,
            "about": self.about,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every number, by name, on the CPU."""
        encoder = put_under("encoder.", self.encoder.state_dict())
        tensors = encoder | put_under("head.", self.head.state_dict())
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor], seen: Tensor) -> Self:
        """Make the classifier of a description and its numbers."""
        saved = restore_fields(SavedTransferClassifier, config)
        parts = ("encoder.backbone.", "encoder.source_head.", "head.")
        check_names(tensors, parts if saved.source_head is not None else (parts[0], parts[2]))
        backbone, source, head = (tensors_under(part, tensors) for part in parts)
        encoder = FeatureEncoder(
            restore_backbone(saved.backbone, backbone),
            FeatureRecipe.from_config(saved.recipe),
            None if saved.source_pool is None else pool_from_config(saved.source_pool),
            None if saved.source_head is None else restore_head(saved.source_head, source),
        )
        linear = restore_head(saved.head, head)
        check_row_length(encoder.row_length, linear)
        return cls(encoder, linear, saved.names, seen=seen, about=saved.about)


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
