"""A joined map holds the maps of its layers, each looked up where the cells of the finest lie."""

import math

import pytest
import torch

from sppnet.backbones import build_backbone, restore_backbone

JOINED = [
    ("small5", "relu2+relu5"),
    ("efficientnet_lite0", "stage5+stage7"),
    ("efficientnet_lite0", "stage7+stage4+stage3"),
    ("squeezenet1_1", "features.7+features.12"),
    ("resnet18", "layer2+layer4"),
    ("swin_t", "features.1+features.3"),
]


def look_up(coarse: torch.Tensor, place: float, dim: int) -> torch.Tensor:
    """Interpolate one row or column linearly; beyond the edges the map goes on as it ends."""
    place = min(max(place, 0.0), coarse.shape[dim] - 1.0)
    below = math.floor(place)
    above = min(below + 1, coarse.shape[dim] - 1)
    share = place - below
    return coarse.select(dim, below) * (1 - share) + coarse.select(dim, above) * share


@pytest.mark.parametrize(("name", "layer"), JOINED)
@pytest.mark.parametrize("size", [(97, 130), (64, 224)])
@torch.no_grad()
def test_maps_are_looked_up_where_cells_of_the_finest_lie(name: str, layer: str, size) -> None:
    torch.manual_seed(0)
    joined = build_backbone(name, layer=layer)
    whole = joined.trunk.state_dict()
    parts = [build_backbone(name, layer=each) for each in layer.split("+")]
    for part in parts:
        part.trunk.load_state_dict({key: whole[key] for key in part.trunk.state_dict()})
    image = torch.rand(1, 3, *size)
    image = joined.pad_to_min(image - 0.5) + 0.5 if joined.min_size > min(size) else image
    found = joined(image)
    finest = min(parts, key=lambda part: part.stride)
    rows, columns = finest(image).shape[2:]
    assert (joined.stride, joined.centre) == (finest.stride, finest.centre)
    assert found.shape[2:] == (rows, columns) == joined.grid_hw(tuple(image.shape[2:]))
    assert found.shape[1] == joined.channels == sum(part.channels for part in parts)
    for part, channels in zip(
        parts, found.split([part.channels for part in parts], 1), strict=True
    ):
        coarse = part(image)[0]
        for row, column in [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)]:
            pixel_y, pixel_x = (finest.centre + cell * finest.stride for cell in (row, column))
            line = look_up(coarse, (pixel_y - part.centre) / part.stride, 1)
            cell = look_up(line, (pixel_x - part.centre) / part.stride, 1)
            assert torch.allclose(channels[0, :, row, column], cell, atol=1e-4, rtol=1e-4)


def test_the_smallest_image_gives_every_layer_a_cell() -> None:
    joined = build_backbone("alexnet", layer="features.2+features.11")
    assert joined.min_size == build_backbone("alexnet", layer="features.11").min_size
    assert joined(torch.rand(1, 3, 1, 1)).isfinite().all()


def test_a_joined_trunk_is_saved_and_restored_to_the_bit() -> None:
    old = build_backbone("small5", layer="relu3+relu5")
    new = restore_backbone(old.config(), old.state_dict())
    image = torch.rand(1, 3, 50, 71)
    assert new.config() == old.config()
    assert torch.equal(new(image), old(image))


def test_gradients_reach_both_layers() -> None:
    joined = build_backbone("small5", layer="relu2+relu5").train()
    for channels in (slice(0, 48), slice(48, None)):
        image = torch.rand(1, 3, 64, 64, requires_grad=True)
        joined(image)[:, channels].sum().backward()
        assert image.grad is not None
        assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("relu2+relu2", "different maps"),
        ("relu2+nowhere", "layer must be one that the trunk has"),
        ("relu2+", "layer must be one that the trunk has"),
    ],
)
def test_wrong_names_are_refused(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone("small5", layer=layer)
