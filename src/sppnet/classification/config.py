"""Settings of the two ways to get a classifier; a TOML file and the flags fill the same classes."""

from dataclasses import dataclass, replace
from typing import TypeVar

from sppnet.classification.network import POOLS
from sppnet.classification.train.augmentation import Augmentation
from sppnet.classification.train.config import InputSizes, TrainerConfig
from sppnet.classification.transfer.recipe import Block, FeatureRecipe, load_recipe
from sppnet.classification.transfer.selection import COSTS
from sppnet.classification.transfer.svm import LOSSES
from sppnet.training.optimizers import OptimizerConfig
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


@dataclass(frozen=True)
class TrainConfig:
    """Training of trunk and head together with gradient descent, at one size or at many."""

    backbone: str = "squeezenet1_1"
    """Convolution trunk, by name."""
    weights: str = "DEFAULT"
    """Weights that the trunk starts from: DEFAULT, none or a safetensors file."""
    pool: str = "spp"
    """Pooling of the map: spp, 6x6, avg, max or spp+avg."""
    levels: tuple[int, ...] = (1, 2, 3, 6)
    """Bins along each side, one number per level of the pyramid."""
    imgsz: str = "180,224"
    """Input sizes: 224, 180,224 (one epoch each), 180-224 (drawn per epoch), natural[:SIZES]."""
    test_imgsz: int = 0
    """Short side of whole images at test; 0 takes what training saw the images at."""
    hidden: tuple[int, ...] = ()
    """Width of each hidden layer of the head; the paper has 4096, 4096."""
    dropout: float = 0.5
    """Share of values that training sets to zero in the head."""
    feature_norm: float = 20.0
    """Length to which pooled vectors are scaled; 0 leaves them as they are, as in the paper."""
    epochs: int = 30
    """Passes over all training images."""
    batch: int = 32
    """Images in one update, over all processes."""
    accumulate: int = 1
    """Parts in which a batch goes through the network; more need less memory."""
    lr: float = 0.02
    """Highest learning rate of the head."""
    trunk_lr: float = -1.0
    """The trunk's rate over the head's; 0 freezes it; below 0: 1 from random weights, else 0.1."""
    schedule: str = "plateau"
    """How the rate falls: plateau (by ten, twice) or cosine."""
    patience: int = 5
    """Epochs without improvement that make a plateau."""
    optimizer: str = "sgd"
    """Gradient descent with momentum (sgd), or adamw."""
    momentum: float = 0.9
    """Momentum of the gradient descent."""
    weight_decay: float = 5e-4
    """Pull of the weights towards zero."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is saved; 0 is none."""
    amp: bool = False
    """Compute in bfloat16 where it is safe; weights stay float32."""
    crops: str = "random"
    """Where crops lie in the whole image: random, paper (centre and corners) or centre."""
    flip: bool = True
    """Mirror half of the images."""
    colour_noise: float = 0.1
    """Noise along the principal components of colours; the usual is 0.1, and 0 is none."""
    seed: int = 0
    """Seed of weights, split, order, crops and dropout."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        _check_choice("pool", self.pool, POOLS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not self.feature_norm >= 0:
            raise ValueError(f"feature_norm must be at least 0, got {self.feature_norm}")
        self.plan()

    def plan(self) -> TrainerConfig:
        """The values of the training itself.

        Raises:
            ValueError: If one is out of range.
        """
        return TrainerConfig(
            epochs=self.epochs,
            sizes=InputSizes.parse(self.imgsz),
            batch=self.batch,
            accumulate=self.accumulate,
            optimizer=OptimizerConfig(self.lr, self.optimizer, self.momentum, self.weight_decay),
            trunk_rate=self.trunk_share,
            schedule=self.schedule,
            patience=self.patience,
            label_smoothing=self.label_smoothing,
            averaging=self.ema,
            mixed_precision=self.amp,
            augmentation=Augmentation(self.crops, self.flip, self.colour_noise),
            seed=self.seed,
        )

    @property
    def trunk_share(self) -> float:
        """The trunk's learning rate as a share of the head's."""
        if self.trunk_lr >= 0:
            return self.trunk_lr
        return 1.0 if self.weights.lower() == "none" else 0.1

    @property
    def test_short_side(self) -> int:
        """Short side of whole images at test."""
        return self.test_imgsz or self.plan().short_side
