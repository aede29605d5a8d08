"""Whatever records or transforms a program gives eager torch's answer, on other maps too."""

import io
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from sppnet.pooling import (
    BoxPool,
    RegionPool,
    SpatialPyramidPool,
    pool_regions,
    score_regions,
    spatial_pyramid_pool,
)
from sppnet.pooling.kernels.dispatch import run, run_backward

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")

LEVELS = (3, 1, 2)
# whole numbers: products add up to the same sum in any order
WEIGHTS = torch.arange(3 * 14 * 2.0).reshape(3 * 14, 2)
Inputs = tuple[Tensor, ...]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def cells(*rows: Sequence[int]) -> Tensor:
    return torch.tensor(rows)


SIZES = [cells([2, 3], [7, 9]), cells([2, 40], [1, 1], [2, 7])]
ROWS = [
    cells([0, 1, 2, 6, 7], [1, 0, 0, 9, 7]),
    cells([2, 0, 0, 40, 2], [0, 3, 1, 4, 2], [1, 0, 0, 1, 1]),
]
MAPS = (draw(2, 3, 7, 9).mul(64).round(), draw(3, 3, 2, 40).mul(64).round())
# each with inputs to record, and others to try
CASES: dict[str, tuple[Callable[..., Tensor], Inputs, Inputs]] = {
    "map": (SpatialPyramidPool(LEVELS), MAPS[:1], MAPS[1:]),
    "avg": (SpatialPyramidPool(LEVELS, "avg"), MAPS[:1], MAPS[1:]),
    "function": (lambda x: spatial_pyramid_pool(x + 1, LEVELS), MAPS[:1], MAPS[1:]),
    "maps": (lambda a, b: spatial_pyramid_pool([a, b], LEVELS), MAPS, MAPS[::-1]),
    "valid cells": (
        lambda x, sizes: spatial_pyramid_pool(x, LEVELS, sizes_hw=sizes),
        (MAPS[1], SIZES[1]),
        (MAPS[0], SIZES[0]),
    ),
    "regions": (RegionPool(LEVELS), (MAPS[0], ROWS[0]), (MAPS[1], ROWS[1])),
    "regions, avg": (RegionPool(LEVELS, "avg"), (MAPS[0], ROWS[0]), (MAPS[1], ROWS[1])),
    "regions in lists": (
        lambda x, first, second: pool_regions(x, [first, second], LEVELS),
        (MAPS[0], ROWS[0][:, 1:], ROWS[0][:1, 1:]),
        (MAPS[1][:2], ROWS[1][:2, 1:], ROWS[1][:, 1:]),
    ),
    "written": (
        lambda x, rows, out: pool_regions(x, rows, LEVELS, out=out),
        (MAPS[0], ROWS[0], torch.zeros(2, 42)),
        (MAPS[1], ROWS[1], torch.zeros(3, 42)),
    ),
    "scores": (
        lambda x, rows, weights: score_regions(x, rows, weights, LEVELS),
        (MAPS[0], ROWS[0], WEIGHTS),
        (MAPS[1], ROWS[1], WEIGHTS),
    ),
}


def exact(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected)


def save_and_load(module: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("with_grad", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_trace_gives_the_answer_on_other_maps(name: str, with_grad: bool) -> None:
    function, example, other = CASES[name]
    with torch.set_grad_enabled(with_grad):
        traced = torch.jit.trace(function, example, check_trace=True)
        for each in (traced, save_and_load(traced)):
            exact(each(*other), function(*other))
            exact(each(*example), function(*example))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_network_trains() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), SpatialPyramidPool(LEVELS), nn.Linear(28, 2))
    traced = torch.jit.trace(net, MAPS[0])
    other = draw(4, 3, 11, 5).requires_grad_()
    weights = [other, *net.parameters()]
    exact(
        torch.autograd.grad(traced(other).square().sum(), weights),
        torch.autograd.grad(net(other).square().sum(), weights),
    )


def test_a_trace_of_one_map_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.jit.trace(SpatialPyramidPool(LEVELS), MAPS[0])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_refuses_what_eager_code_refuses() -> None:
    traced = torch.jit.trace(SpatialPyramidPool(LEVELS), MAPS[0])
    with pytest.raises(RuntimeError, match="must have shape"):
        traced(torch.zeros(1, 3, 0, 4))
    traced = torch.jit.trace(RegionPool(LEVELS), (MAPS[0], ROWS[0]))
    with pytest.raises(RuntimeError, match="regions must lie in"):
        traced(MAPS[0], ROWS[1])


# functionalisation under pre_dispatch freezes even torch's own operators
@pytest.mark.parametrize(
    ("functional", "kinds"),
    [
        (False, {}),
        (False, {"tracing_mode": "symbolic"}),
        (False, {"pre_dispatch": True}),
        (True, {}),
        (True, {"tracing_mode": "symbolic"}),
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_make_fx_gives_the_answer(name: str, functional: bool, kinds: dict[str, Any]) -> None:
    function, example, other = CASES[name]
    graph = make_fx(functionalize(function) if functional else function, **kinds)(*example)
    values = other if "tracing_mode" in kinds and name != "regions in lists" else example
    exact(graph(*values), function(*values))
    moved = tuple(each * 2 + 1 if each.is_floating_point() else each for each in example)
    exact(graph(*moved), function(*moved))


def test_make_fx_records_gradients() -> None:
    wanted = MAPS[0].clone().requires_grad_()
    graph = make_fx(SpatialPyramidPool(LEVELS), pre_dispatch=True)(wanted)
    exact(graph(wanted * 2), spatial_pyramid_pool(wanted * 2, LEVELS))
    backward = make_fx(lambda x: grad(lambda y: spatial_pyramid_pool(y, LEVELS).square().sum())(x))
    exact(
        backward(MAPS[0])(-MAPS[0]),
        grad(lambda y: spatial_pyramid_pool(y, LEVELS).square().sum())(-MAPS[0]),
    )


@pytest.mark.parametrize("name", CASES)
def test_symbolic_trace_keeps_the_call(name: str) -> None:
    function, example, other = CASES[name]
    if isinstance(function, nn.Module):
        function = nn.Sequential(function) if len(example) == 1 else function
    graph = torch.fx.symbolic_trace(function)
    for values in (example, other):
        exact(graph(*values), function(*values))


class Seen(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_modes_see_the_operator(name: str) -> None:
    function, example, _ = CASES[name]
    expected = function(*example)
    with Seen() as seen:
        exact(function(*example), expected)
    assert any(each.startswith("sppnet.pool_") for each in seen.names)


class Marked(Tensor):
    """A subclass that does nothing."""


def test_subclasses_stay_what_they_are() -> None:
    pooled = spatial_pyramid_pool(MAPS[0].as_subclass(Marked), LEVELS)
    assert type(pooled) is Marked
    exact(pooled.as_subclass(Tensor), spatial_pyramid_pool(MAPS[0], LEVELS))


def test_lazy_minus_signs_and_zeros_without_memory() -> None:
    imaginary = torch.randn(2, 3, 5, 4, dtype=torch.complex64).conj().imag
    assert imaginary.is_neg()
    exact(spatial_pyramid_pool(imaginary, LEVELS), spatial_pyramid_pool(imaginary + 0, LEVELS))
    nothing = torch._efficientzerotensor((1, 3, 5, 4))
    exact(spatial_pyramid_pool(nothing, LEVELS), torch.zeros(1, 42))


@pytest.mark.parametrize("levels", [LEVELS, (1, (2, 3))])
def test_scripted_modules_give_eager_answers_after_a_file(levels) -> None:
    network, rows = nn.Sequential(SpatialPyramidPool(levels)), torch.tensor([[0, 1, 0, 3, 3]])
    regions = RegionPool(levels, "avg")
    scripted, scripted_regions = torch.jit.script(network), torch.jit.script(regions)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for shape in ((2, 3, 7, 5), (1, 2, 4, 9)):
        features = torch.rand(shape, requires_grad=True)
        exact(scripted(features), spatial_pyramid_pool(features, levels))
        exact(loaded(features), spatial_pyramid_pool(features, levels))
        exact(scripted_regions(features, rows), regions(features, rows))
        (gradient,) = torch.autograd.grad(loaded(features).square().sum(), features)
        again = spatial_pyramid_pool(features, levels).square().sum()
        exact(gradient, torch.autograd.grad(again, features)[0])
    # torch leaves what it compiled in the network: it must still take every form of maps
    maps = [torch.rand(3, 5, 4), torch.rand(3, 2, 9)]
    exact(network(maps), spatial_pyramid_pool(maps, levels))
    assert repr(network) == repr(nn.Sequential(SpatialPyramidPool(levels)))
    with pytest.raises(Exception, match="sizes_hw must be None"):
        torch.jit.script(SpatialPyramidPool(levels))(maps[0][None], sizes_hw=torch.tensor([[1, 2]]))


def test_scripting_boxes_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"use torch.jit.trace, torch.export.export"):
        torch.jit.script(BoxPool(LEVELS, stride=8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_the_exporter_by_tracing_writes_one_file_for_every_size(mode: str) -> None:
    file, axes = io.BytesIO(), {0: "n", 2: "h", 3: "w"}
    torch.onnx.export(
        nn.Sequential(SpatialPyramidPool(LEVELS, mode)),
        (torch.rand(2, 3, 9, 8),),
        file,
        dynamo=False,
        input_names=["maps"],
        output_names=["vectors"],
        dynamic_axes={"maps": axes, "vectors": {0: "n"}},
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    for shape in ((2, 3, 9, 8), (1, 3, 2, 31), (3, 3, 17, 4)):
        features = torch.randn(shape)
        features[0, 0, 0, 0] = torch.nan
        (vectors,) = session.run(None, {"maps": features.numpy()})
        expected = spatial_pyramid_pool(features, LEVELS, mode=mode)
        torch.testing.assert_close(torch.from_numpy(vectors), expected, equal_nan=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_exporter_by_tracing_refuses_regions() -> None:
    with pytest.raises(RuntimeError, match="dynamo must be True"):
        torch.onnx.export(
            RegionPool(LEVELS),
            (torch.rand(1, 3, 9, 8), torch.tensor([[0, 1, 0, 3, 3]])),
            "never written.onnx",
            dynamo=False,
        )


def test_cuda_graphs_are_refused_and_torch_compile_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda: Any = SimpleNamespace(is_cuda=True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        run([on_cuda], None, LEVELS, "max")
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        run_backward(WEIGHTS, [on_cuda], None, LEVELS, "max")
    for name in ("pool_maps", "pool_regions", "pool_regions_into", "pool_maps_backward"):
        tags = getattr(torch.ops.sppnet, name).default.tags
        assert torch.Tag.cudagraph_unsafe in tags


BATCH = draw(3, 2, 3, 5, 4)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_vmap_is_a_loop(mode: str) -> None:
    def pool(x: Tensor) -> Tensor:
        return spatial_pyramid_pool(x, LEVELS, mode=mode)

    def pool_rows(x: Tensor, rows: Tensor) -> Tensor:
        return pool_regions(x, rows, LEVELS, mode=mode)

    rows = cells([0, 0, 0, 4, 5], [1, 1, 1, 3, 3])
    many = torch.stack([rows, rows.flip(0), rows[[0, 0]]])
    exact(vmap(pool)(BATCH), torch.stack([pool(x) for x in BATCH]))
    exact(vmap(pool, 1)(BATCH), torch.stack([pool(x) for x in BATCH.unbind(1)]))
    pairs = zip(BATCH, many, strict=True)
    exact(vmap(pool_rows)(BATCH, many), torch.stack([pool_rows(*pair) for pair in pairs]))
    exact(vmap(pool_rows, (None, 0))(BATCH[0], many)[1], pool_rows(BATCH[0], many[1]))
    exact(vmap(pool_rows, (0, None))(BATCH, rows)[1], pool_rows(BATCH[1], rows))
    lists = vmap(lambda a, b: spatial_pyramid_pool([a, b], LEVELS, mode=mode), (0, None))
    exact(lists(BATCH, BATCH[0])[1], spatial_pyramid_pool([BATCH[1], BATCH[0]], LEVELS, mode=mode))
    loss = grad(lambda x: pool(x).square().sum())
    exact(vmap(loss)(BATCH), torch.stack([loss(x) for x in BATCH]))


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("kind", ["map", "regions", "maps"])
def test_jacobians_and_hessians_are_those_of_autograd(kind: str, mode: str) -> None:
    def pool(x: Tensor) -> Tensor:
        if kind == "map":
            return spatial_pyramid_pool(x, (2, 1), mode=mode)
        if kind == "maps":
            return spatial_pyramid_pool([x, x[:, :, 1:]], (2, 1), mode=mode)
        return pool_regions(x, cells([0, 0, 0, 3, 4], [0, 1, 1, 3, 2]), (2, 1), mode=mode)

    def loss(x: Tensor) -> Tensor:
        return pool(x).pow(3).sum()

    features = draw(1, 2, 4, 3).double()
    jacobian = torch.autograd.functional.jacobian(pool, features)
    for transform in (jacrev, jacfwd):
        close(transform(pool)(features), jacobian)
    close(torch.autograd.functional.jacobian(pool, features, vectorize=True), jacobian)
    second = torch.autograd.functional.hessian(loss, features)
    for find in (hessian, lambda f: jacrev(jacrev(f)), lambda f: jacfwd(jacfwd(f))):
        close(find(loss)(features), second)
    along = jvp(grad(loss), (features,), (features,))[1]
    close(along, torch.einsum("abcdefgh,efgh->abcd", second, features))


def test_gradients_of_a_batch_of_losses() -> None:
    features = MAPS[0].clone().requires_grad_()
    weights = draw(3, 2, 42)
    pooled = spatial_pyramid_pool(features, LEVELS)
    (found,) = torch.autograd.grad(pooled, features, weights, True, is_grads_batched=True)
    one_by_one = [torch.autograd.grad(pooled, features, each, True)[0] for each in weights]
    close(found, torch.stack(one_by_one))
