"""Settings of the two ways to get a classifier; a TOML file and the flags fill the same classes."""

import re
from dataclasses import dataclass
from math import inf
from typing import Annotated, TypeVar

from sppnet.config.fields import (
    Count,
    Each,
    Engine,
    Flag,
    Levels,
    OneOf,
    Positive,
    Seed,
    Share,
    Within,
    check_fields,
)

POOLS = ("spp", "spp+avg", "6x6", "avg", "max")
VIEWS = ("full", "crop", "warp", "native")
NORMS = ("l2", "power", "none")
LOSSES = ("hinge", "squares")
CROPS = ("random", "paper", "centre")
SCHEDULES = ("plateau", "cosine")
OPTIMIZERS = ("sgd", "adamw")
# What --c auto chooses from, in this order: of equal figures the earlier wins. Where few images
# make all figures alike, 10 measured better than the smallest (docs/transfer.md).
COSTS = (10.0, 30.0, 100.0, 3.0, 1.0)
SHORT_SIDES = (160, 224, 320)  # what --imgsz auto chooses from
LARGEST_SIDE = 9999  # of what --imgsz takes, in pixels
AUTO, LAST = "auto", "last"
BLOCK_FIELDS = ("layer", "pool", "levels", "view", "imgsz", "norm", "flip")
AtLeastZero = Annotated[float, Within(0)]
SIDE = Within(1, 10**4)  # of an image, in pixels
N = TypeVar("N", int, float)


def parse_sizes(text: str) -> tuple[tuple[int, ...], bool, bool]:
    """Read ``224``, ``180,224``, ``180-224``, ``natural``, ``natural:192`` or the like.

    Args:
        text: Sizes in pixels, below 10000.

    Returns:
        The sizes, whether they are the ends of a range, and whether images keep their own shape.

    Raises:
        ValueError: If the text is none of them.

    Example:
        >>> parse_sizes("180-224"), parse_sizes("natural")
        (((180, 224), True, False), ((224,), False, True))
    """
    word, _, rest = text.replace(" ", "").partition(":")
    numbers = (rest or "224") if word == "natural" else text.replace(" ", "")
    if not re.fullmatch(r"\d{1,4}(-\d{1,4}|(,\d{1,4})*)", numbers):
        rule = "imgsz must be N, N,N,..., N-N or natural[:N], numbers below 10000"
        raise ValueError(f"{rule}, got {text!r}")
    sides = tuple(int(number) for number in re.split("[-,]", numbers))
    if min(sides) < 1:
        raise ValueError(f"imgsz must be one or more positive numbers, got {text!r}")
    return sides, "-" in numbers, word == "natural"


@dataclass(frozen=True)
class FitConfig:
    """Frozen features and linear SVMs: minutes on a CPU, the way of the paper's section 3.3."""

    backbone: Annotated[str, Flag("NAME|FOLDER", "Trunk")] = "efficientnet_lite0"
    """Convolution trunk, by name, or the folder of a trained model to take features from."""
    weights: Annotated[str, Flag("DEFAULT|none|FILE")] = "DEFAULT"
    """Weights of the trunk: DEFAULT, none or a safetensors file."""
    engine: Engine = "auto"
    """What convolves by a frozen trunk on a CPU: onnxruntime, torch, or auto, which is onnxruntime
    where it is installed and knows all layers of the trunk; the model keeps the choice."""
    recipe: Annotated[str, Flag("paper|best|FILE", "Features")] = ""
    """Features by recipe: paper, best or a TOML file; the settings of one block then stay away."""
    layer: Annotated[str, Flag("NAME,...")] = ""
    """Layers to pool, with commas; "last" or empty is the last map, fc6 and fc7 a model's own."""
    pool: Annotated[str, OneOf(POOLS)] = "spp"
    """Pooling of the map."""
    levels: Levels = (1, 2, 3, 6)
    """Bins along each side, one number per level of the pyramid."""
    view: Annotated[str, OneOf(VIEWS)] = "full"
    """What of an image is seen."""
    imgsz: Annotated[int | str, Flag("N,...|auto")] = 224
    """Short sides of the image in pixels, with commas; auto chooses one on training images."""
    norm: Annotated[str, OneOf(NORMS)] = "l2"
    """Scale of a block's rows: l2, power (signed square roots first) or none."""
    flip: bool = False
    """Whether to take the mean of the image's and its mirror image's features."""
    loss: Annotated[str, OneOf(("", *LOSSES)), Flag("hinge|squares", "SVM")] = ""
    """What the SVMs minimise; if it is not given, what the recipe says, else squares."""
    c: Annotated[float | str, Flag("C|auto")] = AUTO
    """Cost of a margin violation of the SVMs; auto chooses it on training images."""
    seed: Seed = 0
    """Seed of random weights, of the split and of validation parts."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_positive(c=min(self.costs))
        changed = [name for name in BLOCK_FIELDS if getattr(self, name) != getattr(FitConfig, name)]
        if self.recipe and self.imgsz == AUTO:
            changed.remove("imgsz")
        if self.recipe and changed:
            raise ValueError(f"{changed[0]} must not be given beside recipe, which has its own")
        for side in self.short_sides:
            if not SIDE.accepts(side):
                raise ValueError(f"imgsz must be {SIDE}, got {side}")

    @property
    def costs(self) -> tuple[float, ...]:
        """Costs to choose from."""
        return COSTS if self.c == AUTO else (_number("c", self.c, float),)

    @property
    def short_sides(self) -> tuple[int, ...]:
        """Short sides of the blocks."""
        sides = "224" if self.imgsz == AUTO else str(self.imgsz)
        return tuple(_number("imgsz", side, int) for side in sides.split(","))

    @property
    def layers(self) -> tuple[str | None, ...]:
        """Layers of the blocks; None for the last map."""
        return tuple(None if name in ("", LAST) else name for name in self.layer.split(","))


def _number(name: str, text: float | str, kind: type[N]) -> N:
    """Read one number."""
    try:
        return kind(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} must be {AUTO} or a number, got {text!r}") from None


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < inf:
            raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class TrainConfig:
    """Training of trunk and head together with gradient descent, at one size or at many."""

    backbone: Annotated[str, Flag("NAME", "Network")] = "efficientnet_lite0"
    """Convolution trunk, by name."""
    weights: Annotated[str, Flag("DEFAULT|none|FILE")] = "DEFAULT"
    """Weights that the trunk starts from: DEFAULT, none or a safetensors file."""
    pool: Annotated[str, OneOf(POOLS)] = "spp"
    """Pooling of the map; 6x6 is the paper's network without pyramid."""
    levels: Levels = (1, 2, 3, 6)
    """Bins along each side, one number per level of the pyramid."""
    imgsz: Annotated[str, Flag("SIZES", "Images")] = "180,224"
    """Input sizes: 224, 180,224 (one epoch each), 180-224 (drawn per epoch), natural[:SIZES]."""
    test_imgsz: Annotated[int, Within(0, 4096)] = 0
    """Short side of whole images at test; 0 takes what training saw the images at."""
    hidden: Annotated[tuple[int, ...], Each(Within(1, 10**6)), Flag("N,N,...", "Network")] = ()
    """Width of each hidden layer of the head; the paper has 4096, 4096."""
    dropout: Share = 0.5
    """Share of values that training sets to zero in the head."""
    feature_norm: AtLeastZero = 20.0
    """Length to which pooled vectors are scaled; 0 leaves them as they are, as in the paper."""
    epochs: Annotated[Count, Flag(group="Training")] = 30
    """Passes over all training images."""
    batch: Annotated[int, Within(1, 4096)] = 32
    """Images in one update, over all processes."""
    accumulate: Annotated[int, Within(1, 4096)] = 1
    """Parts in which a batch goes through the network; more need less memory."""
    lr: Positive = 0.02
    """Highest learning rate of the head."""
    trunk_lr: Annotated[float, Within()] = -1.0
    """The trunk's rate over the head's; 0 freezes it; below 0: 1 from random weights, else 0.1."""
    schedule: Annotated[str, OneOf(SCHEDULES)] = "plateau"
    """How the rate falls: plateau (by ten, twice) or cosine."""
    patience: Count = 5
    """Epochs without improvement that make a plateau."""
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "sgd"
    """Gradient descent with momentum (sgd), or adamw."""
    momentum: Share = 0.9
    """Momentum of the gradient descent."""
    weight_decay: AtLeastZero = 5e-4
    """Pull of the weights towards zero."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread over all classes."""
    ema: Share = 0.0
    """Decay of the moving average of the weights, which is then what is saved; 0 is none."""
    amp: bool = False
    """Compute in bfloat16 where it is safe; weights stay float32."""
    crops: Annotated[str, OneOf(CROPS), Flag(group="Images")] = "random"
    """Where crops lie in the whole image: random, paper (centre and corners) or centre."""
    flip: bool = True
    """Mirror half of the images."""
    colour_noise: Annotated[float, Within(0, 10, below=True)] = 0.1
    """Noise along the principal components of colours; the usual is 0.1, and 0 is none."""
    seed: Seed = 0
    """Seed of weights, split, order, crops and dropout."""

    def __post_init__(self) -> None:
        check_fields(self)
        parse_sizes(self.imgsz)

    @property
    def trunk_share(self) -> float:
        """The trunk's learning rate as a share of the head's."""
        if self.trunk_lr >= 0:
            return self.trunk_lr
        return 1.0 if self.weights.lower() == "none" else 0.1
