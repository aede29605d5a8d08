"""Constants of the fine-tuning through the pooling."""

from dataclasses import dataclass, field

from sppnet.detection.heads import COMPACT_WIDTHS
from sppnet.detection.window_sampling import SamplingRule


@dataclass(frozen=True)
class TuningPlan:
    """Everything that decides what the tuning does, besides the data.

    Args:
        updates: Steps of the optimizer; 40,000 in Fast R-CNN, for 5,000 images.
        check_every: Updates between two looks at the validation images.
        rule: Windows of an update, and what they are.
        images_per_update: Images that share these windows.
        short_sides: One of them is drawn for each image; the encoder's if None.
        flip: Whether half of the images are mirrored.
        use_difficult: Whether objects marked difficult are positives.
        trainable_from: First layer of the trunk that learns; empty for all, None for none.
        widths: Outputs of fc6 and fc7.
        ranks: Their ranks; 0 for full matrices.
        dropout: Share of the outputs of fc7 that training drops.
        rate: Learning rate of the head, whose weights are new.
        trunk_rate: Rate of the trunk relative to it.
        drop_at: Share of the updates after which the rate falls to a tenth.
        momentum: Of the optimizer.
        weight_decay: Of matrices; biases have none and twice the rate.
        box_weight: What the loss of the boxes counts beside that of the classes.
        validation_share: Part of the images that choose the best state and teach nothing.
        mixed_precision: Convolve in bfloat16 while learning.
        seed: Of everything that is random.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Fast R-CNN (Girshick 2015), sections 2.3 and 4.5; the schedule in miniature.
    """

    updates: int = 300
    check_every: int = 50
    rule: SamplingRule = field(default_factory=SamplingRule)
    images_per_update: int = 2
    short_sides: tuple[int, ...] | None = None
    flip: bool = True
    use_difficult: bool = False
    trainable_from: str | None = ""
    widths: tuple[int, int] = COMPACT_WIDTHS
    ranks: tuple[int, int] = (0, 0)
    dropout: float = 0.5
    rate: float = 0.01
    trunk_rate: float = 0.1
    drop_at: float = 0.75
    momentum: float = 0.9
    weight_decay: float = 5e-4
    box_weight: float = 1.0
    validation_share: float = 0.1
    mixed_precision: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "check_every", "images_per_update"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rate", "trunk_rate", "momentum", "weight_decay", "box_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.drop_at <= 1:
            raise ValueError(f"drop_at must lie in 0..1, got {self.drop_at}")
        if not 0 <= self.validation_share < 1:
            rule = "validation_share must lie in 0..1, 1 left out"
            raise ValueError(f"{rule}, got {self.validation_share}")

    def rate_at(self, update: int) -> float:
        """Learning rate of the head in an update, 0 for the first.

        Example:
            >>> plan = TuningPlan(updates=4, rate=1.0, drop_at=0.5)
            >>> [plan.rate_at(update) for update in range(4)]
            [1.0, 1.0, 0.1, 0.1]
        """
        return self.rate * (0.1 if update >= self.drop_at * self.updates else 1.0)
