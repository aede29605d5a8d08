"""The training loop: updates, a measurement after each epoch, and states to go on from.

An epoch is a number of updates followed by a measurement: all images once for a classifier, or
some updates and a look at the validation loss for a fine-tuning. What one training does differently
from another is its :class:`Task`; everything else is the :class:`Trainer`'s.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from sppnet.errors import UnusableFileError, UsageError, count_of
from sppnet.progress import Track, no_tracking, using_threads
from sppnet.storage import put_under, tensors_under
from sppnet.training.checkpoints import (
    Checkpoints,
    TrainingLog,
    TrainingState,
    check_alike,
    copy_tensors,
    pack_tensors,
    unpack_tensors,
)
from sppnet.training.distributed import Processes
from sppnet.training.optimizers import clip_and_step, set_rate

Row = dict[str, Any]
Batch = TypeVar("Batch")
ALONE = Processes()


@dataclass(frozen=True)
class BatchResult:
    """What a batch gave before it changed the weights.

    Args:
        loss: Sum of the losses, over all processes.
        right: How many examples were right.
        count: What both are divided by for a mean.
    """

    loss: float
    right: float = 0
    count: int = 1


class Task(Protocol[Batch]):
    """What is learnt.

    Whatever a task draws at random has to follow from its seed and the step alone, so that a run
    that goes on draws the same.

    """

    @property
    def updates(self) -> int:
        """Updates in all."""
        ...

    @property
    def per_epoch(self) -> int:
        """Updates of an epoch; the last epoch may be shorter."""
        ...

    def rate_at(self, step: int, history: Sequence[Row]) -> float:
        """Give the learning rate of an update, 0 for the first; ``history`` is of whole epochs."""
        ...

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield the batches of all updates from the one with number ``first`` on."""
        ...

    def add_gradients(self, batch: Batch, step: int) -> BatchResult | None:
        """Add the gradient of a batch; None if there is nothing in it to learn from."""
        ...

    def measure(self, state: TrainingState, rate: float) -> Row:
        """Make the row of an epoch that has just ended.

        Args:
            state: Sums over the epoch.
            rate: Learning rate of its last update.

        Returns:
            Figures by name, for the history and the log; with a ``validation_loss`` where the best
            weights are to be kept.
        """
        ...


class Trainer(Generic[Batch]):
    """Trains a network in place; what is killed at any moment goes on with the same bits.

    Args:
        network: What learns. Of several processes, the first one's weights count.
        optimizer: Of the network's parameters, from :func:`build_optimizer`.
        task: What is learnt.
        clip_norm: Gradients of a greater norm are scaled down to it.
        averaging: Decay of the moving average of the weights, which is then what the training
            leaves; 0 for none.
        keep_best: Leave the weights of the least validation loss instead of the last ones.
        checkpoints: Where states are kept and the newest is taken up; None keeps none. Only the
            first process uses it.
        log: Where losses and figures are written; only the first process uses it.
        processes: Who takes part.

    Attributes:
        state: How far the training is.
        is_resumed: Whether the state of an earlier run was taken up.

    Raises:
        UnusableFileError: If the newest state is of another network.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        task: Task[Batch],
        *,
        clip_norm: float,
        averaging: float = 0.0,
        keep_best: bool = False,
        checkpoints: Checkpoints | None = None,
        log: TrainingLog | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.network, self.optimizer, self.task = network, optimizer, task
        self.clip_norm, self.keep_best = clip_norm, keep_best
        self.checkpoints, self.log = (checkpoints, log) if processes.is_first else (None, None)
        self.processes = processes
        self.state = TrainingState(threads=torch.get_num_threads())
        self._best: dict[str, Tensor] = {}
        self.is_resumed = self._take_up(averaging)

    def _take_up(self, averaging: float) -> bool:
        """Go on from the newest state, in all processes: whether there is one."""
        found = self.checkpoints.newest() if self.checkpoints is not None else None
        if self.processes.count > 1:
            data = self.processes.broadcast_bytes(b"" if found is None else found.to_bytes())
            found = TrainingState.from_bytes(data) if data else None
        if found is None:
            self.processes.broadcast_weights(self.network)
            self._average = average_weights(self.network, averaging) if averaging else None
            return False
        begun = found.epochs_done * self.task.per_epoch + found.updates_done
        try:
            unpack_tensors(found.tensors, self.network, self.optimizer)
            self._average = average_weights(self.network, averaging) if averaging else None
            if self._average is not None:
                kept = tensors_under("average.", found.tensors)
                restore_average(self._average, kept, found.averaged)
            self._best = self._take_best(found)
            self.task.rate_at(begun, found.history)  # it needs its figures
        except (RuntimeError, KeyError) as error:
            rule = f"the training state is not of this network ({_in_one_line(error)})"
            raise self._unusable(rule) from error
        begun_before = max(0, found.epochs_done - 1) * self.task.per_epoch  # the last may be short
        if begun_before >= self.task.updates or found.updates_done >= self.task.per_epoch:
            rule = f"the training state is behind the end, {self.task.updates} updates"
            raise self._unusable(rule)
        self.state = replace(found, tensors={})  # the network holds them
        return True

    def _unusable(self, rule: str) -> UnusableFileError:
        """What is wrong with the newest state, and where it lies."""
        folder = self.checkpoints.folder if self.checkpoints is not None else None
        rule = f"{rule}; without the folder the training begins anew"
        return UnusableFileError(rule, path=folder, code="E_WEIGHTS_ARCH")

    def _take_best(self, found: TrainingState) -> dict[str, Tensor]:
        """Take the best weights of a state; RuntimeError if they are not of this network."""
        best = tensors_under("best.", found.tensors)
        if self.keep_best and not all("validation_loss" in row for row in found.history):
            raise KeyError("validation_loss")
        if self.keep_best and (best or found.epochs_done):
            check_alike(best, self.network.state_dict(), "the best weights")
        return best

    def run(self, name: str = "training", track: Track = no_tracking) -> list[Row]:
        """Do the updates that are left, and leave the network in evaluation mode.

        The run computes with as many threads as it began with, and leaves the caller's random
        numbers as they are.

        Args:
            name: Of the training, for the progress and for errors.
            track: Shows the progress over the updates.

        Returns:
            The rows of all epochs.

        Raises:
            UsageError: If the loss is not finite, or another process ended.
        """
        task, state = self.task, self.state
        if self.log is not None:
            self.log.begin(state.history, state.updates_done, task.per_epoch)
        with _keep_threads(state.threads), _keep_random_numbers(self.network):
            first = state.epochs_done * task.per_epoch + state.updates_done
            steps = track(range(first, task.updates), name)
            begin = time.perf_counter() - state.seconds
            for batch, step in zip(task.batches(first), steps, strict=True):
                rate = task.rate_at(step, self.state.history)
                result = self._update(batch, step, rate, name)
                self._count(result, step, rate, time.perf_counter() - begin)
                if (step + 1) % task.per_epoch == 0 or step + 1 == task.updates:
                    self._end_epoch(step, rate)
                    begin = time.perf_counter()
                elif self.checkpoints is not None and self.checkpoints.is_due():
                    self._save()
        self._finish()
        return self.state.history

    def _update(self, batch: Batch, step: int, rate: float, name: str) -> BatchResult | None:
        """Take one step down the gradient of a batch."""
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        result = self.task.add_gradients(batch, step)
        if result is None:
            return None
        if not isfinite(result.loss):
            raise UsageError(f"{name} diverged: the loss is not finite; try a lower learning rate")
        clip_and_step(self.network, self.optimizer, self.clip_norm)
        if self._average is not None:
            self._average.update_parameters(self.network)
        return result

    def _count(self, result: BatchResult | None, step: int, rate: float, seconds: float) -> None:
        """Add an update to the state and to the log."""
        state = self.state
        if self.log is not None and result is not None:
            row = {"loss": result.loss / result.count, "rate": rate}
            self.log.add_update(state.epochs_done, state.updates_done, step, row)
        found = result or BatchResult(loss=0.0, count=0)
        self.state = replace(
            state,
            updates_done=state.updates_done + 1,
            loss_sum=state.loss_sum + found.loss,
            right=state.right + found.right,
            counted=state.counted + found.count,
            seconds=seconds,
            averaged=state.averaged + int(self._average is not None and result is not None),
        )

    def _end_epoch(self, step: int, rate: float) -> None:
        """Measure, keep the best weights, write to the log and to the disk."""
        state = self.state
        row = self.task.measure(state, rate)
        history = [*state.history, row]
        if row.keys() != history[0].keys():
            raise self._unusable("the training state has other figures than this training")
        if self.keep_best and row["validation_loss"] <= min(r["validation_loss"] for r in history):
            self._best = copy_tensors(self.network.state_dict())
        self.state = TrainingState(
            epochs_done=state.epochs_done + 1,
            history=history,
            threads=state.threads,
            averaged=state.averaged,
        )
        if self.log is not None:
            self.log.add_epoch(history, step)
        self._save()

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        tensors = pack_tensors(self.network, self.optimizer) | put_under("best.", self._best)
        if self._average is not None:
            tensors |= put_under("average.", copy_tensors(averages_of(self._average)))
        self.checkpoints.save(replace(self.state, tensors=tensors))

    def _finish(self) -> None:
        """Leave the average or the best weights, the same in every process."""
        if self._average is not None:
            self.network.load_state_dict(self._average.module.state_dict())
        if self.keep_best:
            self.network.load_state_dict(self._best)
        self.processes.broadcast_weights(self.network)
        if self.log is not None:
            self.log.close()
        self.network.eval()


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """Begin an exponential moving average of weights and of normalisation statistics.

    The first updates count more than ``decay`` says, so that the random beginning is soon
    forgotten: after t updates the decay is (1 + t) / (10 + t) until that is larger. Counters are
    copied.

    Args:
        network: Whose weights are averaged, beginning with what they are now.
        decay: Part of the old average that each update keeps, 0 or more and below 1.

    Returns:
        The average, to be told ``update_parameters`` after each update.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> average = average_weights(layer, 0.9)
        >>> nn.init.constant_(layer.weight, 5.0)
        Parameter containing:
        tensor([[5.]], requires_grad=True)
        >>> average.update_parameters(layer)
        >>> bool(4 < average.module.weight < 5)
        True

    Source:
        Polyak and Juditsky 1992; the beginning as in TensorFlow's ExponentialMovingAverage.
    """

    def blend(
        averages: Sequence[Tensor], weights: Sequence[Tensor], averaged: Tensor | int
    ) -> None:
        count = int(averaged)
        kept = min(decay, count / (count + 9))
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, 1 - kept)
            else:
                average.copy_(weight)

    average = AveragedModel(network, multi_avg_fn=blend, use_buffers=True)
    average.n_averaged.fill_(1)  # the first weights; torch would replace them by the next ones
    return average


def averages_of(average: AveragedModel) -> dict[str, Tensor]:
    """Give what an average remembers besides its counters, by name."""
    tensors = average.module.state_dict()
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def restore_average(average: AveragedModel, tensors: dict[str, Tensor], updates: int) -> None:
    """Let an average go on from what :func:`averages_of` gave after some updates.

    Raises:
        RuntimeError: If the tensors are not those of this average.
    """
    average.n_averaged.fill_(1 + updates)
    averages = averages_of(average)
    check_alike(tensors, averages, "the averaged weights")
    for name, tensor in averages.items():
        tensor.copy_(tensors[name])


def _in_one_line(error: Exception) -> str:
    """The text of an error without the lines that torch breaks it into."""
    return " ".join(str(error).split())[:200]


@contextmanager
def _keep_threads(threads: int) -> Iterator[None]:
    """Compute with as many threads as the run began with: other counts give other last bits."""
    before = torch.get_num_threads()
    if threads != before:
        words = f"{count_of(threads, 'thread')}, as it began; {before} would give other last bits"
        warnings.warn(f"the training goes on with {words}", stacklevel=3)
    with using_threads(threads):
        yield


@contextmanager
def _keep_random_numbers(network: nn.Module) -> Iterator[None]:
    """Leave the caller's random numbers as they are."""
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
