"""Fixtures that every room's tests may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photos and weights; tests that need it are skipped without SPPNET_DATA."""
    folder = os.environ.get("SPPNET_DATA")
    if not folder:
        pytest.skip("SPPNET_DATA is not set: no real data to test on")
    return Path(folder).resolve()
