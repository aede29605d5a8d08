"""Fine-tuning of the fully connected layers on pooled windows; the convolutions stay as they are.

Since the maps never change, windows are pooled once; an update is a few products of matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer

from sppnet.detection.fc_plan import FcPlan
from sppnet.detection.fc_windows import WindowPool, gather_windows
from sppnet.detection.heads import RegionHead
from sppnet.detection.prepared import PreparedImages
from sppnet.detection.tuning_batches import split_images
from sppnet.detection.window_sampling import draw_windows
from sppnet.errors import NothingUsableError, UsageError
from sppnet.progress import Track, no_tracking
from sppnet.training.best_state import TuningStates
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.seeds import seed_of

CLIP_NORM = 10.0


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
    prepared: PreparedImages,
    num_classes: int,
    plan: FcPlan,
    *,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> TunedHead:
    """Teach a new head the windows of prepared images.

    Some of the images only choose which state is kept. Every update draws from the seed and its
    number, so a run that was stopped goes on to the same bits.

    Args:
        prepared: Images whose maps and windows are in the cache.
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
    learnt, judges = split_images(prepared.usable, plan.validation_share, plan.seed)
    pool = gather_windows(prepared, learnt, num_classes, plan, track=track)
    still = replace(plan, flip=False)
    judged = gather_windows(prepared, judges, num_classes, still, random_scale=False, track=track)
    return tune_on_windows(pool, judged, num_classes, plan, checkpoints=checkpoints, track=track)


def tune_on_windows(
    pool: WindowPool,
    judged: WindowPool,
    num_classes: int,
    plan: FcPlan,
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
        pool: WindowPool,
        judged: WindowPool,
        num_classes: int,
        plan: FcPlan,
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
        draw = torch.Generator().manual_seed(seed_of(self.plan.seed, "batch", update))
        rule = self.plan.rule
        places = draw_windows(self.pool.labels, self.num_classes, rule.batch, rule, draw)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_at(update) * group["share"]
        torch.manual_seed(seed_of(self.plan.seed, "dropout", update))
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


def build_head(pool: WindowPool, num_classes: int, plan: FcPlan) -> RegionHead:
    """Make a new head; pooled vectors come in with a mean square of 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(plan.seed, "head"))
        head = RegionHead(pool.rows.shape[1], num_classes, plan.widths, plan.ranks, plan.dropout)
    some = pool.rows[:: max(1, len(pool.rows) // 500)].float()
    head.scale.copy_(some.square().mean().clamp(min=1e-12).rsqrt())
    return head


def build_optimizer(head: RegionHead, plan: FcPlan) -> Optimizer:
    """Matrices decay; biases learn twice as fast and do not."""
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in head.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "share": 1.0, "weight_decay": plan.weight_decay},
        {"params": biases, "share": 2.0, "weight_decay": 0.0},
    ]
    return SGD(groups, lr=plan.rate, momentum=plan.momentum)


@torch.no_grad()
def validation_loss(head: RegionHead, judged: WindowPool) -> float:
    """Mean loss without dropout; 0, so that the last state is kept, without windows."""
    was_training = head.training
    head.eval()
    total = 0.0
    for places in torch.arange(len(judged.labels)).split(512):
        rows, labels = judged.batch(places)
        total += float(cross_entropy(head(rows), labels, reduction="sum"))
    head.train(was_training)
    return total / max(1, len(judged.labels))
