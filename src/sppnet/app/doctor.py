"""``sppnet doctor``: whether a saved model is whole and still gives the answers it gave."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.app.console import DONE, report_problems, say
from sppnet.app.options import Debug, Device, JsonFile, Threads, command_app

if TYPE_CHECKING:
    from sppnet.classification import ImageClassifier
    from sppnet.detection import Detector

app = command_app("Check that models are whole and give the same numbers as where they were saved.")

SAME = 1e-5  # of float32, whose sums another processor may add up in another order
CLOSE = 1e-3  # another engine of the trunk, another device

Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="Folders of trained models.")
]


@app.command()
def doctor(
    models: Models,
    device: Device = "cpu",
    json_file: JsonFile = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Check every byte of models, and ask them again what they said when they were saved.

    Checksums of all files, whether the parts fit together, and the scores and boxes of a picture
    that is drawn alike everywhere. A model that answers otherwise here than where it was saved is
    an error: exit code 5.
    """
    from sppnet.errors import Problem, UnusableFileError

    findings, problems = [], []
    for folder in models:
        try:
            findings.append(examine(folder, device))
        except UnusableFileError as error:
            problems.append(Problem.of(error))
            continue
        say(f"{folder}: {in_words(findings[-1])}")
    if json_file is not None:
        from sppnet.storage import write_json

        write_json(json_file, findings)
    report_problems(problems)
    raise typer.Exit(UnusableFileError.exit_code if problems else DONE)


def examine(folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Load a model, every byte checked, and compare its answers with those that it keeps.

    Args:
        folder: Of a detector or a classifier of any kind.
        device: Where to ask it.

    Returns:
        ``model``, ``kind``, ``classes``, ``saved_on`` and ``largest_difference``, relative to the
        numbers; the last two are None for a model that keeps no answers.

    Raises:
        UnusableFileError: If a file is missing or damaged, the parts do not fit together, or the
            answers differ by more than 0.001.
    """
    from sppnet.errors import UnusableFileError
    from sppnet.images.canary import largest_difference
    from sppnet.storage import read_answers

    kind, model = _load(folder, device)
    kept = read_answers(folder)
    difference = None if kept is None else largest_difference(model.answers(), kept)
    if kept is not None and difference is not None and not difference <= CLOSE:
        raise UnusableFileError(
            f"its answers differ by {difference:.2g} from those it gave where it was saved "
            f"({kept.get('machine')})",
            path=folder,
            code="E_ANSWERS",
        )
    return {
        "model": str(folder),
        "kind": kind,
        "classes": len(model.names),
        "saved_on": None if kept is None else kept.get("machine"),
        "largest_difference": difference,
    }


def in_words(finding: dict[str, Any]) -> str:
    """Say in a line what was found.

    Example:
        >>> one = {"kind": "detector", "classes": 2, "saved_on": "x86_64", "largest_difference": 0}
        >>> in_words(one)
        'detector of 2 classes, every byte as saved, the same numbers as on x86_64'
    """
    whole = f"{finding['kind']} of {finding['classes']} classes, every byte as saved"
    difference, where = finding["largest_difference"], finding["saved_on"]
    if difference is None:
        return f"{whole}; it was saved by an earlier version and keeps no answers to compare"
    if difference <= SAME:
        return f"{whole}, the same numbers as on {where}"
    return f"{whole}, numbers within {difference:.1g} of those on {where}"


def _load(folder: Path, device: str) -> "tuple[str, Detector | ImageClassifier]":
    """Read a model of any kind."""
    from sppnet.app.options import choose_device
    from sppnet.storage import read_kind

    kind = read_kind(folder)
    if kind == "detector":
        from sppnet.detection import Detector

        return kind, Detector.load(folder, choose_device(device))
    from sppnet.classification import load_classifier

    return kind, load_classifier(folder, choose_device(device))
