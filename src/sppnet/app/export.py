"""``sppnet export``: models and the pooling as ONNX files that are known to compute the same."""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.app.console import human_bytes, options_to_blame, say, say_table
from sppnet.app.options import Debug, Levels, Threads, command_app, parse_numbers
from sppnet.errors import MissingPackageError, OutputError, UsageError

if TYPE_CHECKING:
    from sppnet.pooling.onnx.export import Comparison, ExportRecipe

app = command_app("Write a classifier, a detector or the pooling as ONNX.")

POOLING = "pooling"
RUNTIME = Path("node_modules/onnxruntime-web/dist")
# what the page holds of the runtime: its program, and its compiled part with the glue around it
RUNTIME_FILES = {
    "runtime": "ort.wasm.min.js",
    "glue": "ort-wasm-simd-threaded.mjs",
    "wasm": "ort-wasm-simd-threaded.wasm",
}
PAGE = "export_page.html"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|pooling",
        help="Folder of a classifier or a detector; or the word pooling, for the layer alone.",
    ),
]
OnnxFile = Annotated[
    Path | None, typer.Argument(metavar="OUT.onnx", help="File to write; an older one is replaced.")
]
Whole = Annotated[
    bool,
    typer.Option(
        "--whole",
        help="Of a detector: an image in, detections out; proposals come from its anchors alone.",
    ),
]
Web = Annotated[
    Path | None,
    typer.Option(
        "--web",
        metavar="DIR",
        help="Of a detector: write DIR/index.html, one page that detects in a browser, without a "
        "server and without asking the network.",
    ),
]
Runtime = Annotated[
    Path,
    typer.Option(
        "--runtime",
        metavar="DIR",
        help="For --web: folder dist of the npm package onnxruntime-web; nothing is downloaded.",
    ),
]
Opset = Annotated[
    int,
    typer.Option(
        "--opset", metavar="N", min=18, max=23, help="Version of ONNX's standard operators."
    ),
]
Mode = Annotated[
    str | None, typer.Option("--mode", metavar="max|avg", help="Of the pooling alone: max.")
]
Regions = Annotated[
    bool, typer.Option("--regions", help="Of the pooling alone: pool regions of the maps.")
]
Channels = Annotated[
    int | None,
    typer.Option(
        "--channels", metavar="N", min=1, help="Of the pooling alone: channels; any if not given."
    ),
]


@app.command()
def export(
    model: Model,
    out: OnnxFile = None,
    whole: Whole = False,
    web: Web = None,
    runtime: Runtime = RUNTIME,
    levels: Levels = None,
    mode: Mode = None,
    regions: Regions = False,
    channels: Channels = None,
    opset: Opset = 20,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Write one ONNX file for images of all sizes, after comparing onnxruntime with torch.

    Batch, height, width and the number of boxes stay free. The file is run in onnxruntime at sizes
    from the smallest to 20:1; where it differs from torch (the pooling in any bit, logits and
    scores by more than 1e-5 of the largest, whole detectors by more than 1e-4), nothing is written.
    """
    from sppnet.pooling.onnx.export import check_packages, export_onnx
    from sppnet.storage import ensure_output_folder

    if out is None and web is None:
        raise UsageError("OUT.onnx or --web DIR is needed: where to write")
    parts = {} if web is None else read_runtime(runtime)
    if out is not None and out.is_dir():
        raise OutputError("is a folder; the name of a file is needed here", path=out)
    check_packages()
    if model == POOLING:
        if whole or web is not None:
            raise UsageError("--whole and --web go with a detector, not with the word pooling")
        recipe = _pooling(levels, mode, regions, channels)
    else:
        own = {"--levels": levels, "--mode": mode, "--regions": regions, "--channels": channels}
        _refuse_pooling_options([name for name, value in own.items() if value])
        recipe = _model(Path(model), whole=whole or web is not None)
    page = None if web is None else web / "index.html"
    targets = [path for path in (page, out) if path is not None]
    for path in targets:
        ensure_output_folder(path.absolute().parent)
    try:
        data, comparisons = export_onnx(recipe, opset)
    except OutputError as error:  # the room that exports does not know the file
        raise OutputError(
            f"not written: {error.message}", path=targets[0], code=error.code
        ) from error
    _refuse_differences(recipe, comparisons, targets[0])
    if out is not None:
        _write(recipe, data, out)
    if page is not None:
        _write_page(recipe, data, parts, page)


def read_runtime(folder: Path) -> dict[str, bytes]:
    """Read what a page needs of the npm package onnxruntime-web.

    Args:
        folder: Its folder ``dist``, or the package's own.

    Returns:
        The bytes of each part by name.

    Raises:
        MissingPackageError: If a file is not there; the error has the command.
    """
    from sppnet.storage import read_bytes

    places = [place for place in (folder, folder / "dist") if place.is_dir()]
    for place in places:
        files = {name: place / file for name, file in RUNTIME_FILES.items()}
        if all(file.is_file() for file in files.values()):
            return {name: read_bytes(file) for name, file in files.items()}
    raise MissingPackageError(
        f"--web needs {', '.join(RUNTIME_FILES.values())} in {str(folder)!r}: "
        "npm install onnxruntime-web, or --runtime DIR"
    )


def _write_page(recipe: "ExportRecipe", data: bytes, parts: dict[str, bytes], target: Path) -> None:
    """Put runtime, model and facts into one page that needs nothing else."""
    from sppnet.storage import write_text

    facts = json.dumps(page_facts(recipe.about)).encode()
    coded = {"facts": facts, "model": data, "wasm": parts["wasm"], "glue": parts["glue"]}
    values = {name: base64.b64encode(value).decode() for name, value in coded.items()}
    values["title"] = html.escape(", ".join(recipe.about["names"])[:80])
    values["runtime"] = parts["runtime"].decode("utf-8").replace("</script", r"<\/script")
    template = resources.files("sppnet.app").joinpath(PAGE).read_text(encoding="utf-8")
    pieces = re.split(r"\{\{(\w+)\}\}", template)
    text = "".join(values[each] if n % 2 else each for n, each in enumerate(pieces))
    write_text(target, text)
    say(f"{target}: {human_bytes(len(text))}, opens in a browser as it is")


def page_facts(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs to know of a detector: sizes, names, which scores count, how sure."""
    names, points = about["names"], about.get("operating_points")
    facts = {
        "names": names,
        "short_side": about["encoder"]["short_sides"][0],
        "max_long_side": about["encoder"]["max_long_side"],
        "thresholds": [0.0] * len(names) if points is None else points["thresholds"],
    }
    if points is not None:
        calibration = points["calibration"]
        facts["curves"] = [each or calibration["shared"] for each in calibration["curves"]]
    return facts


def _pooling(
    levels: str | None, mode: str | None, regions: bool, channels: int | None
) -> "ExportRecipe":
    """Describe the export of the pooling alone."""
    from sppnet.pooling.bins import DEFAULT_LEVELS
    from sppnet.pooling.onnx.export import pooling_recipe

    numbers = DEFAULT_LEVELS if levels is None else parse_numbers("--levels", levels)
    with options_to_blame():
        return pooling_recipe(
            numbers,
            mode=mode or "max",
            regions=regions,
            channels=channels,
        )


def _refuse_pooling_options(given: Sequence[str]) -> None:
    """A model has its own levels; an option that changes nothing would be a lie."""
    if given:
        raise UsageError(f"{given[0]} goes with the word pooling only, not with a model's folder")


def _model(folder: Path, *, whole: bool) -> "ExportRecipe":
    """Read a model of either kind and describe its export."""
    from sppnet.server.files import recipe_of
    from sppnet.storage import read_kind

    if not whole:
        return recipe_of(folder)
    if read_kind(folder) == "classifier":
        raise UsageError("--whole and --web go with a detector, not with a classifier", path=folder)
    from sppnet.detection import Detector
    from sppnet.detection.onnx.whole import whole_recipe

    return whole_recipe(Detector.load(folder))


def _refuse_differences(
    recipe: "ExportRecipe", comparisons: Sequence["Comparison"], target: Path
) -> None:
    """Show the comparisons, and go on only if all of them are good."""
    _say_comparisons(recipe, comparisons)
    bad = [each for each in comparisons if not each.matches(recipe.tolerance)]
    if bad:
        raise OutputError(
            f"not written: onnxruntime and torch differ in {len(bad)} of {len(comparisons)} cases, "
            f"first with {_shapes(bad[0])}",
            path=target,
            code="E_MISMATCH",
        )


def _write(recipe: "ExportRecipe", data: bytes, out: Path) -> None:
    """Write the file."""
    from sppnet.storage import write_bytes

    write_bytes(out, data)
    inputs, outputs = ", ".join(recipe.inputs), ", ".join(recipe.outputs)
    say(f"{out}: {human_bytes(len(data))}, {inputs} -> {outputs}")


def _say_comparisons(recipe: "ExportRecipe", comparisons: Sequence["Comparison"]) -> None:
    """Print one line per case."""
    rows = [
        [_shapes(each), _in_words(each.pooling), _in_words(each.difference)] for each in comparisons
    ]
    header = [", ".join(recipe.inputs), "pooling", ", ".join(recipe.outputs)]
    if recipe.repool is None:
        rows, header = [[row[0], row[2]] for row in rows], [header[0], header[2]]
    say_table(header, rows)


def _in_words(difference: float | None) -> str:
    return f"{difference:.1e}" if difference else "equal"


def _shapes(comparison: "Comparison") -> str:
    return ", ".join("x".join(map(str, shape)) for shape in comparison.shapes)
