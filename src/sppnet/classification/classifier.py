"""A finished classifier: predicts for images of any size, and is saved as one folder.

:class:`ImageClassifier` is what every kind can do; :class:`Classifier` holds a network. The last
functions write poolings and heads down as plain values and make them again.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sppnet.backbones import as_device, restore_backbone
from sppnet.backbones.weights import fill_module
from sppnet.classification.convert import PretrainedPlusPyramidHead
from sppnet.classification.network import (
    MOST_LAYERS,
    ROWS,
    AverageAndPyramid,
    FixedNorm,
    GlobalAveragePool,
    SppNet,
    bins_of,
    build_head,
    build_pool,
    device_of,
    pool_images,
)
from sppnet.classification.views import (
    SCORE_KINDS,
    View,
    ViewPlan,
    base_short_side,
    pool_views,
    score_rows,
    view_plan,
)
from sppnet.config.fields import LARGEST, Count, Each, OneOf, Within, restore_fields
from sppnet.images import to_image
from sppnet.images.canary import as_answers, canary_image
from sppnet.pooling import SpatialPyramidPool
from sppnet.storage import HubModel, restore_model, save_model, tensors_under
from sppnet.storage.tensors import digest_of

# What of an image is scored: a plan's name such as "98", and None for the classifier's own view.
AnyView = View | ViewPlan | str | None


@dataclass(frozen=True)
class SavedClassifier:
    """What :meth:`Classifier.config` writes; the parts read their own."""

    backbone: dict[str, Any]
    pool: dict[str, Any]
    head: dict[str, Any]
    view: View
    names: tuple[str, ...]
    score_kind: Annotated[str, OneOf(SCORE_KINDS)]
    about: dict[str, Any]


@dataclass(frozen=True)
class SavedPool:
    """What :func:`pool_to_config` writes."""

    kind: Annotated[str, OneOf(("spp", "spp+avg", "avg"))]
    levels: Annotated[tuple[int, ...] | None, Each(Within(1, LARGEST), least=1)] = None


@dataclass(frozen=True)
class SavedHead:
    """What :func:`head_to_config` writes of a head that :func:`build_head` made."""

    in_features: Count
    num_classes: Count
    hidden: Annotated[tuple[int, ...], Each(Within(1, LARGEST), most=MOST_LAYERS)]
    dropout: Annotated[float, Within(0, 1)]
    feature_norm: Annotated[float | None, Within(0, above=True)]


class ImageClassifier(HubModel, ABC):
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
        outputs = head_to_config(head)["num_classes"]
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
            part = images[start : start + ROWS]  # decoded one by one, as each is resized
            blocks.append(self.score_images((to_image(each, compact=True) for each in part), view))
        return torch.cat(blocks)

    @abstractmethod
    def score_images(self, images: Iterable[Tensor], view: AnyView = None) -> Tensor:
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
    def config(self) -> dict[str, Any]:
        """All but the numbers, as plain values."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Every number that scores depend on, by name, on the CPU."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor], seen: Tensor) -> Self:
        """Make the classifier of a description and its numbers."""

    def digest(self) -> str:
        """SHA-256 of the description and of every number: all that scores depend on."""
        return digest_of(self.config(), self.tensors())

    def save(self, path: str | Path) -> None:
        """Write the classifier into a folder, whole or not at all.

        Args:
            path: Folder to make or to replace.

        Raises:
            OutputError: If it cannot be written.
            TypeError: If a pooling or a head is none of the project's.
        """
        tensors = {**self.tensors(), "seen": self.seen}
        save_model(path, self.kind, self.config(), tensors, self.answers())

    def answers(self) -> dict[str, Any]:
        """Score a picture that all have, for ``sppnet doctor``."""
        return as_answers(self.scores([canary_image()]))

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
            lambda config, tensors: cls.from_config(config, tensors, _take_seen(tensors)),
        ).to(device)


def _take_seen(tensors: dict[str, Tensor]) -> Tensor:
    """Take the content numbers out of the tensors of a saved classifier."""
    seen = tensors.pop("seen")
    if seen.dtype != torch.int64 or seen.ndim != 1:
        raise ValueError(f"seen must be (M,) int64, got {tuple(seen.shape)} {seen.dtype}")
    return seen


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


class Classifier(ImageClassifier):
    """A network together with the view of images that it was fitted on and its classes' names.

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

    def score_images(self, images: Iterable[Tensor], view: AnyView = None) -> Tensor:
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
        self.network.to(as_device(device))
        return self

    def config(self) -> dict[str, Any]:
        """All but the numbers, as plain values."""
        return {
            "backbone": self.network.backbone.config(),  # type: ignore[operator]
            "pool": pool_to_config(self.network.pool),
            "head": head_to_config(self.network.head),
            "view": self.view.config(),
            "names": list(self.names),
            "score_kind": self.score_kind,
            "about": self.about,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every number of the network, by name, on the CPU."""
        return {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor], seen: Tensor) -> Self:
        """Make the classifier of a description and its numbers."""
        saved = restore_fields(SavedClassifier, config)
        check_names(tensors, ("backbone.", "head."))
        backbone = restore_backbone(saved.backbone, tensors_under("backbone.", tensors))
        pool = pool_from_config(saved.pool)
        head = restore_head(saved.head, tensors_under("head.", tensors))
        check_row_length(backbone.channels * bins_of(pool), head)
        return cls(
            SppNet(backbone, pool, head),
            saved.view,
            saved.names,
            score_kind=saved.score_kind,
            seen=seen,
            about=saved.about,
        )


def pool_to_config(pool: nn.Module) -> dict[str, Any]:
    """Describe a pooling.

    Raises:
        TypeError: If it is none of the project's.

    Example:
        >>> pool_to_config(SpatialPyramidPool((1, 2)))
        {'kind': 'spp', 'levels': [1, 2]}
    """
    if isinstance(pool, SpatialPyramidPool):
        return {"kind": "spp", "levels": list(pool.levels)}
    if isinstance(pool, AverageAndPyramid):
        return {"kind": "spp+avg", "levels": list(pool.maxima.levels)}
    if isinstance(pool, GlobalAveragePool):
        return {"kind": "avg"}
    raise TypeError(f"pool must be made by build_pool, got {pool}")


def pool_from_config(config: dict[str, Any]) -> nn.Module:
    """Make the pooling that was described.

    Raises:
        ValueError: If the description is not one of :func:`pool_to_config`.

    Example:
        >>> pool_from_config({"kind": "spp", "levels": [1, 2]})
        SpatialPyramidPool(levels=(1, 2))
    """
    saved = restore_fields(SavedPool, config, "pool")
    if (saved.levels is None) != (saved.kind == "avg"):
        raise ValueError("pool.levels must be there for spp and spp+avg, and only there")
    return GlobalAveragePool() if saved.levels is None else build_pool(saved.kind, saved.levels)


def check_row_length(offered: int, head: nn.Module) -> None:
    """Check that rows have the length that a head was made for.

    Raises:
        ValueError: If it was made for another.
    """
    description = head_to_config(head)
    added = description.get("added_features", 0)
    expected = description["channels"] + added if added else description["in_features"]
    if offered != expected:
        raise ValueError(f"head must take rows of {offered} numbers, takes {expected}")


def head_to_config(head: nn.Module) -> dict[str, Any]:
    """Describe a head that :func:`build_head` or a conversion made.

    Raises:
        TypeError: If it was made otherwise.

    Example:
        >>> head_to_config(build_head(8, 3, (4,), dropout=0.5, feature_norm=1.0))
        {'in_features': 8, 'num_classes': 3, 'hidden': [4], 'dropout': 0.5, 'feature_norm': 1.0}
    """
    if isinstance(head, PretrainedPlusPyramidHead):
        return head.config()
    layers = list(head.children())
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    known = (nn.Linear, nn.ReLU, nn.Dropout, FixedNorm)
    if not linear or not all(isinstance(layer, known) for layer in layers):
        raise TypeError(f"head must be made by build_head or convert_classifier, got {head}")
    return {
        "in_features": linear[0].in_features,
        "num_classes": linear[-1].out_features,
        "hidden": [layer.out_features for layer in linear[:-1]],
        "dropout": next((layer.p for layer in layers if isinstance(layer, nn.Dropout)), 0.0),
        "feature_norm": next(
            (layer.length for layer in layers if isinstance(layer, FixedNorm)), None
        ),
    }


def head_from_config(config: dict[str, Any]) -> nn.Module:
    """Make the head that was described, with fresh weights.

    Raises:
        KeyError, TypeError, ValueError: If the description is not one of :func:`head_to_config`.
    """
    if config.get("kind") == "carried":
        return PretrainedPlusPyramidHead.from_config(config)
    saved = restore_fields(SavedHead, config, "head")
    return build_head(
        saved.in_features,
        saved.num_classes,
        saved.hidden,
        dropout=saved.dropout,
        feature_norm=saved.feature_norm,
    )


def restore_head(config: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """Make the head that was described and give it its numbers.

    Nothing is allocated by the description alone: it may ask for more than there is.

    Raises:
        KeyError, TypeError, ValueError: If the description is not one of :func:`head_to_config`.
        UnusableFileError: If the numbers are not of such a head.
    """
    with torch.device("meta"):
        head = head_from_config(config)
    fill_module(head, tensors)
    return head


def check_names(tensors: dict[str, Tensor], parts: tuple[str, ...]) -> None:
    """Check that every tensor belongs to a part of a model.

    Raises:
        ValueError: Names the first that does not.
    """
    if unknown := sorted(name for name in tensors if not name.startswith(parts)):
        raise ValueError(f"tensor {unknown[0]!r} belongs to no part of it")
