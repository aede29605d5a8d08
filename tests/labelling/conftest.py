"""Drawn photos in a folder, and sessions on them that take no time."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelled_scenes import CONFIG, Photos
from sppnet import LabelSession
from sppnet.images import (
    DetectionDataset,
    draw_detection_set,
    open_detection_dataset,
)


@pytest.fixture(autouse=True, scope="module")
def only_one_thread(one_thread: None) -> None:
    """The networks here are so small that they gain nothing from more."""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = draw_detection_set(tmp_path_factory.mktemp("drawn") / "data", 12, seed=0)
    return open_detection_dataset(folder)


@pytest.fixture
def photos(drawn: DetectionDataset, tmp_path: Path) -> Photos:
    folder = tmp_path / "photos"
    folder.mkdir()
    images = [image for image in drawn if len(image.boxes)][:8]
    for image in images:
        shutil.copyfile(image.path, folder / image.path.name)
    return Photos(folder, {image.path.name: image for image in images}, drawn.names)


@pytest.fixture
def session(photos: Photos) -> Iterator[LabelSession]:
    with LabelSession.open(photos.folder, config=CONFIG, background=False) as opened:
        yield opened
