"""The gradient of a batch is one and the same however the batch is cut up; the slow way says so."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sppnet.classification import Processes, SppNet, TrainerConfig, build_classifier
from sppnet.classification.train.loader import Part
from sppnet.classification.train.trainer import (
    CLIP_NORM,
    add_gradients,
    build_optimizer,
    group_logits,
    set_rate,
    update,
)
from sppnet.errors import UsageError
from sppnet.training.ema import WeightAverage

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
def parts() -> list[Part]:
    """Nine images of three sizes in two parts."""
    torch.manual_seed(1)
    first = [torch.rand(3, 3, *SIZES[0]), torch.rand(2, 3, *SIZES[1])]
    second = [torch.rand(4, 3, *SIZES[2])]
    return [Part(first, torch.tensor([0, 1, 2, 3, 0])), Part(second, torch.tensor([1, 1, 2, 3]))]


def _slow_gradients(
    network: SppNet, parts: list[Part], smoothing: float = 0.0
) -> tuple[list[torch.Tensor], float]:
    """Image by image, as plain as can be."""
    network.zero_grad()
    images = [image[None] for part in parts for group in part.groups for image in group]
    labels = torch.cat([part.labels for part in parts])
    losses = [
        cross_entropy(network(image), label[None], label_smoothing=smoothing)
        for image, label in zip(images, labels, strict=True)
    ]
    torch.stack(losses).mean().backward()
    return [p.grad.clone() for p in network.parameters()], float(torch.stack(losses).detach().sum())


def test_gradient_of_parts_and_groups_is_that_of_single_images(network, parts) -> None:
    expected, loss = _slow_gradients(network, parts)
    outcome = add_gradients(network, parts, 9, TrainerConfig(), ALONE)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert outcome.loss == pytest.approx(loss, rel=1e-5)


def test_label_smoothing_is_torchs(network, parts) -> None:
    expected, _ = _slow_gradients(network, parts, smoothing=0.2)
    add_gradients(network, parts, 9, TrainerConfig(label_smoothing=0.2), ALONE)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_shares_without_images_add_nothing(network) -> None:
    outcome = add_gradients(network, [], 9, TrainerConfig(), ALONE)
    assert (outcome.loss, outcome.right) == (0, 0)
    assert all(not parameter.grad.any() for parameter in network.parameters())


def test_hits_are_counted(network, parts) -> None:
    with torch.no_grad():
        network.head[-1].weight.zero_()
        network.head[-1].bias.copy_(torch.tensor([0.0, 9, 0, 0]))
    assert add_gradients(network, parts, 9, TrainerConfig(), ALONE).right == 3


@pytest.mark.parametrize("pool", ["spp", "6x6", "avg", "max"])
def test_groups_of_several_sizes_give_the_logits_of_each_image(pool: str, parts) -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 4, hidden=(8,), pool=pool).eval()
    groups = parts[0].groups
    with torch.no_grad():
        together = group_logits(network, groups)
        alone = torch.cat([network(image[None]) for group in groups for image in group])
    assert torch.allclose(together, alone, atol=1e-5)


def test_step_is_clipped_sgd(network, parts) -> None:
    plan = TrainerConfig(momentum=0.0, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    expected, _ = _slow_gradients(network, parts)
    length = torch.sqrt(sum((gradient**2).sum() for gradient in expected))
    optimizer = build_optimizer(network, plan)
    set_rate(optimizer, 0.5)
    update(network, optimizer, parts, 9, plan, ALONE)
    scale = 0.5 * min(1.0, CLIP_NORM / float(length))
    for parameter, old, gradient in zip(network.parameters(), before, expected, strict=True):
        assert torch.allclose(parameter, old - scale * gradient, atol=1e-5)


def test_trunk_has_its_own_rate_and_adamw_is_torchs(network, parts) -> None:
    plan = TrainerConfig(optimizer="adamw", trunk_rate=0.1, weight_decay=0.01)
    peer = copy.deepcopy(network)
    optimizer = build_optimizer(network, plan)
    set_rate(optimizer, 1e-3)
    adam = torch.optim.AdamW(
        [
            {"params": peer.head.parameters(), "lr": 1e-3},
            {"params": peer.backbone.parameters(), "lr": 1e-4},
        ],
        weight_decay=0.01,
    )
    for _ in range(3):
        update(network, optimizer, parts, 9, plan, ALONE)
        add_gradients(peer, parts, 9, plan, ALONE)
        nn.utils.clip_grad_norm_(list(peer.parameters()), CLIP_NORM)
        adam.step()
    for parameter, other in zip(network.parameters(), peer.parameters(), strict=True):
        assert torch.allclose(parameter, other, atol=1e-6)


def test_mixed_precision_is_close_and_leaves_weights_in_float32(network, parts) -> None:
    expected, loss = _slow_gradients(network, parts)
    outcome = add_gradients(network, parts, 9, TrainerConfig(mixed_precision=True), ALONE)
    assert outcome.loss == pytest.approx(loss, rel=0.02)
    assert outcome.loss != pytest.approx(loss, rel=1e-7)  # it did compute in bfloat16
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())
    ours = torch.cat([p.grad.flatten() for p in network.parameters()])
    theirs = torch.cat([gradient.flatten() for gradient in expected])
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98


def test_loss_that_is_no_number_changes_no_weight(network, parts) -> None:
    with torch.no_grad():
        network.head[-1].bias.fill_(torch.nan)
    before = copy.deepcopy(network.backbone.state_dict())
    optimizer = build_optimizer(network, TrainerConfig())
    with pytest.raises(UsageError, match="training diverged"):
        update(network, optimizer, parts, 9, TrainerConfig(), ALONE)
    after = network.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_average_is_the_slow_recursion() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, 0.5)
    expected, decays = None, [0.1, 2 / 11, 3 / 12, 4 / 13, 5 / 14]
    expected = {k: v.double().clone() for k, v in network.state_dict().items()}
    for decay in decays:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(8, 3))  # moves the statistics
        average.update(network)
        for name, tensor in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    average.put_into(network)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor.double(), expected[name], atol=1e-6)
    assert int(network[1].num_batches_tracked) == 5
