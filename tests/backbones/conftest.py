"""Settings of this room's tests."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def only_one_thread(one_thread: None) -> None:
    """The maps here are so small that waiting for other threads costs more than they bring."""
