"""Ways from image files to the rows that SVMs are fitted on, and from the SVMs to a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.classifier import Classifier
from sppnet.classification.feature_encoder import FeatureEncoder
from sppnet.classification.features import FeatureSet, extract_features
from sppnet.classification.image_classifier import ImageClassifier
from sppnet.classification.network import FixedNorm, SppNet
from sppnet.classification.transfer import TransferClassifier
from sppnet.classification.views import View
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache


class RowWay(Protocol):
    """From image files to rows, and from a head for such rows to a classifier."""

    @property
    def row_length(self) -> float | None:
        """Length that rows are scaled to before the SVMs; None leaves them."""
        ...

    def extract(
        self,
        paths: Sequence[str | Path],
        *,
        cache: FeatureCache | None = None,
        track: Track = no_tracking,
    ) -> FeatureSet:
        """Work out the rows of image files."""
        ...

    def assemble(self, head: nn.Module, names: Sequence[str], **more: Any) -> ImageClassifier:
        """Make the classifier; ``more`` is its ``seen`` and ``about``."""
        ...


@dataclass(frozen=True)
class NetworkWay:
    """One pooled map: with the SVMs it becomes an ordinary network.

    Args:
        backbone: The trunk, in evaluation mode on its device.
        pool: From (N, C, h, w) to (N, D).
        view: What of an image the trunk sees.
    """

    backbone: Backbone
    pool: nn.Module
    view: View

    @property
    def row_length(self) -> float | None:
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
class RecipeWay:
    """The blocks of a recipe.

    Args:
        encoder: On its device.
    """

    encoder: FeatureEncoder

    @property
    def row_length(self) -> float | None:
        """Length of whole rows, as the recipe has it."""
        return self.encoder.recipe.row_length

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
class RowSource:
    """Rows of all images of a fit, and the way they came.

    Args:
        features: N images.
        way: Where they came from.
    """

    features: FeatureSet
    way: RowWay

    def rows_of(self, positions: Tensor) -> Tensor:
        """Rows of some images as the SVMs see them."""
        rows = self.features.rows[positions]
        length = self.way.row_length
        return rows if length is None else FixedNorm(length)(rows)
