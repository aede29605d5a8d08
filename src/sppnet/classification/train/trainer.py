"""Trains a network on images of many sizes; stops and goes on at any update without a trace."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from sppnet.classification.network import SppNet, device_of
from sppnet.classification.train.config import TrainerConfig
from sppnet.classification.train.loader import Epoch, MicroBatch, TrainingImages, prepare_ahead
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import Checkpoints, TrainingLog, TrainingState, derive_seed
from sppnet.training.distributed import Processes
from sppnet.training.optimizers import build_optimizer
from sppnet.training.trainer import ALONE, BatchResult, Row, Trainer

CLIP_NORM = 2.0


def train_network(
    network: SppNet,
    images: TrainingImages,
    labels: Tensor,
    config: TrainerConfig,
    *,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
    log: TrainingLog | None = None,
    processes: Processes = ALONE,
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Train a network in place.

    Each epoch shows every image once, at the size that the configuration says, and draws what it
    draws from the seed and its place only. So a run that is killed at any moment and started again
    ends with the same bits on the same CPU; it goes on with the number of threads that it began
    with.

    Args:
        network: Its trunk keeps its evaluation mode while it is frozen (``trunk_rate`` 0).
        images: N images, the same in every process.
        labels: (N,) int64.
        config: What to do.
        checkpoints: Where the state is kept and taken up again; None keeps none. Only the first
            process uses it.
        track: Shows the progress over the updates.
        log: Where losses and figures are written; only the first process uses it.
        processes: Who takes part. Each process shows its shard of every batch.
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
    trainer = Trainer(
        network,
        build_network_optimizer(network, config),
        ClassificationTask(network, images, labels, config, processes, workers),
        clip_norm=CLIP_NORM,
        averaging=config.averaging,
        checkpoints=checkpoints,
        log=log,
        processes=processes,
    )
    network.train()
    network.backbone.train(config.trunk_rate > 0)
    return trainer.run(track=track)


def build_network_optimizer(network: SppNet, config: TrainerConfig) -> Optimizer:
    """Give trunk and head their rates; a frozen trunk gets no gradients at all."""
    network.backbone.requires_grad_(config.trunk_rate > 0)
    parts = [(network.head.parameters(), 1.0), (network.backbone.parameters(), config.trunk_rate)]
    return build_optimizer(parts, config.optimizer)


class ClassificationTask:
    """Every image once in an epoch; arguments as for :func:`train_network`."""

    def __init__(
        self,
        network: SppNet,
        images: TrainingImages,
        labels: Tensor,
        config: TrainerConfig,
        processes: Processes,
        workers: int,
    ) -> None:
        self.network, self.images, self.labels = network, images, labels
        self.config, self.processes, self.workers = config, processes, workers
        self.per_epoch = -(-len(images) // config.batch)
        self.updates = config.epochs * self.per_epoch

    def rate_at(self, step: int, history: Sequence[Row]) -> float:
        """Give the head's rate: it follows from the losses so far and the step."""
        losses = [row["loss"] for row in history]
        return self.config.rate_at(losses, step % self.per_epoch, self.per_epoch)

    def batches(self, first: int) -> Iterator[tuple[int, list[MicroBatch]]]:
        """Yield the images of each whole batch, and this process's shard of them, prepared."""
        epoch, done = divmod(first, self.per_epoch)
        for number in range(epoch, self.config.epochs):
            images = Epoch(self.images, self.labels, self.config, number)
            left = images.batches[done:]
            shards = [self.processes.shard(batch) for batch in left]
            prepared = prepare_ahead(images.micro_batches, shards, self.workers)
            yield from zip(map(len, left), prepared, strict=True)
            done = 0

    def add_gradients(self, batch: tuple[int, list[MicroBatch]], step: int) -> BatchResult:
        """Show a batch; dropout draws other numbers in every update and process."""
        count, shard = batch
        epoch, update = divmod(step, self.per_epoch)
        seed = derive_seed(self.config.seed, "dropout", epoch, update, self.processes.rank)
        torch.manual_seed(seed)
        return add_gradients(self.network, shard, count, self.config, self.processes)

    def measure(self, state: TrainingState, rate: float) -> Row:
        """Make the row of an epoch: loss and accuracy of its images as they were shown."""
        number, count = state.epochs_done, len(self.images)
        return {
            "epoch": number,
            "size": self.config.sizes.of_epoch(number, self.config.seed),
            "rate": rate,
            "loss": state.loss_sum / count,
            "accuracy": state.right / count,
            "seconds": state.seconds,
        }


def add_gradients(
    network: SppNet,
    shard: Sequence[MicroBatch],
    count: int,
    config: TrainerConfig,
    processes: Processes,
) -> BatchResult:
    """Add the gradient of the mean loss of a batch that is spread over all processes.

    Each process divides the losses of its shard by the images of the whole batch, so that the sum
    is the gradient of one process with the whole batch, however uneven the shards are. A process
    without images adds zeros.

    Args:
        network: Has no gradients yet; they are the same in all processes afterwards.
        shard: This process's images.
        count: Images of the batch in all processes.
        config: What the training does.
        processes: Who takes part.

    Returns:
        Loss and number of right answers of the whole batch.
    """
    totals = torch.zeros(2, device=device_of(network))
    for micro_batch in shard:
        totals += _backward(network, micro_batch, count, config)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    processes.all_reduce([*(p.grad for p in trained if p.grad is not None), totals])
    loss, right = totals.tolist()
    return BatchResult(loss, round(right), count)


def _backward(
    network: SppNet, micro_batch: MicroBatch, count: int, config: TrainerConfig
) -> Tensor:
    """Add the gradient of a micro-batch: (2,) the sum of its losses, and how many are right."""
    device = device_of(network)
    labels = micro_batch.labels.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision):
        logits = group_logits(network, micro_batch.groups)
    loss = cross_entropy(
        logits.float(), labels, reduction="sum", label_smoothing=config.label_smoothing
    )
    (loss / count).backward()
    right = (logits.detach().argmax(dim=1) == labels).sum()
    return torch.stack([loss.detach(), right.to(loss.dtype)])


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
