"""Constants of the fine-tuning of the fully connected layers."""

from dataclasses import dataclass, field

from sppnet.detection.heads import COMPACT_WIDTHS
from sppnet.detection.window_sampling import SamplingRule

# Of the pooled vectors, which are kept in float16.
BYTES_PER_NUMBER = 2
# The rate falls to a tenth after these shares of the updates.
DROPS = (0.5, 0.85)
LEAST_PER_IMAGE = 4


@dataclass(frozen=True)
class FcPlan:
    """The 2014 schedule in miniature.

    Args:
        updates: Steps of the optimizer; 200,000 in the 2014 code.
        check_every: Updates between two looks at the validation windows.
        rule: Windows of an update, and what they are.
        per_image: Windows that an image gives to the pool.
        flip: Whether mirrored images teach, too.
        use_difficult: Whether objects marked difficult are positives.
        widths: Outputs of fc6 and fc7.
        ranks: Their ranks; 0 for full matrices.
        dropout: Share of the outputs of fc6 and fc7 that training drops.
        rate: Learning rate at first.
        momentum: Of the optimizer.
        weight_decay: Of matrices; biases have none and twice the rate.
        validation_share: Part of the images that choose the best state and teach nothing.
        budget_bytes: Memory for the pooled windows.
        seed: Of everything that is random.

    Raises:
        ValueError: If a number is out of range.

    Source:
        pascal_finetune_fc_spm_solver.prototxt and spp_finetune_voc.m of the authors' code.
    """

    updates: int = 400
    check_every: int = 50
    rule: SamplingRule = field(default_factory=SamplingRule)
    per_image: int = 64
    flip: bool = False
    use_difficult: bool = False
    widths: tuple[int, int] = COMPACT_WIDTHS
    ranks: tuple[int, int] = (0, 0)
    dropout: float = 0.5
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    validation_share: float = 0.1
    budget_bytes: int = 1_000_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "check_every", "per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"rate must be above 0, got {self.rate}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                f"validation_share must lie in 0..1, 1 left out, got {self.validation_share}"
            )

    def rate_at(self, update: int) -> float:
        """Learning rate of an update, 0 for the first.

        Example:
            >>> [FcPlan(updates=20, rate=1.0).rate_at(update) for update in (0, 10, 17)]
            [1.0, 0.1, 0.01]
        """
        drops = sum(update >= share * self.updates for share in DROPS)
        return self.rate / 10**drops

    def share_out(self, images: int, length: int) -> tuple[int, int]:
        """Say how many images are looked at, and how many windows of each are taken.

        Example:
            >>> plan = FcPlan(budget_bytes=64_000)
            >>> plan.share_out(10, 100), plan.share_out(1000, 100)
            ((10, 32), (80, 4))
        """
        most = max(LEAST_PER_IMAGE, self.budget_bytes // (BYTES_PER_NUMBER * length))
        per_image = max(LEAST_PER_IMAGE, min(self.per_image, most // max(1, images)))
        return min(images, most // per_image), per_image
