"""``torch.onnx.export`` of one's own network without a translation table: one file, all sizes."""

import functools
import math
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from sppnet.pooling import RegionPool, SpatialPyramidPool, spatial_pyramid_pool
from sppnet.pooling.onnx.export import draw_regions, open_session
from sppnet.pooling.onnx.operators import TRANSLATIONS

LEVELS = (3, 1, (2, 4))
SIZES = [(1, 1, 1), (2, 13, 10), (1, 2, 40), (3, 40, 3), (0, 3, 3), (1, 33, 50)]
FREE = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
VALUES = torch.tensor([math.nan, -math.inf, math.inf, -2.0, 0.0, 1.0])


def fill(*shape: int, special: bool = False) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    if not special:
        return torch.randn(shape, generator=draw)
    shares = torch.tensor([1.0, 6, 1, 30, 30, 30])
    chosen = torch.multinomial(shares, max(1, math.prod(shape)), True, generator=draw)
    return VALUES[chosen[: math.prod(shape)]].reshape(shape)


def exact(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def export(module: nn.Module, *example: Tensor, **options: Any) -> Any:
    free = [FREE if each.ndim == 4 else {0: Dim.DYNAMIC} for each in example]
    return torch.onnx.export(
        module.eval(), example, dynamo=True, dynamic_shapes=tuple(free), verbose=False, **options
    )


def run(session: Any, *inputs: Tensor) -> Tensor:
    names = [value.name for value in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


@functools.cache
def session_of(kind: str, mode: str, table: bool) -> Any:
    options = {"custom_translation_table": TRANSLATIONS} if table else {}
    example, rows = fill(2, 3, 7, 9), torch.tensor([[0, 0, 0, 9, 7], [1, 1, 1, 5, 6]])
    if kind == "maps":
        program = export(SpatialPyramidPool(LEVELS, mode), example, **options)
    else:
        program = export(RegionPool(LEVELS, mode), example, rows, **options)
    onnx.checker.check_model(program.model_proto, full_check=True)
    return open_session(program.model_proto.SerializeToString())


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("special", [False, True])
def test_maps_of_every_size(special: bool, mode: str, table: bool) -> None:
    for count, height, width in SIZES:
        features = fill(count, 3, height, width, special=special)
        expected = spatial_pyramid_pool(features, LEVELS, mode=mode)
        exact(run(session_of("maps", mode, table), features), expected)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_any_number_of_regions(mode: str, table: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    for number, (count, height, width) in enumerate(SIZES):
        features = fill(max(count, 1), 3, height, width, special=bool(number % 2))
        rows = draw_regions(len(features), height, width, [0, 1, 9][number % 3], draw)
        pool = RegionPool(LEVELS, mode)
        exact(run(session_of("regions", mode, table), features, rows), pool(features, rows))


class Network(nn.Module):
    """Two maps, and a layer behind the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SpatialPyramidPool((2, 1))
        self.layer = nn.Linear(self.pool.out_features(3), 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.layer(self.pool([first.relu(), second.relu()]))


def test_a_network_of_two_maps() -> None:
    net, maps = Network(), (fill(2, 3, 7, 9), fill(3, 3, 4, 5))
    session = open_session(export(net, *maps).model_proto.SerializeToString())
    other = (fill(1, 3, 30, 2), fill(2, 3, 5, 41))
    with torch.no_grad():
        torch.testing.assert_close(run(session, *other), net(*other))
