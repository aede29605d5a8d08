"""Runs a program in two processes that exchange by gloo, as ``torchrun`` would start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

Gradients = list[list[torch.Tensor]]  # of every parameter, for each update


def _environment(rank: int, port: int) -> dict[str, str]:
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **places, "RANK": str(rank), "WORLD_SIZE": "2"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_two(script: Path, job: str, data: Path, out: Path) -> list[tuple[int, str]]:
    """Run ``script job data out`` in two processes: exit code and last words of each."""
    out.mkdir(exist_ok=True)
    command, port = [sys.executable, str(script), job, str(data), str(out)], _free_port()
    started = [
        subprocess.Popen(command, env=_environment(rank, port), stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    words = [process.communicate(timeout=600)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, words, strict=True)]


def both_of(script: Path, job: str, data: Path, out: Path) -> list:
    """What two processes left in ``out/rank-N.pt``; both must have ended well."""
    endings = run_two(script, job, data, out)
    assert [code for code, _ in endings] == [0, 0], endings
    return [torch.load(out / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same_gradients(alone: Gradients, first: Gradients, second: Gradients) -> None:
    """The gradients of each update: alike in both processes, and as those of one process."""
    for expected, one, other in zip(alone, first, second, strict=True):
        for want, got, same in zip(expected, one, other, strict=True):
            assert torch.equal(got, same)
            assert torch.allclose(got.double(), want.double(), rtol=1e-5, atol=1e-6)
