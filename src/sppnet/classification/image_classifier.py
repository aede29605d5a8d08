"""What every finished classifier can do, whatever it was fitted with; one folder on disk."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sppnet.classification.description import describe_head
from sppnet.classification.network import ROWS
from sppnet.classification.view_plans import ViewPlan
from sppnet.classification.views import View
from sppnet.images import to_image
from sppnet.storage import restore_model, save_model
from sppnet.storage.tensors import digest_of

# What of an image is scored: a plan's name such as "98", and None for the classifier's own view.
AnyView = View | ViewPlan | str | None


class ImageClassifier(ABC):
    """Names images of any size.

    What is predicted for an image depends on that image alone: on the CPU the same bits come out by
    itself and in any company and order.

    Args:
        head: Its outputs are the scores of the classes.
        names: Names of the K classes, in the order of the head's outputs.
        score_kind: ``"probability"`` or ``"margin"``.
        seen: (M,) int64 content numbers of the images it was fitted on, so that a test can tell.
        about: Plain values that go into the saved file: what it was fitted on and how.

    Attributes:
        kind: What its folder on disk is called.

    Raises:
        ValueError: If the names are not as many as the head's outputs.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        head: nn.Module,
        names: Sequence[str],
        score_kind: str,
        seen: Tensor | None,
        about: dict[str, Any] | None,
    ) -> None:
        outputs = describe_head(head)["num_classes"]
        if len(names) != outputs:
            raise ValueError(f"names must be {outputs}, one for each output, got {len(names)}")
        self.names = tuple(names)
        self.score_kind = score_kind
        self.seen = torch.zeros(0, dtype=torch.int64) if seen is None else seen
        self.about = about or {}

    def predict(
        self, images: Any, top: int | None = None, view: AnyView = None
    ) -> list[dict[str, Tensor]]:
        """Recognise images of any sizes.

        Args:
            images: One image or several: paths, PIL images, (H, W, 3) uint8 arrays, (3, H, W)
                tensors.
            top: How many classes to return for each image; None returns all.
            view: What of an image is scored; None is the classifier's own view.

        Returns:
            For each image dict(labels (k,) int64, scores (k,) float32), best first; equal scores in
            class order.

        Raises:
            ValueError: If ``top`` is below 1, there is no such view, or an image has an impossible
                shape.
            InputError: If a file cannot be read as an image.
        """
        if top is not None and top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        return [rank_scores(row, top) for row in self.scores(images, view)]

    def scores(self, images: Any, view: AnyView = None) -> Tensor:
        """Score every class: images and view as for :meth:`predict` -> (N, K) float32, CPU."""
        images = as_list(images)
        blocks = [torch.empty(0, len(self.names))]
        for start in range(0, len(images), ROWS):
            part = [to_image(image) for image in images[start : start + ROWS]]
            blocks.append(self.score_images(part, view))
        return torch.cat(blocks)

    @abstractmethod
    def score_images(self, images: Sequence[Tensor], view: AnyView = None) -> Tensor:
        """Score decoded images: n of (3, H, W) -> (n, K) float32 on the CPU."""

    @abstractmethod
    def score_rows(self, rows: Tensor) -> Tensor:
        """Score rows of features: (N, D) -> (N, K) float32 on the CPU."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Self:
        """Move all of it and return the classifier."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """All but the numbers, as plain values."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Every number that scores depend on, by name, on the CPU."""

    @classmethod
    @abstractmethod
    def restore(cls, config: dict[str, Any], tensors: dict[str, Tensor], seen: Tensor) -> Self:
        """Make the classifier of a description and its numbers."""

    def digest(self) -> str:
        """SHA-256 of the description and of every number: all that scores depend on."""
        return digest_of(self.description(), self.tensors())

    def save(self, path: str | Path) -> None:
        """Write the classifier into a folder, whole or not at all.

        Args:
            path: Folder to make or to replace.

        Raises:
            OutputError: If it cannot be written.
            TypeError: If a pooling or a head is none of the project's.
        """
        save_model(path, self.kind, self.description(), {**self.tensors(), "seen": self.seen})

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read a classifier that :meth:`save` wrote.

        Args:
            path: The folder.
            device: Where to put it.

        Returns:
            A classifier that predicts the same as the one that was saved.

        Raises:
            UnusableFileError: If a file is missing, damaged, of another kind or does not fit.
        """
        return restore_model(
            path,
            cls.kind,
            lambda config, tensors: cls.restore(config, tensors, tensors.pop("seen")),
        ).to(device)


def rank_scores(scores: Tensor, top: int | None = None) -> dict[str, Tensor]:
    """Order the classes of one image: (K,) scores -> dict(labels (k,), scores (k,)), best first.

    Example:
        >>> rank_scores(torch.tensor([0.2, 0.7, 0.1]), top=2)
        {'labels': tensor([1, 0]), 'scores': tensor([0.7000, 0.2000])}
    """
    values, labels = scores.sort(descending=True, stable=True)
    return {"labels": labels[:top], "scores": values[:top]}


def as_list(images: Any) -> list[Any]:
    """Accept one image where several are meant."""
    alone = isinstance(images, str | Path) or getattr(images, "ndim", 0) in (2, 3)
    is_several = isinstance(images, Iterable) and not alone
    return list(images) if is_several else [images]
