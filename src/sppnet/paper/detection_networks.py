"""The networks of tables 9 to 12: trunk, pyramid and fully connected layers that were trained."""

from dataclasses import dataclass

import torch
from torch import nn

from sppnet.backbones import Backbone
from sppnet.classification.convert import convert_classifier
from sppnet.detection.heads.region_head import RegionHead
from sppnet.errors import UsageError
from sppnet.paper.frozen import FrozenNetwork, find_network, load_stand_in
from sppnet.paper.slots import Slot
from sppnet.paper.supplies import Supplies
from sppnet.pooling import SpatialPyramidPool
from sppnet.pooling.bins import DEFAULT_LEVELS

ZF, ZF_SECOND, ALEX = "ZF-5", "second ZF-5", "Alex-5"
ALEX_LEVELS = (6,)
ALEX_DIFFERS = "torchvision's AlexNet"


@dataclass(frozen=True)
class DetectionNetwork:
    """A network whose trunk makes the maps, and whose hidden layers describe windows.

    Args:
        backbone: Its trunk.
        levels: Bins along each side of its pyramid.
        hidden: fc6 and fc7 as they were trained; None where there are none for these windows.
        differs: What is not as in the paper.
    """

    backbone: Backbone
    levels: tuple[int, ...]
    hidden: tuple[nn.Linear, nn.Linear] | None
    differs: str = ""

    def build_head(
        self, length: int, num_classes: int, widths: tuple[int, int], seed: int = 0
    ) -> RegionHead:
        """Make fc6 and fc7 as they were trained, or new ones, with new logits on top.

        Args:
            length: Numbers per pooled vector.
            num_classes: K.
            widths: Of new layers.
            seed: Of new weights.

        Returns:
            The head, in evaluation mode, where the trunk is.
        """
        if self.hidden is not None:
            widths = (self.hidden[0].out_features, self.hidden[1].out_features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = RegionHead(length, num_classes, widths)
        for name, layer in zip(("fc6", "fc7"), self.hidden or (), strict=False):
            getattr(head, name)[0].load_state_dict(layer.state_dict())
        device = next(self.backbone.parameters()).device
        return head.to(device).eval()


def find_detection_network(name: str, supplies: Supplies) -> DetectionNetwork | str:
    """Find a network, or what stands in for it, or say what is missing.

    Args:
        name: `ZF`, `ZF_SECOND` or `ALEX`.
        supplies: Where everything is.
    """
    if name == ALEX:
        return _find_alexnet(supplies)
    slot = Slot("ZF-5", "multi" if name == ZF else "multi-2")
    if name == ZF_SECOND and slot.find(supplies) is None and supplies.backbone:
        if not supplies.second:
            return "a second network; let --second NAME stand in"
        return _of_frozen(load_stand_in(supplies.second, supplies.second_weights, supplies))
    found = find_network(slot, supplies)
    return found if isinstance(found, str) else _of_frozen(found)


def _find_alexnet(supplies: Supplies) -> DetectionNetwork | str:
    """Take torchvision's AlexNet if its weights are there."""
    try:
        network = convert_classifier("alexnet", levels=ALEX_LEVELS).to(supplies.device)
    except UsageError as error:
        if supplies.backbone:
            return _of_frozen(load_stand_in(supplies.backbone, supplies.weights, supplies))
        return f"{error.message}; or let --backbone NAME stand in"
    return _of_frozen(FrozenNetwork(network.backbone, network.pool, network.head, ALEX_DIFFERS))  # type: ignore[arg-type]


def _of_frozen(network: FrozenNetwork) -> DetectionNetwork:
    """Take the parts that windows can be described by."""
    pool, head = network.pool, network.head
    if not isinstance(pool, SpatialPyramidPool) or not isinstance(head, nn.Sequential):
        return DetectionNetwork(network.backbone, DEFAULT_LEVELS, None, network.differs)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    has_two = len(linear) == 3 and isinstance(head[0], nn.Linear)  # a norm in front is no part
    hidden = (linear[0], linear[1]) if has_two else None
    return DetectionNetwork(network.backbone, pool.levels, hidden, network.differs)
