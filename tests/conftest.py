"""Fixtures that every room's tests may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# where there are more threads than cores, those that wait for others must not keep a core busy
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The files that take longest, longest first: begun last, one of them would keep a single core busy
# while the other waits.
BEGUN_FIRST = (
    "tests/pooling/test_keras_layer.py",
    "tests/end_to_end/test_demo.py",
    "tests/app/test_export.py",
    "tests/detection/test_train.py",
    "tests/app/detect/test_predict.py",
    "tests/paper/test_detection.py",
    "tests/end_to_end/test_detect.py",
    "tests/pooling/onnx/test_operators.py",
    "tests/training/test_distributed.py",
    "tests/backbones/test_backbone.py",
    "tests/detection/proposals/test_propose.py",
    "tests/end_to_end/test_resigned_models.py",
    "tests/backbones/tracing/test_receptive_field.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Have xdist begin with the first files, and not with those of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, and leave all else in its order."""
    places = {name: place for place, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


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
