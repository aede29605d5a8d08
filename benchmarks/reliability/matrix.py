r"""Installs the package for some Python, as the README says, and runs tests with it.

    python benchmarks/reliability/matrix.py --python python3.13 --place runs/py313 tests/geometry
    python benchmarks/reliability/matrix.py --oldest --place runs/oldest tests/pooling

Makes a virtual environment in the folder, unless one is there, and installs the package with its
extra ``dev`` into it. With ``--oldest`` torch, torchvision, NumPy and Pillow are the oldest that
``pyproject.toml`` allows; newer ones are what much of ``dev`` asks for, so only what the tests
themselves need comes with it. Prints JSON: the versions that were found installed, how many tests
passed, failed and were skipped, and the names of those that failed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bars import tell

ROOT = Path(__file__).parents[2]
NAMED = ("torch", "torchvision", "numpy", "pillow")
# of `dev`: what tests of any room import
TESTING = ("pytest", "hypothesis", "httpx")
ASKED = """
import json, platform
from importlib.metadata import version
names = {names!r}
print(json.dumps({{"python": platform.python_version(), **{{n: version(n) for n in names}}}}))
"""


def oldest(names: tuple[str, ...] = NAMED) -> list[str]:
    """Requirements of the oldest versions that the package allows.

    Returns:
        Such as ``"torch==2.6.0"``.
    """
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = dict(re.findall(r"^([a-z-]+)>=([\d.]+)$", "\n".join(listed), re.M))
    return [f"{name}=={'.'.join((found[name] + '.0.0').split('.')[:3])}" for name in names]


def install(python: str, place: Path, *, least: bool) -> Path:
    """Make an environment with the package in it, unless it is there; its Python."""
    inside = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if inside.exists():
        return inside
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    wanted = ["-e", str(ROOT), *oldest(), *TESTING] if least else ["-e", f"{ROOT}[dev]"]
    subprocess.run([str(inside), "-m", "pip", "install", "--no-cache-dir", *wanted], check=True)
    return inside


def outcomes(report: Path) -> tuple[dict[str, int], list[str]]:
    """Counts of a report of pytest, and the names of what failed."""
    counts: Counter[str] = Counter()
    bad = []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = kinds.pop() if kinds else "passed"
        counts[outcome] += 1
        if outcome in ("failure", "error"):
            bad.append(f"{case.get('classname')}::{case.get('name')}")
    return dict(counts), bad


def run(python: Path, tests: list[str], more: list[str]) -> dict[str, Any]:
    """Run tests with a Python that has the package."""
    begin = time.monotonic()
    asked = [str(python), "-c", ASKED.format(names=NAMED)]
    versions = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    report = python.parent.parent / "report.xml"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", f"--junitxml={report}", *more, *tests]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    counts, bad = outcomes(report) if report.exists() else ({}, ["nothing ran"])
    return {
        **versions,
        "tests": tests,
        "options": more,
        "counts": counts,
        "failed": bad,
        "wrong": len(bad) or int(done.returncode not in (0, 5)),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.monotonic() - begin),
    }


def main() -> None:
    """Install, run, print; leave with 1 if a test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", nargs="*", default=["tests"], help="Tests to run.")
    parser.add_argument("--python", default=sys.executable, help="The interpreter.")
    parser.add_argument("--place", type=Path, required=True, help="Folder of the environment.")
    parser.add_argument("--oldest", action="store_true", help="The oldest versions allowed.")
    parser.add_argument("--options", default="", help="More words for pytest.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    asked = parser.parse_args()
    python = install(asked.python, asked.place.absolute(), least=asked.oldest)
    found = run(python, asked.tests, asked.options.split())
    tell(found, asked.out)
    raise SystemExit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
