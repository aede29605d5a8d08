"""Fine-tuning of the fully connected layers on pooled windows; the convolutions stay as they are.

Since the maps never change, windows are pooled once; an update is a few products of matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer

from sppnet.detection.assign import SamplingConfig, label_proposals, sample_proposals
from sppnet.detection.encoder import Encoder
from sppnet.detection.feature_set import CachedFeatures, list_views
from sppnet.detection.finetune.batches import split_images
from sppnet.detection.heads.region_head import COMPACT_WIDTHS, RegionHead
from sppnet.errors import NothingUsableError, UsageError
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking
from sppnet.training.best_state import TuningStates
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.seeds import derive_seed

# Of the pooled vectors, which are kept in float16.
BYTES_PER_NUMBER = 2
# The rate falls to a tenth after these shares of the updates.
DROPS = (0.5, 0.85)
LEAST_PER_IMAGE = 4
CLIP_NORM = 10.0


@dataclass(frozen=True)
class HeadTuningConfig:
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
    rule: SamplingConfig = field(default_factory=SamplingConfig)
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
            >>> [HeadTuningConfig(updates=20, rate=1.0).rate_at(update) for update in (0, 10, 17)]
            [1.0, 0.1, 0.01]
        """
        drops = sum(update >= share * self.updates for share in DROPS)
        return self.rate / 10**drops

    def share_out(self, images: int, length: int) -> tuple[int, int]:
        """Say how many images are looked at, and how many windows of each are taken.

        Example:
            >>> plan = HeadTuningConfig(budget_bytes=64_000)
            >>> plan.share_out(10, 100), plan.share_out(1000, 100)
            ((10, 32), (80, 4))
        """
        most = max(LEAST_PER_IMAGE, self.budget_bytes // (BYTES_PER_NUMBER * length))
        per_image = max(LEAST_PER_IMAGE, min(self.per_image, most // max(1, images)))
        return min(images, most // per_image), per_image


@dataclass(frozen=True)
class ProposalPool:
    """Windows that batches are drawn from.

    Args:
        rows: (N, D) float16 pooled vectors.
        labels: (N,) class, or K for the background.
    """

    rows: Tensor
    labels: Tensor

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors in float32 and labels of some windows."""
        return self.rows[places].float(), self.labels[places]


def gather_windows(
    cached: CachedFeatures,
    images: Sequence[LabelledImage],
    num_classes: int,
    plan: HeadTuningConfig,
    *,
    random_scale: bool = True,
    track: Track = no_tracking,
) -> ProposalPool:
    """Draw windows of images and pool them from their cached maps.

    Every image draws from the seed and its own name only.

    Args:
        cached: Gives maps and windows.
        images: Which images.
        num_classes: K.
        plan: How many windows, and what they are.
        random_scale: Draw the scale of each window, as in fine-tuning; otherwise the best one.
        track: Shows the progress.

    Returns:
        The windows of all images, one image after the other.

    Source:
        SPP-net, section 4.1; spp_finetune_voc.m of the authors' code.
    """
    encoder = cached.encoder
    views = list_views(images, mirror=plan.flip)
    count, per_image = plan.share_out(len(views), encoder.length)
    draw = torch.Generator().manual_seed(derive_seed(plan.seed, "images"))
    order = torch.randperm(len(views), generator=draw)[:count].tolist()
    rows = [torch.zeros(0, encoder.length, dtype=torch.float16)]
    labels = [torch.zeros(0, dtype=torch.int64)]
    for place in track(order, "gathering windows", total=count):
        image = views[place]
        encoded = cached.encoded(image)
        boxes, drawn = _draw_boxes(cached, image, (num_classes, per_image), plan)
        scale_of = _draw_scales(boxes, encoder, image, plan) if random_scale else None
        cells = encoder.assign_regions(encoded, boxes, scale_of)
        rows.append(encoder.pool(encoded, cells).half().cpu())
        labels.append(drawn)
    return ProposalPool(torch.cat(rows), torch.cat(labels))


def _draw_boxes(
    cached: CachedFeatures,
    image: LabelledImage,
    sizes: tuple[int, int],
    plan: HeadTuningConfig,
) -> tuple[Tensor, Tensor]:
    """Windows of an image and what they show; ``sizes`` are K and how many windows."""
    num_classes, count = sizes
    boxes = torch.cat([image.boxes, cached.propose(image)])
    labels = label_proposals(boxes, image, num_classes, plan.rule, plan.use_difficult)
    draw = torch.Generator().manual_seed(derive_seed(plan.seed, "windows", str(image.path)))
    chosen = sample_proposals(labels, num_classes, count, plan.rule, draw)
    return boxes[chosen], labels[chosen]


def _draw_scales(
    boxes: Tensor, encoder: Encoder, image: LabelledImage, plan: HeadTuningConfig
) -> Tensor:
    """One of the encoder's scales for each window, all equally likely."""
    draw = torch.Generator().manual_seed(derive_seed(plan.seed, "scales", str(image.path)))
    return torch.randint(len(encoder.short_sides), (len(boxes),), generator=draw)


@dataclass(frozen=True)
class TunedHead:
    """What the tuning leaves.

    Args:
        head: In evaluation mode, with the weights of the least validation loss.
        history: One dict(epoch, loss, validation_loss) for each look.
    """

    head: RegionHead
    history: list[dict[str, Any]]


def tune_head(
    cached: CachedFeatures,
    num_classes: int,
    plan: HeadTuningConfig,
    *,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> TunedHead:
    """Teach a new head the windows of prepared images.

    Some of the images only choose which state is kept. Every update draws from the seed and its
    number, so a run that was stopped goes on to the same bits.

    Args:
        cached: Images whose maps and windows are in the cache.
        num_classes: K.
        plan: The constants.
        checkpoints: Where the state is kept and taken up again; None keeps none.
        track: Shows the progress.

    Returns:
        The head and its history.

    Raises:
        NothingUsableError: If there is no window that shows an object.
        UnusableFileError: If the newest training state is of another head.
        UsageError: If the loss is not finite.

    Source:
        SPP-net, section 4.1.
    """
    learnt, validation = split_images(cached.usable, plan.validation_share, plan.seed)
    pool = gather_windows(cached, learnt, num_classes, plan, track=track)
    still = replace(plan, flip=False)
    judged = gather_windows(cached, validation, num_classes, still, random_scale=False, track=track)
    return tune_on_windows(pool, judged, num_classes, plan, checkpoints=checkpoints, track=track)


def tune_on_windows(
    pool: ProposalPool,
    judged: ProposalPool,
    num_classes: int,
    plan: HeadTuningConfig,
    *,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> TunedHead:
    """Teach a new head pooled windows; arguments and errors as for :func:`tune_head`.

    Args:
        pool: What is learnt from.
        judged: Windows of other images, by which the state is chosen; may be empty.
        num_classes: K.
        plan: The constants.
        checkpoints: Where the state is kept.
        track: Shows the progress.
    """
    if not bool((pool.labels < num_classes).any()):
        raise NothingUsableError("no window shows an object to learn from")
    tuning = _Tuning(pool, judged, num_classes, plan, checkpoints)
    with torch.random.fork_rng(devices=[]):
        tuning.run(track)
    tuning.states.put_best_back()
    return TunedHead(tuning.head, tuning.states.history)


class _Tuning:
    """A tuning under way: the head, what remembers, and the place that is reached."""

    def __init__(
        self,
        pool: ProposalPool,
        judged: ProposalPool,
        num_classes: int,
        plan: HeadTuningConfig,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.pool, self.judged, self.plan = pool, judged, plan
        self.num_classes = num_classes
        self.head = build_head(pool, num_classes, plan)
        self.optimizer = build_optimizer(self.head, plan)
        self.states = TuningStates(self.head, self.optimizer, checkpoints)

    def run(self, track: Track) -> None:
        """Do the updates that are left."""
        done = self.states.checks * self.plan.check_every
        losses: list[float] = []
        self.head.train()
        for update in track(range(done, self.plan.updates), "tuning the head"):
            losses.append(self._update(update))
            if (update + 1) % self.plan.check_every == 0 or update + 1 == self.plan.updates:
                self._check(losses)
                losses = []

    def _update(self, update: int) -> float:
        """Take one step down the loss of a batch: the loss before it."""
        draw = torch.Generator().manual_seed(derive_seed(self.plan.seed, "batch", update))
        rule = self.plan.rule
        places = sample_proposals(self.pool.labels, self.num_classes, rule.batch, rule, draw)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_at(update) * group["share"]
        torch.manual_seed(derive_seed(self.plan.seed, "dropout", update))
        rows, labels = self.pool.batch(places)
        loss = cross_entropy(self.head(rows), labels)
        value = float(loss.detach())
        if not isfinite(value):
            raise UsageError("tuning diverged: the loss is not finite; try a lower rate")
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.head.parameters(), CLIP_NORM)
        self.optimizer.step()
        return value

    def _check(self, losses: Sequence[float]) -> None:
        """Look at the validation windows, keep the best weights, and save."""
        row = {
            "epoch": self.states.checks,
            "loss": sum(losses) / len(losses),
            "validation_loss": validation_loss(self.head, self.judged),
        }
        self.states.add(row)


def build_head(pool: ProposalPool, num_classes: int, plan: HeadTuningConfig) -> RegionHead:
    """Make a new head; pooled vectors come in with a mean square of 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(plan.seed, "head"))
        head = RegionHead(pool.rows.shape[1], num_classes, plan.widths, plan.ranks, plan.dropout)
    some = pool.rows[:: max(1, len(pool.rows) // 500)].float()
    head.scale.copy_(some.square().mean().clamp(min=1e-12).rsqrt())
    return head


def build_optimizer(head: RegionHead, plan: HeadTuningConfig) -> Optimizer:
    """Matrices decay; biases learn twice as fast and do not."""
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in head.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "share": 1.0, "weight_decay": plan.weight_decay},
        {"params": biases, "share": 2.0, "weight_decay": 0.0},
    ]
    return SGD(groups, lr=plan.rate, momentum=plan.momentum)


@torch.no_grad()
def validation_loss(head: RegionHead, judged: ProposalPool) -> float:
    """Mean loss without dropout; 0, so that the last state is kept, without windows."""
    was_training = head.training
    head.eval()
    total = 0.0
    for places in torch.arange(len(judged.labels)).split(512):
        rows, labels = judged.batch(places)
        total += float(cross_entropy(head(rows), labels, reduction="sum"))
    head.train(was_training)
    return total / max(1, len(judged.labels))
