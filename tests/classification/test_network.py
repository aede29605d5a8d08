"""The network takes images of any size and learns through the pooling.

The paper's networks as a whole: heads, baselines, initial values, the layer table."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sppnet import SppNet
from sppnet.backbones import build_backbone
from sppnet.backbones.paper import PAPER_TRUNKS
from sppnet.classification import (
    FixedNorm,
    build_classifier,
    build_head,
    build_paper_network,
    build_pool,
    layer_table,
)
from sppnet.classification.classifier import (
    head_from_config,
    head_to_config,
)
from sppnet.classification.network import apply_in_blocks, pool_bins


@pytest.fixture(scope="module")
def network() -> SppNet:
    torch.manual_seed(0)
    return build_classifier("small5", num_classes=5, hidden=(16,), dropout=0.5).eval()


@pytest.mark.parametrize(
    "size_hw",
    [(1, 1), (1, 2), (7, 5), (8, 8), (9, 180), (180, 9), (1, 400), (64, 64), (224, 180)],
)
def test_every_size_gives_logits(network: SppNet, size_hw: tuple[int, int]) -> None:
    logits = network(torch.rand(2, 3, *size_hw))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_random_sizes_give_logits(network: SppNet, height: int, width: int) -> None:
    assert network(torch.rand(1, 3, height, width)).isfinite().all()


def test_empty_batch(network: SppNet) -> None:
    assert network(torch.rand(0, 3, 40, 40)).shape == (0, 5)


def test_forward_is_its_parts(network: SppNet) -> None:
    images = torch.rand(1, 3, 50, 70)
    expected = network.head(network.pool(network.backbone(images)))
    assert torch.equal(network(images), expected)


def test_gradient_reaches_every_weight_of_the_trunk() -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", num_classes=3).train()
    network(torch.rand(4, 3, 45, 61)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_gradient_of_a_pixel_agrees_with_a_difference() -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", num_classes=2).double().eval()
    image = torch.rand(1, 3, 20, 30, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0].backward()
    assert image.grad is not None
    place = (0, *divmod(int(image.grad[0].abs().argmax()), 20 * 30))
    index = (0, place[1], place[2] // 30, place[2] % 30)
    step = torch.zeros_like(image)
    step[index] = 1e-6
    with torch.no_grad():
        difference = (network(image + step) - network(image - step))[0, 0] / 2e-6
    assert float(difference) == pytest.approx(float(image.grad[index]), rel=1e-3)


@pytest.mark.parametrize("pool", ["spp", "spp+avg", "6x6", "avg", "max"])
def test_head_fits_every_pool(pool: str) -> None:
    network = build_classifier("small5", num_classes=3, levels=(1, 4), pool=pool)
    assert network(torch.rand(1, 3, 40, 30)).shape == (1, 3)


def test_pools_are_parts_of_the_pyramid() -> None:
    maps = torch.rand(2, 4, 9, 7)
    spp = build_pool("spp")(maps)
    assert torch.equal(build_pool("max")(maps), spp[:, :4])
    assert torch.equal(build_pool("6x6")(maps), spp[:, 14 * 4 :])
    assert torch.allclose(build_pool("avg")(maps), maps.mean((2, 3)))
    assert torch.equal(build_pool("spp+avg")(maps), torch.cat([build_pool("avg")(maps), spp], 1))
    kinds = ("spp", "spp+avg", "6x6", "avg", "max")
    assert [pool_bins(kind) for kind in kinds] == [50, 51, 36, 1, 1]


def test_trunk_may_be_passed_in() -> None:
    trunk = build_backbone("small5", layer="relu4")
    network = build_classifier(trunk, 2)
    assert network.backbone is trunk


def test_hidden_layers_have_relu_and_dropout() -> None:
    kinds = [type(layer) for layer in build_head(8, 3, (5, 4), dropout=0.5, feature_norm=1.0)]
    block = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == [FixedNorm, *block, *block, nn.Linear]


def test_zero_row_has_no_direction() -> None:
    assert torch.equal(FixedNorm()(torch.zeros(1, 3)), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: build_pool("sum"), r"pool must be one of spp, spp\+avg, 6x6, avg, max, got 'sum'"),
        (lambda: build_pool("spp", (0,)), "levels must be"),
        (lambda: build_head(8, 0), "num_classes must be at least 1"),
        (lambda: FixedNorm(0), "length must be above 0, got 0"),
        (lambda: build_classifier("small6", 2), "backbone must be one of"),
    ],
)
def test_wrong_arguments_are_named(call, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        call()


@pytest.mark.parametrize("lengths", [(295, 2), (7, 9), (296, 7, 5), (96, 3), (1, 4)])
def test_rows_that_begin_anywhere_in_memory_have_the_same_bits(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(lengths)))
    row = torch.randn(1, lengths[0])
    with torch.no_grad():
        alone = apply_in_blocks(head, row)
        for count in (1, 2, 5, 31, 32, 70):
            for place in {0, count // 3, count // 2, count - 1}:
                rows = torch.randn(count, lengths[0])
                rows[place] = row
                assert torch.equal(apply_in_blocks(head, rows)[place], alone[0])


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 70])
def test_rows_in_blocks_have_the_bits_of_rows_alone(count: int) -> None:
    torch.manual_seed(0)
    head = build_head(500, 7, (64,), feature_norm=1.0).eval()
    rows = torch.rand(count, 500)
    with torch.inference_mode():
        together = apply_in_blocks(head, rows)
        alone = [apply_in_blocks(head, rows[i : i + 1]) for i in range(count)]
        assert together.shape == (count, 7)
        assert torch.allclose(together, head(rows), atol=1e-6)
    assert all(torch.equal(together[i : i + 1], alone[i]) for i in range(count))


pytestmark = pytest.mark.usefixtures("one_thread")


CHANNELS = {"zf5": 256, "convnet5": 256, "overfeat5": 512, "overfeat7": 512}


def build_on_meta(name, **options):
    """A network that computes shapes only."""
    with torch.device("meta"):
        return build_paper_network(name, **options).to("meta")


@pytest.mark.parametrize("name", PAPER_TRUNKS)
@pytest.mark.parametrize("size", [(224, 224), (180, 180), (400, 123)])
def test_networks_with_spp_take_any_size(name, size):
    network = build_on_meta(name)
    assert network.head[0].in_features == CHANNELS[name] * 50
    assert network(torch.empty(2, 3, *size, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_baselines_pool_to_36_cells(name):
    network = build_on_meta(name, spp=False, num_classes=7)
    assert network.head[0].in_features == CHANNELS[name] * 36
    assert network(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 7)


def test_other_pyramids():
    assert build_on_meta("zf5", levels=(1, 2, 3, 4)).head[0].in_features == 256 * 30


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_heads_are_those_of_the_paper(name):
    head = build_on_meta(name).head
    description = head_to_config(head)
    assert description["hidden"] == [4096, 4096]
    assert description["dropout"] == 0.5
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    with torch.device("meta"):
        assert head_to_config(head_from_config(description)) == description


def test_heads_start_as_released():
    torch.manual_seed(0)
    network = build_paper_network("zf5", num_classes=10, hidden=(64, 64))
    for layer in network.head:
        if isinstance(layer, nn.Linear):
            assert (layer.bias == 1).all()
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert network.backbone.config() == build_backbone("zf5").config()


@pytest.mark.parametrize("name", PAPER_TRUNKS)
def test_the_table_is_that_of_the_trunk(name):
    sizes = (180, 224, 256, 688, 1200)
    for row in layer_table(name, sizes):
        part = build_backbone(name, layer=row.layer)
        assert row.cells == tuple(part.grid_hw((size, size))[0] for size in sizes)
        assert row.channels == part.channels
        module = part.trunk.get_submodule(row.layer)
        if not row.layer.startswith("norm"):
            window = (module.kernel_size, module.stride, module.padding)
            sides = [side[0] if isinstance(side, tuple) else side for side in window]
            assert [row.kernel, row.stride, row.padding] == sides


def test_the_table_of_overfeat_reads_as_the_papers():
    rows = {row.layer: row for row in layer_table("overfeat7")}
    assert tuple(rows["conv1"]) == ("conv1", 96, 7, 2, 0, (109,))
    assert tuple(rows["pool1"]) == ("pool1", 96, 3, 3, 0, (36,))
    assert tuple(rows["norm1"]) == ("norm1", 96, 1, 1, 0, (36,))
    assert tuple(rows["conv7"]) == ("conv7", 512, 3, 1, 1, (18,))
    assert len(rows) == 10


@pytest.mark.parametrize("call", [build_paper_network, layer_table])
def test_other_names_are_refused(call):
    with pytest.raises(ValueError, match="name must be one of zf5, convnet5, overfeat5, overfeat7"):
        call("resnet18")
