"""Columns and rows of tables 9 and 10: which network, which windows, which layer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from sppnet.detection import Encoder
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.paper.detection_networks import DetectionNetwork
from sppnet.paper.detection_windows import KeptRcnnEncoder
from sppnet.progress import Track
from sppnet.storage import FeatureCache

T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """A column of tables 9 and 10.

    Args:
        network: Name of its network.
        short_sides: Scales of SPP-net; empty for R-CNN's way.
    """

    network: str
    short_sides: tuple[int, ...] = ()

    @property
    def is_rcnn(self) -> bool:
        """Whether every window is convolved by itself."""
        return not self.short_sides

    def label(self, track: Track) -> Track:
        """Put the way before every description of progress.

        Example:
            >>> said = []
            >>> def track(iterable, description, total=None):
            ...     said.append(description)
            ...     return iterable
            >>> loop = Way("ZF-5", (688,)).label(track)([1, 2], "timing")
            >>> said
            ['SPP-net ZF-5 at 688: timing']
        """
        sides = f" at {','.join(map(str, self.short_sides))}"
        name = f"R-CNN {self.network}" if self.is_rcnn else f"SPP-net {self.network}{sides}"

        def labelled(
            iterable: Iterable[T], description: str, total: int | None = None
        ) -> Iterable[T]:
            return track(iterable, f"{name}: {description}", total)

        return labelled


@dataclass(frozen=True)
class Row:
    """A row of table 9: what the SVMs see, and what happens to the boxes.

    Args:
        layer: ``pooled``, ``fc6`` or ``fc7``.
        is_tuned: Whether fc6 and fc7 were fine-tuned.
        moves_boxes: Whether boxes are moved by regression.
    """

    layer: str
    is_tuned: bool = False
    moves_boxes: bool = False


ROWS = {
    "pool5": Row("pooled"),
    "fc6": Row("fc6"),
    "ft fc6": Row("fc6", is_tuned=True),
    "ft fc7": Row("fc7", is_tuned=True),
    "ft fc7 bb": Row("fc7", is_tuned=True, moves_boxes=True),
}


def build_way_encoder(
    way: Way, network: DetectionNetwork, cache: FeatureCache | None = None
) -> Encoder:
    """Make the encoder of a way; images have no cap on their long side, as in the paper.

    Args:
        way: SPP-net's or R-CNN's.
        network: Gives the trunk and the pyramid.
        cache: Where R-CNN's vectors are kept; None computes them whenever they are asked for.
    """
    if not way.is_rcnn:
        return Encoder(network.backbone, way.short_sides, network.levels, max_long_side=None)
    if cache is None:
        return RcnnEncoder(network.backbone, network.levels)
    return KeptRcnnEncoder(network.backbone, network.levels, cache)
