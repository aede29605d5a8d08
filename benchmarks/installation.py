"""Measures the size of the whole: seconds to install, distributions, seconds of ``--help``.

    python benchmarks/installation.py

Makes a fresh virtual environment in a temporary folder and installs the project into it as the
README says. The registry's speed and pip's cache are part of the figure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]


def seconds_of(*words: str | Path) -> float:
    """Run a program and time it."""
    start = time.perf_counter()
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Install, count, time."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        binaries = Path(folder) / "venv" / "bin"
        seconds_of(sys.executable, "-m", "venv", binaries.parent)
        install = seconds_of(binaries / "pip", "install", "--quiet", ROOT)
        listed = subprocess.run(
            [binaries / "pip", "list", "--format=json"], check=True, capture_output=True, text=True
        )
        seconds_of(binaries / "sppnet", "--help")  # writes the byte code
        help_seconds = median(seconds_of(binaries / "sppnet", "--help") for _ in range(5))
    distributions = [each["name"] for each in json.loads(listed.stdout)]
    others = [name for name in distributions if name not in ("pip", "setuptools", "sppnet")]
    nvidia = [name for name in others if name.startswith(("nvidia", "cuda", "triton"))]
    sys.stdout.write(
        f"pip install: {install:.0f} s\n"
        f"distributions besides sppnet: {len(others)}, of which {len(nvidia)} are torch's CUDA\n"
        f"sppnet --help: {help_seconds:.2f} s\n"
    )


if __name__ == "__main__":
    main()
