"""The paper's networks as a whole: heads, baselines, initial values, the layer table."""

import pytest
import torch
from torch import nn

from sppnet.backbones import build_backbone
from sppnet.backbones.paper import PAPER_TRUNKS
from sppnet.classification import build_paper_network, layer_table
from sppnet.classification.description import describe_head, restore_head

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
    description = describe_head(head)
    assert description["hidden"] == [4096, 4096]
    assert description["dropout"] == 0.5
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    with torch.device("meta"):
        assert describe_head(restore_head(description)) == description


def test_heads_start_as_released():
    torch.manual_seed(0)
    network = build_paper_network("zf5", num_classes=10, hidden=(64, 64))
    for layer in network.head:
        if isinstance(layer, nn.Linear):
            assert (layer.bias == 1).all()
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert network.backbone.description() == build_backbone("zf5").description()


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
