"""Fine-tuning through the pooling: the convolutions learn together with the head.

The paper tunes the fully connected layers only, because each window of its batches comes from
another image. Windows that share an image share its convolutions, forth and back; then the gradient
goes through the pooling to as many layers as wanted.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from sppnet.detection.encoder import Encoder
from sppnet.detection.finetune.batches import ImageSample, ProposalSampler, Windows, split_images
from sppnet.detection.finetune.region_network import (
    BoxHead,
    NetworkTuningConfig,
    build_optimizer,
    build_region_network,
)
from sppnet.detection.heads.region_head import RegionHead
from sppnet.errors import NothingUsableError, UsageError
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking
from sppnet.training.best_state import TuningStates
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.log import TrainingLog
from sppnet.training.seeds import derive_seed

CLIP_NORM = 10.0
# Images from which the length of the vectors and the spread of the deltas are estimated.
MEASURED_IMAGES = 16


@dataclass(frozen=True)
class TunedNetwork:
    """What fine-tuning leaves.

    Args:
        encoder: The encoder that was given, with the tuned trunk; the trunk has the same
            description as before, so it is saved and restored in the same way.
        head: fc6, fc7 and the logits of the classes and the background.
        boxes: Moves boxes, in place of a :class:`RidgeBoxRegressor`.
        history: One dict(epoch, rate, loss, accuracy, validation_loss, seconds) for each look at
            the validation images.
    """

    encoder: Encoder
    head: RegionHead
    boxes: BoxHead
    history: list[dict[str, Any]]


def tune_network(
    images: Sequence[LabelledImage],
    encoder: Encoder,
    num_classes: int,
    plan: NetworkTuningConfig,
    windows: Windows,
    *,
    checkpoints: Checkpoints | None = None,
    log: TrainingLog | None = None,
    track: Track = no_tracking,
) -> TunedNetwork:
    """Teach a trunk and a new head together, from the windows of labelled images.

    Every update draws from the seed and its number only, so a run that was stopped goes on to the
    same bits. The state with the least loss on the validation images is kept; they are a part of
    the images given here and are not learnt from.

    Args:
        images: What to learn from; all of them can be decoded.
        encoder: Gives the trunk, which is copied, the levels and the projection.
        num_classes: K.
        plan: The constants.
        windows: Gives the (W, 4) proposals of an image, xyxy in pixels.
        checkpoints: Where the state is kept and taken up again; None keeps none.
        log: Where losses are written.
        track: Shows the progress over the updates.

    Returns:
        The tuned parts, in evaluation mode.

    Raises:
        ValueError: If the trunk has no layer of the name.
        NothingUsableError: If no image has an object.
        UnusableFileError: If the newest training state is of another network.
        UsageError: If the loss is not finite.

    Source:
        Fast R-CNN (Girshick 2015), section 2.3.
    """
    if not any(len(image.boxes) for image in images):
        raise NothingUsableError("no image has an object to learn from")
    tuning = _Tuning(images, encoder, num_classes, plan, windows, checkpoints, log)
    with torch.random.fork_rng(devices=[]):
        tuning.run(track)
    return tuning.finish()


class _Tuning:
    """A tuning under way: the network, what remembers, and the place that is reached."""

    def __init__(
        self,
        images: Sequence[LabelledImage],
        encoder: Encoder,
        num_classes: int,
        plan: NetworkTuningConfig,
        windows: Windows,
        checkpoints: Checkpoints | None,
        log: TrainingLog | None,
    ) -> None:
        self.plan, self.log = plan, log
        learnt, self.validation = split_images(images, plan.validation_share, plan.seed)
        self.sampler = ProposalSampler(
            learnt,
            windows,
            num_classes,
            plan.rule,
            plan.images_per_update,
            plan.short_sides or encoder.short_sides,
            plan.flip,
            plan.use_difficult,
            plan.seed,
        )
        self.network = build_region_network(encoder, num_classes, plan)
        self.optimizer = build_optimizer(self.network, plan)
        self.states = TuningStates(self.network, self.optimizer, checkpoints)

    def run(self, track: Track) -> None:
        """Do the updates that are left."""
        self._begin()
        done = self.states.checks * self.plan.check_every
        self.network.head.train()
        began = time.perf_counter()
        losses: list[tuple[float, float]] = []
        for update in track(range(done, self.plan.updates), "tuning", self.plan.updates - done):
            outcome = self._update(update)
            losses += [outcome] if outcome is not None else []
            is_last = update + 1 == self.plan.updates
            if is_last or (update + 1) % self.plan.check_every == 0:
                self._check(update, losses, time.perf_counter() - began)
                began, losses = time.perf_counter(), []

    def _begin(self) -> None:
        """Measure what a new head must know, and begin the log."""
        if not self.states.is_resumed:
            self._measure()
        if self.log is not None:
            self.log.begin(self.states.history, 0, self.plan.check_every)

    @torch.no_grad()
    def _measure(self) -> None:
        """Bring pooled vectors to a mean square of 1, and find the spread of the deltas."""
        chosen = self.sampler.images[:: -(-len(self.sampler.images) // MEASURED_IMAGES)]
        samples = [self.sampler.fixed_sample(image) for image in chosen]
        squares = [self.network.pool([sample]).square().mean() for sample in samples]
        self.network.head.scale.copy_(torch.stack(squares).mean().clamp(min=1e-12).rsqrt())
        positive = [each.deltas[each.labels < self.sampler.num_classes] for each in samples]
        self.network.boxes.standardise(torch.cat(positive))

    def _update(self, update: int) -> tuple[float, float] | None:
        """Take one step: the loss and the share of right windows before it; None for no windows."""
        torch.manual_seed(derive_seed(self.plan.seed, "dropout", update))
        rate = self.plan.rate_at(update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        samples = self.sampler.draw(update)
        if not samples:
            return None
        outcome = self.network.losses(samples, self.plan.box_weight)
        loss, right = outcome.detach().tolist()
        if not isfinite(loss):
            raise UsageError("tuning diverged: the loss is not finite; try a lower rate")
        self.optimizer.zero_grad()
        outcome[0].backward()
        clip_grad_norm_([p for p in self.network.parameters() if p.requires_grad], CLIP_NORM)
        self.optimizer.step()
        if self.log is not None:
            epoch, inside = divmod(update, self.plan.check_every)
            self.log.add_update(epoch, inside, update, {"loss": loss, "rate": rate})
        return loss, right

    def _check(self, update: int, losses: Sequence[tuple[float, float]], seconds: float) -> None:
        """Look at the validation images, keep the best weights, and save."""
        row = {
            "epoch": self.states.checks,
            "rate": self.plan.rate_at(update),
            "loss": mean([loss for loss, _ in losses] or [0.0]),
            "accuracy": mean([right for _, right in losses] or [0.0]),
            "validation_loss": self._validation_loss(),
            "seconds": seconds,
        }
        if self.log is not None:
            self.log.add_epoch([*self.states.history, row], update)
        self.states.add(row)

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Mean loss over the validation images; 0, so that the last state is kept, without any."""
        self.network.head.eval()
        samples = [self.sampler.fixed_sample(image) for image in self.validation]
        losses = [float(self._loss_of(sample)) for sample in samples if len(sample.labels)]
        self.network.head.train()
        return mean(losses) if losses else 0.0

    def _loss_of(self, sample: ImageSample) -> Tensor:
        return self.network.losses([sample], self.plan.box_weight)[0]

    def finish(self) -> TunedNetwork:
        """Put the best weights back and take the network apart."""
        self.states.put_best_back()
        boxes = BoxHead(self.network.head, self.network.boxes)
        if self.log is not None:
            self.log.close()
        return TunedNetwork(self.network.encoder, self.network.head, boxes, self.states.history)
