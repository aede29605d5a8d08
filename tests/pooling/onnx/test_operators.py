"""The operators in ONNX, run by onnxruntime, against torch's own pooling of every map and crop."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from in_openvino import open_in_openvino
from sppnet.errors import OutputError
from sppnet.pooling import SpatialPyramidPool, pool_regions
from sppnet.pooling.onnx.export import (
    Comparison,
    ExportRecipe,
    draw_regions,
    export_onnx,
    largest_difference,
    open_session,
    pooling_recipe,
)

LEVELS = [(6, 3, 2, 1), (7, 5, 2)]
SIZES = [(1, 1, 1), (0, 3, 4), (2, 1, 9), (1, 9, 1), (3, 5, 5), (1, 13, 13), (2, 10, 10)]
SIZES += [(1, 7, 30), (1, 60, 3), (1, 3, 60), (1, 33, 64)]
FILLS = ["numbers", "ties", "NaN"]


def exact(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@functools.cache
def exported(
    levels: tuple[int, ...], mode: str = "max", regions: bool = False, opset: int = 20
) -> bytes:
    """Bytes of a file; channels are free, too."""
    recipe = pooling_recipe(levels, mode=mode, regions=regions)
    return export_onnx(dataclasses.replace(recipe, cases=()), opset)[0]


@functools.cache
def session_of(*key: Any) -> Any:
    return open_session(exported(*key))


def run(session: Any, *inputs: Tensor) -> Tensor:
    names = [value.name for value in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


def fill(shape: tuple[int, ...], kind: str) -> Tensor:
    """Random maps: of numbers, of few values, or of few values with NaN and infinities."""
    draw = torch.Generator().manual_seed(math.prod(shape) + len(kind))
    if kind == "numbers":
        return torch.randn(shape, generator=draw)
    few = [-math.inf, -1.0, 0.0, 1.0] + ([math.nan, math.inf] if kind == "NaN" else [])
    which = torch.randint(60, shape, generator=draw)
    return torch.tensor(few)[torch.where(which < 2 * len(few), which // 2, which % 4)]


def pool_by_torch(features: Tensor, levels: tuple[int, ...], mode: str) -> Tensor:
    if mode == "max":
        grids = [adaptive_max_pool2d(features, n) for n in levels]
    else:
        grids = [adaptive_avg_pool2d(features.double(), n).to(features.dtype) for n in levels]
    return torch.cat([grid.flatten(1) for grid in grids], 1)


def pool_crops(features: Tensor, rows: Tensor, levels: tuple[int, ...], mode: str) -> Tensor:
    crops = [features[i : i + 1, :, y0:y1, x0:x1] for i, x0, y0, x1, y1 in rows.tolist()]
    return torch.cat([pool_by_torch(crop, levels, mode) for crop in crops])


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", FILLS)
def test_one_file_pools_maps_of_every_size(kind: str, levels: tuple[int, ...], mode: str) -> None:
    session = session_of(levels, mode)
    for channels, (count, height, width) in enumerate(SIZES, 1):
        features = fill((count, channels, height, width), kind)
        exact(run(session, features), pool_by_torch(features, levels, mode))


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", FILLS)
def test_one_file_pools_any_number_of_regions(
    kind: str, levels: tuple[int, ...], mode: str
) -> None:
    session = session_of(levels, mode, True)
    draw = torch.Generator().manual_seed(0)
    for number, (count, height, width) in enumerate(SIZES):
        features = fill((max(count, 1), 3, height, width), kind)
        rows = draw_regions(len(features), height, width, [1, 2, 23][number % 3], draw)
        exact(run(session, features, rows), pool_crops(features, rows, levels, mode))
        nothing = run(session, features, rows[:0])
        assert nothing.shape == (0, 3 * sum(n * n for n in levels))


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("regions", [False, True])
def test_nothing_in_nothing_out_and_maps_of_no_cells_have_no_number(
    mode: str, regions: bool
) -> None:
    session = session_of((6, 3, 2, 1), mode, regions)
    none = (torch.zeros(0, 5, dtype=torch.long),)[: int(regions)]
    for shape in ((0, 3, 7, 9), (2, 0, 3, 3), (0, 0, 1, 1)):
        found = run(session, torch.zeros(shape), *none)
        assert found.shape == (0 if regions else shape[0], shape[1] * 50)
    for shape in ((2, 3, 0, 4), (2, 3, 4, 0), (0, 3, 0, 0)):  # a graph cannot refuse them
        assert not run(session, torch.zeros(shape), *none).isfinite().any()


def test_regions_that_touch_every_edge_and_coincide() -> None:
    features = fill((2, 2, 6, 9), "NaN")
    rows = torch.tensor(
        [[i, x0, y0, x1, y1] for i in (1, 0) for x0, x1 in ((0, 9), (8, 9), (0, 1)) for y0, y1 in
         ((0, 6), (5, 6), (0, 1))]
    )  # fmt: skip
    rows = torch.cat([rows, rows])
    found = run(session_of((7, 5, 2), "max", True), features, rows)
    exact(found, pool_crops(features, rows, (7, 5, 2), "max"))


@pytest.mark.parametrize("levels", LEVELS)
def test_openvino_pools_the_same(levels: tuple[int, ...]) -> None:
    whole, regions = (open_in_openvino(exported(levels, "max", few)) for few in (False, True))
    for count, height, width in ((1, 1, 1), (1, 13, 13), (2, 7, 30), (1, 60, 3)):
        features = fill((count, 5, height, width), "numbers")
        [vectors] = whole({"features": features.numpy()})
        exact(torch.from_numpy(vectors), pool_by_torch(features, levels, "max"))
        rows = draw_regions(count, height, width, 20, torch.Generator().manual_seed(height))
        [vectors] = regions({"features": features.numpy(), "regions": rows.numpy()})
        exact(torch.from_numpy(vectors), pool_crops(features, rows, levels, "max"))


def test_nan_comes_out_in_the_bins_that_hold_it_and_nowhere_else() -> None:
    features = torch.zeros(1, 2, 12, 12)
    features[0, 1, 4, 7] = math.nan
    for pooled in (
        run(session_of((6, 3, 2, 1)), features),
        run(session_of((6, 3, 2, 1), "max", True), features, torch.tensor([[0, 0, 0, 12, 12]])),
    ):
        bins = pooled[0, :72].unflatten(0, (2, 6, 6)).isnan().nonzero()
        assert bins.tolist() == [[1, 2, 3]]
        assert int(pooled.isnan().sum()) == 4  # one bin of each level


def test_infinities_of_both_signs_are_no_nan() -> None:
    features = torch.tensor([math.inf, -math.inf, 1.0, 2.0]).reshape(1, 1, 2, 2)
    exact(run(session_of((6, 3, 2, 1)), features), pool_by_torch(features, (6, 3, 2, 1), "max"))


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("regions", [False, True])
def test_oldest_and_newest_opset(opset: int, regions: bool) -> None:
    model = onnx.load_from_string(exported((3, 1), "max", regions, opset))
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    assert not model.functions
    features = fill((1, 2, 7, 20), "NaN")
    rows = torch.tensor([[0, 0, 0, 20, 7]])
    inputs = (features, rows) if regions else (features,)
    exact(
        run(session_of((3, 1), "max", regions, opset), *inputs),
        pool_by_torch(features, (3, 1), "max"),
    )


def test_file_names_its_sizes_and_says_what_it_is() -> None:
    model = onnx.load_from_string(exported((7, 5, 2), "max", True))
    free = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert free["features"] == ["batch", "channels", "height", "width"]
    assert free["regions"] == ["count", 5]
    assert free["vectors"][0] == "count"
    facts = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert facts["sppnet.levels"] == [7, 5, 2]
    assert facts["sppnet.regions"] is True
    assert (model.producer_name, facts["sppnet.kind"]) == ("sppnet", "pooling")


def test_no_place_of_the_machine_is_in_the_file() -> None:
    text = exported((7, 5, 2), "max", True)
    assert b".py" not in text
    assert b"site-packages" not in text


class Doubles(nn.Module):
    """Pools float64 in both ways."""

    def forward(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return SpatialPyramidPool((3, 2))(features), pool_regions(features, rows, (3, 2))


class TwoMaps(nn.Module):
    """Pools maps of two sizes, whole."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return SpatialPyramidPool((3, 2))([first, second])


class RegionsOfTwoMaps(nn.Module):
    """Pools regions of maps of two sizes, which has no translation."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        rows = torch.tensor([[0, 0, 0, 2, 2], [1, 0, 0, 2, 2]])
        return pool_regions([first, second], rows, (3, 2))


def recipe_of(
    module: nn.Module, example: tuple[Tensor, ...], expect: Callable[..., tuple[Tensor, ...]]
) -> ExportRecipe:
    free = {0: "a", 2: "b", 3: "c"}
    second = {0: "d"} if example[1].ndim == 2 else {0: "d", 2: "e", 3: "f"}
    count = 2 if isinstance(module, Doubles) else 1
    outputs: dict[str, dict[int, str]] = {f"out{i}": {} for i in range(count)}
    cases = [example, tuple(each[:1] for each in example)]
    return ExportRecipe(module, example, {"x": free, "y": second}, outputs, expect, cases)


def test_float64_is_exact() -> None:
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    rows = torch.tensor([[0, 1, 2, 6, 7], [0, 0, 0, 1, 1]])

    def expect(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        whole = pool_by_torch(features, (3, 2), "max")
        return whole, pool_crops(features, rows, (3, 2), "max")

    _, comparisons = export_onnx(recipe_of(Doubles(), (features, rows), expect))
    assert [each.difference for each in comparisons] == [0, 0]


def test_maps_of_several_sizes_come_one_after_the_other() -> None:
    maps = torch.randn(2, 3, 7, 9), torch.randn(3, 3, 2, 31)

    def expect(*maps: Tensor) -> tuple[Tensor]:
        return (torch.cat([pool_by_torch(each, (3, 2), "max") for each in maps]),)

    _, comparisons = export_onnx(recipe_of(TwoMaps(), maps, expect))
    assert [each.difference for each in comparisons] == [0, 0]


def test_regions_of_several_maps_are_refused_in_words() -> None:
    maps = torch.randn(2, 3, 7, 9), torch.randn(3, 3, 2, 31)
    recipe = recipe_of(RegionsOfTwoMaps(), maps, lambda *maps: maps)
    with pytest.raises(OutputError, match="must be one batch of maps to export pool_regions"):
        export_onnx(recipe)


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        ([], [], 0),
        ([1.0, math.nan], [1.0, math.nan], 0),
        ([math.inf, -math.inf], [math.inf, -math.inf], 0),
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.5], [0.0], math.inf),
        ([math.nan, 2.0], [1.0, 2.0], math.inf),
        ([1.0, 2.0], [math.nan, 2.0], math.inf),
        ([math.inf, 2.0], [1.0, 2.0], math.inf),
        ([1.0], [1.0, 1.0], math.inf),
    ],
)
def test_difference_is_a_share_of_the_largest_value(actual, expected, difference) -> None:
    assert largest_difference(torch.tensor(actual), torch.tensor(expected)) == difference


def test_comparison_asks_for_equal_pooling_and_close_outputs() -> None:
    assert Comparison((), 1e-6, 0.0).matches(1e-5)
    assert Comparison((), 1e-6, None).matches(1e-5)
    assert not Comparison((), 1e-4, 0.0).matches(1e-5)
    assert not Comparison((), 0.0, 1e-9).matches(1e-5)
    assert not Comparison((), math.nan, 0.0).matches(1e-5)


def test_weights_beyond_two_gib_are_refused_before_the_work() -> None:
    large = nn.Linear(2**15, 2**15, device="meta")  # 4 GiB
    recipe = dataclasses.replace(pooling_recipe((1,)), module=large)
    with pytest.raises(OutputError, match=r"smaller than 2 GiB, got 4.0 GiB"):
        export_onnx(recipe)
