"""The finished transfer classifier: features of a frozen trunk by a recipe, one linear layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from sppnet.backbones import restore_backbone
from sppnet.classification.classifier import (
    AnyView,
    ImageClassifier,
    check_names,
    check_row_length,
    head_to_config,
    pool_from_config,
    pool_to_config,
    restore_head,
)
from sppnet.classification.network import apply_in_blocks, device_of
from sppnet.classification.transfer.features import FeatureEncoder
from sppnet.classification.transfer.recipe import FeatureRecipe
from sppnet.config.fields import OneOf, restore_fields
from sppnet.storage import put_under, tensors_under


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

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self.head)

    def to(self, device: str | torch.device) -> Self:
        """Move all of it and return the classifier."""
        self.encoder.to(device)
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
