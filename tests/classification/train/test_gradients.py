"""The gradient of a batch is one and the same however the batch is cut up; the slow way says so."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from sppnet.classification import Processes, SppNet, TrainerConfig, build_classifier
from sppnet.classification.train.loader import MicroBatch
from sppnet.classification.train.trainer import (
    CLIP_NORM,
    add_gradients,
    build_network_optimizer,
    group_logits,
)
from sppnet.training.optimizers import OptimizerConfig, clip_and_step, set_rate

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [(24, 24), (24, 32), (40, 24)]
ALONE = Processes()


@pytest.fixture
def network() -> SppNet:
    torch.manual_seed(0)
    network = build_classifier("small5", 4, feature_norm=20.0)
    network.backbone.eval()  # normalisation by batches depends on the batch
    return network


@pytest.fixture
def shard() -> list[MicroBatch]:
    """Nine images of three sizes in two micro-batches."""
    torch.manual_seed(1)
    first = [torch.rand(3, 3, *SIZES[0]), torch.rand(2, 3, *SIZES[1])]
    second = [torch.rand(4, 3, *SIZES[2])]
    return [
        MicroBatch(first, torch.tensor([0, 1, 2, 3, 0])),
        MicroBatch(second, torch.tensor([1, 1, 2, 3])),
    ]


def _slow_gradients(
    network: SppNet, shard: list[MicroBatch], smoothing: float = 0.0
) -> tuple[list[torch.Tensor], float]:
    """Image by image, as plain as can be."""
    network.zero_grad()
    images = [image[None] for part in shard for group in part.groups for image in group]
    labels = torch.cat([part.labels for part in shard])
    losses = [
        cross_entropy(network(image), label[None], label_smoothing=smoothing)
        for image, label in zip(images, labels, strict=True)
    ]
    torch.stack(losses).mean().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    return gradients, float(torch.stack(losses).detach().sum())


def _step(network: SppNet, optimizer: Optimizer, shard: list[MicroBatch], config: TrainerConfig):
    """One update."""
    optimizer.zero_grad()
    add_gradients(network, shard, 9, config, ALONE)
    clip_and_step(network, optimizer, CLIP_NORM)


def test_gradient_of_parts_and_groups_is_that_of_single_images(network, shard) -> None:
    expected, loss = _slow_gradients(network, shard)
    found = add_gradients(network, shard, 9, TrainerConfig(), ALONE)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert found.loss == pytest.approx(loss, rel=1e-5)


def test_label_smoothing_is_torchs(network, shard) -> None:
    expected, _ = _slow_gradients(network, shard, smoothing=0.2)
    add_gradients(network, shard, 9, TrainerConfig(label_smoothing=0.2), ALONE)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_shard_without_images_adds_nothing(network) -> None:
    found = add_gradients(network, [], 9, TrainerConfig(), ALONE)
    assert (found.loss, found.right) == (0, 0)
    assert all(not parameter.grad.any() for parameter in network.parameters())


def test_hits_are_counted(network, shard) -> None:
    with torch.no_grad():
        network.head[-1].weight.zero_()
        network.head[-1].bias.copy_(torch.tensor([0.0, 9, 0, 0]))
    assert add_gradients(network, shard, 9, TrainerConfig(), ALONE).right == 3


@pytest.mark.parametrize("pool", ["spp", "6x6", "avg", "max"])
def test_groups_of_several_sizes_give_the_logits_of_each_image(pool: str, shard) -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 4, hidden=(8,), pool=pool).eval()
    groups = shard[0].groups
    with torch.no_grad():
        together = group_logits(network, groups)
        alone = torch.cat([network(image[None]) for group in groups for image in group])
    assert torch.allclose(together, alone, atol=1e-5)


def test_step_is_clipped_sgd(network, shard) -> None:
    config = TrainerConfig(optimizer=OptimizerConfig(0.5, momentum=0.0, weight_decay=0.0))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    expected, _ = _slow_gradients(network, shard)
    length = torch.sqrt(sum((gradient**2).sum() for gradient in expected))
    optimizer = build_network_optimizer(network, config)
    set_rate(optimizer, 0.5)
    _step(network, optimizer, shard, config)
    scale = 0.5 * min(1.0, CLIP_NORM / float(length))
    for parameter, old, gradient in zip(network.parameters(), before, expected, strict=True):
        assert torch.allclose(parameter, old - scale * gradient, atol=1e-5)


def test_trunk_has_its_own_rate_and_adamw_is_torchs(network, shard) -> None:
    config = TrainerConfig(
        optimizer=OptimizerConfig(1e-3, "adamw", weight_decay=0.01), trunk_rate=0.1
    )
    peer = copy.deepcopy(network)
    optimizer = build_network_optimizer(network, config)
    set_rate(optimizer, 1e-3)
    adam = torch.optim.AdamW(
        [
            {"params": peer.head.parameters(), "lr": 1e-3},
            {"params": peer.backbone.parameters(), "lr": 1e-4},
        ],
        weight_decay=0.01,
    )
    for _ in range(3):
        _step(network, optimizer, shard, config)
        adam.zero_grad()
        add_gradients(peer, shard, 9, config, ALONE)
        nn.utils.clip_grad_norm_(list(peer.parameters()), CLIP_NORM)
        adam.step()
    for parameter, other in zip(network.parameters(), peer.parameters(), strict=True):
        assert torch.allclose(parameter, other, atol=1e-6)


def test_mixed_precision_is_close_and_leaves_weights_in_float32(network, shard) -> None:
    expected, loss = _slow_gradients(network, shard)
    found = add_gradients(network, shard, 9, TrainerConfig(mixed_precision=True), ALONE)
    assert found.loss == pytest.approx(loss, rel=0.02)
    assert found.loss != pytest.approx(loss, rel=1e-7)  # it did compute in bfloat16
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())
    ours = torch.cat([p.grad.flatten() for p in network.parameters()])
    theirs = torch.cat([gradient.flatten() for gradient in expected])
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98
