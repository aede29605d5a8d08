"""Trains a network on images of many sizes; stops and goes on at any update without a trace."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer

from sppnet.classification.network import SppNet, device_of
from sppnet.classification.train.config import TrainerConfig
from sppnet.classification.train.loader import Epoch, Part, TrainingImages, prepare_ahead
from sppnet.errors import UsageError
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import Checkpoints, TrainingState, pack_tensors, unpack_tensors
from sppnet.training.distributed import Processes
from sppnet.training.ema import WeightAverage
from sppnet.training.log import TrainingLog
from sppnet.training.seeds import derive_seed

CLIP_NORM = 2.0
ALONE = Processes()


@dataclass(frozen=True)
class Outcome:
    """What an update found before it changed the weights.

    Args:
        loss: Sum of the losses of the images, over all processes.
        right: How many of them were right.
    """

    loss: float
    right: int


def build_optimizer(network: SppNet, plan: TrainerConfig) -> Optimizer:
    """Give trunk and head their rates; a frozen trunk gets no gradients at all."""
    trunk = list(network.backbone.parameters())
    for parameter in trunk:
        parameter.requires_grad_(plan.trunk_rate > 0)
    groups = [{"params": list(network.head.parameters()), "share": 1.0}]
    if plan.trunk_rate > 0:
        groups.append({"params": trunk, "share": plan.trunk_rate})
    if plan.optimizer == "adamw":
        return AdamW(groups, lr=plan.rate, weight_decay=plan.weight_decay)
    return SGD(groups, lr=plan.rate, momentum=plan.momentum, weight_decay=plan.weight_decay)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set every group's rate for one update."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def group_logits(network: SppNet, groups: Sequence[Tensor]) -> Tensor:
    """Show images of several sizes: one convolution for each size, one call of the head.

    Args:
        network: Trunk, pooling and head.
        groups: (n_i, 3, h_i, w_i) each.

    Returns:
        (sum of n_i, num_classes), groups one after the other.
    """
    device = device_of(network)
    images = (group.to(device, non_blocking=True) for group in groups)
    logits: Tensor = network.head(torch.cat([network.pool(network.backbone(i)) for i in images]))
    return logits


def add_gradients(
    network: SppNet, parts: Sequence[Part], count: int, plan: TrainerConfig, processes: Processes
) -> Outcome:
    """Work out the gradient of the mean loss of a batch that is spread over all processes.

    Each process divides the losses of its share by the images of the whole batch, so that the sum
    is the gradient of one process with the whole batch, however uneven the shares are. A process
    without a share adds zeros.

    Args:
        network: Its gradients are replaced; they are the same in all processes afterwards.
        parts: This process's share.
        count: Images of the batch in all processes.
        plan: What the training does.
        processes: Who takes part.

    Returns:
        Loss and hits of the whole batch.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = None
    totals = torch.zeros(2, device=device_of(network))
    for part in parts:
        totals += _backward(network, part, count, plan)
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    processes.add_up([*(p.grad for p in trained if p.grad is not None), totals])
    loss, right = totals.tolist()
    return Outcome(loss, round(right))


def _backward(network: SppNet, part: Part, count: int, plan: TrainerConfig) -> Tensor:
    """Add the gradient of one part: (2,) the sum of its losses, and its hits."""
    device = device_of(network)
    labels = part.labels.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=plan.mixed_precision):
        logits = group_logits(network, part.groups)
    loss = cross_entropy(
        logits.float(), labels, reduction="sum", label_smoothing=plan.label_smoothing
    )
    (loss / count).backward()
    right = (logits.detach().argmax(dim=1) == labels).sum()
    return torch.stack([loss.detach(), right.to(loss.dtype)])


def update(
    network: SppNet,
    optimizer: Optimizer,
    parts: Sequence[Part],
    count: int,
    plan: TrainerConfig,
    processes: Processes,
) -> Outcome:
    """Take one step down the gradient of a batch; arguments as for :func:`add_gradients`.

    Raises:
        UsageError: If the loss is not finite, in all processes at once.
    """
    outcome = add_gradients(network, parts, count, plan, processes)
    if not abs(outcome.loss) < float("inf"):
        raise UsageError("training diverged: the loss is not finite; try a lower --lr")
    clip_grad_norm_([p for p in network.parameters() if p.requires_grad], CLIP_NORM)
    optimizer.step()
    return outcome


def train_network(
    network: SppNet,
    images: TrainingImages,
    labels: Tensor,
    plan: TrainerConfig,
    *,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
    log: TrainingLog | None = None,
    processes: Processes = ALONE,
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Train a network in place.

    Each epoch shows every image once, at the size that the plan says, and draws what it draws from
    the seed and its place only. So a run that is killed at any moment and started again ends with
    the same bits on the same CPU; it goes on with the number of threads that it began with.

    Args:
        network: Its trunk keeps its evaluation mode while it is frozen (``trunk_rate`` 0).
        images: N images, the same in every process.
        labels: (N,) int64.
        plan: What to do.
        checkpoints: Where the state is kept and taken up again; None keeps none. Only the first
            process uses it.
        track: Shows the progress over the updates.
        log: Where losses and figures are written; only the first process uses it.
        processes: Who takes part. Each process shows its share of every batch.
        workers: Threads that prepare batches; the result does not depend on them.

    Returns:
        One dict(epoch, size, rate, loss, accuracy, seconds) for each epoch.

    Raises:
        ValueError: If there are no images, or not one label for each.
        UnusableFileError: If the newest training state is of another network.
        UsageError: If the loss is not finite, or another process ended.

    Source:
        SPP-net, sections 2.3 and 3.1.
    """
    if not len(images) or len(labels) != len(images):
        raise ValueError(
            f"labels must be one for each of the images, got {len(labels)}, {len(images)}"
        )
    checkpoints, log = (checkpoints, log) if processes.is_first else (None, None)
    training = _Training(network, images, labels, plan, processes, checkpoints, log)
    training.begin()
    with _threads_of(training.state), _kept_random_numbers(network):
        training.run(track, workers)
    training.finish()
    return training.state.history


class _Training:
    """A training under way: the network, what remembers, and the place that is reached."""

    def __init__(
        self,
        network: SppNet,
        images: TrainingImages,
        labels: Tensor,
        plan: TrainerConfig,
        processes: Processes,
        checkpoints: Checkpoints | None,
        log: TrainingLog | None,
    ) -> None:
        self.network, self.images, self.labels = network, images, labels
        self.plan, self.processes = plan, processes
        self.checkpoints, self.log = checkpoints, log
        self.optimizer = build_optimizer(network, plan)
        self.average = WeightAverage(network, plan.averaging) if plan.averaging else None
        self.state = TrainingState(threads=torch.get_num_threads())
        self.per_epoch = -(-len(images) // plan.batch)

    def begin(self) -> None:
        """Take up the newest state; all processes start from the first one's."""
        found = self.checkpoints.newest() if self.checkpoints is not None else None
        state = self._agree(found)
        if state is not None:
            unpack_tensors(state, self.network, self.optimizer, self.average)
            self.state = replace(state, tensors={})  # the network holds them
        else:
            self.processes.copy_first(self.network)
            if self.average is not None:
                self.average = WeightAverage(self.network, self.plan.averaging)
        if self.log is not None:
            self.log.begin(self.state.history, self.state.updates_done, self.per_epoch)

    def _agree(self, state: TrainingState | None) -> TrainingState | None:
        """The first process's state, in every process."""
        if self.processes.count == 1:
            return state
        data = self.processes.hand_out(b"" if state is None else state.to_bytes())
        return TrainingState.from_bytes(data) if data else None

    def run(self, track: Track, workers: int) -> None:
        """Do the epochs that are left."""
        done = self.state.epochs_done * self.per_epoch + self.state.updates_done
        ticks = iter(track(range(self.plan.epochs * self.per_epoch - done), "training"))
        for number in range(self.state.epochs_done, self.plan.epochs):
            self._run_epoch(number, ticks, workers)
        next(ticks, None)  # lets the progress line finish

    def _run_epoch(self, number: int, ticks: Iterator[int], workers: int) -> None:
        """Show every image once, from the update that comes next."""
        self.network.train()
        self.network.backbone.train(self.plan.trunk_rate > 0)
        epoch = Epoch(self.images, self.labels, self.plan, number)
        left = epoch.batches[self.state.updates_done :]
        shares = [self.processes.share(batch) for batch in left]
        began = time.perf_counter() - self.state.seconds
        prepared = prepare_ahead(epoch.parts, shares, workers)
        for batch, parts in zip(left, prepared, strict=True):
            next(ticks, None)
            rate = self._set_rate()
            torch.manual_seed(self._step_seed(number))
            outcome = update(
                self.network, self.optimizer, parts, len(batch), self.plan, self.processes
            )
            if self.average is not None:
                self.average.update(self.network)
            self._note(outcome, len(batch), rate, time.perf_counter() - began)
        self._end_epoch(number, epoch.size)

    def _set_rate(self) -> float:
        losses = [row["loss"] for row in self.state.history]
        rate = self.plan.rate_at(losses, self.state.updates_done, self.per_epoch)
        set_rate(self.optimizer, rate)
        return rate

    def _step_seed(self, epoch: int) -> int:
        """Dropout draws other numbers in every update and process."""
        return derive_seed(
            self.plan.seed, "dropout", epoch, self.state.updates_done, self.processes.rank
        )

    def _note(self, outcome: Outcome, count: int, rate: float, seconds: float) -> None:
        """Count an update; save inside a long epoch."""
        before = self.state
        if self.log is not None:
            step = before.epochs_done * self.per_epoch + before.updates_done
            row = {"loss": outcome.loss / count, "rate": rate}
            self.log.add_update(before.epochs_done, before.updates_done, step, row)
        self.state = replace(
            before,
            updates_done=before.updates_done + 1,
            loss_sum=before.loss_sum + outcome.loss,
            right=before.right + outcome.right,
            seconds=seconds,
            averaged=before.averaged + 1,
        )
        inside = self.state.updates_done < self.per_epoch
        if inside and self.checkpoints is not None and self.checkpoints.is_due():
            self._save(self.checkpoints)

    def _end_epoch(self, number: int, size: int) -> None:
        """Add the epoch's figures to the history, the logs and the disk."""
        state, count = self.state, len(self.images)
        row = {
            "epoch": number,
            "size": size,
            "rate": self.optimizer.param_groups[0]["lr"],
            "loss": state.loss_sum / count,
            "accuracy": state.right / count,
            "seconds": state.seconds,
        }
        self.state = TrainingState(
            epochs_done=number + 1,
            history=[*state.history, row],
            threads=state.threads,
            averaged=state.averaged,
        )
        if self.log is not None:
            self.log.add_epoch(self.state.history, (number + 1) * self.per_epoch - 1)
        if self.checkpoints is not None:
            self._save(self.checkpoints)

    def _save(self, checkpoints: Checkpoints) -> None:
        tensors = pack_tensors(self.network, self.optimizer, self.average)
        checkpoints.save(replace(self.state, tensors=tensors))

    def finish(self) -> None:
        """Leave the average, if there is one, and the same buffers in every process."""
        if self.average is not None:
            self.average.put_into(self.network)
        self.processes.copy_first(self.network)
        if self.log is not None:
            self.log.close()
        self.network.eval()


@contextmanager
def _threads_of(state: TrainingState) -> Iterator[None]:
    """Compute with as many threads as the run began with: other counts give other last bits."""
    before = torch.get_num_threads()
    if state.threads != before:
        words = f"{state.threads} threads, as it began; {before} would give other last bits"
        warnings.warn(f"the training goes on with {words}", stacklevel=3)
    torch.set_num_threads(state.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _kept_random_numbers(network: SppNet) -> Iterator[None]:
    """Leave the caller's random numbers as they are."""
    device = device_of(network)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
