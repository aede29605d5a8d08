r"""Watches what the readers open, start and connect to while they are fed spoilt files: id F2.

    python benchmarks/reliability/audit.py --inputs 400

An audit hook of Python (``sys.addaudithook``) sees every file that is opened, every connection,
every program that is started, every piece of code that is compiled or unpickled, while spoilt
images, annotations, proposals, detections and models of ``benchmarks/fuzz.py`` are read. Files may
be opened in the folder of the inputs and in those of the installation only; nothing may be
connected, started or unpickled. Prints JSON; the last line of the hook's own check is a planted
connection that it has to see.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from fuzz_kinds import KINDS
from sppnet.errors import SppnetError

FORBIDDEN = (
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.startfile",
    "pickle.find_class",
    "urllib.Request",
)
WARM = 5


class Watch:
    """The hook: it counts what must not be while it watches."""

    def __init__(self) -> None:
        self.roots: tuple[str, ...] = ()
        self.seen: Counter[str] = Counter()
        self.opened = 0
        self.watches = False

    def __call__(self, event: str, words: tuple[Any, ...]) -> None:
        """Look at one event."""
        if not self.watches:
            return
        if event in FORBIDDEN:
            self.seen[f"{event} {words[:1]}"[:120]] += 1
        elif event == "open" and isinstance(words[0], str | bytes):
            self.opened += 1
            path = os.path.abspath(os.fsdecode(words[0]))  # noqa: PTH100
            if not path.startswith(self.roots):
                self.seen[f"open {path}"[:120]] += 1


def read_all(watch: Watch, folder: Path, inputs: int, seed: int) -> dict[str, int]:
    """Read spoilt inputs of every kind."""
    counts = {}
    for name in KINDS:
        place = folder / name
        place.mkdir()
        kind = KINDS[name](place, None)
        for number in range(inputs + WARM):
            with contextlib.suppress(OSError):
                kind.make(random.Random(f"{seed} {number}"))
            watch.watches = number >= WARM  # what is imported first comes from the installation
            with contextlib.suppress(SppnetError):
                kind.read()
            watch.watches = False
        counts[name] = inputs
    return counts


def main() -> None:
    """Read, print, and leave with 1 if anything was done that must not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=400, help="Of each kind.")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    watch = Watch()
    sys.addaudithook(watch)
    with tempfile.TemporaryDirectory() as name:
        installed = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sys.prefix}
        source = str(Path(__file__).parents[2])
        # imports look into Python's zip, and libraries count the processors
        installed |= {part for part in sys.path if part.endswith(".zip")} | {"/proc/stat"}
        watch.roots = (os.path.realpath(name), name, *installed, source, "/dev/null", "/usr/share")
        inputs = read_all(watch, Path(name), chosen.inputs, chosen.seed)
    wrong, opened = dict(watch.seen), watch.opened
    watch.seen.clear()
    watch.watches = True
    with contextlib.suppress(OSError), socket.socket() as line:
        line.connect(("127.0.0.1", 9))
    watch.watches = False
    sees = any(event.startswith("socket.connect") for event in watch.seen)
    found = {"inputs": inputs, "files_opened": opened, "wrong": sum(wrong.values())}
    found |= {"kinds": wrong, "sees_a_planted_connection": sees}
    print(json.dumps(found, indent=1))
    sys.exit(1 if wrong or not sees else 0)


if __name__ == "__main__":
    main()
