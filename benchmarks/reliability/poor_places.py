r"""Runs every long command in poor environments: id C12.

    python benchmarks/reliability/poor_places.py

``clock``: the time of day jumps a day forth or back at a random moment of the command (``clock.c``,
a library below the program). ``files``: 64 open files. ``processes``: as a user who may have 2, 4
or 16 processes and threads in all (as root: limits of processes do not hold for root), of which
torch may use one. ``rooms``:
no folder for temporary files can be written, and once not even the folder in which the command
runs. Right is the result of a run in peace, or, but for clocks and files, one line with a code and
exit code 6; never a traceback, a signal, or a negative time. Every kind of poverty is shown to be
one: a program that looks for it must see it. Needs Linux, root for limits of processes, a C
compiler as ``cc``, setpriv and unshare. Prints JSON.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bars import tell
from small_runs import WORDS, Ended, Run, differences, ending, needed, new_run, prepare

from sppnet.app.progress import track

DAY = 86_400
NOBODY = 65_534
NO_OUTPUT = 6
MOST_SECONDS = 3600  # of what a small command may say that it took
CLOCK = Path(__file__).with_name("clock.c")
USER = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
MAY_READ = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")  # Python, too
ROOMS = "/tmp /var/tmp /usr/tmp"


@dataclass(frozen=True)
class Poverty:
    """A poor environment.

    Args:
        name: What is poor.
        within: Words before the program.
        variables: Of the environment.
        may_refuse: Whether an error with exit code 6 is right, too.
        probe: A program that ends with 1 if the environment is not as poor as that.
    """

    name: str
    within: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    may_refuse: bool = False
    probe: str = ""


def clocks(library: Path, seconds: float, draw: random.Random) -> list[Poverty]:
    """The clock jumps while a command that takes so long runs."""
    found = []
    for jump in (DAY, -DAY):
        at = f"{draw.uniform(0, seconds):.3f}"
        variables = {"LD_PRELOAD": str(library), "CLOCK_AFTER": at, "CLOCK_JUMP": str(jump)}
        probe = (
            "import datetime, time\n"
            f"began, now = time.time(), time.monotonic() + {at}\n"
            "while time.monotonic() < now + 0.1: pass\n"
            "moved = time.time() - began, datetime.datetime.now().timestamp() - began\n"
            f"exit(any(abs(each - {jump}) > 60 + {at} for each in moved))"
        )
        found.append(Poverty(f"clock {jump:+}", (), variables, probe=probe))
    return found


def limits() -> list[Poverty]:
    """Few files and few processes."""
    probe = (
        "import os\ntry:\n  kept = [os.dup(0) for _ in range(80)]\nexcept OSError: exit(0)\nexit(1)"
    )
    found = [Poverty("64 files", ("prlimit", "--nofile=64"), probe=probe)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    for most in (2, 4, 16):
        threads = (
            "import threading, time\ntry:\n"
            f"  for _ in range({most}): threading.Thread(target=time.sleep, args=[1]).start()\n"
            "except RuntimeError: exit(0)\nexit(1)"
        )
        within = (*USER, *MAY_READ, "prlimit", f"--nproc={most}")
        found.append(Poverty(f"{most} processes", within, one, may_refuse=True, probe=threads))
    return found


def rooms() -> list[Poverty]:
    """No folder for temporary files, and then not even the current one."""
    mounts = "; ".join(
        f"[ ! -d {room} ] || mount -t tmpfs -o ro none {room}" for room in ROOMS.split()
    )
    probe = (
        "import tempfile\ntry: tempfile.TemporaryFile(dir='/tmp')\nexcept OSError: exit(0)\nexit(1)"
    )
    shell = ("unshare", "-Urm", "sh", "-c")
    here = (*shell, f'{mounts}; exec "$@"', "sh")
    nowhere = (*shell, f'{mounts}; cd /proc; exec "$@"', "sh")
    gone = {"TMPDIR": "", "TEMP": "", "TMP": ""}
    return [
        Poverty("no /tmp", here, gone, probe=probe),
        Poverty("no place for temporary files", nowhere, gone, may_refuse=True, probe=probe),
    ]


def faults(
    ended: Ended, found: Mapping[str, str], expected: Mapping[str, str], *, may_refuse: bool
) -> list[str]:
    """What is wrong with how a command ended, in words."""
    if any(word in ended.said for word in ("Traceback", "E_BUG", "libgomp")):
        return ["a traceback"]
    if ended.code == NO_OUTPUT and may_refuse:
        return [] if ended.said.count("sppnet: error:") == 1 else ["no line that says why"]
    if ended.code:
        return [f"exit code {ended.code}"]
    return [f"other bytes: {name}" for name in differences(found, expected)]


def times_wrong(out: Path) -> list[str]:
    """Seconds in the figures that cannot be."""

    def walk(value: Any, name: str) -> list[str]:
        if isinstance(value, dict):
            return [each for key, item in value.items() for each in walk(item, f"{name}.{key}")]
        if isinstance(value, list):
            return [each for item in value for each in walk(item, name)]
        is_number = isinstance(value, int | float) and "seconds" in name
        return [name] if is_number and not 0 <= value < MOST_SECONDS else []

    paths = [path for path in out.rglob("*.json") if path.name in ("metrics.json", "rows.json")]
    return [f"time {each}" for path in paths for each in walk(json.loads(path.read_text()), "")]


def absolute(words: Sequence[str], run: Path) -> list[str]:
    """Words whose paths do not depend on where the command runs."""
    places = {"out": run / "out", "model": run / "model"}
    return [
        str((run / word).resolve() if word.startswith("../") else places.get(word, word))
        for word in words
    ]


def is_poor(poverty: Poverty) -> bool:
    """Whether a program that looks for the poverty sees it, and sees none elsewhere."""
    command = [sys.executable, "-c", poverty.probe]
    here = {**os.environ, **poverty.variables}
    poor = subprocess.run([*poverty.within, *command], env=here, check=False, cwd="/", stdin=0)
    rich = subprocess.run(command, check=False, cwd="/", stdin=0)
    return poor.returncode == 0 and rich.returncode == 1


def open_to_all(folder: Path) -> None:
    """Let every user read and write there."""
    for place, _, names in os.walk(folder):
        Path(place).chmod(0o777)
        for name in names:
            Path(place, name).chmod(0o666)


def try_one(
    folder: Path, command: str, poverty: Poverty, expected: Mapping[str, str]
) -> tuple[Ended, list[str]]:
    """Run a command in a poor environment; how it ended and what is wrong."""
    run = new_run(folder, "run", command)
    open_to_all(run)
    words = absolute(WORDS[command].split(), run)
    options = {"fresh": True, "within": poverty.within, "variables": poverty.variables}
    ended = Run(words, run, **options).wait()  # type: ignore[arg-type]
    found = faults(ended, ending(run), expected, may_refuse=poverty.may_refuse)
    return ended, found + ([] if ended.code else times_wrong(run / "out"))


def measure(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run every command in every environment."""
    draw, each, examples = random.Random(chosen.seed), dict[str, Any](), list[str]()
    library = folder / "clock.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(CLOCK), "-ldl"]
    subprocess.run(command, check=True)
    prepare(folder)
    open_to_all(folder)
    library.chmod(0o755)
    for command in track(chosen.commands, "commands"):
        run = new_run(folder, "run", command)
        peace = needed(Run(absolute(WORDS[command].split(), run), run, fresh=True).wait())
        expected = ending(run)
        jumps = [
            jump for _ in range(chosen.points) for jump in clocks(library, peace.seconds, draw)
        ]
        for poverty in [*jumps, *limits(), *rooms()]:
            ended, found = try_one(folder, command, poverty, expected)
            kind = each.setdefault(poverty.name, {"ends": Counter(), "faults": Counter()})
            kind["ends"][str(ended.code)] += 1
            kind["faults"].update(found)
            if found:
                examples.append(f"{command}, {poverty.name}: {found}\n{ended.said[-1500:]}")
    kinds = [*clocks(library, 1.0, draw), *limits(), *rooms()]
    unseen = [poverty.name for poverty in kinds if not is_poor(poverty)]
    return {
        "runs": sum(sum(kind["ends"].values()) for kind in each.values()),
        "wrong": sum(sum(kind["faults"].values()) for kind in each.values()) + len(unseen),
        "refused": sum(kind["ends"].get(str(NO_OUTPUT), 0) for kind in each.values()),
        "poverty_that_is_none": unseen,
        "each": each,
        "examples": examples[:20],
    }


def main() -> None:
    """Run, print, and leave with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=2, help="Jumps forth and back a command.")
    parser.add_argument("--commands", nargs="*", default=list(WORDS), choices=list(WORDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="Not below /tmp.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # in peace as where there are no more
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=chosen.memory) as folder:
        figures = measure(Path(folder), chosen)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    tell(figures, chosen.out)
    sys.exit(1 if figures["wrong"] else 0)


if __name__ == "__main__":
    main()
