"""The trunk in the form for exporters is the trunk."""

import pytest
import torch

from sppnet.backbones import build_backbone
from sppnet.backbones.tracing import convolve_any_size


@pytest.mark.parametrize("name", ["small5", "squeezenet1_1", "zf5"])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (70, 3), (64, 80)])
@torch.no_grad()
def test_maps_are_those_of_the_backbone(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone, images = build_backbone(name), torch.rand(2, 3, *size)
    assert torch.equal(convolve_any_size(backbone, images), backbone(images))
