"""Trains a network on images of many sizes; stops and goes on at any update without a trace."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sppnet.classification.batches import Epoch, prepare_ahead
from sppnet.classification.features import device_of
from sppnet.classification.network import SppNet
from sppnet.classification.training_images import TrainingImages
from sppnet.classification.training_plan import TrainingPlan
from sppnet.classification.updates import Outcome, build_optimizer, set_rate, update
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import Checkpoints, TrainingState, pack_tensors, unpack_tensors
from sppnet.training.distributed import Processes
from sppnet.training.ema import WeightAverage
from sppnet.training.log import TrainingLog
from sppnet.training.seeds import seed_of

ALONE = Processes()


def train_network(
    network: SppNet,
    images: TrainingImages,
    labels: Tensor,
    plan: TrainingPlan,
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
        plan: TrainingPlan,
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
        return seed_of(
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
