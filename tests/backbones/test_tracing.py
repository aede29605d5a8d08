"""The trunk in the form for exporters is the trunk."""

import pytest
import torch

from sppnet.backbones import build_backbone
from sppnet.backbones.tracing import check_exportable, convolve_any_size
from sppnet.errors import OutputError


@pytest.mark.parametrize("name", ["small5", "squeezenet1_1", "zf5"])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (70, 3), (64, 80)])
@torch.no_grad()
def test_maps_are_those_of_the_backbone(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone, images = build_backbone(name), torch.rand(2, 3, *size)
    assert torch.equal(convolve_any_size(backbone, images), backbone(images))


@pytest.mark.parametrize("name", ["swin_t", "timm:swin_tiny_patch4_window7_224"])
def test_windows_of_attention_are_not_exported(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    with pytest.raises(OutputError, match=f"must fit every size, and the windows .* of {name}"):
        check_exportable(backbone)
