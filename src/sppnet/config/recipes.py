"""Recipes of detection: the paper's constants by name, beside those that we found to be best.

A file of its own because it is read beside the paper: every constant of the paper and of the
authors' code in one place. ``best`` is what the classes of settings have as defaults.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")

# Section 4.1 and the released code; where the two differ, a comment says which one is taken.
PAPER_TRAINING: Mapping[str, Any] = {
    "imgsz": (480, 576, 688, 864, 1200),  # 874 in the code
    "max_long_side": 0,
    "levels": (1, 2, 3, 6),
    "projection": "released",
    "target_side": 224.0,  # 208 in the code
    "proposals": "selective_search",
    "max_proposals": 2000,
    "search_side": 0,
    "least_side": 20,
    "anchors": False,
    "tune": "head",
    "tune_updates": 200_000,  # of the code, and so are its rates; 300,000 in the paper
    "tune_rate": 1e-3,
    "tune_drops": (15, 30),
    "tune_batch": 128,
    "tune_positive_share": 0.25,
    "tune_positive_from": 0.5,
    "tune_negative_from": 0.1,
    "tune_negative_below": 0.5,
    "tune_dropout": 0.5,
    "tune_momentum": 0.9,
    "tune_weight_decay": 5e-4,
    "tune_check_every": 2000,
    "tune_flip": "on",
    "widths": (4096, 4096),
    "ranks": (0, 0),
    "features": "auto",
    "classifier": "svm",
    "prefilter": 0,
    "mirror": "off",
    "crops": "off",
    "use_difficult": False,
    "extra_positives": 0,
    "negative_below": 0.3,
    "negative_overlap": 0.7,  # in the paper only
    "feature_norm": 20.0,
    "norm_images": 200,
    "norm_proposals": 200,
    "svm_cost": 1e-3,
    "positive_weight": 2.0,
    "bias_factor": 10.0,
    "hard_above": -1.0001,
    "easy_below": -1.2,
    "refit_after": 2000,
    "box_regression": True,
    "box_strength": 4000.0,  # of the code; 1000 in R-CNN
    "box_overlap": 0.5,
    "box_spread": 1e-3,
    "box_per_image": 2000,
    "box_stages": 1,
    "box_bins": "cells",
    "box_agnostic": "off",
}
# spp_test.m: suppression, then box regression with the scores as they were, then suppression again.
PAPER_TESTING: Mapping[str, Any] = {
    **{name: PAPER_TRAINING[name] for name in ("proposals", "max_proposals")},
    **{name: PAPER_TRAINING[name] for name in ("search_side", "least_side")},
    "score_threshold": -1.5,
    "nms": "hard",
    "nms_threshold": 0.3,
    "max_detections": 100,
    "max_per": "class",
    "refined": "kept",
    "moved_per_class": 0,
    "rescore": False,
    "vote_overlap": 1.0,
    "softmax_temperature": 0.0,
    "flip": False,
}


def with_recipes(recipes: Mapping[str, Mapping[str, Any]]) -> Callable[[type[T]], type[T]]:
    """Let the field ``recipe`` of a dataclass decide what others are where they are not given.

    Args:
        recipes: Name -> field -> value; the defaults of the class hold for all other fields.

    Returns:
        A decorator; it stands above ``dataclass``. A value that is given outranks the recipe.

    Example:
        >>> from dataclasses import dataclass
        >>> @with_recipes({"slow": {"minutes": 90, "degrees": 120}})
        ... @dataclass(frozen=True)
        ... class Baking:
        ...     minutes: int = 30
        ...     degrees: int = 180
        ...     recipe: str = "usual"
        >>> Baking(recipe="slow", degrees=140)
        Baking(minutes=90, degrees=140, recipe='slow')
    """

    def decorate(kind: type[T]) -> type[T]:
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        plain = kind.__init__

        @wraps(plain)
        def fill(self: T, *args: Any, **given: Any) -> None:
            named = {**dict(zip(names, args, strict=False)), **given}
            decided = recipes.get(named.get("recipe", ""), {})
            added = {name: value for name, value in decided.items() if name not in named}
            plain(self, *args, **given, **added)

        kind.__init__ = fill  # type: ignore[method-assign, assignment]
        return kind

    return decorate
