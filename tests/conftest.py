"""Fixtures that every room's tests may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Forget variables that a test left, such as those that --debug and --threads set."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({k: v for k, v in before.items() if k != "PYTEST_CURRENT_TEST"})


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photos and weights; tests that need it are skipped without SPPNET_DATA."""
    folder = os.environ.get("SPPNET_DATA")
    if not folder:
        pytest.skip("SPPNET_DATA is not set: no real data to test on")
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread: tiny networks gain nothing from more, and lose on a busy machine."""
    import torch  # here: many tests need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
