"""A moving average of a network's weights, often better than the last ones."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of weights and of normalisation statistics.

    The first updates count more than ``decay`` says, so that the random beginning is soon
    forgotten: after t updates the decay is (1 + t) / (10 + t) until that is larger.

    Args:
        network: Whose weights are averaged.
        decay: Share of the old average that each update keeps, 0 or more and below 1.

    Attributes:
        tensors: Name -> average.
        updates: How many there were.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> average = WeightAverage(layer, 0.9)
        >>> average.update(layer)
        >>> torch.equal(average.tensors["weight"], layer.weight)
        True

    Source:
        Polyak and Juditsky 1992; the beginning as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.tensors = {name: t.detach().clone() for name, t in _floats(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take up the weights after one update."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, tensor in _floats(network).items():
            self.tensors[name].lerp_(tensor, 1 - keep)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from an average that was saved."""
        self.updates = updates
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def put_into(self, network: nn.Module) -> None:
        """Replace the network's weights by their average."""
        for name, tensor in _floats(network).items():
            tensor.copy_(self.tensors[name])


def _floats(network: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics; counters have no average."""
    return {name: t for name, t in network.state_dict().items() if t.is_floating_point()}
