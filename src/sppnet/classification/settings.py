"""Settings of the two ways to get a classifier; a TOML file and the flags fill the same classes."""

from dataclasses import dataclass

from sppnet.classification.network import POOLS
from sppnet.classification.views import VIEWS


@dataclass(frozen=True)
class FitSettings:
    """Frozen features and linear SVMs: minutes on a CPU, the way of the paper's section 3.3."""

    backbone: str = "squeezenet1_1"
    """Convolution trunk, by torchvision's name."""
    weights: str = "DEFAULT"
    """Weights of the trunk: DEFAULT, none or a safetensors file."""
    layer: str = ""
    """Earlier layer of the trunk to pool; empty is its last map."""
    pool: str = "spp"
    """Pooling of the map: spp, 6x6, avg or max."""
    levels: tuple[int, ...] = (1, 2, 3, 6)
    """Bins along each side, one number per level of the pyramid."""
    view: str = "full"
    """What of an image is seen: full, crop or warp."""
    imgsz: int = 224
    """Short side of the image in pixels."""
    c: float = 1.0
    """Cost of a margin violation of the SVMs."""
    seed: int = 0
    """Seed of random weights and of the split."""

    def __post_init__(self) -> None:
        _check_choice("pool", self.pool, POOLS)
        _check_choice("view", self.view, VIEWS)
        _check_positive(imgsz=self.imgsz, c=self.c)


@dataclass(frozen=True)
class TrainSettings:
    """Training of trunk and head together with stochastic gradient descent at several sizes."""

    backbone: str = "squeezenet1_1"
    """Convolution trunk, by torchvision's name."""
    weights: str = "DEFAULT"
    """Weights that the trunk starts from: DEFAULT, none or a safetensors file."""
    levels: tuple[int, ...] = (1, 2, 3, 6)
    """Bins along each side, one number per level of the pyramid."""
    imgsz: tuple[int, ...] = (180, 224)
    """Sides of the square training input; they take turns, one whole epoch each."""
    test_imgsz: int = 0
    """Short side of whole images at test; 0 takes the largest training size times 256 / 224."""
    hidden: tuple[int, ...] = ()
    """Width of each hidden layer of the head; the paper has 4096, 4096."""
    dropout: float = 0.5
    """Share of values that training sets to zero in the head."""
    epochs: int = 30
    """Passes over all training images."""
    batch: int = 32
    """Images in one update."""
    lr: float = 0.02
    """Highest learning rate of the head."""
    trunk_lr: float = -1.0
    """The trunk's rate over the head's; 0 freezes it; below 0: 1 from random weights, else 0.1."""
    momentum: float = 0.9
    """Momentum of the gradient descent."""
    weight_decay: float = 5e-4
    """Pull of the weights towards zero."""
    seed: int = 0
    """Seed of weights, split, order, crops and dropout."""

    def __post_init__(self) -> None:
        _check_positive(
            epochs=self.epochs, batch=self.batch, lr=self.lr, imgsz=min(self.imgsz or (0,))
        )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def trunk_share(self) -> float:
        """The trunk's learning rate as a share of the head's."""
        if self.trunk_lr >= 0:
            return self.trunk_lr
        return 1.0 if self.weights.lower() == "none" else 0.1

    @property
    def test_short_side(self) -> int:
        """Short side of whole images at test."""
        return self.test_imgsz or round(max(self.imgsz) * 256 / 224)


def _check_choice(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ValueError(f"{name} must be one of {', '.join(legal)}, got {value!r}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
