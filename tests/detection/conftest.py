"""Settings of this room's tests, and parts that several of them use."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sppnet.backbones import build_backbone
from sppnet.detection import Encoder


@pytest.fixture(autouse=True, scope="module")
def only_one_thread(one_thread: None) -> None:
    """Compute with one thread: the maps here gain nothing from more."""


@pytest.fixture
def make_encoder():
    """Build an encoder around small5 with the same random weights every time."""

    def build(short_sides: tuple[int, ...] = (96,), **options) -> Encoder:
        torch.manual_seed(0)
        options = {"target_side": 70, **options}  # so that small scales are chosen, too
        return Encoder(build_backbone("small5"), short_sides, **options)

    return build


@pytest.fixture
def make_picture():
    """Smooth random colours, so that neither resizing nor convolution gives a flat map."""

    def build(height: int, width: int, seed: int = 0) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, 7, 9, generator=draw)
        return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]

    return build


@pytest.fixture
def make_boxes():
    """Random proposals of at least one pixel inside an image."""

    def build(count: int, height: int, width: int, seed: int = 0) -> Tensor:
        rng = np.random.default_rng(seed)
        x = np.sort(rng.uniform(0, width, (count, 2)), axis=1)
        y = np.sort(rng.uniform(0, height, (count, 2)), axis=1)
        x1, y1 = np.minimum(x[:, 0], width - 1), np.minimum(y[:, 0], height - 1)
        x2, y2 = np.maximum(x[:, 1], x1 + 1), np.maximum(y[:, 1], y1 + 1)
        return torch.tensor(np.stack([x1, y1, x2, y2], 1), dtype=torch.float32)

    return build
