"""Every case compares before it times, and leaves threads as they were."""

from dataclasses import replace

import pytest
import torch

from sppnet.app.benchmark import cases
from sppnet.app.benchmark.job import CASES
from sppnet.pooling import pool_regions
from tiny_benchmark import TINY


def wrong_in_one_number(pool):
    """A pooling that is right but for one number."""

    def pool_wrongly(*inputs, **options):
        out = pool(*inputs, **options).clone()
        out[-1, -1] += 1
        return out

    return pool_wrongly


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("pool_regions", cases.compare_forward),
        ("pool_regions", cases.compare_training),
        ("spatial_pyramid_pool", cases.compare_whole),
        ("spatial_pyramid_pool", cases.compare_whole_training),
        ("spatial_pyramid_pool", cases.sweep_shapes),
        ("spatial_pyramid_pool", cases.compare_mixed),
    ],
)
def test_wrong_pooling_is_not_timed(name, case, monkeypatch) -> None:
    monkeypatch.setattr(cases, name, wrong_in_one_number(getattr(cases, name)))
    monkeypatch.setattr(cases, "time_together", lambda *_: pytest.fail("timed a wrong answer"))
    with pytest.raises(RuntimeError, match=r"1 of [0-9]+ numbers differ"):
        case(TINY)


def test_wrong_pooling_in_place_is_not_timed_in_growth(monkeypatch) -> None:
    def pool_wrongly(*inputs, out):
        pool_regions(*inputs, out=out)
        out[0, 0] += 1

    monkeypatch.setattr(cases, "pool_regions", pool_wrongly)
    with pytest.raises(RuntimeError, match=r"1 of [0-9]+ numbers differ"):
        cases.measure_growth(TINY)


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, features):
        return features.clone()

    @staticmethod
    def backward(_ctx, grad):
        return grad + 1


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("pool_regions", cases.compare_training),
        ("spatial_pyramid_pool", cases.compare_whole_training),
        ("spatial_pyramid_pool", cases.compare_mixed),
    ],
)
def test_wrong_gradient_is_not_timed(name, case, monkeypatch) -> None:
    right = getattr(cases, name)

    def pool(features, *inputs):
        if isinstance(features, torch.Tensor):
            return right(_WrongGradient.apply(features), *inputs)
        return right([_WrongGradient.apply(each) for each in features], *inputs)

    monkeypatch.setattr(cases, name, pool)
    with pytest.raises(RuntimeError, match=r"gradient.* numbers differ"):
        case(TINY)


def test_goals_of_two_threads_do_not_judge_other_counts() -> None:
    found = cases.compare_forward(replace(TINY, threads=3)).comparisons
    assert {each.goal is None for each in found if each.threads == 3} == {True}
    assert any(each.goal for each in found if each.threads == 1)


@pytest.mark.parametrize("case", [name for name in CASES if name != "ONNX"])
def test_cases_leave_threads_as_they_were(case) -> None:
    before = torch.get_num_threads()
    CASES[case](TINY)
    assert torch.get_num_threads() == before


def test_slope_of_a_power() -> None:
    points = [{"x": x, "ms": 3 * x**1.5} for x in (1, 10, 100)]
    assert cases.fit_slope(points) == pytest.approx(1.5)
