"""Backbones as users meet them: names, sizes, layers, batches, rebuilding.

The trunk in the form for exporters is the trunk."""

import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.backbones import build_backbone, list_backbones, restore_backbone
from sppnet.backbones.backbone import check_exportable, convolve_any_size
from sppnet.backbones.efficientnet_lite import LITE_NETWORKS
from sppnet.errors import OutputError, UnusableFileError
from sppnet.pooling.onnx.export import ExportRecipe, export_onnx

ON_META = (
    *("alexnet", "convnext_tiny", "densenet121", "googlenet", "inception_v3"),
    *("efficientnet_b0", "efficientnet_lite0", "efficientnet_lite2"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "resnet50"),
    *("shufflenet_v2_x0_5", "small5", "squeezenet1_0", "squeezenet1_1", "vgg11_bn", "zf5"),
    *("convnet5", "overfeat7", "swin_t", "swin_v2_t", "timm:ecaresnet50d", "timm:resnest14d"),
    *("timm:convnextv2_atto", "timm:eca_nfnet_l0", "timm:hgnetv2_b0", "timm:skresnet18"),
    *("timm:inception_next_atto", "timm:swin_tiny_patch4_window7_224", "timm:xception41"),
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build_on_meta(name, layer=None):
    """A backbone that computes shapes only: no time is lost on initial values."""
    device = "cpu" if name.startswith("regnet") else "meta"
    with torch.device(device):
        return build_backbone(name, layer=layer).to("meta")


@pytest.fixture(scope="module", params=ON_META)
def meta_backbone(request):
    return build_on_meta(request.param)


def run_on_meta(module, height, width):
    return tuple(module(torch.empty(1, 3, height, width, device="meta")).shape)


def test_grid_is_that_of_a_run(meta_backbone):
    shortest = meta_backbone.min_size
    sizes = [1, shortest, shortest + 1, 33, 97, 180, 224, 225]
    for height, width in zip(sizes, reversed(sizes), strict=True):
        cells = meta_backbone.grid_hw((height, width))
        expected = (1, meta_backbone.channels, *cells)
        assert run_on_meta(meta_backbone, height, width) == expected
        assert min(cells) >= 1


def test_min_size_is_the_shortest_side_that_runs(meta_backbone):
    shortest = meta_backbone.min_size
    assert run_on_meta(meta_backbone.trunk, shortest, shortest)[-2:] == (1, 1)
    if shortest > 1:
        with pytest.raises(RuntimeError):
            run_on_meta(meta_backbone.trunk, shortest - 1, shortest)
        with pytest.raises(RuntimeError):
            run_on_meta(meta_backbone.trunk, shortest, shortest - 1)


@pytest.mark.parametrize("name", ["zf5", "squeezenet1_1", "small5"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (16, 17), (33, 2)])
def test_small_images_are_padded_with_what_the_convolutions_pad(name, size):
    backbone = build_backbone(name)
    image = torch.rand(1, 3, *size)
    features = backbone(image)
    assert features.shape[-2:] == backbone.grid_hw(size)
    assert torch.isfinite(features).all()
    # the mean colour becomes zero by normalisation, so padding by hand gives the same
    missing = [max(backbone.min_size - side, 0) for side in size]
    mean = backbone.mean.flip(0) if backbone.bgr else backbone.mean
    padded = mean[:, None, None].expand(1, 3, size[0] + missing[0], size[1] + missing[1]).clone()
    padded[..., : size[0], : size[1]] = image
    assert torch.allclose(features, backbone(padded), atol=1e-5)


@given(st.integers(1, 150), st.integers(1, 150))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_size_gives_the_promised_cells(height, width):
    backbone = any_size_backbone()
    assert backbone(torch.rand(1, 3, height, width)).shape[-2:] == backbone.grid_hw((height, width))


def any_size_backbone(built={}):  # noqa: B006 - built once for all examples
    return built.setdefault("squeezenet1_1", build_backbone("squeezenet1_1", layer="features.5"))


@pytest.mark.parametrize("name", ["small5", "squeezenet1_1", "resnet18"])
def test_features_do_not_depend_on_batch_mates(name):
    backbone = build_backbone(name)
    images = torch.rand(3, 3, 70, 55)
    together = backbone(images)
    # processors differ in the order in which they add up, which depends on the batch
    tolerance = 1e-5 * float(together.detach().abs().max())
    for image, features in zip(images, together, strict=True):
        assert torch.allclose(backbone(image[None])[0], features, atol=tolerance)
    assert backbone(images[:0]).shape == (0, *together.shape[1:])


# ------------------------------------------------------------------------- names and layers
def test_new_weights_are_those_of_torchvision_at_the_same_seed():
    torch.manual_seed(5)
    plain = torchvision.models.squeezenet1_1(weights=None)
    torch.manual_seed(5)
    backbone = build_backbone("squeezenet1_1")
    assert torch.equal(backbone.trunk.get_parameter("features.0.weight"), plain.features[0].weight)
    image = torch.rand(1, 3, 64, 64)
    normalised = torchvision.transforms.functional.normalize(
        image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    assert torch.allclose(backbone(image), plain.eval().features(normalised), atol=1e-6)


def test_googlenet_normalises_as_torchvision_does_inside():
    plain = torchvision.models.googlenet(
        weights=None, init_weights=False, aux_logits=False, transform_input=True
    ).eval()
    backbone = build_backbone("googlenet", layer="maxpool1")
    tensors = {key: plain.state_dict()[key] for key in backbone.trunk.state_dict()}
    backbone.trunk.load_state_dict(tensors)
    image = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inside = plain._transform_input((image - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(backbone(image), plain.maxpool1(plain.conv1(inside)), atol=1e-5)


def test_shufflenet_and_the_plain_network_agree():
    plain = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    backbone = build_backbone("shufflenet_v2_x0_5")
    backbone.trunk.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(2, 3, 65, 80)
    mean, std = backbone.mean[:, None, None], backbone.std[:, None, None]
    logits = plain.fc(backbone(image).mean((2, 3)))
    assert torch.allclose(logits, plain((image - mean) / std), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer", "stride", "channels"),
    [
        ("resnet18", "layer3", 16, 256),
        ("resnet18", "layer2.0", 8, 128),
        ("resnet18", "conv1", 2, 64),
        ("alexnet", "features.9", 16, 256),
        ("squeezenet1_1", "features.12.expand1x1", 16, 256),
        ("zf5", "pool1", 4, 96),
    ],
)
def test_earlier_layers(name, layer, stride, channels):
    backbone = build_backbone(name, layer=layer)
    assert (backbone.layer, backbone.stride, backbone.channels) == (layer, stride, channels)
    features = backbone(torch.rand(1, 3, 50, 65))
    assert features.shape == (1, channels, *backbone.grid_hw((50, 65)))


def test_the_part_behind_the_layer_is_gone():
    full, part = build_backbone("resnet18"), build_backbone("resnet18", layer="layer1")
    assert set(part.state_dict()) < set(full.state_dict())
    assert not any("layer2" in key or "fc" in key for key in part.state_dict())


@pytest.mark.parametrize("layer", ["layer9", "layer", "avgpool", "fc", "layer4.1.", "x"])
def test_unknown_layers_list_the_legal_ones(layer):
    with pytest.raises(ValueError, match=r"layer must be .*legal are conv1, bn1, .*layer4\.1"):
        build_backbone("resnet18", layer=layer)


def test_a_layer_that_is_no_map_is_refused():
    with pytest.raises(ValueError, match="layer must name a map"):
        build_backbone("shufflenet_v2_x0_5", layer="stage2.0.view")


def test_unknown_names_list_the_legal_ones():
    with pytest.raises(ValueError, match=r"must be one of small5, zf5, convnet5, .*, timm:NAME"):
        build_backbone("resnet19")


@pytest.mark.parametrize("name", ["vit_b_16", "vit_l_32", "maxvit_t"])
def test_transformers_of_one_size_are_refused_with_a_reason(name):
    with pytest.raises(ValueError, match=f"must take any size, got '{name}': its attention"):
        build_backbone(name)
    assert name not in list_backbones()


def test_the_list_holds_what_is_promised():
    promised = {
        "zf5",
        "small5",
        *LITE_NETWORKS,
        "squeezenet1_1",
        "alexnet",
        "vgg16",
        "resnet18",
        "resnet50",
    }
    assert promised | {"mobilenet_v3_large", "convnext_tiny"} <= set(list_backbones())


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 0, 8)],
)
def test_other_shapes_are_refused(images):
    with pytest.raises(ValueError, match="images must have shape"):
        build_backbone("small5")(images)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="floating point"):
        build_backbone("small5")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="image_size_hw must be 1 or more"):
        build_backbone("small5").grid_hw((0, 5))


# ------------------------------------------------------------------- several maps in one pass
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("zf5", ["conv1", "relu3", None]),  # the ReLU behind conv1 works in place
        ("squeezenet1_1", ["features.7", None, "features.3", "features.7"]),
        ("swin_t", ["features.1", None]),  # channels last inside
        ("efficientnet_lite0", ["stage3", "stage5", None]),
        ("timm:convnextv2_atto", ["stages.0", "stages.2.blocks.0"]),
    ],
)
def test_taps_are_the_maps_of_trunks_that_end_there(name, layers):
    full = build_backbone(name)
    image = torch.rand(2, 3, 70, 100)
    for layer, tapped in zip(layers, full.tap(image, layers), strict=True):
        part = build_backbone(name, layer=layer)
        part.load_state_dict({key: full.state_dict()[key] for key in part.state_dict()})
        assert torch.equal(tapped, part(image))


def test_gradients_pass_through_taps():
    backbone = build_backbone("small5")
    early, last = backbone.tap(torch.rand(1, 3, 32, 32), ["relu2", None])
    (early.sum() + last.sum()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "layer", "rule"),
    [
        ("small5", "relu9", "layer must be one that the trunk has, got 'relu9': legal are conv1"),
        ("shufflenet_v2_x0_5", "stage2.0.view", "nodes must be maps"),
        ("mobilenet_v3_small", "features.1.block.1.avgpool", "nodes must be maps"),
    ],
)
def test_taps_of_no_map_are_refused(name, layer, rule):
    with pytest.raises(ValueError, match=rule):
        build_backbone(name).tap(torch.rand(1, 3, 32, 32), [layer])


# ------------------------------------------------------------------------------- rebuilding
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *(("small5", None), ("zf5", "pool2"), ("overfeat5", "norm1"), ("squeezenet1_1", None)),
        *(("efficientnet_lite0", "head"), ("efficientnet_lite0", None)),
        *(("mobilenet_v3_small", None), ("swin_t", "features.3"), ("timm:lcnet_050", None)),
        ("timm:swinv2_tiny_window8_256", "layers.1"),
    ],
)
def test_restored_backbones_are_bit_equal(name, layer):
    backbone = build_backbone(name, layer=layer)
    with torch.no_grad():
        backbone.mean += 0.01  # the normalisation comes back too
        backbone.train()(torch.rand(2, 3, 64, 64))
    backbone.eval()
    description = json.loads(json.dumps(backbone.config()))
    before = torch.get_rng_state()
    restored = restore_backbone(description, backbone.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    image = torch.rand(1, 3, 70, 66)
    assert torch.equal(restored(image), backbone(image))
    assert restored.config() == backbone.config()
    assert not restored.training
    assert all(p.requires_grad and p.is_leaf for p in restored.parameters())


def test_restoring_regnet_leaves_the_random_generator_alone():
    backbone = build_backbone("regnet_y_400mf")
    before = torch.get_rng_state()
    restored = restore_backbone(backbone.config(), backbone.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert restored.stride == 32


def test_training_a_restored_backbone_leaves_the_tensors_alone():
    tensors = build_backbone("small5").state_dict()
    kept = {key: value.clone() for key, value in tensors.items()}
    restored = restore_backbone(build_backbone("small5").config(), tensors)
    with torch.no_grad():
        for parameter in restored.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensors[key], kept[key]) for key in kept)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"name": "nothing"}, "backbone must be one of"),
        ({"name": None}, "backbone must be one of"),
        ({"layer": "nothing"}, "layer must be one"),
        ({"stride": 4}, "stride of small5 must be 8, got 4"),
        ({"name": "zf5"}, "of zf5 must be"),
    ],
)
def test_wrong_descriptions_are_unusable(change, rule):
    backbone = build_backbone("small5")
    with pytest.raises(UnusableFileError, match=rule) as caught:
        restore_backbone({**backbone.config(), **change}, backbone.state_dict(), path="m.st")
    assert str(caught.value).startswith("'m.st': ")


def test_missing_tensors_are_unusable():
    backbone = build_backbone("small5")
    tensors = backbone.state_dict()
    del tensors["trunk.conv1.weight"]
    with pytest.raises(UnusableFileError, match=r"must hold the 1 keys trunk\.conv1\.weight"):
        restore_backbone(backbone.config(), tensors)


# --------------------------------------------------------------------------------- learning
def draw_patterns(count):
    """Stripes across, stripes down, discs and noise, in random colours."""
    grid = torch.arange(32.0)
    wave = torch.sin(grid / 2)[None] * torch.ones(32, 1)
    disc = ((grid[:, None] - 16) ** 2 + (grid - 16) ** 2 < 100).float() * 2 - 1
    labels = torch.arange(count) % 4
    shapes = torch.stack([wave, wave.T, disc, torch.zeros(32, 32)])[labels]
    colours = torch.rand(count, 3, 1, 1)
    return (0.5 + 0.3 * colours * shapes[:, None] + 0.1 * torch.randn(count, 3, 32, 32)), labels


def test_small5_learns_from_nothing_in_seconds():
    backbone, head = build_backbone("small5").train(), torch.nn.Linear(96, 4)
    optimiser = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    for _ in range(25):
        images, labels = draw_patterns(32)
        optimiser.zero_grad()
        F.cross_entropy(head(backbone(images).amax((2, 3))), labels).backward()
        optimiser.step()
    backbone.eval()
    images, labels = draw_patterns(200)
    with torch.no_grad():
        correct = (head(backbone(images).amax((2, 3))).argmax(1) == labels).float().mean()
    assert correct >= 0.9


@pytest.mark.parametrize(
    "name",
    [
        *("small5", "squeezenet1_1", "efficientnet_lite0", "zf5"),
        *("timm:test_vit2", "timm:tf_mobilenetv3_small_075"),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (70, 3), (64, 80)])
@torch.no_grad()
def test_convolve_any_size_gives_the_maps_of_the_backbone(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone, images = build_backbone(name), torch.rand(2, 3, *size)
    assert torch.equal(convolve_any_size(backbone, images), backbone(images))


class AnySize(torch.nn.Module):
    """What exported models do with an image."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return convolve_any_size(self.backbone, images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("timm:test_vit2", "blocks.0"),
        ("timm:vit_small_patch16_dinov3", "blocks.0"),
        ("timm:eva02_tiny_patch14_224", "blocks.0"),
        ("timm:tf_mobilenetv3_small_minimal_100", "blocks.2"),
    ],
)
def test_trunks_that_pad_to_a_multiple_are_exported_for_all_sizes(name, layer):
    backbone = build_backbone(name, layer=layer)
    check_exportable(backbone)
    step = backbone.multiple
    sizes = [(1, 1), (step, step), (step + 5, 3 * step + 2), (160, 160), (100, 300)]
    recipe = ExportRecipe(
        module=AnySize(backbone),
        example=(torch.rand(1, 3, 3 * step + 5, 4 * step + 3),),
        inputs={"image": {2: "height", 3: "width"}},
        outputs={"maps": {}},
        expect=lambda images: (backbone(images),),
        cases=[(torch.rand(1, 3, *size),) for size in sizes],
    )
    _, comparisons = export_onnx(recipe)
    assert len(comparisons) == len(sizes)
    assert all(comparison.matches(1e-5) for comparison in comparisons)


@pytest.mark.parametrize("name", ["swin_t", "timm:swin_tiny_patch4_window7_224"])
def test_windows_of_attention_are_not_exported(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    with pytest.raises(OutputError, match=f"must fit every size, and the windows .* of {name}"):
        check_exportable(backbone)
