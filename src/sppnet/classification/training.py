"""Trains a network at several sizes; stops and goes on at any epoch without a trace."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from sppnet.classification.checkpoints import (
    Checkpoints,
    TrainingState,
    pack_tensors,
    unpack_tensors,
)
from sppnet.classification.features import device_of
from sppnet.classification.network import SppNet
from sppnet.classification.schedule import check_sizes, learning_rate, size_of_epoch
from sppnet.classification.training_images import TrainingImages
from sppnet.errors import Track, UsageError, no_tracking

CROP_SHARE = 224 / 256  # the paper cuts 224 from images whose short side is 256
CLIP_NORM = 2.0


@dataclass(frozen=True)
class TrainingPlan:
    """What one training does.

    Args:
        epochs: Passes over all images, at least 1.
        sizes: Sides of the square input that take turns, one whole epoch each.
        batch: Images in one update; the last batches share what is left evenly.
        rate: Highest learning rate of the head.
        trunk_rate: Highest learning rate of the trunk as a share of ``rate``; 0 freezes the trunk.
        momentum: Of the stochastic gradient descent.
        weight_decay: Pull of the weights towards 0.
        seed: Decides order, crops, mirroring and dropout.
    """

    epochs: int = 30
    sizes: tuple[int, ...] = (180, 224)
    batch: int = 32
    rate: float = 0.02
    trunk_rate: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.sizes)
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(
                f"epochs and batch must be at least 1, got {self.epochs} and {self.batch}"
            )
        if not self.rate > 0 or self.trunk_rate < 0:
            raise ValueError(
                "rate must be above 0 and trunk_rate at least 0, got "
                f"{self.rate} and {self.trunk_rate}"
            )

    @property
    def crop(self) -> int:
        """Side of the crop: the largest size; smaller inputs are the same crop resized."""
        return max(self.sizes)

    @property
    def short_side(self) -> int:
        """Short side of the images that crops are cut from."""
        return round(self.crop / CROP_SHARE)


def train_network(
    network: SppNet,
    images: TrainingImages,
    labels: Tensor,
    plan: TrainingPlan,
    *,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> list[dict[str, Any]]:
    """Train a network in place with stochastic gradient descent.

    Each epoch shows every image once, at one size: a random square of the whole image, mirrored
    half of the time. The rate rises for one epoch and falls along a cosine. What an epoch draws
    depends on the seed and its number only, so a run that is killed at any moment and started again
    ends with the same bits on the same CPU with the same number of threads.

    Args:
        network: Its trunk keeps its evaluation mode while it is frozen (``trunk_rate`` 0).
        images: N images.
        labels: (N,) int64.
        plan: What to do.
        checkpoints: Where the state is kept after each epoch and taken up again; None keeps none.
        track: Shows the progress over the updates.

    Returns:
        One dict(epoch, size, rate, loss, accuracy, seconds) for each epoch.

    Raises:
        ValueError: If there are no images, or not one label for each.
        UnusableFileError: If the newest training state is of another network.

    Source:
        SPP-net, sections 2.3 and 3.1.
    """
    if not len(images) or len(labels) != len(images):
        raise ValueError(
            f"labels must be one for each of the images, got {len(labels)}, {len(images)}"
        )
    optimizer = _build_optimizer(network, plan)
    state = checkpoints.newest() if checkpoints is not None else None
    if state is not None:
        unpack_tensors(state.tensors, network, optimizer)
    history = list(state.history) if state is not None else []
    per_epoch = -(-len(images) // plan.batch)
    ticks = iter(track(range((plan.epochs - len(history)) * per_epoch), "training"))
    for epoch in range(len(history), plan.epochs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch_seed(plan.seed, epoch))
            history.append(_run_epoch(network, images, labels, plan, optimizer, epoch, ticks))
        if checkpoints is not None:
            tensors = pack_tensors(network, optimizer)
            done = TrainingState(epoch + 1, tensors, history, torch.get_num_threads())
            checkpoints.save(done)
    next(ticks, None)  # lets the progress line finish
    network.eval()
    return history


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of one epoch's random numbers.

    Example:
        >>> epoch_seed(0, 1) != epoch_seed(1, 0)
        True
    """
    return (seed * 1_000_003 + epoch + 1) % (1 << 63)


def _build_optimizer(network: SppNet, plan: TrainingPlan) -> SGD:
    """Give trunk and head their rates; a frozen trunk gets no gradients at all."""
    trunk = list(network.backbone.parameters())
    for parameter in trunk:
        parameter.requires_grad_(plan.trunk_rate > 0)
    groups = [{"params": list(network.head.parameters()), "share": 1.0}]
    if plan.trunk_rate > 0:
        groups.append({"params": trunk, "share": plan.trunk_rate})
    return SGD(groups, lr=plan.rate, momentum=plan.momentum, weight_decay=plan.weight_decay)


def _run_epoch(
    network: SppNet,
    images: TrainingImages,
    labels: Tensor,
    plan: TrainingPlan,
    optimizer: SGD,
    epoch: int,
    ticks: Iterator[int],
) -> dict[str, Any]:
    """Show every image once."""
    began, size = time.perf_counter(), size_of_epoch(plan.sizes, epoch)
    network.train()
    network.backbone.train(plan.trunk_rate > 0)
    draws = torch.rand(len(images), 3)
    batches = epoch_batches(len(images), plan.batch)
    loss_sum, right = 0.0, 0
    for number, indices in enumerate(batches):
        next(ticks, None)
        _set_rate(optimizer, plan, epoch * len(batches) + number, len(batches))
        batch = images.crops(indices, draws[indices], plan.crop, size)
        loss, hits = _update(network, batch, labels[indices], optimizer)
        loss_sum, right = loss_sum + loss * len(indices), right + hits
    return {
        "epoch": epoch,
        "size": size,
        "rate": optimizer.param_groups[0]["lr"],
        "loss": loss_sum / len(images),
        "accuracy": right / len(images),
        "seconds": time.perf_counter() - began,
    }


def epoch_batches(count: int, batch: int) -> list[Tensor]:
    """Shuffle positions with torch's global generator and cut them into batches of nearly one size.

    Example:
        >>> [len(indices) for indices in epoch_batches(33, 16)]
        [11, 11, 11]
    """
    return list(torch.randperm(count).tensor_split(-(-count // batch)))


def _set_rate(optimizer: SGD, plan: TrainingPlan, step: int, per_epoch: int) -> None:
    """Set every group's rate for one update."""
    warmup = per_epoch if plan.epochs > 1 else 0
    rate = learning_rate(step, plan.epochs * per_epoch, warmup, plan.rate)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def _update(network: SppNet, batch: Tensor, labels: Tensor, optimizer: SGD) -> tuple[float, int]:
    """One step of gradient descent: the loss before it and the images that were right."""
    device = device_of(network)
    batch = batch.to(device).contiguous(memory_format=torch.channels_last)
    labels = labels.to(device)
    optimizer.zero_grad(set_to_none=True)
    logits = network(batch)
    loss = cross_entropy(logits, labels)
    if not bool(loss.detach().isfinite()):
        raise UsageError("training diverged: the loss is not finite; try a lower --lr")
    loss.backward()
    clip_grad_norm_(_trained(network), CLIP_NORM)
    optimizer.step()
    return float(loss.detach()), int((logits.detach().argmax(dim=1) == labels).sum())


def _trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that have gradients."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
