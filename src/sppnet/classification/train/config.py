"""What one training does, in plain values; every number that its result depends on.

:class:`Augmentation` says what it changes about an image: where it is cut, mirroring, the light.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sppnet.classification.views import BASE_SIDE, BASE_WINDOW, LONG_SIDE_FACTOR
from sppnet.config.classification import CROPS, SCHEDULES, TrainConfig, parse_sizes
from sppnet.images import resize_image, short_side_size
from sppnet.training.checkpoints import derive_seed
from sppnet.training.optimizers import OptimizerConfig, cosine_factor, plateau_factor

DRAWS = 6  # numbers for each image: place in y and x, mirroring, three for the colour
FIVE_PLACES = ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
STEP = 32  # natural input has a long side of a multiple of this, so that many images are alike
# Principal components of the colours of ImageNet's pixels, values 0..1, as published with
# fb.resnet.torch: one component in each column, and its eigenvalue.
COMPONENTS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
EIGENVALUES = (0.2175, 0.0188, 0.0045)


@dataclass(frozen=True)
class Augmentation:
    """How the images of one epoch differ from those of the next.

    Args:
        crops: Where crops are cut from the whole image: ``"random"`` places, the ``"paper"``'s five
            (the centre and the corners), or always the ``"centre"``.
        flip: Mirror half of the images.
        colour_noise: Standard deviation of the noise along the principal components of ImageNet's
            colours; Krizhevsky's is 0.1, and 0 leaves colours alone.

    Raises:
        ValueError: If there is no such way to cut, or the noise is negative.

    Source:
        SPP-net, section 3.1; Krizhevsky et al. 2012, section 4.1.
    """

    crops: str = "random"
    flip: bool = True
    colour_noise: float = 0.1

    def __post_init__(self) -> None:
        if self.crops not in CROPS:
            raise ValueError(f"crops must be one of {', '.join(CROPS)}, got {self.crops!r}")
        if not 0 <= self.colour_noise < 10:
            raise ValueError(f"colour_noise must be in 0..10, got {self.colour_noise}")

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw for each image of an epoch: place in y and x (0..1), sign (-1 mirrors), colours.

        Returns:
            (count, 6) float32.
        """
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(count, DRAWS, generator=generator)
        if self.crops == "paper":
            places = torch.tensor(FIVE_PLACES)
            draws[:, :2] = places[(draws[:, 0] * len(places)).long()]
        elif self.crops == "centre":
            draws[:, :2] = 0.5
        draws[:, 2] = torch.where((draws[:, 2] < 0.5) & torch.tensor(self.flip), -1.0, 1.0)
        draws[:, 3:] = torch.randn(count, 3, generator=generator) * self.colour_noise
        return draws


def natural_size(size_hw: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The size that an image has as natural input: its own aspect, the long side a round number.

    Args:
        size_hw: (height, width) of the image.
        short_side: What its short side becomes.

    Returns:
        (height, width): at most 31 pixels of the long side are cut off.

    Example:
        >>> natural_size((300, 200), 224), natural_size((225, 300), 224)
        ((320, 224), (224, 288))
    """
    height, width = _resized_size(size_hw, short_side)
    longest = max(min(height, width), max(height, width) // STEP * STEP)
    return min(height, longest), min(width, longest)


def cut(photo: Tensor, place_yx: Sequence[float], size_hw: tuple[int, int]) -> Tensor:
    """Cut a part out of an image.

    Args:
        photo: (3, H, W).
        place_yx: Where the part lies, 0 (top, left) to 1 (bottom, right).
        size_hw: (height, width) of the part, at most the image's.

    Returns:
        A view, (3, height, width).

    Example:
        >>> cut(torch.arange(12).expand(3, 8, 12), (0.0, 1.0), (8, 8))[0, 0]
        tensor([ 4,  5,  6,  7,  8,  9, 10, 11])
    """
    sides = zip(place_yx, photo.shape[1:], size_hw, strict=True)
    y, x = (min(int(part * (side - cut + 1)), side - cut) for part, side, cut in sides)
    return photo[:, y : y + size_hw[0], x : x + size_hw[1]]


def cut_square(photo: Tensor, place_yx: Sequence[float], crop: int) -> Tensor:
    """Cut a square out of a (3, H, W) image; what is too small for it is enlarged."""
    side = min(crop, *photo.shape[1:])
    part = cut(photo, place_yx, (side, side))
    return part if side == crop else _resize_bytes(part, (crop, crop))


def cut_natural(photo: Tensor, place_yx: Sequence[float], short_side: int) -> Tensor:
    """Resize a (3, H, W) image as it is and cut the little off that :func:`natural_size` says."""
    height, width = photo.shape[1:]
    resized = _resize_bytes(photo, _resized_size((height, width), short_side))
    return cut(resized, place_yx, natural_size((height, width), short_side))


def shift_colours(images: Tensor, amounts: Tensor) -> Tensor:
    """Add to every pixel of an image the same amount of each principal component.

    Args:
        images: (N, 3, H, W), 0..1.
        amounts: (N, 3) multiples of the eigenvalues.

    Returns:
        The same shape, cut off at 0 and 1.

    Example:
        >>> shift_colours(torch.full((1, 3, 1, 1), 0.5), torch.tensor([[-1.0, 0, 0]])).flatten()
        tensor([0.6234, 0.6263, 0.6269])

    Source:
        Krizhevsky et al. 2012, section 4.1.
    """
    shifts = (amounts * torch.tensor(EIGENVALUES)) @ torch.tensor(COMPONENTS).T  # (N, 3)
    return (images + shifts[:, :, None, None]).clamp_(0, 1)


def _resized_size(size_hw: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Size at a given short side; of a long strip the long side is what is limited."""
    return short_side_size(size_hw, short_side, LONG_SIDE_FACTOR * short_side)


def _resize_bytes(photo: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize a (3, H, W) uint8 image."""
    if tuple(photo.shape[1:]) == size_hw:
        return photo
    return resize_image(photo.float(), size_hw).round_().clamp_(0, 255).to(torch.uint8)


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
