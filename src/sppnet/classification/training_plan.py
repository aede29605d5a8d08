"""What one training does, in plain values; every number that its result depends on."""

from dataclasses import dataclass, field

from sppnet.classification.augmentation import Augmentation
from sppnet.classification.schedule import InputSizes
from sppnet.classification.view_plans import BASE_SIDE, BASE_WINDOW
from sppnet.training.schedules import cosine_share, plateau_share

SCHEDULES = ("plateau", "cosine")
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class TrainingPlan:
    """What one training does.

    Args:
        epochs: Passes over all images, at least 1.
        sizes: Sizes of the input, epoch by epoch.
        batch: Images in one update, over all processes; the last batches share what is left evenly.
        accumulate: Parts in which each process sends its share of a batch through the network; more
            need less memory and give the same gradient.
        rate: Highest learning rate of the head.
        trunk_rate: Highest learning rate of the trunk as a share of ``rate``; 0 freezes the trunk.
        schedule: ``"plateau"``, the paper's, or ``"cosine"``; both rise during the first epoch.
        patience: Epochs without improvement that make a plateau.
        optimizer: ``"sgd"`` with momentum, or ``"adamw"``.
        momentum: Of the stochastic gradient descent.
        weight_decay: Pull of the weights towards 0.
        label_smoothing: Share of the target that is spread over all classes.
        averaging: Decay of the moving average of the weights, which is what the training leaves;
            0 leaves the last weights.
        mixed_precision: Convolve and multiply in bfloat16; weights stay float32.
        augmentation: Crops, mirroring and colours.
        seed: Decides order, sizes, crops, mirroring, colours and dropout.

    Raises:
        ValueError: If a number is out of range or a word unknown.
    """

    epochs: int = 30
    sizes: InputSizes = field(default_factory=InputSizes)
    batch: int = 32
    accumulate: int = 1
    rate: float = 0.02
    trunk_rate: float = 1.0
    schedule: str = "plateau"
    patience: int = 5
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    averaging: float = 0.0
    mixed_precision: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in 0..1, below 1, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")
        for name in ("trunk_rate", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name, legal in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in legal:
                word = getattr(self, name)
                raise ValueError(f"{name} must be one of {', '.join(legal)}, got {word!r}")

    @property
    def crop(self) -> int:
        """Side of the crop: the largest size; smaller inputs are the same crop resized."""
        return self.sizes.largest

    @property
    def short_side(self) -> int:
        """Short side of the images that crops are cut from; natural input is not cut."""
        return self.crop if self.sizes.natural else round(self.crop * BASE_SIDE / BASE_WINDOW)

    def rate_at(self, losses: list[float], step: int, per_epoch: int) -> float:
        """The head's rate for one update.

        Args:
            losses: Training loss of each whole epoch before.
            step: Updates of this epoch so far.
            per_epoch: Updates of an epoch.
        """
        warmup = per_epoch if self.epochs > 1 else 0
        done = len(losses) * per_epoch + step
        if done < warmup:
            return self.rate * (done + 1) / warmup
        if self.schedule == "cosine":
            return self.rate * cosine_share(done - warmup, self.epochs * per_epoch - warmup)
        window = 1 if self.sizes.is_range else len(self.sizes.sides)
        return self.rate * plateau_share(losses, self.epochs, self.patience, window)
