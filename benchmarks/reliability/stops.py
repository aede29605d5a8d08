r"""Stops every long command at random moments and compares what it ends with: ids C2 and C9.

    python benchmarks/reliability/stops.py signals --points 50
    python benchmarks/reliability/stops.py kills --points 200

``signals``: SIGTERM or SIGINT at a random moment of the command, of every fifth run two in a row.
It must end within 5 s with 143 or 130 and one line that says so, two signals within 1 s, and leave
under final names only files of a run in peace; the same words once more must go on and end with the
bytes of a run in peace. Every fifth run is a Python of its own, which may also be stopped before
the program is there; the others are forks of this process, which never computes itself.

``kills``: SIGKILL at random moments while photos are predicted, until that happened so many times;
each run is killed once or several times and then ends in peace: with the bytes of a run in peace,
each photo once. What was looked at twice is counted: what the kills cost. Needs POSIX. Prints JSON.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bars import tell
from small_runs import WORDS, Ended, Run, differences, ending, import_all, needed, new_run, prepare

from sppnet.app.progress import track

MOST_SECONDS, AT_ONCE_SECONDS = 5.0, 1.0
MOST_TRIES = 3  # for each point: a command may be over before the signal comes
BETWEEN = 0.05  # seconds between two signals
GROWING = ("out/log.jsonl", "out/log.csv", "rows")  # whole at any moment, but not yet all
SECOND_KILLS = 0.5  # share of the kills that the next start does not survive either
PREDICTING = ("detect predict", "classify predict", "embed")
LOOKS = "looks"  # a byte in that file for every photo that was looked at
PART_ROWS = 8  # of the files of rows, so that there are several of few photos


@dataclass
class Peace:
    """A command that nobody disturbed.

    Args:
        command: A key of ``WORDS``.
        seconds: Of a fork, and of a process of its own.
        before: What its folder held before it.
        after: What it left.
    """

    command: str
    seconds: Mapping[bool, float]
    before: Mapping[str, str]
    after: Mapping[str, str]


@dataclass
class Stopped:
    """What was seen of a run that was stopped, and of the one after it.

    Args:
        sent: The signals.
        ended: How it ended; the seconds count from the first signal.
        left: What it left; None if that could not be read.
        again: How the same words ended after that.
        after: What they left.
        fresh: Whether it was a process of its own.
    """

    sent: list[int]
    ended: Ended
    left: Mapping[str, str] | None
    again: Ended
    after: Mapping[str, str]
    fresh: bool = False

    @property
    def is_early(self) -> bool:
        """Whether the signal came before the program listened: Python itself ended, nothing is."""
        return self.fresh and -self.ended.code in self.sent and not self.left

    def faults(self, peace: Peace) -> list[str]:
        """What is wrong, in words."""
        ended, found = self.ended, list[str]()
        codes = {128 + number for number in self.sent} | {0}
        if ended.code not in codes and not self.is_early:
            found.append(f"exit code {ended.code}")
        most = MOST_SECONDS if len(self.sent) == 1 else AT_ONCE_SECONDS
        if ended.seconds > most:
            found.append(f"took more than {most:g} s to end")
        if not self.is_early and any(word in ended.said for word in ("Traceback", "E_BUG")):
            found.append("a traceback")
        if ended.code > 0 and len(self.sent) == 1 and ended.said.count("sppnet: stopped;") != 1:
            found.append("no line that says so")
        if self.left is None:
            found.append("a torn file")
        else:
            found += [f"half done: {name}" for name in self._half_done(self.left, peace)]
        if self.again.code:
            found.append(f"cannot go on: exit code {self.again.code}")
        elif others := differences(self.after, peace.after):
            found.append(f"other bytes: {', '.join(others)}")
        return found

    def _half_done(self, left: Mapping[str, str], peace: Peace) -> list[str]:
        """Files that are neither what was there before nor what a run in peace leaves."""
        return [
            name
            for name, digest in left.items()
            if name not in GROWING and digest not in (peace.before.get(name), peace.after.get(name))
        ]


@dataclass
class Count:
    """What was counted of a command.

    Args:
        ends: Exit codes.
        faults: What was wrong, and how often.
        slowest: Most seconds until a signal had ended it: one signal, two of them.
        examples: What was said where something was wrong.
    """

    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest: dict[int, float] = field(default_factory=lambda: {1: 0.0, 2: 0.0})
    examples: list[str] = field(default_factory=list)

    def add(self, stopped: Stopped, peace: Peace) -> None:
        """Count a run."""
        kind = "early" if stopped.is_early else str(stopped.ended.code)
        self.ends[kind] += 1
        times = len(stopped.sent)
        self.slowest[times] = max(self.slowest[times], stopped.ended.seconds)
        found = stopped.faults(peace)
        self.faults.update(found)
        if found and len(self.examples) < 5:
            said = f"{stopped.ended.said[-1500:]}\n...\n{stopped.again.said[-1500:]}"
            self.examples.append(f"{peace.command}, {stopped.sent}: {found}\n{said}")

    @property
    def stopped(self) -> int:
        """How often a signal came before the command was over."""
        return self.ends.total() - self.ends["0"]

    def figures(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "runs": self.ends.total(),
            "ends": dict(sorted(self.ends.items())),
            "slowest": {str(key): round(value, 2) for key, value in self.slowest.items()},
            "faults": dict(self.faults),
            "examples": self.examples,
        }


def in_peace(folder: Path, command: str, program: Callable[[], int] | None = None) -> Peace:
    """Run a command twice, as a fork and as a process of its own: what it takes and leaves.

    Raises:
        RuntimeError: If the two leave different bytes.
    """
    found, seconds = [], {}
    for fresh in (False, True):
        run = new_run(folder, "run", command)
        before = ending(run)
        own = fresh and program is None
        ended = needed(Run(WORDS[command].split(), run, fresh=own, program=program).wait())
        seconds[fresh] = ended.seconds
        found.append(ending(run))
    if others := differences(*found):
        raise RuntimeError(f"two runs of {command} in peace differ: {', '.join(others)}")
    return Peace(command, seconds, before, found[0])


def stop(
    folder: Path,
    peace: Peace,
    draw: random.Random,
    sent: list[int],
    *,
    fresh: bool = False,
    program: Callable[[], int] | None = None,
) -> Stopped:
    """Start a command, send signals at a random moment, then start it again."""
    folder = new_run(folder, "run", peace.command)
    words = WORDS[peace.command].split()
    run = Run(words, folder, fresh=fresh, program=program)
    time.sleep(draw.uniform(0, peace.seconds[fresh]))
    since = time.monotonic()
    for number in sent:
        run.kill(number)
        if len(sent) > 1:
            time.sleep(draw.uniform(0, BETWEEN))
    ended = run.wait(since)
    try:
        left = ending(folder)
    except (ValueError, OSError):
        left = None
    again = Run(words, folder, program=program).wait()
    return Stopped(sent, ended, left, again, ending(folder), fresh)


def signals(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Stop commands by signals."""
    draw, begin = random.Random(chosen.seed), time.monotonic()
    peaces = [in_peace(folder, command) for command in chosen.commands]
    found = {peace.command: Count() for peace in peaces}
    for point in track(range(MOST_TRIES * chosen.points), "signals"):
        for peace in peaces:
            count, late = found[peace.command], time.monotonic() - begin > 60 * chosen.minutes
            if late or count.stopped >= chosen.points:
                continue
            sent = [(signal.SIGTERM, signal.SIGINT)[point % 2]] * (1 + (point % 5 == 4))
            count.add(stop(folder, peace, draw, sent, fresh=point % 10 in (1, 6)), peace)
    each = {command: count.figures() for command, count in found.items()}
    return {
        "commands": len(each),
        "stopped": sum(count.stopped for count in found.values()),
        "least_of_a_command": min(count.stopped for count in found.values()),
        "wrong": sum(sum(one["faults"].values()) for one in each.values()),
        "ends": dict(sum((count.ends for count in found.values()), Counter())),
        "slowest_seconds": max(count.slowest[1] for count in found.values()),
        "slowest_of_two_signals": max(count.slowest[2] for count in found.values()),
        "each": each,
    }


def note_looks() -> None:
    """Leave a byte in a file for each photo that is looked at; called in the fork."""
    import sppnet.app.detect.outcomes as outcomes
    import sppnet.bulk.cluster as cluster
    import sppnet.bulk.rows as rows
    from sppnet.classification.transfer import features

    looks = os.open(LOOKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def note(*words: Any) -> Any:
            os.write(looks, b".")
            return function(*words)

        return note

    outcomes.detect_image = noting(outcomes.detect_image)
    features.decode_content = noting(features.decode_content)
    rows._row_of = noting(rows._row_of)
    cluster.PART_ROWS = PART_ROWS


def kill(folder: Path, peace: Peace, draw: random.Random) -> tuple[int, int, list[str]]:
    """Kill a command once or more, and let it end: kills, photos looked at, what is wrong.

    What was over before it was killed does not count: it looks at all photos again, as asked.
    """
    folder, kills = new_run(folder, "run", peace.command), 0
    words = WORDS[peace.command].split()
    while not kills or draw.random() < SECOND_KILLS:
        run = Run(words, folder, before=note_looks)
        time.sleep(draw.uniform(0, peace.seconds[False]))
        run.kill(signal.SIGKILL)
        if run.wait().code != -signal.SIGKILL or is_over(folder, peace):
            return kills, 0, again_of(folder, peace)
        kills += 1
    found = again_of(folder, peace)
    return kills, (folder / LOOKS).stat().st_size, found


def is_over(folder: Path, peace: Peace) -> bool:
    """Whether a command that was killed had written everything."""
    try:
        return not differences(ending(folder), peace.after)
    except (ValueError, OSError):
        return False


def again_of(folder: Path, peace: Peace) -> list[str]:
    """Run the words once more, in peace: what is wrong then."""
    ended = Run(WORDS[peace.command].split(), folder, before=note_looks).wait()
    found = [f"cannot go on: exit code {ended.code}"] if ended.code else []
    after = ending(folder)
    found += [f"other bytes: {name}" for name in differences(after, peace.after)]
    return found + [f"{count} times: {name}" for name, count in photos_in(folder / "out").items()]


def photos_in(out: Path) -> dict[str, int]:
    """Photos that the results do not have exactly once, and how often they have them."""
    from small_runs import rows_of

    names = list[str]()
    if (out / "rows").exists():
        names = [row["path"] for row in rows_of(out)]
    elif (out / "predictions.json").exists():
        images = json.loads((out / "predictions.json").read_text())["images"]
        names = [each["file"] for each in images]
    elif (out / "counts.csv").exists():
        lines = (out / "counts.csv").read_text().splitlines()[1:]
        names = [line.partition(",")[0] for line in lines]
    return {name: count for name, count in Counter(names).items() if count != 1}


def kills(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Kill predictions."""
    each: dict[str, dict[str, Any]] = {}
    draw, begin = random.Random(chosen.seed), time.monotonic()
    for command in chosen.commands:
        peace = in_peace(folder, command)
        run = new_run(folder, "run", command)
        needed(Run(WORDS[command].split(), run, before=note_looks).wait())
        photos = (run / LOOKS).stat().st_size
        times, runs, extra, most, wrong = 0, 0, 0, 0.0, Counter[str]()
        while times < chosen.points and time.monotonic() - begin < 60 * chosen.minutes:
            killed, looks, found = kill(folder, peace, draw)
            wrong.update(found)
            if looks:
                times, runs, extra = times + killed, runs + 1, extra + looks - photos
                most = max(most, (looks - photos) / killed)
        each[command] = {
            "photos": photos,
            "kills": times,
            "runs": runs,
            "looked_at_twice": extra,
            "most_of_a_kill": most,
            "faults": dict(wrong),
        }
    return {
        "kills": {command: one["kills"] for command, one in each.items()},
        "photos": {command: one["photos"] for command, one in each.items()},
        "looked_at_twice": {command: one["looked_at_twice"] for command, one in each.items()},
        "most_of_a_kill": {command: one["most_of_a_kill"] for command, one in each.items()},
        "wrong": sum(sum(one["faults"].values()) for one in each.values()),
        "each": each,
    }


def main() -> None:
    """Stop, print, and leave with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ways = {"signals": signals, "kills": kills}
    parser.add_argument("way", choices=list(ways))
    parser.add_argument("--points", type=int, default=50, help="Of each command.")
    parser.add_argument("--minutes", type=float, default=600.0, help="Begin no run after so many.")
    parser.add_argument("--commands", nargs="*", choices=list(WORDS), metavar="COMMAND")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    chosen = parser.parse_args()
    chosen.commands = chosen.commands or (WORDS if chosen.way == "signals" else PREDICTING)
    # Nothing has computed here yet, so there are no threads that a fork could lose.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    os.environ["OMP_NUM_THREADS"] = "1"  # torch has no other threads in a fork
    import_all()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        figures = ways[chosen.way](Path(folder), chosen)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    tell(figures, chosen.out)
    sys.exit(1 if figures["wrong"] else 0)


if __name__ == "__main__":
    main()
