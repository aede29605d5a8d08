"""``sppnet export``: models and the pooling as ONNX files that are known to compute the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.app.console import human_bytes, options_to_blame, say, say_table
from sppnet.app.options import Debug, Levels, Threads, command_app, parse_numbers
from sppnet.errors import OutputError, UsageError

if TYPE_CHECKING:
    from sppnet.pooling.onnx.export import Comparison, ExportRecipe

app = command_app("Write a classifier, a detector or the pooling as ONNX.")

POOLING = "pooling"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|pooling",
        help="Folder of a classifier or a detector; or the word pooling, for the layer alone.",
    ),
]
OnnxFile = Annotated[
    Path, typer.Argument(metavar="OUT.onnx", help="File to write; an older one is replaced.")
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
    out: OnnxFile,
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
    scores by more than 1e-5 of the largest), nothing is written.
    """
    from sppnet.pooling.onnx.export import check_packages, export_onnx
    from sppnet.server.files import recipe_of
    from sppnet.storage import ensure_output_folder

    if out.is_dir():
        raise OutputError("is a folder; the name of a file is needed here", path=out)
    check_packages()
    if model == POOLING:
        recipe = _pooling(levels, mode, regions, channels)
    else:
        own = {"--levels": levels, "--mode": mode, "--regions": regions, "--channels": channels}
        _refuse_pooling_options([name for name, value in own.items() if value])
        recipe = recipe_of(Path(model))
    ensure_output_folder(out.absolute().parent)
    try:
        data, comparisons = export_onnx(recipe, opset)
    except OutputError as error:  # the room that exports does not know the file
        raise OutputError(f"not written: {error.message}", path=out, code=error.code) from error
    _write(recipe, data, comparisons, out)


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


def _write(
    recipe: "ExportRecipe", data: bytes, comparisons: Sequence["Comparison"], out: Path
) -> None:
    """Show the comparisons, and write the file if all of them are good."""
    from sppnet.storage import write_bytes

    _say_comparisons(recipe, comparisons)
    bad = [each for each in comparisons if not each.matches(recipe.tolerance)]
    if bad:
        raise OutputError(
            f"not written: onnxruntime and torch differ in {len(bad)} of {len(comparisons)} cases, "
            f"first with {_shapes(bad[0])}",
            path=out,
            code="E_MISMATCH",
        )
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
