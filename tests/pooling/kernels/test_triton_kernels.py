"""Triton kernels: results in the interpreter, machine code for GPUs that need not be there."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="comes with torch's CUDA builds for Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import JITFunction, driver  # noqa: E402

from sppnet.pooling.kernels import triton_launch  # noqa: E402
from sppnet.pooling.kernels.triton_launch import (  # noqa: E402
    make_plan,
    plan_levels,
    pool_cells,
    pool_cells_backward,
)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
VIEW = torch.tensor([[0, 2, 2, 2]])

Compile = Callable[..., dict[str, Any]]


class AbsentGpu:
    """As much of a driver as the compiler asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are kept apart by device

    def get_current_stream(self, _: int) -> int:
        return 0


@pytest.fixture
def compile_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compile]:
    """Compile what a call would launch, through the launching code itself; nothing runs."""
    compiled: dict[str, Any] = {}
    run = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled[kernel.__name__] = run(kernel, *args, grid=grid, warmup=True, **options)

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(triton_launch, "_check_device", lambda _: None)

    def call(capability: int, cells: Tensor, count: int, levels: Any, mode: str) -> dict[str, Any]:
        monkeypatch.setattr(driver, "_active", AbsentGpu(capability))
        compiled.clear()
        views = VIEW.expand(count, 4).contiguous()
        pooled = pool_cells(cells, views, levels, mode)
        pool_cells_backward(pooled, cells, views, levels, mode)
        return compiled

    return call


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile(capability: int, dtype: torch.dtype, compile_for: Compile) -> None:
    cells = torch.zeros(60, 256, dtype=dtype)
    names = {"prepare_cells", "pool_views", "scatter_views"}
    compiled = compile_for(capability, cells, 2000, (6, 3, 2, 1), "max")
    assert compiled.keys() == names
    for kernel in compiled.values():
        assert f".target sm_{capability}" in kernel.asm["ptx"]
        assert kernel.asm["cubin"].startswith(b"\x7fELF")
        assert kernel.metadata.shared <= 48 * 1024  # what a program gets without asking


@pytest.mark.parametrize("dtype", FLOATS)
def test_kernels_of_averages_compile(dtype: torch.dtype, compile_for: Compile) -> None:
    compiled = compile_for(80, torch.zeros(60, 256, dtype=dtype), 2000, (6, 3), "avg")
    assert compiled.keys() == {"pool_views", "scatter_views"}


@pytest.mark.parametrize("channels", [1, 3, 130])
def test_kernels_for_odd_numbers_of_channels_compile(channels: int, compile_for: Compile) -> None:
    for mode in ("max", "avg"):
        assert compile_for(90, torch.zeros(60, channels), 3, (7, 5), mode)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_kernels_for_places_of_64_bits_compile(
    mode: str, compile_for: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_launch, "FEW_PLACES", 0)
    assert compile_for(80, torch.zeros(60, 256), 2000, (6, 3), mode)


def test_cells_are_read_and_vectors_written_by_16_bytes(compile_for: Compile) -> None:
    code = compile_for(90, torch.zeros(60, 256), 2000, (6, 3, 2, 1), "max")["pool_views"].asm["ptx"]
    assert len(re.findall(r"ld\.global\.v4\.b32", code)) >= 8
    assert len(re.findall(r"st\.global\.v4\.b32", code)) >= 4


def test_programs_wait_before_they_read_a_finer_level_back(compile_for: Compile) -> None:
    for levels, unions in (((6, 3, 2, 1), 3), ((7, 5, 2), 0), ((4, 3, 2), 1)):
        compiled = compile_for(90, torch.zeros(60, 256), 2000, levels, "max")
        assert len(re.findall(r"\bbarrier\b", compiled["pool_views"].asm["ttir"])) == unions


def test_places_are_counted_in_64_bits_where_they_must() -> None:
    def index(rows: int, channels: int, stride: int, views: int = 1, levels: Any = (6,)) -> str:
        cells = torch.empty_strided((rows, channels), (stride, 1), device="meta")
        return str(make_plan(cells, views, levels, "max").index)

    assert index(2400, 256, 256) == "int32"
    assert index(2**23, 256, 256) == "int64"
    assert index(2**23 - 1, 256, 256) == "int32"
    assert index(2**23 - 1, 256, 257) == "int64"
    assert index(2**21, 256, 256, views=2**21) == "int64"  # the tables are larger than the cells
    assert index(2**29, 1, 0) == "int64"  # bins times cells along a side
    assert index(4, 2**20, 2**20, levels=(64,)) == "int64"  # a pooled vector


def test_levels_are_planned_from_fine_to_coarse() -> None:
    planned = [(level.n, level.first_bin, level.finer) for level in plan_levels((1, 2, 3, 6, 2))]
    assert planned == [(6, 14, 0), (3, 5, 6), (2, 1, 6), (2, 50, 6), (1, 0, 2)]
    assert {level.finer_first_bin for level in plan_levels((1, 2, 3, 6)) if level.n > 1} == {0, 14}
    assert [level.finer for level in plan_levels((7, 5, 2))] == [0, 0, 0]
    assert [level.bins for level in plan_levels((7, 4, 3, 2, 1))] == [16, 16, 16, 4, 1]


@pytest.mark.parametrize(
    ("chosen", "least"),
    [
        ("nothing_to_pool or sign_of_zero or written_into_out or (torch_on_crops and 0-)", 8),
        pytest.param("test", 45, marks=pytest.mark.slow),
    ],
)
def test_results_in_the_interpreter(chosen: str, least: int) -> None:
    cases = Path(__file__).with_name("interpreted_triton_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases), "-k", chosen],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= least
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"cells": torch.zeros(4, 3, dtype=torch.int32)}, TypeError, "cells must be of one of"),
        ({"cells": torch.zeros(3, 4).T}, ValueError, "channels side by side, got .4, 3. with"),
        ({"cells": torch.zeros(4)}, ValueError, "cells must have shape .M, C."),
        ({"views": VIEW.int()}, TypeError, "views must be int64, got torch.int32"),
        ({"views": VIEW[0]}, ValueError, r"views must have shape .K, 4. on cpu, got .4,. on cpu"),
        ({"views": VIEW.to("meta")}, ValueError, "on cpu, got .1, 4. on meta"),
        ({"mode": "min"}, ValueError, "mode must be 'max' or 'avg', got 'min'"),
        ({"levels": (0,)}, ValueError, "levels must be one or more positive integers"),
        ({}, ValueError, "cells must be on a CUDA device, got cpu"),
    ],
)
def test_what_cannot_be_pooled_is_refused(change, error, words: str, monkeypatch) -> None:
    if change:
        monkeypatch.setattr(triton_launch, "_check_device", lambda _: None)
    call = {"cells": torch.zeros(4, 3), "views": VIEW, "levels": (1,), "mode": "max", **change}
    with pytest.raises(error, match=words):
        pool_cells(**call)
    with pytest.raises(error, match=words):
        pool_cells_backward(torch.zeros(1, 3), **call)


def test_gradient_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "_check_device", lambda _: None)
    with pytest.raises(ValueError, match=r"grad must have shape \(1, 15\) on cpu, got \(1, 3\)"):
        pool_cells_backward(torch.zeros(1, 3), torch.zeros(4, 3), VIEW, (1, 2))


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        ("None", "pooling on CUDA needs triton: pip install triton\n"),
        (
            "types.SimpleNamespace(__version__='3.3.1')",
            "pooling on CUDA needs triton 3.4 or newer (torch 2.8), got 3.3.1: "
            "pip install -U torch\n",
        ),
    ],
)
def test_without_triton_the_error_names_the_install_command(fake: str, words: str) -> None:
    code = (
        f"import sys, types, sppnet.pooling; sys.modules['triton'] = {fake}\n"
        "try: import sppnet.pooling.kernels.triton_launch\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == words
