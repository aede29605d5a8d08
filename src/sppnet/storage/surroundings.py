"""What a result may depend on besides its configuration: versions, threads, machine. No torch."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from typing import Any

PACKAGES = (
    "sppnet",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-learn",
    "opencv-contrib-python-headless",
    "typer",
)
_SECRET = re.compile(r"^--?[\w-]*(token|secret|password|passwd|api-?key|credential)[\w-]*", re.I)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def surroundings() -> dict[str, Any]:
    """What else a result may depend on: versions, threads, machine, command line."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "threads": _thread_count(),
        "platform": platform.platform(),
        "argv": arguments_without_secrets(sys.argv),
    }


def _versions() -> dict[str, str | None]:
    """Versions of the installed packages, read without importing them."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _thread_count() -> int:
    """Threads that torch uses, or will use: results are bit-identical only at the same number."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else os.cpu_count() or 1


def arguments_without_secrets(arguments: Sequence[str]) -> list[str]:
    """Copy a command line, with the values of options that sound secret replaced by ``***``.

    Args:
        arguments: As in ``sys.argv``.

    Returns:
        The copy; logins inside URLs are replaced too.

    Example:
        >>> arguments_without_secrets(["sppnet", "serve", "--token", "abc", "--api-key=def"])
        ['sppnet', 'serve', '--token', '***', '--api-key=***']
    """
    clean: list[str] = []
    hide_next = False
    for argument in arguments:
        secret = _SECRET.match(argument)
        if hide_next and not argument.startswith("--"):
            clean.append("***")
        elif secret and "=" in argument:
            clean.append(argument.split("=", 1)[0] + "=***")
        else:
            clean.append(_URL_LOGIN.sub("***@", argument))
        hide_next = bool(secret) and "=" not in argument
    return clean
