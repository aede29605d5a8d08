"""A drawn set that the tests of the readers share."""

from pathlib import Path

import pytest

from sppnet.images import draw_detection_set


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_detection_set(tmp_path_factory.mktemp("drawn"), 12, seed=3)
