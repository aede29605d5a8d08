"""A head learns pooled windows, keeps its best state, and goes on to the same bits after a stop."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from sppnet.classification import Checkpoints
from sppnet.detection.fc_plan import FcPlan
from sppnet.detection.fc_tuning import (
    build_head,
    build_optimizer,
    tune_on_windows,
    validation_loss,
)
from sppnet.detection.fc_windows import WindowPool
from sppnet.detection.window_sampling import SamplingRule
from sppnet.errors import NothingUsableError, UsageError
from sppnet.progress import no_tracking

LENGTH, K = 60, 2
PLAN = FcPlan(
    updates=80, check_every=20, rule=SamplingRule(batch=32), widths=(16, 8), dropout=0.1, rate=0.05
)


def _pool(count: int = 600, seed: int = 0, noise: float = 1.0) -> WindowPool:
    """Two classes and the background around three points, as large as pooled vectors."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(K + 1, (count,), generator=draw)
    centres = torch.randn(K + 1, LENGTH, generator=torch.Generator().manual_seed(9))
    rows = centres[labels] + noise * torch.randn(count, LENGTH, generator=draw)
    return WindowPool((30 * rows).half(), labels)


def test_head_learns_what_unseen_windows_show() -> None:
    judged = _pool(300, seed=1)
    tuned = tune_on_windows(_pool(), judged, K, PLAN)
    rows, labels = judged.batch(torch.arange(300))
    right = (tuned.head(rows).argmax(1) == labels).float().mean()
    assert float(right) > 0.95
    assert not tuned.head.training
    assert [row["epoch"] for row in tuned.history] == [0, 1, 2, 3]


def test_state_of_least_validation_loss_is_kept() -> None:
    noisy = _pool(40, noise=4.0)  # learnt by heart: unseen windows get worse and worse
    plan = FcPlan(updates=300, check_every=10, rule=PLAN.rule, widths=(64, 32), dropout=0.0,
                  rate=0.05)  # fmt: skip
    judged = _pool(300, seed=1, noise=4.0)
    tuned = tune_on_windows(noisy, judged, K, plan)
    losses = [row["validation_loss"] for row in tuned.history]
    assert min(losses) < losses[-1]
    assert validation_loss(tuned.head, judged) == pytest.approx(min(losses), rel=1e-5)


def test_stopped_run_goes_on_to_the_same_bits(tmp_path) -> None:
    pool, judged = _pool(), _pool(100, seed=1)
    whole = tune_on_windows(pool, judged, K, PLAN)

    class Stopped(Exception):
        """What a user's Ctrl-C does here."""

    def stop(iterable, _description, total=None):
        del total
        yield from islice(iterable, 50)
        raise Stopped

    with pytest.raises(Stopped):
        tune_on_windows(pool, judged, K, PLAN, checkpoints=Checkpoints(tmp_path), track=stop)
    seen = []

    def count(iterable, description, total=None):
        seen.extend(iterable)
        return no_tracking(seen, description, total)

    again = tune_on_windows(pool, judged, K, PLAN, checkpoints=Checkpoints(tmp_path), track=count)
    assert seen[0] == 40  # two looks of twenty updates had been saved
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, again.head.state_dict()[name]), name
    assert whole.history == again.history


def test_run_that_was_done_is_not_done_again(tmp_path) -> None:
    pool, judged = _pool(), _pool(100, seed=1)
    whole = tune_on_windows(pool, judged, K, PLAN, checkpoints=Checkpoints(tmp_path))
    again = tune_on_windows(pool, judged, K, PLAN, checkpoints=Checkpoints(tmp_path))
    assert torch.equal(whole.head.logits.weight, again.head.logits.weight)
    assert whole.history == again.history


def test_without_validation_windows_the_last_state_is_kept() -> None:
    tuned = tune_on_windows(_pool(), _pool(0), K, PLAN)
    rows, labels = _pool(300, seed=1).batch(torch.arange(300))
    assert float((tuned.head(rows).argmax(1) == labels).float().mean()) > 0.9


def test_vectors_come_in_with_a_mean_square_of_one() -> None:
    pool = _pool()
    scaled = pool.rows.float() * build_head(pool, K, PLAN).scale
    assert float(scaled.square().mean()) == pytest.approx(1.0, rel=0.05)


def test_one_step_is_sgd_written_out() -> None:
    plan = FcPlan(widths=(4, 4), weight_decay=0.1, rate=0.5, momentum=0.9)
    head = build_head(_pool(), K, plan)
    optimizer = build_optimizer(head, plan)
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    gradients: dict[str, Tensor] = {}
    for name, parameter in head.named_parameters():
        gradients[name] = parameter.grad = torch.randn_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["share"]
    optimizer.step()
    for name, parameter in head.named_parameters():
        is_bias = name.endswith("bias")
        step = gradients[name] + (0.0 if is_bias else 0.1) * before[name]
        expected = before[name] - (1.0 if is_bias else 0.5) * step
        torch.testing.assert_close(parameter.detach(), expected)


def test_what_cannot_be_learnt_is_refused() -> None:
    background = WindowPool(_pool(50).rows, torch.full((50,), K))
    with pytest.raises(NothingUsableError, match="no window shows an object"):
        tune_on_windows(background, _pool(0), K, PLAN)
    broken = WindowPool(torch.full((50, LENGTH), torch.inf).half(), torch.zeros(50).long())
    with pytest.raises(UsageError, match="tuning diverged"):
        tune_on_windows(broken, _pool(0), K, PLAN)


@pytest.mark.parametrize("name", ["updates", "check_every", "per_image", "rate"])
def test_impossible_plans_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        FcPlan(**{name: 0})


def test_budget_bounds_the_windows_whatever_the_number_of_images() -> None:
    plan = FcPlan(budget_bytes=2 * 1000 * 5_000)
    for images in (1, 10, 100, 10_000, 10**6):
        looked_at, each = plan.share_out(images, length=1000)
        assert looked_at * each <= 5_000
        assert looked_at <= images
        assert 4 <= each <= 64
