"""Poolings and heads as plain values, and back: what a saved classifier's JSON says of them."""

from typing import Any

from torch import nn

from sppnet.classification.convert import PretrainedPlusPyramidHead
from sppnet.classification.network import (
    AverageAndPyramid,
    FixedNorm,
    GlobalAveragePool,
    build_head,
    build_pool,
)
from sppnet.pooling import SpatialPyramidPool


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
        KeyError, TypeError, ValueError: If the description is not one of :func:`pool_to_config`.

    Example:
        >>> pool_from_config({"kind": "spp", "levels": [1, 2]})
        SpatialPyramidPool(levels=(1, 2))
    """
    kind = config["kind"]
    if kind == "avg":
        return GlobalAveragePool()
    if kind not in ("spp", "spp+avg"):
        raise ValueError(f"pool must be spp, spp+avg or avg, got {kind!r}")
    return build_pool(kind, config["levels"])


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
    return build_head(
        config["in_features"],
        config["num_classes"],
        tuple(config["hidden"]),
        dropout=config["dropout"],
        feature_norm=config["feature_norm"],
    )
