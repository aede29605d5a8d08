r"""Lets every call that writes fail in turn while models, labels, caches and outputs are written.

    python benchmarks/reliability/disk_faults.py

For each of them, and for ENOSPC, EIO, EACCES and EINTR: the first call that writes fails, then the
second, and so on until a run ends without a failure; once alone, and once together with all calls
after it. The same with half a write, and with SIGKILL in place of a failure. This is how SQLite is
tested. A library below the program (``disk.c``, by LD_PRELOAD; needs Linux and a C compiler as
``cc``) does it, so SQLite's own calls fail, too. Each time, the step must end in one error of ours
with exit code 6 that names a path, or succeed; what is left is the step before or this one, whole,
and this one if the program said so; and then, on a disk that works, everything goes on.
"""

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import simulated_disk
from bars import tell

STEPS_BEFORE = {"models": 2, "labels": 25, "caches": 2, "outputs": 3}
ONCE, FROM_THEN_ON, HALF_A_WRITE, KILL = range(4)
FAULTS = {
    **{
        f"{errno.errorcode[code]}": (code, ONCE) for code in (errno.ENOSPC, errno.EIO, errno.EACCES)
    },
    **{
        f"{errno.errorcode[code]} from then on": (code, FROM_THEN_ON)
        for code in (errno.ENOSPC, errno.EIO, errno.EACCES)
    },
    "EINTR": (errno.EINTR, ONCE),
    "half a write": (0, HALF_A_WRITE),
    "SIGKILL": (0, KILL),
}
DONE, REFUSED, FAULT = 0, 6, 1
MOST_CALLS = 2000
TRACE = "trace"


def attempt(disk: Any, thing: Any, folder: Path, k: int, fault: str, notes: Path) -> int:
    """Do one more step in a child whose k-th call fails; how the child ended."""
    code, mode = FAULTS[fault]
    child = os.fork()
    if not child:
        status = FAULT
        try:
            disk.disk_fail(os.fsencode(folder), k, code, mode)
            status = one_step(
                thing, folder, notes, lambda: disk.disk_fail(os.fsencode(folder), 0, 0, 0)
            )
        except BaseException:
            notes.with_name(TRACE).write_text(traceback.format_exc())
        fired = disk.disk_fired().decode()
        notes.with_name("fired").write_text(fired)
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def one_step(thing: Any, folder: Path, notes: Path, mend: Callable[[], None]) -> int:
    """One step from what is there; what it said is noted."""
    from sppnet.errors import OutputError

    try:
        said = thing.another(folder, mend)
    except OutputError as error:
        if error.path is None or "\n" in str(error):
            raise
        notes.write_text(error.message)
        return REFUSED
    notes.write_text(json.dumps(said))
    return DONE


def break_each(disk: Any, name: str, fault: str, work: Path) -> dict[str, Any]:
    """Let call after call fail while one thing is written; count what is wrong."""
    from kept_things import THINGS, require

    thing = THINGS[name]
    before, folder, notes = work / "before", work / "folder", work / "notes"
    for place in (before, folder):
        shutil.rmtree(place, ignore_errors=True)
    before.mkdir()
    acknowledged = list(islice(thing.steps(before), STEPS_BEFORE[name]))
    shutil.copytree(before, folder)
    coming = thing.another(folder)
    wrong: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    examples: list[str] = []
    for k in range(1, MOST_CALLS):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        for path in (notes, notes.with_name("fired"), notes.with_name(TRACE)):
            path.unlink(missing_ok=True)
        status = attempt(disk, thing, folder, k, fault, notes)
        killed = status == -signal.SIGKILL
        fired = "killed" if killed else notes.with_name("fired").read_text()
        if not fired:
            break
        calls[fired] += 1
        ends[{DONE: "done", REFUSED: "refused"}.get(status, "killed" if killed else "fault")] += 1
        try:
            if status == FAULT:
                trace = notes.with_name(TRACE)
                require(False, trace.read_text().splitlines()[-1] if trace.exists() else "died")
            if status == REFUSED:
                messages[notes.read_text()] += 1
            said = json.loads(notes.read_text()) if status == DONE else []
            thing.check(folder, [*acknowledged, *said], [] if said else coming)
            thing.go_on(folder)
        except Exception as error:
            wrong[f"{type(error).__name__}: {error}"[:100]] += 1
            trace = notes.with_name(TRACE)
            text = trace.read_text() if trace.exists() else traceback.format_exc()
            examples.append(f"call {k} ({fired}): {error}\n{text[-1500:]}")
    else:
        wrong["no end"] += 1
    return {
        "calls": sum(calls.values()),
        "calls_of": dict(calls),
        "ends": dict(ends),
        "messages": dict(messages),
        "wrong": sum(wrong.values()),
        "kinds": dict(wrong.most_common(8)),
        "examples": examples[:3],
    }


def main() -> None:
    """Break, print, and leave with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("things", nargs="*", default=list(STEPS_BEFORE), metavar="THING")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="Folder in memory.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    chosen = parser.parse_args()
    disk = simulated_disk.run_below(chosen.memory / f"sppnet-disk-{os.getuid()}")
    found: dict[str, dict[str, Any]] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=chosen.memory) as work:
        for name in chosen.things:
            found[name] = {}
            for fault in chosen.faults:
                found[name][fault] = break_each(disk, name, fault, Path(work))
    every = [each for things in found.values() for each in things.values()]
    figures = {
        "faults": sum(each["calls"] for each in every),
        "wrong": sum(each["wrong"] for each in every),
        "seconds": round(time.monotonic() - begin, 1),
        "things": found,
    }
    tell(figures, chosen.out)
    sys.exit(1 if figures["wrong"] else 0)


if __name__ == "__main__":
    main()
