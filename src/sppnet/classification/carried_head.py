"""The head of a converted network: its old classifier on the average, new weights on the maxima."""

from typing import Any

from torch import Tensor, nn

# Layers that an old classifier may be made of, with the settings that make them again.
LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "BatchNorm1d": (nn.BatchNorm1d, ("num_features", "eps")),
    "Dropout": (nn.Dropout, ("p",)),
    "GELU": (nn.GELU, ("approximate",)),
    "Hardswish": (nn.Hardswish, ()),
    "LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps")),
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "ReLU": (nn.ReLU, ()),
    "ReLU6": (nn.ReLU6, ()),
    "SiLU": (nn.SiLU, ()),
    "Tanh": (nn.Tanh, ()),
}


class CarriedHead(nn.Module):
    """An old classifier for the average of a map, and what the maxima of a pyramid add to it.

    The added weights start at zero, so that at first the logits are those of the old classifier.

    Args:
        carried: From averages (N, channels) to logits.
        channels: Channels of the map.
        added_features: Length of the maxima of all levels.
        num_classes: Outputs.

    Example:
        >>> import torch
        >>> head = CarriedHead(nn.Sequential(nn.Linear(8, 3)), 8, 40, 3)
        >>> rows = torch.rand(2, 48)
        >>> torch.equal(head(rows), head.carried(rows[:, :8]))
        True
    """

    def __init__(
        self, carried: nn.Sequential, channels: int, added_features: int, num_classes: int
    ) -> None:
        super().__init__()
        self.channels = channels
        self.carried = carried
        self.added = nn.utils.skip_init(nn.Linear, added_features, num_classes, bias=False)
        nn.init.zeros_(self.added.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """Turn rows of `AverageAndPyramid` into (N, num_classes) logits."""
        average, maxima = rows.split([self.channels, self.added.in_features], dim=1)
        logits: Tensor = self.carried(average) + self.added(maxima)
        return logits

    def description(self) -> dict[str, Any]:
        """Describe the head in JSON values.

        Raises:
            TypeError: A layer of the old classifier is none of `LAYERS`.

        Example:
            >>> CarriedHead(nn.Sequential(nn.Dropout(0.2)), 3, 12, 3).description()["carried"]
            [{'layer': 'Dropout', 'p': 0.2}]
        """
        return {
            "kind": "carried",
            "carried": [_describe_layer(layer) for layer in self.carried],
            "channels": self.channels,
            "added_features": self.added.in_features,
            "num_classes": self.added.out_features,
        }

    @classmethod
    def restore(cls, description: dict[str, Any]) -> "CarriedHead":
        """Make the head that was described; the weights of the old classifier are new ones.

        Raises:
            KeyError, TypeError, ValueError: The description is not one of `description`.
        """
        layers = [_restore_layer(dict(layer)) for layer in description["carried"]]
        sizes = (description[key] for key in ("channels", "added_features", "num_classes"))
        return cls(nn.Sequential(*layers), *sizes)


def _describe_layer(layer: nn.Module) -> dict[str, Any]:
    name = type(layer).__name__
    if LAYERS.get(name, (None,))[0] is not type(layer):
        raise TypeError(f"layers must be of {', '.join(LAYERS)}, got {name}")
    values = {key: getattr(layer, key) for key in LAYERS[name][1]}
    return {"layer": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def _restore_layer(settings: dict[str, Any]) -> nn.Module:
    kind, keys = LAYERS[settings.pop("layer")]
    return kind(**{key: settings[key] for key in keys})
