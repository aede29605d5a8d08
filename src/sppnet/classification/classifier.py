"""The finished classifier of one network: images of any size in, names and scores out."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from sppnet.backbones import restore_backbone
from sppnet.classification.description import (
    describe_head,
    describe_pool,
    restore_head,
    restore_pool,
)
from sppnet.classification.features import device_of, pool_images
from sppnet.classification.head_scores import SCORE_KINDS, score_rows
from sppnet.classification.image_classifier import AnyView, ImageClassifier
from sppnet.classification.map_views import pool_views
from sppnet.classification.network import SppNet
from sppnet.classification.view_plans import ViewPlan, base_short_side, view_plan
from sppnet.classification.views import View
from sppnet.storage import tensors_under


class Classifier(ImageClassifier):
    """A network together with the view of images that it was fitted on and its classes' names.

    What is predicted for an image depends on that image alone: on the CPU the same bits come out by
    itself and in any company and order.

    Args:
        network: Trunk, pooling and head; it is put into evaluation mode.
        view: What of an image the network sees.
        names: Names of the K classes, in the order of the head's outputs.
        score_kind: ``"probability"`` passes the logits through softmax (trained networks);
            ``"margin"`` leaves them as they are (linear SVMs: above 0 means yes).
        seen: (M,) int64 content numbers of the images it was fitted on, so that a test can tell.
        about: Plain values that go into the saved file: what it was fitted on and how.

    Raises:
        ValueError: If the names are not as many as the head's outputs, or the kind of score is
            unknown.

    Example:
        >>> from sppnet.classification import Classifier, View, build_classifier
        >>> network = build_classifier("small5", num_classes=2)
        >>> classifier = Classifier(network, View("full", 64), ("cat", "dog"))
        >>> [found] = classifier.predict([torch.rand(3, 50, 130)])
        >>> found["labels"].shape, found["scores"].shape
        (torch.Size([2]), torch.Size([2]))
    """

    kind = "classifier"

    def __init__(
        self,
        network: SppNet,
        view: View,
        names: Sequence[str],
        *,
        score_kind: str = "probability",
        seen: Tensor | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(network.head, names, score_kind, seen, about)
        if score_kind not in SCORE_KINDS:
            raise ValueError(f"score_kind must be one of {SCORE_KINDS}, got {score_kind!r}")
        self.network = network.eval()
        self.view = view

    def score_images(self, images: Sequence[Tensor], view: AnyView = None) -> Tensor:
        """Score decoded images: n of (3, H, W) -> (n, K) float32 on the CPU."""
        wanted = self.resolve_view(view)
        if isinstance(wanted, View):
            return self.score_views([wanted.apply(image) for image in images])
        means = [self.score_rows(pool_views(self.network, each, wanted)).mean(0) for each in images]
        return torch.stack(means) if means else torch.empty(0, len(self.names))

    def resolve_view(self, view: AnyView, short_side: int | None = None) -> View | ViewPlan:
        """Turn what a caller asks for into a view or a plan.

        Args:
            view: A :class:`View`, a :class:`ViewPlan`, or the name of a plan (``"crop"``, ``"10"``,
                ``"full"``, ``"96"``, ``"98"``); None is the model's own view.
            short_side: Short side of whole images, from which a plan's lengths follow; None takes
                the model's own.

        Returns:
            The view or plan, unchanged if it is one already.

        Raises:
            ValueError: If there is no plan of that name.
        """
        if isinstance(view, str):
            return view_plan(view, short_side or base_short_side(self.view))
        if view is None:
            return self.view if short_side is None else View(self.view.kind, short_side)
        return view

    def score_views(self, views: Sequence[Tensor]) -> Tensor:
        """Score images that are the network's input already: n of (3, h, w) -> (n, K)."""
        if not views:
            return torch.empty(0, len(self.names))
        return self.score_rows(pool_images(self.network.backbone, self.network.pool, views))

    def score_rows(self, rows: Tensor) -> Tensor:
        """Score pooled features: (N, D) -> (N, K) float32 on the CPU."""
        if not len(rows):
            return torch.empty(0, len(self.names))
        return score_rows(self.network, rows.to(self.device), self.score_kind)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.network)

    def to(self, device: str | torch.device) -> Self:
        """Move the network and return the classifier."""
        self.network.to(device)
        return self

    def description(self) -> dict[str, Any]:
        """All but the numbers, as plain values."""
        return {
            "backbone": self.network.backbone.description(),  # type: ignore[operator]
            "pool": describe_pool(self.network.pool),
            "head": describe_head(self.network.head),
            "view": self.view.description(),
            "names": list(self.names),
            "score_kind": self.score_kind,
            "about": self.about,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every number of the network, by name, on the CPU."""
        return {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: dict[str, Tensor], seen: Tensor) -> Self:
        """Make the classifier of a description and its numbers."""
        network = SppNet(
            restore_backbone(config["backbone"], tensors_under("backbone.", tensors)),
            restore_pool(config["pool"]),
            restore_head(config["head"]),
        )
        network.load_state_dict(tensors)
        return cls(
            network,
            View(**config["view"]),
            config["names"],
            score_kind=config["score_kind"],
            seen=seen,
            about=config["about"],
        )
