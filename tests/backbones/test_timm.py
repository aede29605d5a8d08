"""timm's networks: names, sizes, weights from the hub's cache, and what is refused and why."""

import subprocess
import sys
from importlib.machinery import ModuleSpec

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from sppnet.backbones import build_backbone, restore_backbone
from sppnet.backbones.timm import find_timm_model
from sppnet.errors import MissingPackageError, UsageError

LCNET = "timm:lcnet_050"
HUB = "timm/lcnet_050.ra2_in1k"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any download fails the test."""

    def refuse(*args, **_kwargs):
        raise AssertionError(f"a test reached for {args}")

    torch.manual_seed(0)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


@pytest.mark.parametrize(
    "name", ["resnet18", "convnextv2_atto", "swin_tiny_patch4_window7_224", "ghostnet_050"]
)
def test_features_are_those_of_timm(name):
    backbone = build_backbone(f"timm:{name}")
    plain = timm.create_model(name).eval()
    missing, _ = plain.load_state_dict(backbone.trunk.state_dict(), strict=False)
    assert not [key for key in missing if not key.startswith(("head", "fc", "conv_head", "class"))]
    image = torch.rand(2, 3, 224, 224)
    features = plain.forward_features(backbone.normalise(image))
    if name.startswith("swin"):
        features = features.permute(0, 3, 1, 2)
    assert torch.allclose(backbone(image), features, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_mobilenetv3_small_075"])
def test_networks_with_tensorflows_padding_are_those_of_timm(name):
    backbone = build_backbone(f"timm:{name}")
    plain = timm.create_model(name).eval()
    plain.load_state_dict(backbone.trunk.state_dict(), strict=False)
    for size in [(1, 1), (50, 81), (64, 96)]:
        images = torch.rand(2, 3, *size)
        rows, columns = (-(-side // 32) for side in size)
        padded = torch.zeros(2, 3, rows * 32, columns * 32)
        padded[..., : size[0], : size[1]] = backbone.normalise(images)
        features = backbone(images)
        assert torch.equal(features, plain.forward_features(padded))
        assert features.shape[-2:] == (rows, columns) == backbone.grid_hw(size)
    (tapped,) = backbone.tap(images, ["blocks.2"])  # images of a size that fits
    part = build_backbone(f"timm:{name}", layer="blocks.2")
    part.load_state_dict({key: backbone.state_dict()[key] for key in part.state_dict()})
    assert torch.equal(tapped, part(images))
    assert part.multiple == part.stride < backbone.multiple == 32


@pytest.mark.parametrize("size", [(1, 1), (30, 65), (100, 61), (225, 230)])
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_swin_takes_every_size(name, size):
    backbone = build_backbone(f"timm:{name}", layer="layers.2.downsample")
    features = backbone(torch.rand(1, 3, *size))
    assert features.shape[1:] == (backbone.channels, *backbone.grid_hw(size))
    assert features.isfinite().all()


def test_trunks_train_and_evaluate_as_their_layers_do():
    backbone = build_backbone(LCNET, layer="blocks.2")  # its normalisations are timm's own
    image, before = torch.rand(2, 3, 64, 64), backbone.trunk.bn1.running_mean.clone()
    evaluated = backbone(image)
    trained = backbone.train()(image)
    assert not torch.equal(backbone.trunk.bn1.running_mean, before)
    assert not torch.allclose(trained, evaluated)
    backbone.eval()
    assert torch.equal(backbone(image), backbone(image))


def test_normalisation_is_that_of_the_tag():
    model = find_timm_model("timm:lcnet_050.ra2_in1k")
    assert model.hub == HUB
    assert find_timm_model("timm:inception_v4").mean == (0.5, 0.5, 0.5)
    assert build_backbone("timm:inception_v4").mean.tolist() == [0.5, 0.5, 0.5]


# ---------------------------------------------------------------------------------- weights


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of the hub with timm's file for lcnet_050, as its client lays it out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    folder = tmp_path / f"models--{HUB.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    path = snapshot / "model.safetensors"
    save_file(timm.create_model("lcnet_050").state_dict(), path)
    return path


@pytest.mark.parametrize("weights", ["DEFAULT", "default"])
def test_weights_in_the_cache_are_read(hub_cache, weights):
    backbone = build_backbone(LCNET, weights)
    plain = timm.create_model("lcnet_050", checkpoint_path=str(hub_cache)).eval()
    image = torch.rand(1, 3, 70, 90)
    expected = plain.forward_features(backbone.normalise(image))
    assert torch.allclose(backbone(image), expected, atol=1e-5)


def test_files_with_timms_names_are_read(hub_cache):
    backbone = build_backbone(LCNET, hub_cache, layer="blocks.2")
    assert torch.equal(
        backbone.trunk.get_parameter("conv_stem.weight"),
        build_backbone(LCNET, "DEFAULT").trunk.get_parameter("conv_stem.weight"),
    )


def test_absent_weights_are_named_and_not_fetched(hub_cache):
    hub_cache.unlink()
    with pytest.raises(UsageError, match=rf"no weights of {LCNET} .*{HUB}.*--download"):
        build_backbone(LCNET, "DEFAULT")


def test_download_fetches_from_the_hub(hub_cache, monkeypatch):
    kept, calls = hub_cache.rename(hub_cache.with_name("kept.safetensors")), []

    def fetch(repository, file):
        calls.append((repository, file))
        return str(kept)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    build_backbone(LCNET, "DEFAULT", download=True)
    assert calls == [(HUB, "model.safetensors")]


def test_failed_downloads_are_one_line(hub_cache, monkeypatch):
    hub_cache.unlink()

    def fail(*_args):
        raise OSError("no route\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(
        UsageError, match=r"could not be downloaded from timm/\S+: no route \(E_USAGE\)$"
    ):
        build_backbone(LCNET, "DEFAULT", download=True)


def test_other_weights_are_refused():
    rule = r"must be one of none, DEFAULT, a \.safetensors file, got 'IMAGENET1K_V1'"
    with pytest.raises(UsageError, match=rule):
        build_backbone(LCNET, "IMAGENET1K_V1")
    with pytest.raises(UsageError, match="timm has no trained weights of timm:dpn48b"):
        build_backbone("timm:dpn48b", "DEFAULT")


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("beit_base_patch16_224", "must take any size.*builds it for 224 x 224 pixels only"),
        ("maxvit_tiny_tf_224", "must take any size.*builds it for 224 x 224 pixels only"),
        ("xcit_nano_12_p16_224", "must take any size.*builds it for 224 x 224 pixels only"),
        ("tf_efficientnet_cc_b0_4e", "keep their place.*cannot be followed layer by layer"),
        ("hrnet_w18_small", "keep their place.*no rule for modules of type Upsample"),
        ("dla34", "keep their place.*agree in stride and number of cells"),  # at odd sides
        ("edgenext_xx_small", "keep their place.*regroups the rows and columns"),
        ("mobilevit_xxs", "keep their place.*cannot be followed layer by layer"),
        ("resnet5", "a network that timm has, got 'timm:resnet5', did you mean resnet50"),
        ("qqqqqqqqqqqq", "a network that timm has, got 'timm:qqqqqqqqqqqq'$"),
        ("resnet50.nothing", "weights of that tag in timm, got 'timm:resnet50.nothing'"),
    ],
)
def test_networks_are_refused_with_a_reason(name, reason):
    with pytest.raises(ValueError, match=reason), torch.device("meta"):
        build_backbone(f"timm:{name}")


def test_without_timm_the_command_is_named(monkeypatch):
    def find_spec(name: str) -> ModuleSpec | None:
        return None

    backbone = build_backbone(LCNET)
    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    with pytest.raises(MissingPackageError, match=r"pip install 'sppnet\[timm\]'"):
        build_backbone(LCNET)
    with pytest.raises(MissingPackageError):
        restore_backbone(backbone.config(), backbone.state_dict())


def test_the_list_of_trunks_does_not_wait_for_timm():
    code = "import sys, sppnet.backbones as b; b.list_backbones(); print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
