"""timm's vision transformers as trunks: maps, places, layers and sizes against timm's own.

Blocks are cut to two, so that networks of every kind are small; timm gets the same weights.
"""

import copy
import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from sppnet.backbones import build_backbone, restore_backbone
from sppnet.backbones.build import build_whole_network
from sppnet.backbones.registry import find_trunk
from sppnet.classification.convert import read_head

PLAIN = timm.create_model
DEPTH = 2
# name -> stride, centre of cell 0, tokens before those of the patches
NETWORKS = {
    "vit_tiny_patch16_224": (16, 7.5, 1),
    "vit_small_patch14_dinov2": (14, 6.5, 1),
    "vit_small_patch14_reg4_dinov2": (14, 6.5, 5),
    "vit_small_patch16_dinov3": (16, 7.5, 5),  # rotary positions
    "vit_small_patch16_rope_mixed_224": (16, 7.5, 1),  # others in every block
    "eva02_tiny_patch14_224": (14, 6.5, 1),  # rotary and absolute
    "deit_tiny_distilled_patch16_224": (16, 7.5, 2),
    "vit_base_patch16_siglip_224": (16, 7.5, 0),
    "vit_base_patch32_clip_224": (32, 15.5, 1),  # a norm before the blocks
    "vit_tiny_r_s16_p8_224": (32, 17.0, 1),  # patches of the map of a convolution
    "test_vit2": (16, 7.5, 1),
}
SIZES = [(1, 1), (33, 70), (75, 50), (64, 96)]


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Let timm build networks of two blocks."""
    torch.manual_seed(0)
    monkeypatch.setattr(timm, "create_model", build_shallow)


def build_shallow(name, **options):
    return PLAIN(name, **{"depth": DEPTH, **options})


def build_pair(name):
    """A trunk, and timm's network with its weights."""
    backbone = build_backbone(f"timm:{name}")
    model = build_shallow(name, dynamic_img_size=True).eval()
    missing, unknown = model.load_state_dict(backbone.trunk.state_dict(), strict=False)
    assert not unknown
    assert not [key for key in missing if not key.startswith(("head", "fc_norm", "attn_pool"))]
    return backbone, model


def patch_tokens(features, prefix, grid_hw):
    """(N, L, C) without the tokens before, as a map."""
    rows, columns = grid_hw
    patches = features[:, prefix:]
    return torch.stack(
        [patches[:, y * columns : (y + 1) * columns] for y in range(rows)], 1
    ).permute(0, 3, 1, 2)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_the_tokens_of_timm(name):
    stride, centre, prefix = NETWORKS[name]
    backbone, model = build_pair(name)
    assert (backbone.stride, backbone.centre) == (stride, centre)
    assert backbone.multiple == backbone.min_size == stride
    native = timm.get_pretrained_cfg(name).input_size[-2:]
    for size in [*SIZES, native] if native[0] <= 256 else SIZES:
        images = torch.rand(2, 3, *size)
        padded = backbone.normalise(images)
        rows, columns = (-(-side // stride) for side in size)
        padded = torch.nn.functional.pad(
            padded, (0, columns * stride - size[1], 0, rows * stride - size[0])
        )
        expected = patch_tokens(model.forward_features(padded), prefix, (rows, columns))
        assert backbone.grid_hw(size) == (rows, columns)
        assert torch.equal(backbone(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_the_intermediate_layers_of_timm(name):
    backbone, model = build_pair(name)
    images = torch.rand(1, 3, 50, 70)
    padded = backbone.pad_to_min(backbone.normalise(images))
    expected = model.forward_intermediates(padded, [0, 1], intermediates_only=True)
    last = model.forward_intermediates(padded, [1], norm=True, intermediates_only=True)
    tapped = backbone.tap(images, ["blocks.0", "blocks.1", "norm", None])
    for found, wanted in zip(tapped, [*expected, *last, *last], strict=True):
        assert torch.equal(found, wanted)
    if hasattr(model, "get_intermediate_layers"):
        (layer,) = model.get_intermediate_layers(padded, [0], reshape=True)
        assert torch.equal(tapped[0], layer)
    part = build_backbone(f"timm:{name}", layer="blocks.0")
    assert set(part.state_dict()) < set(backbone.state_dict())
    assert not [key for key in part.state_dict() if "blocks.1" in key or "trunk.norm." in key]
    part.load_state_dict({key: backbone.state_dict()[key] for key in part.state_dict()})
    assert torch.equal(part(images), tapped[0])


def test_a_cell_looks_at_its_patch():
    """The patches alone, which attention does not mix, see the pixels that are computed."""
    backbone = build_backbone("timm:vit_tiny_patch16_224", layer="patch_embed")
    images = torch.rand(1, 3, 64, 100, requires_grad=True)
    features = backbone(images)
    for row, column in [(0, 0), (2, 5), (3, 6)]:
        (gradient,) = torch.autograd.grad(
            features[0, :, row, column].sum(), images, retain_graph=True
        )
        seen = gradient[0].abs().sum(0).nonzero()
        first = torch.tensor([row, column]) * backbone.stride + backbone.centre - 7.5
        last = torch.minimum(first + 15, torch.tensor([63, 99]))
        assert torch.equal(seen.amin(0), first.long())
        assert torch.equal(seen.amax(0), last.long())
    assert backbone.receptive_field == 16


@torch.no_grad()
def test_moving_the_image_by_a_patch_moves_the_map():
    """Without positions and attention that differ by place, a cell goes with its pixels."""
    backbone = build_backbone("timm:vit_small_patch16_dinov3", layer="patch_embed")
    images = torch.rand(1, 3, 64, 96)
    moved = torch.roll(images, (16, 32), (2, 3))
    expected = torch.roll(backbone(images), (1, 2), (2, 3))
    assert torch.allclose(backbone(moved), expected, atol=1e-6)


def test_gradients_reach_every_weight_of_the_trunk():
    backbone = build_backbone("timm:test_vit2").train()
    backbone(torch.rand(2, 3, 40, 50)).square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["test_vit2", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3"]
)
def test_saved_and_copied_trunks_are_bit_equal(name):
    backbone = build_backbone(f"timm:{name}", layer="blocks.0")
    images, before = torch.rand(1, 3, 70, 66), torch.get_rng_state()
    restored = restore_backbone(json.loads(json.dumps(backbone.config())), backbone.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(restored(images), backbone(images))
    assert torch.equal(copy.deepcopy(backbone)(images), backbone(images))


@torch.no_grad()
def test_files_of_timm_are_read(tmp_path):
    model = build_shallow("eva02_tiny_patch14_224", dynamic_img_size=True).eval()
    save_file({**model.state_dict(), "rope.bands": torch.ones(3)}, tmp_path / "w.safetensors")
    backbone = build_backbone("timm:eva02_tiny_patch14_224", tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 28, 42)
    expected = model.forward_features(backbone.normalise(images))
    assert torch.equal(backbone(images).flatten(2).mT, expected[:, 1:])


def test_normalisation_is_that_of_the_weights():
    clip, siglip = (
        build_backbone(f"timm:vit_base_patch{name}_224") for name in ("32_clip", "16_siglip")
    )
    assert clip.mean.tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert siglip.mean.tolist() == siglip.std.tolist() == [0.5, 0.5, 0.5]


def test_unknown_layers_list_the_blocks():
    with pytest.raises(ValueError, match=r"got 'blocks\.7': legal are patch_embed, blocks, .*norm"):
        build_backbone("timm:test_vit2", layer="blocks.7")


def test_heads_of_tokens_are_not_converted():
    model = build_whole_network("timm:test_vit2", "none")
    with pytest.raises(ValueError, match=r"got 'timm:test_vit2': its head reads a row of tokens"):
        read_head(model, find_trunk("timm:test_vit2"))


@pytest.mark.parametrize(
    "name", ["beit_base_patch16_224", "xcit_nano_12_p16_224", "vit_relpos_small_patch16_224"]
)
def test_transformers_of_one_size_are_refused_by_name(name):
    rule = f"must take any size, got 'timm:{name}': timm builds it for 224 x 224 pixels only"
    with pytest.raises(ValueError, match=rule), torch.device("meta"):
        build_backbone(f"timm:{name}")
