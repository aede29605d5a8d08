"""Trained weights: torchvision's own files, safetensors files, and all that is refused."""

import shutil

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from sppnet.backbones import build_backbone, build_plain_classifier
from sppnet.backbones.weights import fill_module, find_torchvision_weights, locate_checkpoint
from sppnet.errors import UnusableFileError, UsageError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any download fails the test."""

    def refuse(url, *_args, **_kwargs):
        raise AssertionError(f"a test reached for {url}")

    torch.manual_seed(0)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)


@pytest.fixture(scope="module")
def tensors():
    """A whole network's tensors, trained or not."""
    torch.manual_seed(3)
    return torchvision.models.squeezenet1_1(weights=None).state_dict()


@pytest.fixture
def torch_home(tmp_path, monkeypatch, tensors):
    """A TORCH_HOME with torchvision's file for squeezenet1_1 in half precision."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    path.parent.mkdir(parents=True)
    torch.save({key: tensor.half() for key, tensor in tensors.items()}, path)
    return path


# ------------------------------------------------------------------ torchvision's own files


@pytest.mark.parametrize("weights", ["DEFAULT", "default", "IMAGENET1K_V1", "X.IMAGENET1K_V1"])
def test_files_in_torch_home_are_read(torch_home, tensors, weights):
    backbone = build_backbone("squeezenet1_1", weights)
    weight = backbone.trunk.get_parameter("features.0.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, tensors["features.0.weight"].half().float())


def test_absent_files_are_named_and_not_fetched(torch_home):
    torch_home.unlink()
    with pytest.raises(UsageError) as caught:
        build_backbone("squeezenet1_1", "DEFAULT")
    assert str(torch_home) in str(caught.value)
    assert "--download" in str(caught.value)


def test_download_fetches_to_that_place_and_checks_the_hash(torch_home, monkeypatch):
    kept = torch_home.rename(torch_home.with_suffix(".kept"))
    calls = []

    def fetch(url, path, hash_prefix, progress):
        calls.append((url, path, hash_prefix))
        shutil.copy(kept, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):  # the second time the file is there
        build_backbone("squeezenet1_1", "DEFAULT", download=True)
    url = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
    assert calls == [(url, str(torch_home), "b8a52dc0")]


def test_failed_downloads_are_one_line(torch_home, monkeypatch):
    torch_home.unlink()

    def fail(*_args, **_kwargs):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UsageError, match=r"could not be downloaded from https.*no route"):
        build_backbone("squeezenet1_1", "DEFAULT", download=True)


class Trap:
    """A pickle of it would write a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
def test_damaged_files_in_torch_home(torch_home, content):
    torch_home.write_bytes(content)
    with pytest.raises(UnusableFileError) as caught:
        build_backbone("squeezenet1_1", "DEFAULT")
    assert caught.value.path == torch_home
    assert "\n" not in str(caught.value)


def test_pickled_code_in_torch_home_does_not_run(torch_home, tmp_path):
    marker = tmp_path / "marker"
    torch.save({"features.0.weight": Trap(marker)}, torch_home)
    with pytest.raises(UnusableFileError):
        build_backbone("squeezenet1_1", "DEFAULT")
    assert not marker.exists()


def test_old_densenet_names(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = torchvision.models.densenet121(weights=None)
    path = locate_checkpoint(find_torchvision_weights("densenet121", "DEFAULT"))
    path.parent.mkdir(parents=True)
    old = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2"): tensor
        for key, tensor in model.state_dict().items()
        if "num_batches" not in key
    }
    torch.save(old, path)
    backbone = build_backbone("densenet121", "DEFAULT", layer="features.denseblock1")
    first = backbone.trunk.features.denseblock1.denselayer1
    assert torch.equal(first.conv2.weight, model.features.denseblock1.denselayer1.conv2.weight)
    assert backbone.trunk.features.norm0.num_batches_tracked == 0


# ------------------------------------------------------------------------ safetensors files


@pytest.fixture
def save(tmp_path):
    def write(tensors, name="weights.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_files_with_torchvision_names(save, tensors, dtype):
    rounded = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    backbone = build_backbone("squeezenet1_1", save(rounded))
    for key, tensor in backbone.trunk.state_dict().items():
        assert torch.equal(tensor, rounded[key].float())


def test_files_for_other_classes_and_for_an_earlier_layer(save, tensors):
    other = {**tensors, "classifier.1.weight": torch.zeros(7, 512, 1, 1)}
    backbone = build_backbone("squeezenet1_1", str(save(other)), layer="features.5")
    assert backbone.channels == 128


def test_weights_lie_in_plain_order_whatever_the_order_of_those_given():
    layer = torch.nn.Conv2d(3, 4, 3)
    given = {name: each.detach() for name, each in layer.state_dict().items()}
    given["weight"] = given["weight"].contiguous(memory_format=torch.channels_last)
    fill_module(layer, given)
    assert layer.weight.is_contiguous()
    assert torch.equal(layer.weight, given["weight"])


def test_files_with_our_own_names_bring_their_normalisation(save):
    old = build_backbone("small5")
    old.mean += 0.25
    new = build_backbone("small5", save(old.state_dict()))
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(new(image), old(image))


def damage(tensors, **changes):
    damaged = {**tensors, **changes}
    return {key: tensor for key, tensor in damaged.items() if tensor is not None}


@pytest.mark.parametrize(
    ("change", "code", "rule"),
    [
        ({"features.0.bias": None}, "E_WEIGHTS_ARCH", "must hold the 1 keys features.0.bias"),
        ({"layer1.weight": torch.ones(1)}, "E_WEIGHTS_ARCH", "must not hold the 1 keys layer1"),
        ({"features.0.bias": torch.ones(3)}, "E_WEIGHTS_ARCH", "must have shape (64,), got (3,)"),
        (
            {"features.0.bias": torch.ones(64, dtype=torch.int32)},
            "E_WEIGHTS_ARCH",
            "must be torch.float32, got torch.int32",
        ),
        ({"features.0.bias": torch.full((64,), torch.nan)}, "E_WEIGHTS_NAN", "must be finite"),
        ({"features.0.bias": torch.full((64,), torch.inf)}, "E_WEIGHTS_NAN", "must be finite"),
        ({"mean": torch.ones(2)}, "E_WEIGHTS_ARCH", "mean must have shape (3,), got (2,)"),
    ],
)
def test_wrong_tensors_are_named(save, tensors, change, code, rule):
    path = save(damage(tensors, **change))
    with pytest.raises(UnusableFileError) as caught:
        build_backbone("squeezenet1_1", path)
    assert caught.value.code == code
    assert rule in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_of_a_larger_brother_are_refused(save):
    model = torchvision.models.resnet34(weights=None)
    with pytest.raises(UnusableFileError, match=r"must not hold the 96 keys layer1\.2\."):
        build_backbone("resnet18", save(model.state_dict()))


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\xff" * 64, b"{}"])
def test_damaged_safetensors(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnusableFileError) as caught:
        build_backbone("squeezenet1_1", path)
    assert caught.value.code == "E_WEIGHTS_FORMAT"


def test_cut_safetensors(save, tensors):
    path = save(tensors)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnusableFileError, match="whole safetensors file"):
        build_backbone("squeezenet1_1", path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.PTH", "weights.bin"])
def test_pickles_are_refused_unopened(tmp_path, name):
    marker = tmp_path / "marker"
    torch.save(Trap(marker), tmp_path / name)
    with pytest.raises(UnusableFileError, match=r"must be a \.safetensors file.*convert"):
        build_backbone("squeezenet1_1", tmp_path / name)
    assert not marker.exists()


def test_pickles_under_another_name_are_refused(tmp_path):
    torch.save({}, tmp_path / "weights.safetensors")
    with pytest.raises(UnusableFileError):
        build_backbone("squeezenet1_1", tmp_path / "weights.safetensors")


def test_files_that_are_not_there_and_folders(tmp_path):
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(UnusableFileError, match="there is no such file"):
            build_backbone("squeezenet1_1", path)


def test_unknown_weights_list_the_legal_ones():
    legal = r"none, DEFAULT, IMAGENET1K_V1, a \.safetensors file, got 'X'"
    with pytest.raises(UsageError, match=f"weights for alexnet must be one of {legal}"):
        build_backbone("alexnet", "X")


@pytest.mark.parametrize("name", ["zf5", "small5"])
def test_own_trunks_have_no_default_weights(name):
    with pytest.raises(UsageError, match=r"must be one of none, a \.safetensors file"):
        build_backbone(name, "DEFAULT")


# --------------------------------------------------------------------------- whole networks


def test_plain_classifiers_of_own_trunks_are_refused():
    with pytest.raises(ValueError, match="name must be a torchvision network"):
        build_plain_classifier("zf5", "none")


def test_plain_googlenet_turns_the_normalisation_back():
    model, transform = build_plain_classifier("googlenet", "none")
    assert model.transform_input
    assert tuple(transform.mean) == (0.485, 0.456, 0.406)


def test_real_weights_know_real_photos(shared_data, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared_data / "weights" / "torch_home"))
    model, transform = build_plain_classifier("squeezenet1_1", "DEFAULT")
    backbone = build_backbone("squeezenet1_1", "DEFAULT")
    paths = sorted((shared_data / "photos").glob("*.JPEG"))
    labels = torch.tensor([int(path.name[:3]) for path in paths])
    crops = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        best = torch.cat([model(batch) for batch in crops.split(20)]).topk(5).indices
        mean, std = backbone.mean[:, None, None], backbone.std[:, None, None]
        features = backbone(crops[:2] * std + mean)
        assert torch.allclose(features, model.features(crops[:2]), atol=1e-3)
    hits = best == labels[:, None]
    assert hits[:, 0].float().mean() >= 0.55
    assert hits.any(dim=1).float().mean() >= 0.8
