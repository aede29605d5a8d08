"""One thread: the maps are so small that waiting for a second one costs more than it saves."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def only_one_thread(one_thread: None) -> None:
    """As the first line says."""
