"""Stride, centre and extent of cells: the arithmetic, and the truth by back-propagation.

A joined map holds the maps of its layers, each looked up where the cells of the finest lie.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oracles.support import PaddedAsTensorflow, draw_weights, make_positive, seen_pixels
from sppnet.backbones import Axis, Window, build_backbone, restore_backbone
from sppnet.backbones.backbone import round_up
from sppnet.backbones.tracing.cut import cut_model

# name, layer -> stride, centre of cell 0, receptive field; each is also measured below
GEOMETRY = {
    ("zf5", None): (16, 20.0, 139),  # spp-net.md 6.3, as the next two
    ("convnet5", None): (16, 15.0, 131),
    ("overfeat5", None): (12, 8.0, 113),
    ("overfeat7", None): (12, 8.0, 161),
    ("small5", None): (8, 0.0, 49),
    ("alexnet", None): (16, 15.0, 163),
    ("convnext_tiny", "features.3"): (8, 3.5, 224),
    ("densenet121", "features.denseblock2"): (8, 2.0, 255),
    ("efficientnet_b0", "features.4"): (16, 0.0, 147),
    ("efficientnet_lite0", "head"): (32, 31.0, 851),  # padded at the right and bottom only
    ("efficientnet_lite0", "stage5"): (16, 15.0, 339),
    ("efficientnet_lite0", "stage3"): (8, 7.0, 67),
    ("efficientnet_lite2", "stage5"): (16, 15.0, 475),
    ("googlenet", None): (32, 22.0, 379),
    ("inception_v3", "Mixed_6b"): (16, 21.0, 351),
    ("mnasnet0_5", "layers.12"): (32, 0.0, 779),
    ("mobilenet_v2", "features.13"): (16, 0.0, 267),
    ("mobilenet_v3_small", None): (32, 0.0, 639),
    ("regnet_x_400mf", "trunk_output.block3"): (16, 0.0, 239),
    ("resnet18", None): (32, 0.0, 435),
    ("resnet50", "layer3"): (16, 0.0, 267),
    ("shufflenet_v2_x0_5", None): (32, 0.0, 527),
    ("squeezenet1_0", None): (16, 17.0, 155),
    ("squeezenet1_1", None): (16, 15.0, 207),
    ("vgg11", "features.14"): (8, 3.5, 62),
    ("resnext50_32x4d", "layer3"): (16, 0.0, 267),
    ("wide_resnet50_2", "layer2"): (8, 0.0, 91),
    ("swin_t", None): (32, 15.5, 32),  # attention moves no cell from its patch
    ("swin_v2_t", None): (32, 15.5, 32),
    ("timm:convnextv2_atto", "stages.1"): (8, 3.5, 152),
    ("timm:cspresnet50", "stages.2"): (16, 0.0, 267),
    ("timm:dpn48b", None): (32, 0.0, 423),
    ("timm:eca_nfnet_l0", "stages.1"): (8, 0.0, 87),
    ("timm:ecaresnet50d", "layer3"): (16, 0.0, 271),
    ("timm:efficientnet_b0", "blocks.4"): (16, 0.0, 339),
    ("timm:fasternet_t0", "stages.1"): (8, 3.5, 48),
    ("timm:focalnet_tiny_srf", "layers.1"): (8, 3.5, 152),
    ("timm:ghostnet_050", "blocks.6"): (16, 0.0, 499),
    ("timm:hgnetv2_b0", "stages.2"): (16, 2.0, 491),
    ("timm:inception_next_atto", "stages.1"): (8, 3.5, 200),
    ("timm:inception_v4", "features.9"): (8, 13.0, 183),
    ("timm:lcnet_050", None): (32, 0.0, 571),
    ("timm:mixnet_s", "blocks.4"): (16, 0.0, 667),
    ("timm:mobilenetv4_conv_small", None): (32, 0.0, 943),
    ("timm:nf_resnet26", None): (32, 0.0, 195),
    ("timm:poolformer_s12", "stages.1"): (8, 1.0, 63),
    ("timm:regnety_002", "s3"): (16, 0.0, 127),
    ("timm:repvgg_a0", "stages.2"): (16, 0.0, 503),
    ("timm:res2net50_26w_4s", "layer2"): (8, 0.0, 219),
    ("timm:resnest14d", None): (32, 0.0, 135),
    ("timm:resnet50", "layer3"): (16, 0.0, 267),
    ("timm:resnetv2_50", "stages.2"): (16, 0.0, 267),
    ("timm:rexnet_100", None): (32, 0.0, 507),
    ("timm:skresnet18", None): (32, 0.0, 619),
    ("timm:swin_tiny_patch4_window7_224", None): (32, 15.5, 32),
    ("timm:swinv2_tiny_window8_256", None): (32, 15.5, 32),
    # TensorFlow's padding: nothing before and one cell after for a window of 3, 1 and 2 for 5
    ("timm:tf_efficientnet_lite0", "blocks.4"): (16, 15.0, 339),
    ("timm:tf_efficientnetv2_b0", "blocks.2"): (8, 7.0, 43),
    ("timm:tf_mixnet_s", "blocks.3"): (16, 15.0, 315),
    ("timm:tf_mobilenetv3_small_minimal_100", None): (32, 31.0, 335),
    ("timm:vovnet39a", "stages.1"): (8, 4.0, 139),
    ("timm:xception41", "blocks.4"): (16, 0.0, 283),
}
NEED_VALUES = ("regnet", "swin", "timm:swin")  # they work with tables or numbers while being built
BOTH_SIDES = {
    "zf5",
    "efficientnet_lite0",
    "inception_v3",
    "squeezenet1_1",
    "swin_t",
    "timm:ecaresnet50d",
    "timm:tf_mixnet_s",
}
LOCAL = [  # no gate, normalisation or attention scales these by what lies outside
    *(("alexnet", None), ("convnet5", None), ("convnext_tiny", "features.3")),
    *(("efficientnet_lite0", None), ("efficientnet_lite1", "stage3")),
    *(("densenet121", "features.denseblock2"), ("googlenet", None), ("inception_v3", "Mixed_6b")),
    *(("mnasnet0_5", "layers.12"), ("mobilenet_v2", "features.13"), ("overfeat7", None)),
    *(("regnet_x_400mf", "trunk_output.block3"), ("resnet18", None), ("resnet50", "layer3")),
    *(("shufflenet_v2_x0_5", None), ("small5", None), ("squeezenet1_0", None)),
    *(("squeezenet1_1", None), ("vgg11", "features.14"), ("timm:xception41", "blocks.4")),
    *(("timm:tf_efficientnet_lite0", "blocks.4"), ("timm:tf_efficientnetv2_b0", "blocks.2")),
    *(("timm:repvgg_a0", "stages.2"), ("timm:resnet50", "layer3"), ("timm:vovnet39a", "stages.1")),
]


def build_with_weights(name, layer):
    torch.manual_seed(0)
    if name.startswith(NEED_VALUES):
        return build_backbone(name, layer=layer)
    with torch.device("meta"):
        backbone = build_backbone(name, layer=layer)
    draw_weights(backbone.trunk)
    return backbone


def predicted(backbone, cell):
    """The interval of pixels that a cell must see."""
    middle, reach = backbone.centre + cell * backbone.stride, (backbone.receptive_field - 1) / 2
    return middle - reach, middle + reach


def inner_cell_and_length(backbone):
    """A cell whose interval begins inside, and a side that holds that of the second after."""
    cell = math.ceil(-predicted(backbone, 0)[0] / backbone.stride)
    return cell, int(predicted(backbone, cell + 2)[1]) + 2


@pytest.mark.parametrize("key", GEOMETRY, ids=lambda key: key[0])
def test_two_cells_see_exactly_the_computed_pixels(key):
    backbone = build_with_weights(*key)
    assert (backbone.stride, backbone.centre, backbone.receptive_field) == GEOMETRY[key]
    trunk = make_positive(backbone.trunk)
    cell, length = inner_cell_and_length(backbone)
    for side in "xy" if backbone.name in BOTH_SIDES else "x":
        length = round_up(length, backbone.multiple)
        image_hw = (backbone.min_size, length) if side == "x" else (length, backbone.min_size)
        expected = [predicted(backbone, number) for number in (cell, cell + 2)]
        assert seen_pixels(trunk, image_hw, (cell, cell + 2), side) == expected


@pytest.mark.parametrize(("name", "layer"), LOCAL)
def test_the_real_network_sees_nothing_outside(name, layer):
    backbone = build_with_weights(name, layer)
    cell, length = inner_cell_and_length(backbone)
    width = round_up(length + 2, backbone.multiple)
    image = torch.rand(1, 3, backbone.min_size, width, requires_grad=True)
    features = backbone.trunk(image)
    (gradient,) = torch.autograd.grad(features[..., cell].abs().sum(), image)
    seen = gradient[0].abs().sum(dim=(0, 1)).nonzero()
    first, last = predicted(backbone, cell)
    assert len(seen) > 0
    assert first <= seen.min()
    assert seen.max() <= last


layers = st.tuples(
    st.sampled_from(["conv", "max", "average"]),
    st.integers(1, 5),  # kernel
    st.integers(1, 4),  # stride
    st.integers(0, 2),  # padding
    st.integers(1, 3),  # dilation
    st.booleans(),  # ceil mode
)


def make_layer(kind, kernel, stride, padding, dilation, ceil_mode):
    padding = min(padding, kernel // 2)
    if kind == "conv":
        return nn.Conv2d(3, 3, kernel, stride, padding, dilation)
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil_mode)


@given(st.lists(layers, min_size=1, max_size=4), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_chain_gives_the_cells_that_torch_gives(chain, height, width):
    model = nn.Sequential(*(make_layer(*layer) for layer in chain)).to("meta")
    place = cut_model(model, default_layer=str(len(chain) - 1)).map
    cells = place.y.cells(height), place.x.cells(width)
    image = torch.empty(1, 3, height, width, device="meta")
    if 0 in cells:
        with pytest.raises(RuntimeError):
            model(image)
    else:
        assert model(image).shape[-2:] == cells


@given(st.lists(layers, min_size=1, max_size=3))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_chain_sees_the_computed_pixels(chain):
    chain = [(*layer[:4], layer[4] if layer[0] == "conv" else 1, layer[5]) for layer in chain]
    cut = cut_model(nn.Sequential(*(make_layer(*layer) for layer in chain)), str(len(chain) - 1))
    axis = cut.map.x
    cell = math.ceil(-axis.first / axis.stride)
    expected = (axis.first + cell * axis.stride, axis.last + cell * axis.stride)
    image_hw = (axis.extent + 4, expected[1] + 40)
    assert seen_pixels(make_positive(cut.trunk), image_hw, [cell], "x") == [expected]


class Branches(nn.Module):
    """Adds two branches cell by cell."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images):
        return torch.add(self.first(images), self.second(images))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("layer", "centre", "extent"),
    [
        (nn.Conv2d(3, 3, 4, padding="same"), 0.5, 4),  # one cell before, two after
        (nn.Conv2d(3, 3, 3, padding="same", dilation=2), 0.0, 5),
        (nn.Conv2d(3, 3, 3, padding="valid"), 1.0, 3),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 3, stride=2)), 1.0, 3),
        (nn.Sequential(nn.ZeroPad2d((2, 0, 2, 0)), nn.Conv2d(3, 3, 3, stride=2)), -1.0, 3),
        (nn.Conv2d(3, 3, 3, padding=3), -2.0, 3),  # more padding than half the kernel
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, ceil_mode=True)), 1.5, 4),
        (Branches(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 7, padding=3)), 0.0, 7),
        # half a cell apart, as in ResNet-D: 0 and 1 beside -1, 0 and 1; then beside 0 alone
        (Branches(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(3, 3, 3, 2, padding=1)), 0.0, 3),
        (Branches(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(3, 3, 1, 2)), 0.5, 2),
    ],
)
def test_uneven_paddings(layer, centre, extent):
    model = nn.Sequential(layer)
    cut = cut_model(model, default_layer="0")
    assert (cut.map.x.centre, cut.map.x.extent) == (centre, extent)
    cell = 3
    expected = tuple(end + cell * cut.map.x.stride for end in (cut.map.x.first, cut.map.x.last))
    assert seen_pixels(make_positive(cut.trunk), (32, 32), [cell], "x") == [expected]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branches(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1)), "agree in stride and number"),
        (Branches(nn.AvgPool2d(2, 2), nn.Conv2d(3, 3, 1, 2)), "number of cells"),  # odd sides
        (nn.ConvTranspose2d(3, 3, 2), "no rule for modules of type ConvTranspose2d"),
        (nn.AdaptiveAvgPool2d(7), "another stride for every image"),
        (nn.Linear(8, 8), "mixes the cells"),
        (nn.LayerNorm((8, 8)), "mixes the cells"),
        (nn.Flatten(), "no rule"),
    ],
)
def test_what_cannot_be_placed_is_refused(model, reason):
    with pytest.raises(ValueError, match=reason):
        cut_model(nn.Sequential(model), default_layer="0")


class Same(nn.Conv2d):
    """Stands for a convolution with TensorFlow's padding, which its name says."""


def make_plain(layers):
    """The same convolutions without the padding that they are named after."""
    plain = [nn.Conv2d(3, 3, same.kernel_size, same.stride, 0, same.dilation) for same in layers]
    for layer, same in zip(plain, layers, strict=True):
        layer.load_state_dict(same.state_dict())
    return plain


same_layers = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 2))


@given(st.lists(same_layers, min_size=1, max_size=3), st.integers(1, 3))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_chain_with_tensorflows_padding_keeps_its_place(chain, times):
    layers = [Same(3, 3, kernel, step, dilation=dilation) for kernel, step, dilation in chain]
    cut = cut_model(nn.Sequential(*layers), str(len(chain) - 1))
    axis = cut.map.x
    cell = max(math.ceil(-axis.first / axis.stride), 0)
    last = axis.last + cell * axis.stride
    expected = (axis.first + cell * axis.stride, last)
    oracle = nn.Sequential(*(PaddedAsTensorflow(layer) for layer in make_plain(layers)))
    for more in (times, times + 1):  # the same at every multiple
        side = round_up(last + 1, axis.multiple) + more * axis.multiple
        image_hw = (round_up(axis.extent, axis.multiple), side)
        assert seen_pixels(make_positive(cut.trunk), image_hw, [cell], "x") == [expected]
        images = torch.rand(1, 3, *image_hw)
        assert torch.equal(cut.trunk(images), oracle(images))
        assert axis.cells(side) == side // axis.stride


def test_tensorflows_padding_needs_a_map_that_is_a_multiple():
    valid = nn.Sequential(nn.Conv2d(3, 3, 4), Same(3, 3, 3, 2))  # 3 cells fewer at every size
    with pytest.raises(ValueError, match="no multiple of 2 cells at any multiple of pixels"):
        cut_model(valid, default_layer="1")


class ScaledInPlace(nn.Module):
    """Scales a map as a statement, as timm's NFNets with their skip gain do."""

    def __init__(self):
        super().__init__()
        self.convolution, self.gain = nn.Conv2d(3, 3, 3), nn.Parameter(torch.tensor(0.5))

    def forward(self, images):
        out = self.convolution(images)
        out.mul_(self.gain)
        return out + 1


def test_calls_in_place_are_kept():
    model, images = ScaledInPlace(), torch.rand(1, 3, 9, 9)
    assert torch.equal(cut_model(model, default_layer=None).trunk(images), model(images))


def test_branches_with_other_strides_are_refused():
    with pytest.raises(ValueError, match=r"number of cells, got 2 at 0\.0 and 1 at 0\.0"):
        Axis(2, 0, 0).joined(Axis(1, 0, 0))


@pytest.mark.parametrize(("length", "cells"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (110, 55)])
def test_ceil_mode_windows(length, cells):
    assert Window(3, stride=2, ceil_mode=True).count(length) == cells


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
def test_wrong_layers_to_join_are_refused(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone("small5", layer=layer)
