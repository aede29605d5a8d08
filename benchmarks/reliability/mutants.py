r"""Changes the code of a room bit by bit and counts the changes that its tests notice: id B3.

    pip install mutmut
    python benchmarks/reliability/mutants.py geometry

A copy of the source and of the tests goes into a temporary folder, where mutmut makes the mutants
and runs the room's tests on each: an operator, a constant, an argument is another. A mutant that no
test fails on has survived. Prints JSON with the share that was killed and the names of survivors.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KILLED = ("killed", "timeout", "caught by type check", "segfault")


def settings_of(rooms: list[str], tests: list[str]) -> str:
    """The table of mutmut in pyproject.toml."""
    files = [room if room.endswith(".py") else f"{room}/*" for room in rooms]
    paths = json.dumps([f"src/sppnet/{file}" for file in files])
    also = json.dumps(["src/", "tests/", "benchmarks/", "pyproject.toml", "README.md"])
    return (
        f"\n[tool.mutmut]\nsource_paths = ['src/']\nonly_mutate = {paths}\n"
        f"also_copy = {also}\npytest_add_cli_args_test_selection = {json.dumps(tests)}\n"
        'pytest_add_cli_args = ["-p", "no:cacheprovider", "-x", "-q"]\n'
        'process_isolation = "fork"\n'  # its other way finds no test here
    )


def _run_for(command: list[str], folder: Path, environment: dict[str, str], most: float) -> str:
    """Run a program for a time; what it said."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            return run.communicate(timeout=most)[0]
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)  # mutants that were judged are noted
            return run.communicate()[0]


def mutate(rooms: list[str], tests: list[str], keep: Path | None, minutes: float) -> dict[str, Any]:
    """Make the mutants of some files and run the tests on them."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = keep or Path(name)
        for part in ("src", "tests", "benchmarks"):
            shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
        shutil.copy(ROOT / "README.md", folder)
        text = (ROOT / "pyproject.toml").read_text() + settings_of(rooms, tests)
        tomllib.loads(text)
        (folder / "pyproject.toml").write_text(text)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]
        said = _run_for(command, folder, environment, 60 * minutes)
        shown = subprocess.run(
            [sys.executable, "-m", "mutmut", "results", "--all", "true"],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
    found = re.findall(r"^\s*(\S+): (.+?)\s*$", shown.stdout, re.M)
    counts = Counter(state for _, state in found)
    judged = sum(
        count for state, count in counts.items() if state not in ("not checked", "skipped")
    )
    killed = sum(counts[state] for state in KILLED)
    return {
        "rooms": rooms,
        "mutants": len(found),
        "judged": judged,
        "killed": killed,
        "share": round(killed / judged, 4) if judged else None,
        "counts": dict(counts),
        "survivors": [name for name, state in found if state in ("survived", "no tests")],
        "seconds": round(time.monotonic() - begin),
        **({} if judged else {"said": (said + shown.stderr)[-3000:]}),
    }


def main() -> None:
    """Mutate, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rooms", nargs="+", help="Rooms or files below src/sppnet.")
    parser.add_argument("--tests", nargs="+", help="Tests; of the same names, if not given.")
    parser.add_argument("--minutes", type=float, default=600.0, help="Stop after so many.")
    parser.add_argument("--keep", type=Path, help="Folder for the mutants.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    chosen = parser.parse_args()
    tests = chosen.tests or [f"tests/{room}" for room in chosen.rooms]
    text = json.dumps(mutate(chosen.rooms, tests, chosen.keep, chosen.minutes), indent=1)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
