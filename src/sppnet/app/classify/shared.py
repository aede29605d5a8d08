"""Shared by the commands of ``sppnet classify``: options, data, trunk, what is printed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sppnet.app.console import (
    error,
    note,
    options_to_blame,
    report_data_changes,
    report_problems,
    say,
    say_table,
    warn,
)
from sppnet.app.options import choose_device
from sppnet.errors import NothingUsableError, Problem, UsageError, count_of

if TYPE_CHECKING:
    import torch

    from sppnet.backbones import Backbone
    from sppnet.classification import ClassData, Split, SplitConfig, VocData
    from sppnet.storage import RunData, RunFolder


FIGURES = ("top1", "top5", "mean_class_accuracy", "mean_ap")
PROTOCOLS = ("classes", "voc07")
SAMPLES = 3  # images that are measured to say how long all will take


@dataclass(frozen=True)
class RunOptions:
    """What `fit` and `train` have in common.

    Args:
        data: Folder of the images.
        out: Folder for the results.
        device: Word of ``--device``.
        download: Whether weights may be fetched.
        fresh: Whether to forget an earlier run.
        dry_run: Whether to stop before the work.
    """

    data: Path
    out: Path
    device: str
    download: bool
    fresh: bool
    dry_run: bool


def read_split_config(
    train_per_class: int | None, test_per_class: int | None, splits: int, seed: int
) -> "SplitConfig":
    """Turn the flags of the protocol into a configuration."""
    from sppnet.classification import SplitConfig

    if train_per_class is None and (test_per_class is not None or splits > 1):
        raise UsageError("--test-per-class and --splits need --train-per-class")
    return SplitConfig(train_per_class, test_per_class, splits, seed)


def open_data(options: RunOptions, split_config: "SplitConfig") -> "ClassData":
    """Find the images, report what is wrong with the folders, and say what there is."""
    from sppnet.classification import open_class_data

    data = open_class_data(options.data, split_config)
    report_problems(data.problems)
    if len(data.names) < 2:
        raise NothingUsableError("a classifier needs two classes at least", path=options.data)
    images = f"{count_of(len(data.paths), 'image')} of {count_of(len(data.names), 'class')}"
    note(f"{images}; figures from {data.describe_split()}")
    return data


def open_fit_data(
    options: RunOptions, split_config: "SplitConfig", protocol: str | None
) -> "ClassData | VocData":
    """Find the images of class folders, or of a VOC set."""
    from sppnet.classification import open_voc_data

    if protocol not in (None, *PROTOCOLS):
        raise UsageError(f"--protocol must be {' or '.join(PROTOCOLS)}, got {protocol!r}")
    if (protocol or find_protocol(options.data)) == "classes":
        return open_data(options, split_config)
    if split_config.is_protocol:
        raise UsageError("--train-per-class is for class folders; a VOC set brings its own splits")
    data = open_voc_data(options.data)
    report_problems(data.problems)
    images = f"{count_of(len(data.paths), 'image')}, {count_of(len(data.names), 'class')}"
    note(f"{images}; figures from {data.describe_split()}")
    return data


def find_protocol(data: Path) -> str:
    """Look whether a folder is a VOC set."""
    from sppnet.images import find_layout

    return "voc07" if find_layout(data) == "voc" else "classes"


def make_trunk(
    backbone: str, weights: str, layer: str, seed: int, options: RunOptions
) -> tuple["Backbone", "torch.device"]:
    """Build the trunk on its device; new weights depend on the seed alone."""
    import torch

    from sppnet.backbones import build_backbone

    device = choose_device(options.device)
    torch.manual_seed(seed)
    with options_to_blame():
        trunk = build_backbone(backbone, weights, layer=layer or None, download=options.download)
    return trunk.to(device).eval(), device


def run_data(
    data: "ClassData | VocData", root: Path, splits: "Sequence[Split]", inputs: Sequence[str]
) -> "RunData":
    """Say what a run learns from.

    Args:
        data: The images of all parts.
        root: Folder of the data set.
        splits: How they are divided.
        inputs: Words of settings that may name a file or a model.
    """
    from sppnet.storage import LearntFile, RunData

    trained = [set(split.train.tolist()) for split in splits]
    files = []
    for index, path in enumerate(data.paths):
        used = [number for number, part in enumerate(trained) if index in part]
        files.append(LearntFile(path, f"{data.label_text(index)} {used}", bool(used)))
    return RunData(root, files, data.names, list(find_inputs(inputs)))


def find_inputs(words: Sequence[str]) -> Iterator[Path]:
    """Find the files that settings name: weights, or the manifest of a model, which says all."""
    for word in words:
        for path in (Path(word), Path(word) / "manifest.json"):
            if word and path.is_file():
                yield path


def spread_sample(paths: Sequence[Path]) -> Sequence[Path]:
    """Take a few images from all over a list.

    Example:
        >>> [path.name for path in spread_sample([Path(f"{n}.png") for n in range(7)])]
        ['0.png', '2.png', '4.png']
    """
    return paths[:: max(1, len(paths) // SAMPLES)][:SAMPLES]


def report_changes(run: "RunFolder") -> None:
    """Say that an earlier run goes on, and what is different from when it began."""
    if run.resumed:
        note(f"going on with the run in {run.path}")
    report_data_changes(run)
    for change in run.changes:
        warn(f"{change} since the run began; the result may differ in its last bits")


def image_counts(listed: int, problems: Sequence[Problem], train: int, test: int) -> dict[str, int]:
    """What became of the images, for metrics.json."""
    return {"listed": listed, "failed": len(problems), "train": train, "test": test}


def say_figures(figures: Mapping[str, Any], summary: Mapping[str, Any] | None) -> None:
    """Print the figures, with deviations where there are several splits."""
    names = [name for name in FIGURES if name in figures]
    if figures[names[0]] is None:
        say("no image was left to score on")
        return
    spread = {} if summary is None else summary["std"]
    rows = []
    for name in names:
        deviation = [f"{100 * spread[name]:.2f}"] if spread else []
        rows.append([name, f"{100 * figures[name]:.2f}", *deviation])
    say_table(["figure", "%", *(["+-"] if spread else [])], rows)


def say_results(*paths: Path) -> None:
    """Print where the results are."""
    for path in paths:
        say(f"wrote {path}")


def finish(problems: Sequence[Problem]) -> None:
    """End the command: 0, or 3 when some inputs failed; their lines were printed before."""
    if problems:
        note(
            f"{count_of(len(problems), 'input failed and was', 'inputs failed and were')} left out"
        )
        raise typer.Exit(3)


def report_each(problems: Sequence[Problem]) -> None:
    """Print the line of every image that failed."""
    for problem in problems:
        error(problem)


def plain_problems(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Findings as plain values, for JSON."""
    return [vars(problem) for problem in problems]
