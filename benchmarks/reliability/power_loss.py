r"""Cuts the power of a simulated disk while models, labels, caches and outputs are written.

    python benchmarks/reliability/power_loss.py --points 1000

A program writes step after step, and a library below it (``disk.c``, by LD_PRELOAD; needs Linux and
a C compiler as ``cc``) writes down every call that reaches the disk, SQLite's too. The calls are
done again on a simulated disk, and at a random point of them the power is cut: what was flushed is
there, and of the rest anything (``simulated_disk.py``). What is left must be the last acknowledged
step or the one after it, whole, every acknowledged edit of labels must be there, and the next step
must work. First it is seen that the calls, done to the end, give the files that the program left.
``--lie all`` lets no flush arrive, ``--lie folders`` none of a folder: the checks must see that.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import simulated_disk
from bars import tell

STEPS = {"models": 60, "labels": 700, "caches": 150, "outputs": 25}


def record(disk: Any, thing: Any, steps: int, folder: Path, log: Path) -> None:
    """Let a child do the steps with every call written down."""
    folder.mkdir()
    child = os.fork()
    if not child:
        try:
            disk.disk_record(os.fsencode(folder), os.fsencode(log))
            for said in islice(thing.steps(folder), steps):
                disk.disk_acknowledge(said.encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the steps failed")


def cut(disk: Any, name: str, points: int, seed: int, lie: str, work: Path) -> dict[str, Any]:
    """Cut the power ``points`` times while one thing is written; count what is wrong."""
    from kept_things import THINGS, WrongError

    thing, begin = THINGS[name], time.monotonic()
    written, log, left = work / "written", work / "log", work / "left"
    record(disk, thing, STEPS[name], written, log)
    calls = simulated_disk.read_calls(log)
    whole = simulated_disk.Disk()
    for call in calls:
        whole.do(call)
    whole.leave_all(left)
    same = simulated_disk.content_of(left) == simulated_disk.content_of(written)
    wrong: Counter[str] = Counter()
    empty = simulated_disk.Disk(honest=lie != "all", flushes_folders=lie == "none")
    examples = []
    for place, before, after in simulated_disk.power_cuts(calls, points, seed, left, empty):
        try:
            thing.check(left, before, after)
            thing.go_on(left)
        except WrongError as error:
            wrong[str(error).split(":")[0][:60]] += 1
            examples.append(f"{place}: {error}")
        except Exception as error:
            wrong[f"{type(error).__name__}: {error}"[:90]] += 1
            examples.append(f"{place}: {''.join(traceback.format_exception(error))[-900:]}")
    shutil.rmtree(written)
    shutil.rmtree(left)
    return {
        "calls": len(calls),
        "steps": STEPS[name],
        "calls_of": dict(Counter(call.kind for call in calls)),
        "replayed_to_the_same_bytes": same,
        "points": points,
        "wrong": sum(wrong.values()),
        "kinds": dict(wrong.most_common(8)),
        "examples": examples[:3],
        "seconds": round(time.monotonic() - begin, 1),
    }


def main() -> None:
    """Cut, print, and leave with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "things", nargs="*", default=list(STEPS), metavar="THING", help=str(list(STEPS))
    )
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lie", choices=["none", "folders", "all"], default="none")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="Folder in memory.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    chosen = parser.parse_args()
    disk = simulated_disk.run_below(chosen.memory / f"sppnet-disk-{os.getuid()}")
    found = {}
    for name in chosen.things:
        with tempfile.TemporaryDirectory(dir=chosen.memory) as work:
            found[name] = cut(disk, name, chosen.points, chosen.seed, chosen.lie, Path(work))
    tell({"lie": chosen.lie, "seed": chosen.seed, "things": found}, chosen.out)
    fine = all(each["replayed_to_the_same_bytes"] and not each["wrong"] for each in found.values())
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
