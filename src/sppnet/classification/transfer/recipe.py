"""Recipes of features: blocks of pooled layers, whose linear kernels add up."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from sppnet.config.classification import (
    AUTO,
    LARGEST_SIDE,
    LOSSES,
    NORMS,
    POOLS,
    SHORT_SIDES,
    VIEWS,
    FitConfig,
)
from sppnet.config.fields import Levels, OneOf, Positive, Within, check_fields, restore_fields
from sppnet.errors import UnusableFileError, UsageError
from sppnet.storage import read_bytes

MAX_BYTES = 1_000_000
MOST_BLOCKS = 100
FIRST_HIDDEN = 6  # the paper counts its fully connected layers on after five convolutions


@dataclass(frozen=True)
class Block:
    """One layer of one view of the image, pooled and scaled.

    Args:
        layer: Node of the trunk as ``build_backbone`` takes it; ``"fc6"``, ``"fc7"``, ... are the
            hidden layers of a trained network, after its own pooling; None is the last map.
        pool: Pooling of the map: ``"spp"``, ``"spp+avg"``, ``"6x6"``, ``"avg"`` or ``"max"``.
        levels: Bins along each side, for the pyramids.
        view: What of the image is seen: ``"full"``, ``"crop"``, ``"warp"`` or ``"native"``.
        short_side: Its short side in pixels.
        flip: Whether to take the mean of the image's and its mirror image's features.
        norm: ``"l2"`` scales the row to length 1; ``"power"`` takes signed square roots first;
            ``"none"`` leaves it as it is.
        weight: Share of this block's kernel in the sum.

    Raises:
        ValueError: If a word is unknown or a number out of range.
    """

    layer: str | None = None
    pool: Annotated[str, OneOf(POOLS)] = "spp"
    levels: Levels = (1, 2, 3, 6)
    view: Annotated[str, OneOf(VIEWS)] = "full"
    short_side: Annotated[int, Within(1, LARGEST_SIDE)] = 224
    flip: bool = False
    norm: Annotated[str, OneOf(NORMS)] = "l2"
    weight: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def hidden_layer(self) -> int | None:
        """Number of the hidden fully connected layer, from 0; None for a map of the trunk.

        Example:
            >>> Block("fc7").hidden_layer, Block("features.9").hidden_layer
            (1, None)
        """
        number = (self.layer or "").removeprefix("fc")
        if self.layer != f"fc{number}" or not number.isdecimal() or int(number) < FIRST_HIDDEN:
            return None
        return int(number) - FIRST_HIDDEN


@dataclass(frozen=True)
class FeatureRecipe:
    """Blocks whose rows are put side by side: their linear kernels add up.

    Args:
        blocks: At least one.
        loss: What the linear machines on the rows minimise: ``"hinge"`` or ``"squares"``.

    Raises:
        ValueError: If there is no block, or the loss is unknown.

    Example:
        >>> FeatureRecipe((Block(), Block("features.9"))).is_plain, FeatureRecipe().is_plain
        (False, True)
    """

    blocks: tuple[Block, ...] = (Block(),)
    loss: str = "hinge"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if not 1 <= len(self.blocks) <= MOST_BLOCKS:
            rule = f"at least one and at most {MOST_BLOCKS}"
            raise ValueError(f"blocks must be {rule}, got {len(self.blocks)}")

    @property
    def is_plain(self) -> bool:
        """Whether this is one pooled map scaled to length 1: an ordinary network can hold it."""
        first = self.blocks[0]
        is_map = first.hidden_layer is None
        return len(self.blocks) == 1 and is_map and not first.flip and first.norm == "l2"

    @property
    def feature_norm(self) -> float | None:
        """Length to which whole rows are scaled; None if a block is to be left as it is."""
        return None if any(block.norm == "none" for block in self.blocks) else 1.0

    def at_short_side(self, short_side: int) -> "FeatureRecipe":
        """The same blocks with all scales in proportion, the first at another short side."""
        ratio = short_side / self.blocks[0].short_side
        sides = [max(1, round(block.short_side * ratio)) for block in self.blocks]
        pairs = zip(self.blocks, sides, strict=True)
        blocks = tuple(replace(block, short_side=side) for block, side in pairs)
        return replace(self, blocks=blocks)

    def config(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return {"loss": self.loss, "blocks": [asdict(block) for block in self.blocks]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FeatureRecipe":
        """Make the recipe that was described.

        Raises:
            KeyError, TypeError, ValueError: If the description is not one of :meth:`config`.
        """
        for key in config:
            if key not in ("blocks", "loss"):
                raise ValueError(f"a recipe's keys must be blocks and loss, got {key!r}")
        loss = config.get("loss", "hinge")
        if not isinstance(loss, str) or not isinstance(config["blocks"], list):
            raise TypeError("a recipe's blocks must be a list and its loss a word")
        return cls(tuple(_restore_block(block) for block in config["blocks"]), loss)


def _restore_block(values: Mapping[str, Any]) -> Block:
    """Make one block; an unknown key is an error that names the legal ones."""
    legal = [field.name for field in fields(Block)]
    for key in values:
        if key not in legal:
            raise ValueError(f"a block's keys must be among {', '.join(legal)}, got {key!r}")
    return replace(restored := restore_fields(Block, values, "block"), layer=restored.layer or None)


def _sum(*blocks: Block) -> FeatureRecipe:
    return FeatureRecipe(blocks, loss="squares")


# How the name of a trunk begins -> the recipe that measured best for it; docs/transfer.md has what
# else was tried. SqueezeNet's features.10 is the eighth of its layers from the image.
BEST: dict[str, FeatureRecipe] = {
    "": _sum(Block(view="warp"), Block(), Block(short_side=320)),
    "squeezenet": _sum(
        Block(view="warp", short_side=224),
        Block("features.10", view="warp", short_side=224),
        Block(view="full", short_side=320),
        Block("features.10", view="full", short_side=320),
    ),
}
RECIPES: dict[str, FeatureRecipe] = {"paper": FeatureRecipe(), "best": BEST[""]}


def best_recipe(backbone: str) -> FeatureRecipe:
    """Look up the recipe that measured best for a trunk, or for trunks in general.

    Example:
        >>> [block.layer for block in best_recipe("squeezenet1_1").blocks]
        [None, 'features.10', None, 'features.10']
        >>> [(block.view, block.short_side) for block in best_recipe("resnet18").blocks]
        [('warp', 224), ('full', 224), ('full', 320)]
    """
    return BEST[max((start for start in BEST if backbone.startswith(start)), key=len)]


def load_recipe(name: str, backbone: str = "") -> FeatureRecipe:
    """Take a recipe by its name, or read one from a TOML file of ``[[blocks]]``.

    Args:
        name: One of ``RECIPES``, or a path.
        backbone: The trunk that it is for; the best one depends on it.

    Returns:
        The recipe.

    Raises:
        UsageError: If there is neither, or the file is no recipe; names the file and the rule.

    Example:
        >>> load_recipe("paper") == FeatureRecipe()
        True
    """
    if name in RECIPES:
        return best_recipe(backbone) if name == "best" else RECIPES[name]
    if not Path(name).is_file():
        raise UsageError(f"recipe must be {', '.join(RECIPES)} or a TOML file, got {name!r}")
    try:
        return FeatureRecipe.from_config(tomllib.loads(read_bytes(name, MAX_BYTES).decode()))
    except UnusableFileError as error:
        raise UsageError(error.message, path=name) from error
    except KeyError as error:
        raise UsageError("a recipe must hold [[blocks]]", path=name) from error
    except (TypeError, ValueError) as error:  # of TOML, of UTF-8, of the blocks
        raise UsageError(f"not a recipe: {error}", path=name) from error


def recipes_of(settings: FitConfig) -> tuple[FeatureRecipe, ...]:
    """Make the recipes that settings leave to choose from; they differ in their sizes alone.

    Raises:
        UsageError: If there is no such recipe, or its file is none.

    Example:
        >>> [recipe.blocks[0].short_side for recipe in recipes_of(FitConfig(imgsz="auto"))]
        [160, 224, 320]
    """
    recipe = (
        load_recipe(settings.recipe, settings.backbone)
        if settings.recipe
        else FeatureRecipe(_blocks(settings), loss="squares")
    )
    recipe = replace(recipe, loss=settings.loss or recipe.loss)
    if settings.imgsz != AUTO:
        return (recipe,)
    return tuple(recipe.at_short_side(side) for side in SHORT_SIDES)


def _blocks(settings: FitConfig) -> tuple[Block, ...]:
    """A block for every size and layer."""
    return tuple(
        Block(
            layer,
            settings.pool,
            settings.levels,
            settings.view,
            short_side,
            settings.flip,
            settings.norm,
        )
        for short_side in settings.short_sides
        for layer in settings.layers
    )
