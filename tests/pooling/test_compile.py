"""The operators under torch.export and torch.compile: one graph for all sizes, gradients too."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor_config
from torch._inductor.lowering import lowerings
from torch.export import Dim

from sppnet.pooling import RegionPool, SpatialPyramidPool, pool_regions, spatial_pyramid_pool
from sppnet.pooling.onnx.export import draw_regions

LEVELS = (7, 5, 2)
SHAPES = [(2, 3, 7, 9), (3, 3, 2, 40), (2, 3, 40, 2), (5, 3, 13, 13)]
FREE = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def inputs(
    shape: tuple[int, ...], kind: str, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """A map that wants a gradient, and what goes with it: another map, regions, or nothing."""
    draw = torch.Generator().manual_seed(sum(shape))
    features = torch.randn(shape, generator=draw, dtype=dtype).requires_grad_()
    if kind == "list":
        other = torch.randn(shape[3], shape[1], shape[0], shape[2], generator=draw, dtype=dtype)
        return features, other.requires_grad_()
    if kind == "regions":
        return features, draw_regions(shape[0], *shape[2:], 9 + shape[0], draw)
    return (features,)


class PoolList(nn.Module):
    """Pools maps of two sizes."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return spatial_pyramid_pool([first, second], LEVELS)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "map": lambda: SpatialPyramidPool(LEVELS),
    "map, avg": lambda: SpatialPyramidPool(LEVELS, "avg"),
    "list": PoolList,
    "regions": lambda: RegionPool(LEVELS),
    "regions, avg": lambda: RegionPool(LEVELS, "avg"),
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "map": lambda features: spatial_pyramid_pool(features * 2, LEVELS).square(),
    "list": lambda a, b: spatial_pyramid_pool([a * 2, b + 1], LEVELS).square(),
    "regions": lambda features, rows: pool_regions(features * 2, rows, LEVELS).square(),
}


def gradients(pooled: Tensor, values: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [value for value in values if value.requires_grad]
    weights = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).reshape(pooled.shape)
    return list(torch.autograd.grad((pooled * weights).sum(), leaves))


@pytest.mark.parametrize("name", MODULES)
def test_exported_program_serves_all_sizes(name: str) -> None:
    kind, module = name.split(",")[0], MODULES[name]()
    example = inputs(SHAPES[0], kind)
    free = (FREE, {0: Dim.DYNAMIC} if kind == "regions" else FREE)[: len(example)]
    program = torch.export.export(module, example, dynamic_shapes=free)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert sum(str(target).startswith("sppnet.pool_") for target in targets) == 1
    for shape in SHAPES:
        values = inputs(shape, kind)
        assert torch.equal(program.module()(*values), module(*values))


@pytest.mark.parametrize("name", ["map", "regions"])
def test_nothing_in_nothing_out_of_programs_and_maps_of_no_cells_are_refused(name: str) -> None:
    module, example = MODULES[name](), inputs(SHAPES[0], name)
    free = (FREE, {0: Dim.DYNAMIC})[: len(example)]
    exported = torch.export.export(module, example, dynamic_shapes=free).module()
    compiled = torch.compile(module, dynamic=True, backend="aot_eager")
    none = (torch.zeros(0, 5, dtype=torch.long),)[: len(example) - 1]
    for pool in (module, exported, compiled):
        for count in (0, 2)[: len(example)]:
            features = torch.zeros(count, 3, 4, 7, requires_grad=True)
            pooled = pool(features, *none)
            assert pooled.shape == (0, 3 * (49 + 25 + 4))
            pooled.sum().backward()
            assert features.grad is not None
            assert not features.grad.any()
        for shape in ((2, 3, 0, 4), (2, 3, 4, 0), (0, 3, 0, 0)):
            with pytest.raises(ValueError, match="H and W at least 1"):
                pool(torch.zeros(shape), *none)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_compiled_graph_serves_all_sizes_with_gradients(name: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        values = inputs(shape, name)
        expected, found = FUNCTIONS[name](*values), compiled(*values)
        assert torch.equal(found, expected)
        for ours, theirs in zip(gradients(found, values), gradients(expected, values), strict=True):
            assert torch.equal(ours, theirs)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", MODULES)
def test_modules_compile_without_graph_breaks(name: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    kind, module = name.split(",")[0], MODULES[name]()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES[:3]:
        values = inputs(shape, kind)
        assert torch.equal(compiled(*values), module(*values))
    assert counter.frame_count == 1


def test_counter_would_notice_a_second_graph() -> None:
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(FUNCTIONS["map"], fullgraph=True, dynamic=False, backend=counter)
    for shape in SHAPES[:2]:
        compiled(*inputs(shape, "map"))
    assert counter.frame_count == 2


@inductor_config.patch(fx_graph_cache=False)
@pytest.mark.parametrize("ci", ["", "true"])  # inductor refuses more where CI is set
def test_a_whole_head_compiles_with_the_default_backend(
    ci: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.delitem(lowerings, torch.ops.sppnet.pool_maps.default, raising=False)
    head = nn.Linear(3 * 5, 2)
    compiled = torch.compile(
        lambda features: head(spatial_pyramid_pool(features.relu(), (2, 1))),
        fullgraph=True,
        dynamic=True,
    )
    for shape in SHAPES[:2]:
        (features,) = inputs(shape, "map")
        expected = head(spatial_pyramid_pool(features.relu(), (2, 1)))
        found = compiled(features)
        torch.testing.assert_close(found, expected)
        (ours,), (theirs,) = gradients(found, (features,)), gradients(expected, (features,))
        torch.testing.assert_close(ours, theirs)


# torch's own check looks at the gradients of copies that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operators_keep_the_rules_of_torch(mode: str, layout: torch.memory_format) -> None:
    features, rows = inputs((2, 3, 5, 4), "regions", torch.float64)
    features = features.detach().contiguous(memory_format=layout).requires_grad_()
    maps, levels = [features], [2, 1]
    whole = torch.ops.sppnet.pool_maps.default
    regions = torch.ops.sppnet.pool_regions.default
    torch.library.opcheck(whole, (maps, levels, mode))
    torch.library.opcheck(regions, (maps, rows, levels, mode))
    fixed = [features.detach()]
    grad = torch.randn(2, 15, dtype=torch.float64)
    torch.library.opcheck(torch.ops.sppnet.pool_maps_backward.default, (grad, fixed, levels, mode))
    grad = torch.randn(len(rows), 15, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.sppnet.pool_regions_backward.default, (grad, fixed, rows, levels, mode)
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_writing_into_memory_keeps_the_rules_of_torch() -> None:
    features, rows = inputs((2, 3, 5, 4), "regions")
    out = torch.empty(len(rows), 15)
    torch.library.opcheck(
        torch.ops.sppnet.pool_regions_into.default, (out, [features.detach()], rows, [2, 1], "max")
    )


def test_writing_into_memory_compiles() -> None:
    features, rows = inputs((2, 3, 5, 4), "regions")
    features, out = features.detach(), torch.zeros(len(rows), 15)
    compiled = torch.compile(
        lambda out: pool_regions(features, rows, (2, 1), out=out) + 1,
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    assert torch.equal(compiled(out), pool_regions(features, rows, (2, 1)) + 1)
    assert torch.equal(out, pool_regions(features, rows, (2, 1)))
