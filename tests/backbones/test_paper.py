"""The paper's four trunks: sizes of maps, initial values, normalisation, what replaces what."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sppnet.backbones import build_backbone, list_backbones
from sppnet.backbones.paper import PAPER_TRUNKS, WithinChannelNorm, build_paper_trunk

SIDES = (180, 224, 256, 688, 1200)
# Cells behind each layer that changes their number: the rows are the sides above. At 224 they are
# those of the paper's table 1 (but its 27 behind ZF-5's second layer, which the paper's own kernel
# and the released network do not give); the other rows follow from the same windows.
CHAINS = {
    "zf5": (
        ("conv1", "pool1", "conv2", "pool2"),
        *([88, 44, 20, 10], [110, 55, 26, 13], [126, 63, 30, 15]),
        *([342, 171, 84, 42], [598, 299, 148, 74]),
    ),
    "convnet5": (
        ("conv1", "pool2", "pool3"),
        *([44, 21, 10], [55, 27, 13], [63, 31, 15], [171, 85, 42], [299, 149, 74]),
    ),
    "overfeat5": (
        ("conv1", "pool1", "pool2"),
        *([87, 29, 14], [109, 36, 18], [125, 41, 20], [341, 113, 56], [597, 199, 99]),
    ),
}
CHAINS["overfeat7"] = CHAINS["overfeat5"]
CHANNELS = {
    "zf5": [96, 256, 384, 384, 256],
    "convnet5": [96, 256, 384, 384, 256],
    "overfeat5": [96, 256, 512, 512, 512],
    "overfeat7": [96, 256, 512, 512, 512, 512, 512],
}
ORDER = {  # table 1, read from the top: what follows each convolution and its ReLU
    "zf5": "conv1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5",
    "convnet5": "conv1 norm1 conv2 norm2 pool2 conv3 pool3 conv4 conv5",
    "overfeat5": "conv1 pool1 norm1 conv2 pool2 conv3 conv4 conv5",
    "overfeat7": "conv1 pool1 norm1 conv2 pool2 conv3 conv4 conv5 conv6 conv7",
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_map_sizes_are_pinned(name):
    layers, *chains = CHAINS[name]
    trunk = build_paper_trunk(name).to("meta")
    full = build_backbone(name)
    for side, chain in zip(SIDES, chains, strict=True):
        features, cells = torch.empty(1, 3, side, 100, device="meta"), {}
        for layer, module in trunk.named_children():
            features = module(features)
            cells[layer] = features.shape[2]
        assert [cells[layer] for layer in layers] == chain
        assert full.grid_hw((side, side)) == (chain[-1], chain[-1])


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_layers_are_those_of_table_1(name):
    trunk = build_paper_trunk(name)
    layers = [layer for layer, _ in trunk.named_children() if not layer.startswith("relu")]
    assert layers == ORDER[name].split()
    convolutions = [module for module in trunk if isinstance(module, nn.Conv2d)]
    assert [convolution.out_channels for convolution in convolutions] == CHANNELS[name]
    assert all(convolution.groups == 1 for convolution in convolutions)
    names = [layer for layer, _ in trunk.named_children()]
    for before, after in itertools.pairwise(names):
        if before.startswith("conv"):
            assert after == before.replace("conv", "relu")


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_weights_are_normal_and_biases_as_krizhevsky_sets_them(name):
    trunk = build_paper_trunk(name)
    for layer, module in trunk.named_children():
        if isinstance(module, nn.Conv2d):
            assert (module.bias == float(layer not in ("conv1", "conv3"))).all()
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.03)
            assert module.weight.mean().item() == pytest.approx(0, abs=4e-4)


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_six_bins_are_the_last_pooling_that_spp_replaces(name):
    stride = 3 if name.startswith("overfeat") else 2
    last_pooling = nn.MaxPool2d(3, stride)
    features = build_backbone(name)(torch.rand(1, 3, 224, 224)).detach()
    assert torch.equal(F.adaptive_max_pool2d(features, 6), last_pooling(features))


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_trunks_read_blue_green_red_minus_128(name):
    backbone = build_backbone(name)
    image = torch.rand(1, 3, 40, 40)
    expected = backbone.trunk(image[:, [2, 1, 0]] * 255 - 128)
    assert torch.allclose(backbone(image), expected, rtol=1e-4, atol=1e-4)


def test_within_channel_norm_equals_a_loop():
    features = torch.randn(2, 3, 5, 4, dtype=torch.float64) * 100
    expected = torch.empty_like(features)
    padded = F.pad(features, (1, 1, 1, 1))
    for y in range(5):
        for x in range(4):
            energy = (padded[:, :, y : y + 3, x : x + 3] ** 2).sum(dim=(2, 3))
            expected[:, :, y, x] = features[:, :, y, x] * (1 + 5e-5 / 9 * energy) ** -0.75
    assert torch.allclose(WithinChannelNorm()(features), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["convnet5", "overfeat5", "overfeat7"])
def test_cross_channel_norm_equals_krizhevskys_formula(name):
    norm = build_paper_trunk(name).get_submodule("norm1")
    features = torch.randn(2, 9, 3, 4, dtype=torch.float64) * 100
    expected = torch.empty_like(features)
    for channel in range(9):
        neighbours = features[:, max(0, channel - 2) : channel + 3]
        energy = (neighbours**2).sum(dim=1)
        expected[:, channel] = features[:, channel] / (2 + 1e-4 * energy) ** 0.75
    assert torch.allclose(norm(features), expected, rtol=1e-12)


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_trunks_can_be_trained(name):
    trunk = build_paper_trunk(name)
    trunk(torch.rand(1, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_names():
    assert set(PAPER_TRUNKS) <= set(list_backbones())
    with pytest.raises(ValueError, match=r"name must be one of zf5, convnet5, .* got 'zf6'"):
        build_paper_trunk("zf6")
