"""What people do to a torch module, done to ours and to torch's own pooling, side by side.

Each module follows the same convolution; "yes" means that the call worked and gave what eager code
gives. Prints the table of docs/pooling.md:

    python benchmarks/torch_behaviours.py
    python benchmarks/torch_behaviours.py --only vmap pickle --why   # some, with the errors
"""

import argparse
import copy
import io
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Sequence

import joblib
import onnxruntime
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.ao.quantization import quantize_dynamic
from torch.export import Dim
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from sppnet import BoxPool, RegionPool, SpatialPyramidPool

ROWS = torch.tensor([[0, 0, 0, 5, 4], [0, 1, 2, 4, 5]])
SIDE = 8
FREE = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


class Network(nn.Module):
    """A convolution, then a pooling of the maps or of two regions of the first.

    Args:
        pool: The pooling.
        rows: (2, 5) regions or boxes of the pooling; None for whole maps.
    """

    def __init__(self, pool: nn.Module, rows: Tensor | None = None) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = pool
        self.register_buffer("rows", rows)

    def forward(self, images: Tensor) -> Tensor:
        """Pool (N, 3, H, W) images."""
        maps = self.convolution(images)
        pooled: Tensor = self.pool(maps) if self.rows is None else self.pool(maps, self.rows)
        return pooled


def whole(pool: nn.Module) -> nn.Module:
    """A network that torch.jit.script reads, too: it cannot skip the branch of another's call."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pool)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "AdaptiveMaxPool2d": lambda: whole(nn.AdaptiveMaxPool2d(2)),
    "SpatialPyramidPool": lambda: whole(SpatialPyramidPool((1, 2))),
    "RegionPool": lambda: Network(RegionPool((1, 2)), ROWS),
    "BoxPool": lambda: Network(BoxPool((1, 2), stride=1.0), ROWS.float()),
}


def images(side: int = SIDE, count: int = 1) -> Tensor:
    """(count, 3, side, side) random images."""
    return torch.rand(count, 3, side, side)


def same(one: Tensor, other: Tensor, tolerance: float = 1e-6) -> None:
    """Refuse two answers that differ."""
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def same_on(program: Callable[[Tensor], Tensor], network: nn.Module, *sides: int) -> None:
    """Refuse a program whose answer on images of some sizes is not the network's."""
    for side in sides or (SIDE,):
        batch = images(side)
        same(program(batch), network(batch))


def keep_state(network: nn.Module) -> None:
    """Load the state of one network into another."""
    other = copy.deepcopy(network)
    nn.init.zeros_(next(other.parameters()))
    other.load_state_dict(network.state_dict())
    same_on(other, network)


def save_whole(network: nn.Module) -> None:
    """Save and load the network itself."""
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    same_on(torch.load(file, weights_only=False), network)


def dump(network: nn.Module) -> None:
    """Keep it by joblib, as scikit-learn does."""
    file = io.BytesIO()
    joblib.dump(network, file)
    file.seek(0)
    same_on(joblib.load(file), network)


def use_dtype(dtype: torch.dtype) -> Callable[[nn.Module], None]:
    """Compute in another dtype throughout."""

    def run(network: nn.Module) -> None:
        found = copy.deepcopy(network).to(dtype)(images().to(dtype))
        if found.dtype != dtype:
            raise TypeError(f"gives {found.dtype}")

    return run


def autocast(network: nn.Module) -> None:
    """Let torch choose half precision, and train."""
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images())
    if found.dtype != torch.bfloat16:
        raise TypeError(f"gives {found.dtype}")
    found.float().sum().backward()


def channels_last(network: nn.Module) -> None:
    """Keep maps channels last."""
    batch = images()
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    same(last(batch.to(memory_format=torch.channels_last)), network(batch))


def train(network: nn.Module) -> None:
    """One step of an optimizer."""
    before = [each.detach().clone() for each in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(images()).square().sum().backward()
    optimizer.step()
    if all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)):
        raise ValueError("no weight moved")


def differentiate_twice(network: nn.Module) -> None:
    """Check first and second derivatives by finite differences."""
    exact, batch = copy.deepcopy(network).double(), images().double().requires_grad_()
    torch.autograd.gradcheck(exact, batch)
    torch.autograd.gradgradcheck(lambda x: exact(x).square(), batch)


def push_forward(network: nn.Module) -> None:
    """Forward-mode derivatives."""
    batch = images()
    found, _ = jvp(network, (batch,), (torch.ones_like(batch),))
    same(found, network(batch))


def map_over(network: nn.Module) -> None:
    """Vmap over a batch of batches."""
    batches = torch.rand(3, 1, 3, SIDE, SIDE)
    same(vmap(network)(batches), torch.stack([network(each) for each in batches]))


def per_sample(network: nn.Module) -> None:
    """Gradients of each image by vmap of grad."""
    weights = dict(network.named_parameters())

    def loss(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
        return functional_call(network, parameters, (batch,)).square().sum()

    batches = torch.rand(3, 1, 3, SIDE, SIDE)
    found = vmap(grad(loss), in_dims=(None, 0))(weights, batches)
    alone = grad(loss)(weights, batches[1])
    for name, value in alone.items():
        same(found[name][1], value, 1e-4)


def recompute(network: nn.Module) -> None:
    """Activation checkpointing."""
    batch = images().requires_grad_()
    found = checkpoint(network, batch, use_reentrant=False)
    same(
        torch.autograd.grad(found.sum(), batch)[0],
        torch.autograd.grad(network(batch).sum(), batch)[0],
    )


def compile_it(network: nn.Module) -> None:
    """torch.compile into one graph, with gradients."""
    program = torch.compile(network, fullgraph=True, backend="aot_eager")
    same_on(program, network)
    program(images()).sum().backward()


def compile_sizes(network: nn.Module) -> None:
    """torch.compile once for every size."""
    torch.compiler.reset()
    program = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
    same_on(program, network, 8, 11, 14)


def export(network: nn.Module) -> None:
    """torch.export for every size."""
    program = torch.export.export(network, (images(),), dynamic_shapes=(FREE,))
    same_on(program.module(), network, 8, 13)


def to_onnx(network: nn.Module, sides: Sequence[int], **options: object) -> None:
    """Run an ONNX file in onnxruntime on images of some sizes."""
    file = io.BytesIO()
    torch.onnx.export(network, (images(),), file, input_names=["images"], **options)
    session = onnxruntime.InferenceSession(file.getvalue())
    for side in sides:
        batch = images(side)
        (found,) = session.run(None, {"images": batch.numpy()})
        same(torch.from_numpy(found), network(batch), 1e-4)


def onnx_fixed(network: nn.Module) -> None:
    """ONNX for one size, by torch.export."""
    to_onnx(network, [SIDE], dynamo=True, verbose=False)


def onnx_free(network: nn.Module) -> None:
    """ONNX for every size, by torch.export."""
    to_onnx(network, [SIDE, 13], dynamo=True, verbose=False, dynamic_shapes=(FREE,))


def onnx_traced(network: nn.Module) -> None:
    """ONNX for one size, by tracing."""
    to_onnx(network, [SIDE], dynamo=False)


def onnx_traced_free(network: nn.Module) -> None:
    """ONNX for every size, by tracing."""
    to_onnx(network, [SIDE, 13], dynamo=False, dynamic_axes={"images": {2: "h", 3: "w"}})


def trace(network: nn.Module) -> None:
    """torch.jit.trace, used at another size."""
    same_on(torch.jit.trace(network, images()), network, 8, 13)


def script(network: nn.Module) -> None:
    """torch.jit.script, saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(copy.deepcopy(network)), file)
    file.seek(0)
    same_on(torch.jit.load(file), network, 8, 13)


def fx_trace(network: nn.Module) -> None:
    """torch.fx.symbolic_trace."""
    same_on(torch.fx.symbolic_trace(network), network, 8, 13)


def on_meta(network: nn.Module) -> None:
    """Shapes without memory, and a network made there."""
    found = copy.deepcopy(network).to("meta")(images().to("meta"))
    if found.shape != network(images()).shape:
        raise ValueError(f"shape {tuple(found.shape)}")


def on_fakes(network: nn.Module) -> None:
    """Shapes by fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = network(mode.from_tensor(images()))
    if found.shape != network(images()).shape:
        raise ValueError(f"shape {tuple(found.shape)}")


def quantize(network: nn.Module) -> None:
    """Dynamic quantisation of a linear layer behind it."""
    length = network(images()).flatten(1).shape[1]
    whole_net = nn.Sequential(network, nn.Flatten(), nn.Linear(length, 3)).eval()
    small = quantize_dynamic(whole_net, {nn.Linear}, dtype=torch.qint8)
    same(small(images()), small(images()), 10.0)


def prune_it(network: nn.Module) -> None:
    """Prune the convolution before it."""
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    prune.l1_unstructured(convolution, "weight", 0.5)
    network(images()).sum().backward()


def parametrize(network: nn.Module) -> None:
    """Weight normalisation of the convolution before it."""
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    parametrizations.weight_norm(convolution)
    network(images()).sum().backward()


def hook(network: nn.Module) -> None:
    """Forward and backward hooks of the pooling."""
    seen: list[str] = []
    pool = list(network.children())[1]
    pool.register_forward_pre_hook(lambda *_: seen.append("before"))
    pool.register_forward_hook(lambda *_: seen.append("after"))
    pool.register_full_backward_hook(lambda *_: seen.append("gradient"))
    network(images()).sum().backward()
    if seen != ["before", "after", "gradient"]:
        raise ValueError(f"saw {seen}")


def distribute(network: nn.Module) -> None:
    """DistributedDataParallel, one process."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=0, world_size=1)
        try:
            nn.parallel.DistributedDataParallel(network)(images()).sum().backward()
        finally:
            dist.destroy_process_group()


def average(network: nn.Module) -> None:
    """Averaged weights."""
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    same_on(averaged, network)


def infer(network: nn.Module) -> None:
    """Inference mode."""
    with torch.inference_mode():
        found = network(images())
    if not found.is_inference():
        raise ValueError("no inference tensor")


def share(network: nn.Module) -> None:
    """Weights in shared memory."""
    network.share_memory()
    network(images())


def deterministic(network: nn.Module) -> None:
    """Only deterministic algorithms, in training."""
    torch.use_deterministic_algorithms(True)
    try:
        network(images()).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


BEHAVIOURS: dict[str, Callable[[nn.Module], None]] = {
    "`state_dict`, `load_state_dict`": keep_state,
    "`copy.deepcopy`": lambda network: same_on(copy.deepcopy(network), network),
    "`pickle`": lambda network: same_on(pickle.loads(pickle.dumps(network)), network),
    "`torch.save` of the whole network": save_whole,
    "`joblib`": dump,
    "`.half()`": use_dtype(torch.float16),
    "`.bfloat16()`": use_dtype(torch.bfloat16),
    "`.double()`": use_dtype(torch.float64),
    "`torch.autocast`, with gradients": autocast,
    "`channels_last`": channels_last,
    "a step of training": train,
    "first and second derivatives": differentiate_twice,
    "`torch.func.jvp`": push_forward,
    "`torch.vmap`": map_over,
    "gradients of each image (`vmap(grad)`)": per_sample,
    "activation checkpointing": recompute,
    "`torch.compile(fullgraph=True)`, with gradients": compile_it,
    "`torch.compile(dynamic=True)`, three sizes": compile_sizes,
    "`torch.export`, every size": export,
    "`torch.onnx.export(dynamo=True)`, one size": onnx_fixed,
    "`torch.onnx.export(dynamo=True)`, every size": onnx_free,
    "`torch.onnx.export(dynamo=False)`, one size": onnx_traced,
    "`torch.onnx.export(dynamo=False)`, every size": onnx_traced_free,
    "`torch.jit.trace`, another size": trace,
    "`torch.jit.script`, saved": script,
    "`torch.fx.symbolic_trace`": fx_trace,
    "meta tensors": on_meta,
    "fake tensors": on_fakes,
    "dynamic quantisation behind it": quantize,
    "pruning": prune_it,
    "weight normalisation": parametrize,
    "forward and backward hooks": hook,
    "`DistributedDataParallel`": distribute,
    "`AveragedModel`": average,
    "`torch.inference_mode`": infer,
    "shared memory": share,
    "deterministic algorithms": deterministic,
}


def try_behaviour(name: str, module: str) -> str:
    """Do one thing to one module; an empty text, or why it did not work."""
    torch.manual_seed(0)
    try:
        BEHAVIOURS[name](MODULES[module]())
    except Exception as error:  # whatever torch raises is the answer
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return ""


def measure(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Do things to every module: name -> module -> why it did not work."""
    warnings.simplefilter("ignore")
    return {name: {module: try_behaviour(name, module) for module in MODULES} for name in names}


def to_markdown(found: dict[str, dict[str, str]]) -> str:
    """The table."""
    rows = [["", *(f"`{module}`" for module in MODULES)], ["---"] * (len(MODULES) + 1)]
    rows += [
        [name, *("no" if why else "yes" for why in each.values())] for name, each in found.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the table; ends with 1 if something works for torch's module and not for ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names that hold one of these")
    parser.add_argument("--why", action="store_true", help="print the errors, too")
    options = parser.parse_args()
    os.environ.setdefault("TORCH_LOGS", "-all")
    names = [
        name for name in BEHAVIOURS if not options.only or any(o in name for o in options.only)
    ]
    found = measure(names)
    print(to_markdown(found))
    for name, each in found.items():
        for module, why in each.items():
            if why and options.why:
                print(f"{name}, {module}: {why}")
    worse = [n for n, e in found.items() if not e["AdaptiveMaxPool2d"] and e["SpatialPyramidPool"]]
    if worse:
        raise SystemExit(f"works for AdaptiveMaxPool2d and not for SpatialPyramidPool: {worse}")


if __name__ == "__main__":
    main()
