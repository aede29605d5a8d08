r"""Milliseconds of one trunk in several engines, and how far their maps are from eager torch's.

    python benchmarks/trunk_engines.py --threads 1 2 --out runs/benchmark-trunk-engines.json
    python benchmarks/trunk_engines.py --backbone squeezenet1_1 --layer "" --weights none

Every engine gets the same trunk, the same frozen weights and the same image; they take turns. The
first is eager torch on NCHW, as a model runs that nobody has prepared. The others:

- channels-last: the memory order in which sppnet convolves;
- folded: batch normalisation multiplied into the convolutions before it;
- bfloat16: folded, channels-last and rounded;
- compiled: folded and channels-last, by torch.compile, with --compile: needs a C++ compiler and a
  minute;
- onnxruntime: what `Backbone.with_engine` takes;
- openvino: the same ONNX file; left out where openvino is not installed.

The deviation is the largest of all cells, in shares of the largest value.
"""

import argparse
import copy
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sppnet.app.benchmark.job import processor_name
from sppnet.app.benchmark.timing import Pace, time_together
from sppnet.backbones import Backbone, build_backbone
from sppnet.backbones.frozen import FrozenTrunk, split_output
from sppnet.backbones.tracing.onnx_graph import write_trunk
from sppnet.backbones.tracing.receptive_field import join_maps
from sppnet.progress import using_threads
from sppnet.storage import write_json
from sppnet.storage.runs import environment

EAGER = "eager, NCHW"
Engine = Callable[[], Tensor]


def fold_normalisation(trunk: fx.GraphModule) -> fx.GraphModule:
    """Copy a trunk with its batch normalisation multiplied into the convolutions before it."""
    folded = copy.deepcopy(trunk)
    for node in list(folded.graph.nodes):
        before = node.all_input_nodes[0] if node.all_input_nodes else None
        if before is None or {node.op, before.op} != {"call_module"} or len(before.users) > 1:
            continue
        layer, convolution = map(folded.get_submodule, (str(node.target), str(before.target)))
        if isinstance(layer, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            folded.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, layer))
            node.replace_all_uses_with(before)
            folded.graph.erase_node(node)
    folded.recompile()
    return folded


def build_engines(backbone: Backbone, image: Tensor, *, compiles: bool) -> dict[str, Engine]:
    """Prepare all engines for torch's present number of threads."""
    trunk, cells = backbone.trunk, image.contiguous(memory_format=torch.channels_last)
    folded = fold_normalisation(trunk)
    last = copy.deepcopy(folded).to(memory_format=torch.channels_last)
    rounded, rounded_cells = copy.deepcopy(last).bfloat16(), cells.bfloat16()
    frozen = FrozenTrunk()
    engines: dict[str, Engine] = {
        EAGER: lambda: trunk(image),
        "channels-last": lambda: trunk(cells),
        "folded, NCHW": lambda: folded(image),
        "folded, channels-last": lambda: last(cells),
        "bfloat16": lambda: rounded(rounded_cells).float(),
        "onnxruntime": lambda: frozen.run(trunk, cells),
    }
    if importlib.util.find_spec("openvino"):
        engines["openvino"] = _open_in_openvino(trunk, image)
    if compiles:
        compiled: Any = torch.compile(last)
        engines["compiled"] = lambda: compiled(cells)
    return engines


def _open_in_openvino(trunk: fx.GraphModule, image: Tensor) -> Engine:
    import openvino

    names, places = split_output(trunk)
    data = write_trunk(trunk, names, as_made=False).to_bytes()
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    model = core.compile_model(core.read_model(data), "CPU", options)

    def run() -> Tensor:
        found = model([image.numpy()])
        maps = [torch.from_numpy(found[number]) for number in range(len(names))]
        return join_maps(maps, places) if places else maps[0]

    return run


def measure(
    backbone: Backbone, image: Tensor, threads: int, rounds: int, *, compiles: bool
) -> list[dict[str, Any]]:
    """Time all engines with so many threads: one row for each."""
    with using_threads(threads), torch.no_grad():
        engines = build_engines(backbone, image, compiles=compiles)
        expected, starts, apart = engines[EAGER](), {}, {}
        for name, engine in engines.items():
            began = time.perf_counter()
            maps = engine()
            starts[name] = time.perf_counter() - began
            apart[name] = float((maps - expected).abs().max() / expected.abs().max())
        times = time_together(engines, Pace(rounds=rounds, slow_rounds=rounds))
    return [
        {
            "engine": name,
            "threads": threads,
            "ms": timing.median_ms,
            "times_as_fast": times[EAGER].median_ms / timing.median_ms,
            "deviation": apart[name],
            "first_call_seconds": starts[name],
        }
        for name, timing in times.items()
    ]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--layer", default="stage5+stage7")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--size", type=int, nargs=2, default=(416, 608), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-trunk-engines.json"))
    words = parser.parse_args()
    torch.manual_seed(0)
    backbone = build_backbone(words.backbone, words.weights, layer=words.layer or None)
    image = backbone.normalise(torch.rand(1, 3, *words.size))
    rows = [
        row
        for threads in words.threads
        for row in measure(backbone, image, threads, words.rounds, compiles=words.compile)
    ]
    sys.stdout.write(f"{words.backbone} at {words.size} on {processor_name()}\n")
    for row in rows:
        sys.stdout.write(
            f"{row['threads']} threads {row['engine']:<22} {row['ms']:7.1f} ms  "
            f"{row['times_as_fast']:4.1f} times as fast  deviation {row['deviation']:.0e}  "
            f"first call {row['first_call_seconds']:.1f} s\n"
        )
    words.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"backbone": words.backbone, "layer": words.layer, "size": list(words.size)}
    write_json(
        words.out,
        {**about, "processor": processor_name(), "environment": environment(), "engines": rows},
    )


if __name__ == "__main__":
    main()
