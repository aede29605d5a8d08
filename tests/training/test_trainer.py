"""The loop against one written out; stops at every update; best weights, averages, bad losses."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sppnet.errors import UnusableFileError, UsageError
from sppnet.storage import save_model
from sppnet.training.checkpoints import KIND, Checkpoints, TrainingLog, TrainingState
from sppnet.training.optimizers import OptimizerConfig, build_optimizer
from sppnet.training.trainer import BatchResult, Trainer, average_weights

pytestmark = pytest.mark.usefixtures("one_thread")
UPDATES, PER_EPOCH = 7, 3  # the last epoch has one update
RATE, MOMENTUM, DECAY, CLIP_NORM = 0.2, 0.9, 0.01, 1.0


@dataclass
class Task:
    """Four pairs of numbers an update, from its number alone; the rate falls with every update."""

    network: nn.Module
    validation_losses: Sequence[float] = (0.0, 0.0, 0.0)
    empty: Sequence[int] = ()
    poisoned: int = -1
    updates: int = UPDATES
    per_epoch: int = PER_EPOCH
    asked: list[int] = field(default_factory=list)

    def rate_at(self, step: int, history: Sequence[dict[str, Any]]) -> float:
        assert len(history) == step // self.per_epoch
        return RATE / (1 + step)

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(first, self.updates):
            self.asked.append(step)
            yield draw(step)

    def add_gradients(self, batch: tuple[Tensor, Tensor], step: int) -> BatchResult | None:
        if step in self.empty:
            return None
        torch.manual_seed(step)  # dropout
        images, targets = batch
        loss = mse_loss(self.network(images), targets)
        loss = loss * torch.nan if step == self.poisoned else loss
        loss.backward()
        return BatchResult(4 * float(loss.detach()), right=step, count=4)

    def measure(self, state: TrainingState, rate: float) -> dict[str, Any]:
        return {
            "epoch": state.epochs_done,
            "rate": rate,
            "loss": state.loss_sum / max(1, state.counted),
            "right": state.right,
            "validation_loss": self.validation_losses[state.epochs_done],
        }


def draw(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 3, generator=generator)
    return images, images.sum(1, keepdim=True)


def make_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 1))


def make_trainer(network: nn.Module, task: Task, **more: Any) -> Trainer:
    config = OptimizerConfig(RATE, momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = build_optimizer([(network.parameters(), 1.0)], config)
    network.train()
    return Trainer(network, optimizer, task, clip_norm=CLIP_NORM, **more)


def train(network: nn.Module, **more: Any) -> list[dict[str, Any]]:
    return make_trainer(network, Task(network), **more).run()


def slow_training(network: nn.Module, updates: int = UPDATES) -> list[float]:
    """Stochastic gradient descent as plain as can be: the losses."""
    memory = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    losses = []
    network.train()
    for step in range(updates):
        images, targets = draw(step)
        torch.manual_seed(step)
        loss = (network(images) - targets).square().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        length = sum(float((g**2).sum()) for g in gradients) ** 0.5
        shorter = min(1.0, CLIP_NORM / length)
        for (name, weight), gradient in zip(network.named_parameters(), gradients, strict=True):
            step_down = shorter * gradient + DECAY * weight.detach()
            memory[name] = MOMENTUM * memory[name] + step_down
            weight.data -= RATE / (1 + step) * memory[name]
    return losses


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


class StoppedError(Exception):
    """What a user's Ctrl-C does here."""


def stop_after(count: int):
    def track(iterable, description, total=None):
        del description, total
        yield from islice(iterable, count)
        raise StoppedError

    return track


def test_training_is_the_plain_loop() -> None:
    network, slow = make_network(), make_network()
    history, losses = train(network), slow_training(slow)
    for name, weight in slow.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    expected = [sum(part) / len(part) for part in (losses[:3], losses[3:6], losses[6:])]
    assert [row["loss"] for row in history] == pytest.approx(expected, rel=1e-5)
    assert [row["right"] for row in history] == [0 + 1 + 2, 3 + 4 + 5, 6]
    assert [row["rate"] for row in history] == [RATE / 3, RATE / 6, RATE / 7]
    assert not network.training


@pytest.mark.parametrize("more", [{}, {"averaging": 0.9}, {"keep_best": True}], ids=str)
@pytest.mark.parametrize("count", range(UPDATES + 1))
def test_stopped_training_goes_on_with_the_same_bits(
    tmp_path: Path, more: dict[str, Any], count: int
) -> None:
    """Saved after every update; one of them has nothing to learn from."""
    straight = make_network()
    whole = make_trainer(straight, Task(straight, empty=(4,)), **more).run()
    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    network = make_network()
    trainer = make_trainer(network, Task(network, empty=(4,)), checkpoints=checkpoints, **more)
    with pytest.raises(StoppedError):
        trainer.run(track=stop_after(count))
    resumed = make_network(9 if count else 0)  # 9: its weights are replaced
    task = Task(resumed, empty=(4,))
    trainer = make_trainer(resumed, task, checkpoints=checkpoints, **more)
    assert trainer.is_resumed == (count > 0)
    assert trainer.run() == whole
    assert task.asked == list(range(count, UPDATES))
    assert same(straight, resumed)


def test_states_come_at_the_end_of_epochs_unless_they_are_due(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every_seconds=1000)
    network = make_network()
    with pytest.raises(StoppedError):
        make_trainer(network, Task(network), checkpoints=checkpoints).run(track=stop_after(5))
    assert [path.name for path in tmp_path.glob("epoch-*")] == ["epoch-00001"]


@pytest.mark.parametrize(("losses", "best"), [((3, 1, 2), 6), ((1, 2, 3), 3), ((2, 2, 2), 7)])
def test_weights_of_the_least_validation_loss_are_left(losses: Sequence[float], best: int) -> None:
    """The last ones of equals; the rate does not depend on the length of the training."""
    network, short = make_network(), make_network()
    make_trainer(network, Task(network, losses), keep_best=True).run()
    make_trainer(short, Task(short, updates=best)).run()
    assert same(network, short)


def test_average_is_the_slow_recursion() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = average_weights(network, 0.25)
    decays = [0.1, 2 / 11, 0.25, 0.25, 0.25]  # 3 / 12 is the same as 0.25
    expected = {k: v.double().clone() for k, v in network.state_dict().items()}
    for decay in decays:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(8, 3))  # moves the statistics
        average.update_parameters(network)
        for name, tensor in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    for name, tensor in average.module.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor.double(), expected[name], atol=1e-6)
    assert int(average.module[1].num_batches_tracked) == 5


def test_average_is_what_the_training_leaves() -> None:
    network, slow = make_network(), make_network()
    train(network, averaging=0.5)
    average = average_weights(slow, 0.5)
    for updates in range(1, UPDATES + 1):
        last = make_network()
        slow_training(last, updates)
        average.update_parameters(last)
    for name, weight in average.module.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [0, 4])
def test_loss_that_is_no_number_is_said_and_changes_no_weight(step: int) -> None:
    network, before = make_network(), make_network()
    make_trainer(before, Task(before, updates=step)).run()
    with pytest.raises(UsageError, match="planted training diverged: the loss is not finite"):
        make_trainer(network, Task(network, poisoned=step)).run("planted training")
    for weight, expected in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_batches_with_nothing_to_learn_from_are_passed_over(tmp_path: Path) -> None:
    network = make_network()
    task = Task(network, empty=(1, 3, 4, 5))
    history = make_trainer(network, task, log=TrainingLog(tmp_path)).run()
    assert [row["right"] for row in history] == [0 + 2, 0, 6]
    assert history[1]["loss"] == 0
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    places = [(row["kind"], row["epoch"], row.get("update")) for row in rows]
    epochs = [("epoch", number, None) for number in range(3)]
    assert places == [("update", 0, 0), *epochs[:2], ("update", 2, 0), epochs[2]]


def test_callers_random_numbers_and_threads_are_left_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    network = make_network()
    torch.manual_seed(5)
    trainer = make_trainer(network, Task(network), checkpoints=checkpoints)
    trainer.run()
    assert torch.equal(torch.rand(3), expected)
    torch.set_num_threads(2)
    again = make_trainer(network, Task(network), checkpoints=checkpoints)
    with pytest.warns(UserWarning, match="goes on with 1 thread,"):
        again.run()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_state_from_before_examples_were_counted_is_taken_up(tmp_path: Path) -> None:
    straight, network = make_network(), make_network()
    whole = train(straight)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(StoppedError):
        make_trainer(network, Task(network), checkpoints=checkpoints).run(track=stop_after(4))
    state = checkpoints.newest()
    assert state is not None
    plain = {name: value for name, value in state.plain().items() if name != "counted"}
    save_model(tmp_path / "epoch-00001", KIND, plain, state.tensors)
    resumed = make_network(9)
    assert train(resumed, checkpoints=checkpoints) == whole
    assert same(straight, resumed)


@pytest.mark.parametrize("wish", [{"averaging": 0.5}, {"network": nn.Linear(3, 1)}], ids=str)
def test_state_of_another_network_is_refused(tmp_path: Path, wish: dict[str, Any]) -> None:
    checkpoints = Checkpoints(tmp_path)
    train(make_network(), checkpoints=checkpoints)
    with pytest.raises(UnusableFileError, match="not of this network"):
        train(**{"network": make_network(), **wish}, checkpoints=checkpoints)
