"""Write modules that pool as ONNX, and prove by onnxruntime that the file computes the same.

A recipe says what is exported, which sizes stay free, and what the answer must be. Values inside
the graph can be probed: the pooled vectors of a whole network are compared bit by bit with those of
the maps that onnxruntime itself computed. The probes are gone from the file.
"""

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sppnet.errors import MissingPackageError, OutputError
from sppnet.pooling.bins import check_levels, check_mode
from sppnet.pooling.pyramid import SpatialPyramidPool
from sppnet.pooling.regions import RegionPool

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
DEFAULT_OPSET = 20
MAX_BYTES = 2**31 - 2**24  # a protobuf message ends at 2 GiB; some room for all but the weights
EXACT, ROUNDING = 0.0, 1e-5
SIZES = ((1, 1, 1), (2, 1, 9), (1, 11, 2), (3, 13, 13), (1, 60, 3), (1, 4, 80), (2, 23, 31))
COUNTS = (0, 1, 7, 40)
LAST_BIT = 2.0**-23  # float64 sums in another order may round to the float32 beside
VALUES = (torch.nan, -torch.inf, torch.inf, -2.0, 0.0, 1.0)
WEIGHTS = (1.0, 8.0, 1.0, 30.0, 30.0, 30.0)


@dataclass(frozen=True)
class Comparison:
    """How far onnxruntime and torch are apart on one set of inputs.

    Args:
        shapes: Of the inputs.
        difference: Largest difference of the outputs, in shares of the largest value.
        pooling: The same of the pooled vectors alone; None where nothing was probed.
    """

    shapes: tuple[tuple[int, ...], ...]
    difference: float
    pooling: float | None

    def matches(self, tolerance: float) -> bool:
        """Whether the outputs are as close as they must be, and the pooled vectors equal."""
        return self.difference <= tolerance and not self.pooling


def largest_difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference in shares of the largest finite value expected; 0 only where all is equal.

    Args:
        actual: A result.
        expected: What it should be; NaN equals NaN.

    Returns:
        The share; infinity where the shapes differ, or only one of two values is finite.

    Example:
        >>> largest_difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 5.0]))
        0.1
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return torch.inf
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    if bool(same.all()):
        return 0.0
    apart = (actual - expected).abs()[~same].max().double()
    largest = expected[expected.isfinite()].abs().max().double() if expected.numel() else apart
    share = float(apart / largest)
    return share if share > 0 else torch.inf  # NaN is no share


@dataclass(frozen=True)
class ExportRecipe:
    """What to export, and how to know that the result is right.

    Args:
        module: Gives the output, or a tuple of the outputs and then of the probes.
        example: Inputs to trace the module with; no free size of them is 0 or 1.
        inputs: Name of each input, with the names of its free sizes by axis.
        outputs: Names of the outputs, with the names of their sizes by axis.
        expect: Inputs -> outputs, by other code than the module's.
        cases: Inputs to compare on.
        tolerance: Largest difference, in shares of the largest value; 0 means bit for bit.
        probes: Names of values inside; the last one is the pooled vectors.
        repool: The probes but the last one -> what the last one must be, bit for bit.
        about: Facts for the file's metadata; all that JSON can hold.
        translations: Of operators that neither torch nor the pooling translates.
        finish: Changes the file after the comparisons.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: Mapping[str, Mapping[int, str]]
    outputs: Mapping[str, Mapping[int, str]]
    expect: Callable[..., tuple[Tensor, ...]]
    cases: Sequence[tuple[Tensor, ...]]
    tolerance: float = EXACT
    probes: tuple[str, ...] = ()
    repool: Callable[..., Tensor] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    translations: Mapping[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)
    finish: Callable[["onnx.ModelProto"], None] | None = None


def check_packages() -> None:
    """Refuse to begin without the packages that exporting needs.

    Raises:
        MissingPackageError: If one is missing; names the install command.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"export needs {', '.join(missing)}: pip install 'sppnet[onnx]'")


def export_onnx(recipe: ExportRecipe, opset: int = DEFAULT_OPSET) -> tuple[bytes, list[Comparison]]:
    """Make an ONNX file and run it in onnxruntime on every case; nothing is written.

    Args:
        recipe: What to export.
        opset: Version of the standard operators.

    Returns:
        The bytes of the file, and a comparison for each case; the caller judges them.

    Raises:
        MissingPackageError: If onnx, onnxscript or onnxruntime is not installed.
        OutputError: If the module is too large for one file, or torch's exporter refuses it.

    Source:
        ONNX, docs/IR.md; onnx.proto for the limit of 2 GiB.
    """
    check_packages()
    _check_size(recipe.module)
    with torch.no_grad(), quiet():
        model = _trace(recipe, opset)
        probed = [_run(model, recipe, case) for case in recipe.cases]
        _finish(model, recipe)
        results = [_run(model, recipe, case) for case in recipe.cases]
        comparisons = [
            _compare(recipe, case, result, values)
            for case, result, values in zip(recipe.cases, results, probed, strict=True)
        ]
    if recipe.finish is not None:
        recipe.finish(model)
    return model.SerializeToString(), comparisons


def _check_size(module: nn.Module) -> None:
    """Refuse what does not fit into one file, before the work."""
    tensors = [*module.parameters(), *module.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > MAX_BYTES:
        raise OutputError(
            f"an ONNX file must be smaller than 2 GiB, got {size / 2**30:.1f} GiB of weights",
            code="E_SIZE",
        )


def _trace(recipe: ExportRecipe, opset: int) -> "onnx.ModelProto":
    """Translate the module; the result says nothing about the machine it was made on."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    from sppnet.pooling.onnx.operators import TRANSLATIONS

    try:
        program = torch.onnx.export(
            recipe.module.eval(),
            recipe.example,
            input_names=list(recipe.inputs),
            output_names=[*recipe.outputs, *recipe.probes],
            dynamic_shapes=tuple(dict(free) for free in recipe.inputs.values()),
            opset_version=opset,
            custom_translation_table={**TRANSLATIONS, **recipe.translations},
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise OutputError(
            f"torch cannot export this model: {_first_cause(error)}", code="E_EXPORT"
        ) from error
    if program is None:
        raise RuntimeError("torch.onnx.export must give a program, got None")
    ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _in_a_line(error)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _finish(model: "onnx.ModelProto", recipe: ExportRecipe) -> None:
    """Take the probes out, name the sizes of the outputs, write the facts, check the whole."""
    import onnx

    del model.graph.output[len(recipe.outputs) :]
    # bodies of loops say the types of their inputs: ONNX leaves them open, OpenVINO needs them
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    del model.graph.value_info[:]
    for value, sizes in zip(model.graph.output, recipe.outputs.values(), strict=True):
        for axis, name in sizes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    model.graph.name = str(recipe.about.get("kind", "sppnet"))
    model.producer_name, model.producer_version = "sppnet", version("sppnet")
    facts = {"version": model.producer_version, **recipe.about}
    onnx.helper.set_model_props(
        model, {f"sppnet.{key}": json.dumps(value) for key, value in facts.items()}
    )
    onnx.checker.check_model(model, full_check=True)


def _run(model: "onnx.ModelProto", recipe: ExportRecipe, case: tuple[Tensor, ...]) -> list[Tensor]:
    """Compute all outputs of a model with as many threads as torch has."""
    feed = {name: value.numpy() for name, value in zip(recipe.inputs, case, strict=True)}
    try:
        results = open_session(model.SerializeToString()).run(None, feed)
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise OutputError(
            f"onnxruntime cannot run the exported model: {_in_a_line(error)}", code="E_MISMATCH"
        ) from error
    return [torch.from_numpy(value) for value in results]


def open_session(data: bytes) -> Any:
    """Open a model in onnxruntime, on the CPU, with as many threads as torch has.

    Args:
        data: Bytes of an ONNX file.

    Returns:
        ``onnxruntime.InferenceSession``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised; nothing is printed past the console
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _compare(
    recipe: ExportRecipe,
    case: tuple[Tensor, ...],
    results: Sequence[Tensor],
    probed: Sequence[Tensor],
) -> Comparison:
    """Compare one case: the outputs with torch's, the pooled vectors with those of the probes."""
    expected = recipe.expect(*case)
    apart = [largest_difference(*pair) for pair in zip(results, expected, strict=True)]
    pooling = None
    if recipe.repool is not None:
        *before, pooled = probed[len(recipe.outputs) :]
        pooling = largest_difference(pooled, recipe.repool(*before))
    return Comparison(tuple(tuple(value.shape) for value in case), max(apart), pooling)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's exporter prints, logs and warns of away from the console."""
    level, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def pooling_recipe(
    levels: Sequence[int],
    *,
    mode: str = "max",
    regions: bool = False,
    channels: int | None = None,
) -> ExportRecipe:
    """Describe the export of the pooling alone, float32.

    Args:
        levels: Bins along each side, one number per level.
        mode: "max" or "avg".
        regions: Whether to pool regions (K, 5) of the maps in place of whole maps.
        channels: Channels of the maps; None leaves them free.

    Returns:
        A recipe for :func:`sppnet.pooling.onnx.export.export_onnx`.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If a level is below 1, or the mode is unknown.

    Example:
        >>> sorted(pooling_recipe((6, 3, 2, 1), regions=True).inputs)
        ['features', 'regions']
    """
    levels, mode = check_levels(levels), check_mode(mode)
    pool = RegionPool(levels, mode) if regions else SpatialPyramidPool(levels, mode)
    free = {0: "batch", 1: "channels", 2: "height", 3: "width"}
    if channels is not None:
        del free[1]
    inputs = {"features": free} | ({"regions": {0: "count"}} if regions else {})
    return ExportRecipe(
        module=pool,
        example=_draw_case((2, 9, 11), 3 if regions else None, channels or 3),
        inputs=inputs,
        outputs={"vectors": {0: "count" if regions else "batch"}},
        expect=lambda *case: (pool(*case),),
        cases=_draw_cases(regions, channels),
        tolerance=EXACT if mode == "max" else LAST_BIT,
        about={"kind": "pooling", "levels": list(levels), "mode": mode, "regions": regions},
    )


def _draw_cases(regions: bool, channels: int | None) -> list[tuple[Tensor, ...]]:
    """Maps of all sizes, of numbers and of ties with NaN and infinities, with regions."""
    counts = COUNTS if regions else (None,)
    cases = []
    for number, size in enumerate(SIZES):
        for special in (False, True):
            count = counts[(2 * number + special) % len(counts)]
            cases.append(_draw_case(size, count, channels or 1 + number % 3, special=special))
    return cases


def _draw_case(
    size: tuple[int, int, int], count: int | None, channels: int, *, special: bool = False
) -> tuple[Tensor, ...]:
    """One batch of random maps, and so many random regions of it."""
    images, height, width = size
    draw = torch.Generator().manual_seed(height * width)
    shape = (images, channels, height, width)
    features = torch.randn(shape, generator=draw)
    if special:
        number = features.numel()
        chosen = torch.multinomial(torch.tensor(WEIGHTS), number, True, generator=draw)
        features = torch.tensor(VALUES)[chosen].reshape(shape)
    if count is None:
        return (features,)
    return features, draw_regions(images, height, width, count, draw)


def draw_regions(images: int, height: int, width: int, count: int, draw: torch.Generator) -> Tensor:
    """(count, 5) random regions inside maps.

    Example:
        >>> draw_regions(1, 1, 1, 1, torch.Generator())
        tensor([[0, 0, 0, 1, 1]])
    """
    image = torch.randint(images, (count, 1), generator=draw)
    x, y = (torch.randint(side, (count, 2), generator=draw) for side in (width, height))
    x0, y0 = x.amin(1, keepdim=True), y.amin(1, keepdim=True)
    x1, y1 = x.amax(1, keepdim=True) + 1, y.amax(1, keepdim=True) + 1
    return torch.cat([image, x0, y0, x1, y1], 1)
