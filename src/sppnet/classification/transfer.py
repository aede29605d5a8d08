"""The finished transfer classifier: features of a frozen trunk by a recipe, one linear layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.backbones import restore_backbone
from sppnet.classification.classifier import AnyView, as_list, rank_scores
from sppnet.classification.description import (
    describe_head,
    describe_pool,
    restore_head,
    restore_pool,
)
from sppnet.classification.feature_encoder import FeatureEncoder
from sppnet.classification.feature_recipe import FeatureRecipe
from sppnet.classification.features import device_of, digest_of
from sppnet.classification.network import ROWS, apply_in_blocks
from sppnet.errors import UnusableFileError
from sppnet.images import to_image
from sppnet.storage import load_model, save_model

KIND = "transfer classifier"


class TransferClassifier:
    """Names images by linear SVMs on several layers and views of a frozen network.

    What is predicted for an image depends on that image alone: on the CPU the same bits come out
    by itself and in any company and order. It has the methods of `Classifier`, but its views
    belong to its recipe.

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
        >>> from sppnet.classification.feature_recipe import Block
        >>> recipe = FeatureRecipe((Block(short_side=32), Block("relu2", "avg", short_side=48)))
        >>> encoder = FeatureEncoder(build_backbone("small5"), recipe)
        >>> classifier = TransferClassifier(encoder, build_head(4848, 2), ("cat", "dog"))
        >>> classifier.scores([torch.rand(3, 40, 50)]).shape
        torch.Size([1, 2])
    """

    score_kind = "margin"

    def __init__(
        self,
        encoder: FeatureEncoder,
        head: nn.Module,
        names: Sequence[str],
        *,
        seen: Tensor | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        outputs = describe_head(head)["num_classes"]
        if len(names) != outputs:
            raise ValueError(f"names must be {outputs}, one for each output, got {len(names)}")
        self.encoder = encoder.eval()
        self.head = head.eval()
        self.names = tuple(names)
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
            view: None; the views belong to the recipe.

        Returns:
            For each image dict(labels (k,) int64, scores (k,) float32), best first; equal scores in
            class order.

        Raises:
            ValueError: If ``top`` is below 1, or a view is given.
            InputError: If a file cannot be read as an image.
        """
        if top is not None and top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        return [rank_scores(row, top) for row in self.scores(images, view)]

    def scores(self, images: Any, view: AnyView = None) -> Tensor:
        """Score every class: images as for :meth:`predict` -> (N, K) float32 on the CPU."""
        images = as_list(images)
        blocks = [torch.empty(0, len(self.names))]
        for start in range(0, len(images), ROWS):
            part = [to_image(image) for image in images[start : start + ROWS]]
            blocks.append(self.score_images(part, view))
        return torch.cat(blocks)

    def score_images(self, images: Sequence[Tensor], view: AnyView = None) -> Tensor:
        """Score decoded images: n of (3, H, W) -> (n, K) float32 on the CPU."""
        if view is not None:
            raise ValueError(f"view must be None, the recipe has its own, got {view!r}")
        if not images:
            return torch.empty(0, len(self.names))
        return self.score_rows(self.encoder.encode(images))

    @torch.inference_mode()
    def score_rows(self, rows: Tensor) -> Tensor:
        """Score rows of the encoder: (N, D) -> (N, K) float32 on the CPU."""
        if not len(rows):
            return torch.empty(0, len(self.names))
        return apply_in_blocks(self.head, rows.to(self.device)).float().cpu()

    def digest(self) -> str:
        """SHA-256 of the description and of every number."""
        return digest_of(self.description(), self._tensors())

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self.head)

    def to(self, device: str | torch.device) -> "TransferClassifier":
        """Move all of it and return the classifier."""
        self.encoder.to(device)
        self.head.to(device)
        return self

    def save(self, path: str | Path) -> None:
        """Write the classifier into a folder, whole or not at all.

        Args:
            path: Folder to make or to replace.

        Raises:
            OutputError: If it cannot be written.
        """
        save_model(Path(path), KIND, self.description(), {**self._tensors(), "seen": self.seen})

    def description(self) -> dict[str, Any]:
        """All but the numbers, as plain values."""
        pool, head = self.encoder.source_pool, self.encoder.source_head
        return {
            "backbone": self.encoder.backbone.description(),
            "recipe": self.encoder.recipe.description(),
            "source_pool": None if pool is None else describe_pool(pool),
            "source_head": None if head is None else describe_head(head),
            "head": describe_head(self.head),
            "names": list(self.names),
            "score_kind": self.score_kind,
            "about": self.about,
        }

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "TransferClassifier":
        """Read a classifier that :meth:`save` wrote.

        Args:
            path: The folder.
            device: Where to put it.

        Returns:
            A classifier that predicts the same as the one that was saved.

        Raises:
            UnusableFileError: If a file is missing, damaged, of another kind or does not fit.
        """
        config, tensors = load_model(Path(path), KIND)
        try:
            return cls._restore(config, tensors).to(device)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UnusableFileError(
                f"the saved classifier does not fit together: {reason}",
                path=path,
                code="E_WEIGHTS_ARCH",
            ) from error

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "TransferClassifier":
        seen = tensors.pop("seen")
        pool, source_head = config["source_pool"], config["source_head"]
        encoder = FeatureEncoder(
            restore_backbone(config["backbone"], _below("encoder.backbone.", tensors)),
            FeatureRecipe.restore(config["recipe"]),
            None if pool is None else restore_pool(pool),
            None if source_head is None else restore_head(source_head),
        )
        encoder.load_state_dict(_below("encoder.", tensors))
        head = restore_head(config["head"])
        head.load_state_dict(_below("head.", tensors))
        return cls(encoder, head, config["names"], seen=seen, about=config["about"])

    def _tensors(self) -> dict[str, Tensor]:
        """Every number, by name."""
        parts = {"encoder": self.encoder, "head": self.head}
        return {
            f"{part}.{name}": tensor.cpu()
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }


def _below(start: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin in one way, without that beginning."""
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
