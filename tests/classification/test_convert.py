"""A converted network gives the logits of the network that it was made from."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sppnet.backbones import build_plain_classifier
from sppnet.classification import (
    AverageAndPyramid,
    Classifier,
    SppNet,
    View,
    convert_classifier,
)
from sppnet.classification.convert import PretrainedPlusPyramidHead
from sppnet.classification.onnx import classifier_recipe
from sppnet.errors import UnusableFileError
from sppnet.pooling.onnx.export import export_onnx
from sppnet.storage import save_model

pytestmark = pytest.mark.usefixtures("one_thread")
SAME = 1e-5  # of the largest logit
AVERAGING = [
    *("convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "resnet18"),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "swin_t"),
    *("timm:convnextv2_atto", "timm:ghostnet_050", "timm:inception_next_atto", "timm:lcnet_050"),
    *("timm:mobilenetv4_conv_small", "timm:resnest14d", "timm:swin_tiny_patch4_window7_224"),
    "timm:tf_mobilenetv3_small_minimal_100",  # at multiples of its stride
]
NOT_AT_ZERO = 0.01


def build_plain(name: str, weights: str = "none") -> nn.Module:
    """The network itself, as its own library makes it."""
    if not name.startswith("timm:"):
        return build_plain_classifier(name, weights)[0]
    windowed = {"strict_img_size": False} if name.startswith("timm:swin") else {}
    return timm.create_model(name.removeprefix("timm:"), **windowed).eval()


def build_both(name: str, levels: tuple[int, ...]) -> tuple[SppNet, nn.Module]:
    """The converted network and the network itself, with the same new weights."""
    torch.manual_seed(0)
    plain = build_plain(name)
    torch.manual_seed(0)
    return convert_classifier(name, "none", levels), plain


@torch.no_grad()
def plain_logits(name: str, network: SppNet, plain: nn.Module, images: Tensor) -> Tensor:
    """Logits of the network itself for images in 0..1, normalised as its library does."""
    if name.startswith("timm:"):
        return plain(network.backbone.normalise(images))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    return plain((images - mean) / std)


def check_same(name: str, network: SppNet, plain: nn.Module, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    images[1] = images[1] * 0.2 + torch.linspace(0, 0.8, size[1])
    expected = plain_logits(name, network, plain, images)
    with torch.no_grad():
        logits = network(images)
    assert not torch.equal(expected[0], expected[1])  # else the images would play no part
    assert (logits - expected).abs().max() <= SAME * expected.abs().max()


@pytest.mark.parametrize("name", AVERAGING)
def test_networks_that_average_keep_their_logits_at_any_size(name: str) -> None:
    network, plain = build_both(name, (1, 2))
    assert isinstance(network.pool, AverageAndPyramid)
    assert isinstance(network.head, PretrainedPlusPyramidHead)
    for size in ((224, 224), (160, 256)):
        check_same(name, network, plain, size)


@pytest.mark.parametrize(
    ("name", "levels", "pooled"),
    [
        ("alexnet", (1, 2, 3, 6), (1, 2, 3, 6)),
        ("alexnet", (1,), (1, 6)),
        pytest.param("vgg11", (1, 2), (1, 2, 7), marks=pytest.mark.slow),
    ],
)
def test_fully_connected_networks_keep_their_logits_at_224(
    name: str, levels: tuple[int, ...], pooled: tuple[int, ...]
) -> None:
    network, plain = build_both(name, levels)
    assert network.pool.levels == pooled
    check_same(name, network, plain, (224, 224))
    assert network(torch.rand(1, 3, 100, 300)).shape == (1, 1000)


@pytest.mark.parametrize("size", [(224, 224), (96, 333), (40, 41)])
def test_real_weights_keep_their_logits(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(shared_data / "weights" / "torch_home"))
    network = convert_classifier("squeezenet1_1")
    check_same("squeezenet1_1", network, build_plain("squeezenet1_1", "DEFAULT"), size)


def test_weights_from_a_file_are_converted(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = build_plain("timm:lcnet_050")
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    network = convert_classifier("timm:lcnet_050", tmp_path / "w.safetensors", (1, 2))
    check_same("timm:lcnet_050", network, plain, (100, 90))


# --------------------------------------------------------------------------- what comes after


def test_new_weights_begin_at_zero_and_learn() -> None:
    torch.manual_seed(0)
    network = convert_classifier("mobilenet_v3_small", "none", (1, 2)).train()
    assert not network.head.added.weight.any()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.rand(4, 3, 64, 64)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    optimiser.step()
    assert network.head.added.weight.abs().sum() > 0


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "timm:mobilenetv4_conv_small"])
def test_converted_classifiers_come_back_from_disk(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = convert_classifier(name, "none", (1, 2))
    names = [str(number) for number in range(1000)]
    classifier = Classifier(network, View("full", 64), names)
    nn.init.normal_(list(network.head.parameters())[-1], std=NOT_AT_ZERO)
    assert all(each.is_contiguous() for each in classifier.tensors().values())
    classifier.save(tmp_path / "m")
    loaded = Classifier.load(tmp_path / "m")
    images = [torch.rand(3, 70, 100), torch.rand(3, 64, 64)]
    assert torch.equal(loaded.scores(images), classifier.scores(images))
    assert torch.equal(classifier.scores(images[1]), classifier.scores(images)[1:])
    assert loaded.config() == classifier.config()


def test_unknown_layers_in_a_description_are_unusable(tmp_path: Path) -> None:
    network = convert_classifier("mobilenet_v3_small", "none", (1,))
    classifier = Classifier(network, View("full", 64), [str(number) for number in range(1000)])
    description = classifier.config()
    description["head"]["carried"][1]["layer"] = "Softmax"
    tensors = {**network.state_dict(), "seen": classifier.seen}
    save_model(tmp_path / "m", "classifier", description, tensors)
    with pytest.raises(UnusableFileError, match="does not fit together"):
        Classifier.load(tmp_path / "m")


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        pytest.param("timm:lcnet_050", marks=pytest.mark.slow),
        pytest.param("convnext_tiny", marks=pytest.mark.slow),
    ],
)
def test_converted_classifiers_export(name: str) -> None:
    torch.manual_seed(0)
    network = convert_classifier(name, "none", (1, 2))
    with torch.no_grad():
        network.head.added.weight.normal_(std=NOT_AT_ZERO)
    classifier = Classifier(network, View("full", 64), [str(number) for number in range(1000)])
    recipe = classifier_recipe(classifier)
    _, comparisons = export_onnx(recipe)
    assert len({comparison.shapes for comparison in comparisons}) == len(recipe.cases) >= 6
    assert max(comparison.difference for comparison in comparisons) <= recipe.tolerance
    assert {comparison.pooling for comparison in comparisons} == {0.0}


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zf5", "a network with a trained classifier, got 'zf5'"),
        ("small5", "a network with a trained classifier, got 'small5'"),
        ("vit_b_16", "must take any size"),
        ("timm:hgnetv2_b0", "a head that pools once, got 'timm:hgnetv2_b0': no rule"),
        ("timm:vgg11", "a head that pools once, got 'timm:vgg11': it cannot be followed"),
    ],
)
def test_heads_that_cannot_be_carried_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        convert_classifier(name, "none")


def test_layers_that_are_not_known_are_not_described() -> None:
    head = PretrainedPlusPyramidHead(nn.Sequential(nn.Softmax(dim=1)), 3, 12, 3)
    with pytest.raises(TypeError, match=r"layers must be of .*, got Softmax"):
        head.config()
