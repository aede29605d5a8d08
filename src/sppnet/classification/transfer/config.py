"""Settings of linear SVMs on frozen features."""

from dataclasses import dataclass, replace
from typing import TypeVar

from sppnet.classification.transfer.recipe import Block, FeatureRecipe, load_recipe
from sppnet.classification.transfer.selection import COSTS
from sppnet.classification.transfer.svm import LOSSES
from sppnet.training.seeds import check_seed

AUTO, LAST = "auto", "last"
SHORT_SIDES = (160, 224, 320)  # what --imgsz auto chooses from
BLOCK_FIELDS = ("layer", "pool", "levels", "view", "imgsz", "norm", "flip")
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class FitConfig:
    """Frozen features and linear SVMs: minutes on a CPU, the way of the paper's section 3.3."""

    backbone: str = "squeezenet1_1"
    """Convolution trunk, by name, or the folder of a trained model to take features from."""
    weights: str = "DEFAULT"
    """Weights of the trunk: DEFAULT, none or a safetensors file."""
    recipe: str = ""
    """Features by recipe: paper, best or a TOML file; the settings of one block then stay away."""
    layer: str = ""
    """Layers to pool, with commas; "last" or empty is the last map, fc6 and fc7 a model's own."""
    pool: str = "spp"
    """Pooling of the map: spp, spp+avg, 6x6, avg or max."""
    levels: tuple[int, ...] = (1, 2, 3, 6)
    """Bins along each side, one number per level of the pyramid."""
    view: str = "full"
    """What of an image is seen: full, crop, warp or native."""
    imgsz: int | str = 224
    """Short sides of the image in pixels, with commas; auto chooses one on training images."""
    norm: str = "l2"
    """Scale of a block's rows: l2, power (signed square roots first) or none."""
    flip: bool = False
    """Whether to take the mean of the image's and its mirror image's features."""
    loss: str = ""
    """What the SVMs minimise: hinge or squares; empty is the recipe's own, else hinge."""
    c: float | str = "auto"
    """Cost of a margin violation of the SVMs; auto chooses it on training images."""
    seed: int = 0
    """Seed of random weights, of the split and of validation parts."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.loss:
            _check_choice("loss", self.loss, LOSSES)
        _check_positive(c=min(self.costs))
        changed = [name for name in BLOCK_FIELDS if getattr(self, name) != getattr(FitConfig, name)]
        if self.recipe and self.imgsz == AUTO:
            changed.remove("imgsz")
        if self.recipe and changed:
            raise ValueError(f"{changed[0]} must not be given beside recipe, which has its own")
        if not self.recipe:
            self.recipes()

    @property
    def costs(self) -> tuple[float, ...]:
        """Costs to choose from."""
        return COSTS if self.c == AUTO else (_number("c", self.c, float),)

    def recipes(self) -> tuple[FeatureRecipe, ...]:
        """Recipes to choose from.

        Raises:
            ValueError: If a setting is out of range.
            UsageError: If there is no such recipe, or its file is none.
        """
        recipe = load_recipe(self.recipe) if self.recipe else FeatureRecipe(self._blocks())
        recipe = replace(recipe, loss=self.loss or recipe.loss)
        if self.imgsz != AUTO:
            return (recipe,)
        return tuple(recipe.at_short_side(side) for side in SHORT_SIDES)

    def _blocks(self) -> tuple[Block, ...]:
        """A block for every size and layer."""
        sides = "224" if self.imgsz == AUTO else str(self.imgsz)
        layers = [None if name in ("", LAST) else name for name in self.layer.split(",")]
        return tuple(
            Block(
                layer,
                self.pool,
                self.levels,
                self.view,
                _number("imgsz", side, int),
                self.flip,
                self.norm,
            )
            for side in sides.split(",")
            for layer in layers
        )


def _number(name: str, text: float | str, kind: type[N]) -> N:
    """Read one number above 0."""
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{name} must be {AUTO} or a number, got {text!r}") from None
    _check_positive(**{name: value})
    return value


def _check_choice(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ValueError(f"{name} must be one of {', '.join(legal)}, got {value!r}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
