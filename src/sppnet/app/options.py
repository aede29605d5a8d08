"""Options that several commands share, so that one word means one thing everywhere.

A command writes ``seed: Seed = 0, debug: Debug = False``. Options with a callback (`Debug`,
`Threads`) act before the command runs; the command only has to name them.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.config.fields import Within
from sppnet.errors import UsageError

if TYPE_CHECKING:
    import torch

HELP_SETTINGS = {"help_option_names": ["-h", "--help"]}
_DEVICE_WORDS = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", min=0, max=2**32 - 1, help="Seed of everything that is random."
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", metavar="N", min=0, max=256, help="Workers that prepare images; 0 is none."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file of settings; flags come before it."),
]
Levels = Annotated[
    str | None,
    typer.Option("--levels", metavar="N,N,...", help="Bins along each side, by level: 1,2,3,6."),
]
Split = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Part of the data; all if not given.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to a file, too.")
]
DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of the data set.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a trained model.")]
ImageSources = Annotated[
    list[str], typer.Argument(metavar="IMAGES...", help="Image files, folders and globs.")
]


def command_app(text: str) -> typer.Typer:
    """Start the typer app of a command's module; the module calls it ``app``.

    Args:
        text: What the command does, for its ``--help``.

    Example:
        >>> command_app("Find things.").info.help
        'Find things.'
    """
    return typer.Typer(
        help=text,
        add_completion=False,
        no_args_is_help=True,
        context_settings=dict(HELP_SETTINGS),
    )


def number_option(*names: str, rule: Within, text: str) -> Any:
    """Describe an option that takes a finite number in a range.

    Args:
        names: Such as ``"--iou"``.
        rule: Which numbers are legal.
        text: The help.

    Returns:
        What stands in ``Annotated[float, ...]``.

    Example:
        >>> Iou = Annotated[float, number_option("--iou", rule=Within(0, 1), text="Of a hit.")]
    """

    def check(value: float | None) -> float | None:
        if value is None or rule.accepts(value):
            return value
        raise typer.BadParameter(f"must be {rule}, got {value:g}")

    return typer.Option(*names, help=text, metavar=f"X [{rule.signs}]", callback=check)


def parse_numbers(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """Read a list of whole numbers such as ``1,2,3,6``; an empty text has none.

    Args:
        option: What the error names.
        text: Numbers with commas between them.
        least: The least legal number, 1 or 0.

    Raises:
        UsageError: If a part is no such number, or ends in more than nine digits.

    Example:
        >>> parse_numbers("--levels", "1,2,3,6")
        (1, 2, 3, 6)
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) < 10 and int(part) >= least for part in parts):
        kind = "numbers above 0" if least else "whole numbers"
        raise UsageError(f"{option} must be {kind} with commas between them, got {text!r}")
    return tuple(int(part) for part in parts)


def _check_device(name: str) -> str:
    if not _DEVICE_WORDS.fullmatch(name):
        raise typer.BadParameter(f"must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return name


def _set_debug(wanted: bool) -> bool:
    if wanted:
        os.environ["SPPNET_DEBUG"] = "1"  # child processes see it too
    return wanted


def _set_threads(count: int | None) -> int | None:
    """Limit threads: of libraries that are not loaded yet by variables, of torch by its call."""
    if count is not None:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(count)
    return count


def _set_max_pixels(count: int | None) -> int | None:
    """Change the limit of images for this process and its children."""
    if count is not None:
        os.environ["SPPNET_MAX_PIXELS"] = str(count)
    return count


def _flag(name: str, text: str, callback: Callable[[bool], bool] | None = None) -> Any:
    return typer.Option(
        name, metavar="", help=text, callback=callback, is_eager=callback is not None
    )


Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda:N|mps", help="Where to compute.", callback=_check_device
    ),
]
DryRun = Annotated[
    bool, _flag("--dry-run", "Say what would be done (counts, disk, time) and stop.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        help="Threads to compute with.",
        callback=_set_threads,
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        metavar="N",
        min=1,
        max=178_956_970,
        help="Largest image, width times height; 100,000,000 if not given.",
        callback=_set_max_pixels,
    ),
]
Fresh = Annotated[bool, _flag("--fresh", "Forget what an earlier run finished and start again.")]
KeepCache = Annotated[
    bool,
    _flag(
        "--keep-cache",
        "Keep what was computed of each image when the model stands, for other settings.",
    ),
]
CacheSize = Annotated[
    float | None,
    typer.Option(
        "--cache-size",
        metavar="GB",
        min=0.0,
        help="The most that the cache may take; what does not fit is computed again when needed.",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="MINUTES",
        min=0.0,
        help="Minutes for everything; what training leaves of them is for trials of settings.",
    ),
]
Debug = Annotated[bool, _flag("--debug", "Show where an error comes from.", _set_debug)]
Download = Annotated[bool, _flag("--download", "Allow to download weights that are not on disk.")]


@dataclass(frozen=True)
class RunFlags:
    """Options of every command that computes; a command takes them as one (`with_group`)."""

    device: Device = "auto"
    threads: Threads = None
    dry_run: DryRun = False
    max_pixels: MaxPixels = None
    debug: Debug = False


@dataclass(frozen=True)
class WorkerFlags:
    """Who computes, of commands that can send photos to other machines (`with_group`)."""

    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="local|ray",
            help="This process, or processes of Ray on this machine and others.",
        ),
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Of Ray's cluster; one that runs here, or a new one, if not given.",
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            metavar="N",
            min=1,
            max=100_000,
            help="Of Ray: models that are loaded at a time; as many as fit if not given.",
        ),
    ] = None
    cpus: Annotated[
        float, number_option("--cpus", rule=Within(0, 1024, above=True), text="Of Ray: cores each.")
    ] = 1.0
    gpus: Annotated[
        float, number_option("--gpus", rule=Within(0, 64), text="Of Ray: accelerators each.")
    ] = 0.0
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            metavar="N",
            min=1,
            max=100_000,
            help="Of Ray: photos that a model gets at once; little more is lost with a machine.",
        ),
    ] = 32

    @property
    def by_ray(self) -> bool:
        """Whether Ray computes.

        Raises:
            UsageError: If there is no such engine, or a flag of Ray stands without it.
        """
        if self.engine not in ("local", "ray"):
            raise UsageError(f"--engine must be local or ray, got {self.engine!r}")
        if self.engine == "local":
            for field in fields(self):
                if field.name != "engine" and getattr(self, field.name) != field.default:
                    raise UsageError(f"--{field.name} goes with --engine ray only")
        return self.engine == "ray"


def list_devices() -> list[str]:
    """Name the devices that torch can use here, the preferred one first.

    Returns:
        Names for ``--device``; ``"cpu"`` is always the last.

    Example:
        >>> list_devices()[-1]
        'cpu'
    """
    import torch  # imported here so that --help stays quick

    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def choose_device(name: str) -> "torch.device":
    """Turn the word of ``--device`` into a device that exists.

    Args:
        name: ``"auto"`` (the best there is), ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.

    Returns:
        The device.

    Raises:
        UsageError: If this machine has no such device; the message names those it has.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    import torch

    present = list_devices()
    wanted = {"auto": present[0], "cuda": "cuda:0"}.get(name, name)
    if wanted not in present:
        raise UsageError(
            f"--device must be one of auto, {', '.join(present)} on this machine, got {name!r}",
            code="E_DEVICE",
        )
    return torch.device(wanted)
