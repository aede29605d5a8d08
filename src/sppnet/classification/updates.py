"""One update of the weights: forward, loss, gradient over all processes, step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer

from sppnet.classification.batches import Part
from sppnet.classification.features import device_of
from sppnet.classification.network import SppNet
from sppnet.classification.training_plan import TrainingPlan
from sppnet.errors import UsageError
from sppnet.training.distributed import Processes

CLIP_NORM = 2.0


@dataclass(frozen=True)
class Outcome:
    """What an update found before it changed the weights.

    Args:
        loss: Sum of the losses of the images, over all processes.
        right: How many of them were right.
    """

    loss: float
    right: int


def build_optimizer(network: SppNet, plan: TrainingPlan) -> Optimizer:
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
    network: SppNet, parts: Sequence[Part], count: int, plan: TrainingPlan, processes: Processes
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


def _backward(network: SppNet, part: Part, count: int, plan: TrainingPlan) -> Tensor:
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
    plan: TrainingPlan,
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
