"""What one training does, in plain values; every number that its result depends on."""

from dataclasses import dataclass, field

import torch

from sppnet.classification.train.augmentation import Augmentation
from sppnet.classification.views import BASE_SIDE, BASE_WINDOW
from sppnet.config.classification import SCHEDULES, TrainConfig, parse_sizes
from sppnet.training.checkpoints import derive_seed
from sppnet.training.optimizers import OptimizerConfig, cosine_factor, plateau_factor


@dataclass(frozen=True)
class InputSizes:
    """Sizes of the network's input, epoch by epoch.

    Args:
        sides: Pixels: sides of the square input, or short sides of natural input.
        is_range: Draw a size between the smallest and the largest for every epoch; otherwise the
            sizes take turns, one whole epoch each.
        natural: Show whole images in their own shape instead of square crops.

    Raises:
        ValueError: If there is no size, or one is below 1.

    Example:
        >>> sizes = InputSizes.parse("180,224")
        >>> [sizes.of_epoch(epoch, seed=0) for epoch in range(4)]
        [224, 180, 224, 180]
        >>> InputSizes.parse("natural")
        InputSizes(sides=(224,), is_range=False, natural=True)

    Source:
        SPP-net, section 2.3: sizes that take turns, and a random size in [180, 224] per epoch.
    """

    sides: tuple[int, ...] = (180, 224)
    is_range: bool = False
    natural: bool = False

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 1:
            raise ValueError(f"imgsz must be one or more positive numbers, got {self.sides}")

    @classmethod
    def parse(cls, text: str) -> "InputSizes":
        """Read ``224``, ``180,224``, ``180-224``, ``natural``, ``natural:192`` or the like.

        Raises:
            ValueError: If it is none of them.
        """
        return cls(*parse_sizes(text))

    def __str__(self) -> str:
        numbers = ("-" if self.is_range else ",").join(map(str, self.sides))
        return f"natural:{numbers}" if self.natural else numbers

    @property
    def largest(self) -> int:
        """The largest of the sizes; smaller input is the same crop resized."""
        return max(self.sides)

    def of_epoch(self, epoch: int, seed: int) -> int:
        """The size of an epoch, 0 for the first; sizes that take turns begin with the largest."""
        if self.is_range:
            low, high = min(self.sides), max(self.sides)
            draw = torch.Generator().manual_seed(derive_seed(seed, "size", epoch))
            return int(torch.randint(low, high + 1, (), generator=draw))
        ordered = sorted(self.sides, reverse=True)
        return ordered[epoch % len(ordered)]


@dataclass(frozen=True)
class TrainerConfig:
    """What one training does.

    Args:
        epochs: Passes over all images, at least 1.
        sizes: Sizes of the input, epoch by epoch.
        batch: Images in one update, over all processes; the last batches share what is left evenly.
        accumulate: Parts in which each process sends its shard of a batch through the network; more
            need less memory and give the same gradient.
        optimizer: Kind and constants; its rate is the highest of the head.
        trunk_rate: The trunk's rate over the head's; 0 freezes the trunk.
        schedule: ``"plateau"``, the paper's, or ``"cosine"``; both rise during the first epoch.
        patience: Epochs without improvement that make a plateau.
        label_smoothing: Part of the target that is spread over all classes.
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
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(rate=0.02))
    trunk_rate: float = 1.0
    schedule: str = "plateau"
    patience: int = 5
    label_smoothing: float = 0.0
    averaging: float = 0.0
    mixed_precision: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("label_smoothing", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in 0..1, below 1, got {getattr(self, name)}")
        if not self.trunk_rate >= 0:
            raise ValueError(f"trunk_rate must be at least 0, got {self.trunk_rate}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}"
            )

    @classmethod
    def of(cls, settings: TrainConfig) -> "TrainerConfig":
        """Take the values of the training itself from the settings of the command."""
        return cls(
            epochs=settings.epochs,
            sizes=InputSizes.parse(settings.imgsz),
            batch=settings.batch,
            accumulate=settings.accumulate,
            optimizer=OptimizerConfig(
                settings.lr, settings.optimizer, settings.momentum, settings.weight_decay
            ),
            trunk_rate=settings.trunk_share,
            schedule=settings.schedule,
            patience=settings.patience,
            label_smoothing=settings.label_smoothing,
            averaging=settings.ema,
            mixed_precision=settings.amp,
            augmentation=Augmentation(settings.crops, settings.flip, settings.colour_noise),
            seed=settings.seed,
        )

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
        highest = self.optimizer.rate
        warmup = per_epoch if self.epochs > 1 else 0
        done = len(losses) * per_epoch + step
        if done < warmup:
            return highest * (done + 1) / warmup
        if self.schedule == "cosine":
            return highest * cosine_factor(done - warmup, self.epochs * per_epoch - warmup)
        window = 1 if self.sizes.is_range else len(self.sizes.sides)
        return highest * plateau_factor(losses, self.epochs, self.patience, window)
