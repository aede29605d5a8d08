r"""Feeds spoilt files to the readers and counts what is worse than a refusal in one line.

    python benchmarks/fuzz.py annotations --minutes 20 --seed 0

KIND is one of images, annotations, trainings, proposals, detections, models. Every input is made of
a sample by random changes that only the seed and its number decide, and is read in a child process,
which is started anew after it dies. Counted are signals, tracebacks (whatever is no error of
`sppnet.errors` in one line, wrong answers included), inputs that take over 5 s of processor time
or stand still for ten minutes, and inputs that take over 500 MB of memory beside what the child
had before. Those inputs are kept in the folder of --keep; --only NUMBER runs one again. With the
variable SPPNET_DATA real photos and annotations are spoilt, too. Needs Linux.
"""

import argparse
import faulthandler
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "reliability"))

from bars import tell

from fuzz_kinds import KINDS, check_line
from sppnet.errors import SppnetError

HANG_SECONDS = 5.0  # of processor time
STILL_SECONDS = 600.0  # of a clock on the wall: other work may hold the machine
PEAK_BYTES = 500_000_000
ROOM_BYTES = 4 << 30  # of addresses, beyond those of the child at its start
WARM_INPUTS = 10
START_METHOD = "spawn"
FAULTS = ("signal", "traceback", "hang", "peak")


@dataclass
class Tally:
    """What became of the inputs of one kind.

    Args:
        kind: What was fuzzed.
        seed: Of the random numbers.
        counts: "read", "refused" and the four kinds of fault -> inputs.
        seconds: How long it took.
        slowest: Most processor time of an input that ended.
        most_bytes: Most memory of an input that ended, beside the child's own.
        faults: A line for each different fault, with the number of an input that shows it.
    """

    kind: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    most_bytes: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def add(self, number: int, answer: dict[str, Any]) -> bool:
        """Count an answer of the child; True for a fault."""
        self.slowest = max(self.slowest, answer.get("seconds", 0))
        self.most_bytes = max(self.most_bytes, answer.get("bytes", 0))
        found = answer["outcome"]
        if found in ("read", "refused"):
            if answer["seconds"] > HANG_SECONDS:
                found = "hang"
            elif answer["bytes"] > PEAK_BYTES:
                found = "peak"
        self.counts[found] += 1
        if found in FAULTS:
            self.faults.setdefault(f"{found}: {answer.get('detail', '')}", number)
        return found in FAULTS

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        counts = {name: self.counts[name] for name in ("read", "refused", *FAULTS)}
        figures = {"slowest_seconds": self.slowest, "most_bytes": self.most_bytes}
        head = {"kind": self.kind, "seed": self.seed, "seconds": round(self.seconds, 1)}
        return {
            **head,
            "inputs": sum(counts.values()),
            **counts,
            **figures,
            "faults": self.faults,
        }


def serve(pipe: Connection, kind: str, seed: int, folder: Path, real: Path | None) -> None:
    """Be the child: make and read the inputs whose numbers come, answer each."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.enable()
    source = KINDS[kind](folder, real)
    for number in range(WARM_INPUTS):  # imports and buffers are the child's own memory
        source.make(random.Random(number))
        try_input(source)
    room = _status("VmSize") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send({})
    while (number := pipe.recv()) is not None:
        try:
            source.make(random.Random(f"{kind}-{seed}-{number}"))
        except Exception:  # a fault of the fuzzing itself
            pipe.send({"broken": traceback.format_exc()})
            return
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, begin = _status("VmRSS"), time.process_time()
        pipe.send({})
        outcome, detail = try_input(source)
        pipe.send(
            {
                "outcome": outcome,
                "detail": detail,
                "seconds": time.process_time() - begin,
                "bytes": max(0, _status("VmHWM") - before),
            }
        )


def try_input(source: Any) -> tuple[str, str]:
    """Read one input: its outcome, and what to say of it."""
    try:
        source.read()
    except SppnetError as error:
        try:
            check_line(error)
        except AssertionError as fault:
            return "traceback", str(fault)
        return "refused", error.code
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        traceback.print_exc()
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "traceback", f"{type(error).__name__} in {where}: {str(error)[:300]}"
    return "read", ""


def _status(name: str) -> int:
    """A figure of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"no {name} in /proc/self/status")


class Child:
    """The process that reads, started anew whenever it has ended.

    Args:
        kind: What it reads.
        seed: Of the random numbers.
        real: Folder of real photos, or None.
    """

    def __init__(self, kind: str, seed: int, real: Path | None) -> None:
        self.kind, self.seed, self.real = kind, seed, real
        self.process: Any = None
        self.folder = Path()

    def ask(self, number: int) -> dict[str, Any]:
        """Let it read one input; a child that dies or does not end is an answer, too."""
        if self.process is None:
            self._start()
        self.pipe.send(number)
        made = self._answer(STILL_SECONDS, STILL_SECONDS)
        if "broken" in made:
            raise RuntimeError(f"input {number} cannot be made: {made['broken']}")
        return made or self._answer(HANG_SECONDS, STILL_SECONDS)

    def end(self) -> None:
        """Stop it and remove its files."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        context = multiprocessing.get_context(START_METHOD)
        self.pipe, other = context.Pipe()
        arguments = (other, self.kind, self.seed, self.folder, self.real)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        other.close()
        ready = self._answer(STILL_SECONDS, STILL_SECONDS)
        if ready:
            log = (self.folder / "log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the child does not start: {ready}; {log}")

    def _answer(self, most_cpu: float, most_wall: float) -> dict[str, Any]:
        """Wait for what it sends; say how it ended if it does not."""
        begin, cpu = time.monotonic(), self._cpu_seconds()
        while not self.pipe.poll(0.5):
            waited = time.monotonic() - begin
            if self._cpu_seconds() - cpu > 2 * most_cpu or waited > most_wall:
                return {"outcome": "hang", "detail": f"stopped after {waited:.0f} s"}
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return {"outcome": "signal", "detail": f"exit code {self.process.exitcode}"}

    def _cpu_seconds(self) -> float:
        try:
            words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def fuzz(
    kind: str,
    *,
    seconds: float,
    seed: int = 0,
    first: int = 0,
    most: int | None = None,
    real: Path | None = None,
    keep: Path | None = None,
) -> Tally:
    """Fuzz one kind for a time.

    Args:
        kind: One of `KINDS`.
        seconds: After how long no input is begun.
        seed: Together with an input's number it decides the input.
        first: Number of the first input.
        most: How many inputs at most.
        real: Folder of real photos and annotations (the tests' data).
        keep: Where inputs with faults are copied to.

    Returns:
        What became of them.
    """
    tally, child, begin = Tally(kind, seed), Child(kind, seed, real), time.monotonic()
    number = first
    try:
        while time.monotonic() - begin < seconds and (most is None or number < first + most):
            answer = child.ask(number)
            if tally.add(number, answer):
                if keep is not None:
                    _keep(child.folder, keep / f"{kind}-{seed}-{number}", answer)
                if answer["outcome"] in ("signal", "hang", "peak"):
                    child.end()
            number += 1
    finally:
        child.end()
    tally.seconds = time.monotonic() - begin
    return tally


def _keep(source: Path, target: Path, answer: dict[str, Any]) -> None:
    """Copy an input with what was said about it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in [*source.glob("input*"), source / "log"]:
        if path.is_dir():
            shutil.copytree(path, target / path.name, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, target / path.name)
    (target / "answer.json").write_text(json.dumps(answer))


def main() -> None:
    """Fuzz what the words ask for and print the figures; exit 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run the input of this number, nothing else")
    parser.add_argument("--keep", type=Path, help="folder for inputs that show a fault")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    chosen = parser.parse_args()
    data = os.environ.get("SPPNET_DATA")
    tally = fuzz(
        chosen.kind,
        seconds=60 * chosen.minutes,
        seed=chosen.seed,
        first=chosen.only or 0,
        most=None if chosen.only is None else 1,
        real=Path(data) if data else None,
        keep=chosen.keep,
    )
    tell(tally.to_json(), chosen.out)
    sys.exit(1 if any(tally.counts[name] for name in FAULTS) else 0)


if __name__ == "__main__":
    main()
