"""Small data for the tables."""

from pathlib import Path

import pytest

from sppnet.images import draw_class_folders, draw_detection_set


@pytest.fixture(scope="session")
def small_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with five drawn images each."""
    return draw_class_folders(tmp_path_factory.mktemp("drawn"), per_class=5)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC set of twelve drawn images."""
    return draw_detection_set(tmp_path_factory.mktemp("drawn"), count=12, seed=0)
