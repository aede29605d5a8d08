"""The constants of each part of a detector, taken from the settings of the whole.

A part takes the values that it needs and knows no settings (``config/detection.py``); what a
setting is called and what a part calls it are written here, side by side.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from sppnet.config.detection import DetectionConfig, InferenceConfig
from sppnet.detection.assign import SamplingConfig
from sppnet.detection.finetune.head import HeadTuningConfig
from sppnet.detection.finetune.network import NetworkTuningConfig
from sppnet.detection.heads.box_regression import CascadeConfig
from sppnet.detection.heads.hard_negatives import MiningConfig
from sppnet.detection.heads.kernel_svm import KernelSvmConfig
from sppnet.detection.heads.svm_trainer import NormConfig, SvmConfig
from sppnet.training.optimizers import OptimizerConfig

T = TypeVar("T")
MEGABYTE = 10**6
SHARED = ("use_difficult", "seed")  # settings of several parts
# Percent of the updates after which the rate of a fine-tuning falls to a tenth.
HEAD_DROPS, NETWORK_DROPS = (50, 85), (75,)


def part_of(config: DetectionConfig, kind: type[T], prefix: str = "", **more: Any) -> T:
    """Make the constants of one part from the settings whose names are its fields' with a prefix.

    Args:
        config: All settings.
        kind: Class of the constants.
        prefix: What the settings are called more than the fields.
        more: Fields with other names.

    Example:
        >>> part_of(DetectionConfig(anchor_shapes=4, use_difficult=True), AnchorConfig, "anchor_")
        ...     # doctest: +ELLIPSIS
        AnchorConfig(shapes=4, bins=3, ... use_difficult=True, ...)
    """
    names = {field.name: prefix + field.name for field in fields(kind)}  # type: ignore[arg-type]
    shared = {name: getattr(config, name) for name in names if name in SHARED}
    own = {name: getattr(config, long) for name, long in names.items() if hasattr(config, long)}
    return kind(**{**shared, **own, **more})


def svm_config(config: DetectionConfig) -> SvmConfig:
    """Take the constants of the classifiers from the settings."""
    mining = part_of(
        config,
        MiningConfig,
        cost=config.svm_cost,
        tolerance=config.svm_tolerance,
        budget_bytes=MEGABYTE * config.svm_memory,
    )
    return part_of(
        config, SvmConfig, mining=mining, kernel=part_of(config, KernelSvmConfig, "kernel_")
    )


def norm_config(config: DetectionConfig) -> NormConfig:
    """Take the constants of the features' norm from the settings."""
    return part_of(config, NormConfig, "norm_", target=config.feature_norm)


def cascade_config(config: DetectionConfig) -> CascadeConfig:
    """Take the constants of box regression from the settings."""
    return part_of(
        config,
        CascadeConfig,
        "box_",
        class_agnostic=config.box_agnostic,
        most_samples=config.max_box_samples,
        total_samples=config.box_total,
    )


def head_tuning_config(config: DetectionConfig) -> HeadTuningConfig:
    """Take the constants of the fine-tuning of a head from the settings."""
    more = _tuning(config, HEAD_DROPS)
    return part_of(config, HeadTuningConfig, "tune_", flip=config.tune_flip == "on", **more)


def network_tuning_config(config: DetectionConfig) -> NetworkTuningConfig:
    """Take the constants of the fine-tuning of a network from the settings."""
    return part_of(
        config,
        NetworkTuningConfig,
        "tune_",
        flip=config.tune_flip != "off",
        trainable_from=config.tune_from,
        images_per_update=config.tune_images,
        **_tuning(config, NETWORK_DROPS),
    )


def _tuning(config: DetectionConfig, drops: Sequence[int]) -> dict[str, Any]:
    """What both ways of fine-tuning take under other names."""
    optimizer = OptimizerConfig(
        rate=config.tune_rate, momentum=config.tune_momentum, weight_decay=config.tune_weight_decay
    )
    return {
        "sampling": part_of(config, SamplingConfig, "tune_"),
        "optimizer": optimizer,
        "drop_at": tuple(percent / 100 for percent in config.tune_drops or drops),
        "validation_fraction": config.tune_validation,
        "check_every": min(config.tune_check_every, max(1, config.tune_updates // 4)),
        "widths": config.widths,
        "ranks": config.ranks,
    }


def inference_config(config: DetectionConfig) -> InferenceConfig:
    """Let new images be searched as those of the training were, with the recipe's testing."""
    return InferenceConfig(
        config.proposals,
        config.max_proposals,
        config.seed,
        max_anchors=config.max_anchors,
        search_side=config.search_side,
        least_side=config.least_side,
        recipe=config.recipe,
        # scores of overlaps hardly fall beside an object, those of SVMs do
        nms="soft" if config.classifier == "overlap" else "hard",
    )
