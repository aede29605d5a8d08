"""``sppnet detect train``, once without and once with kill -9 at many moments: DATA RUNS.

Every try is a fork of this process, which imports torch but never computes with it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import sppnet.app.detect.train  # noqa: F401 (the forks need not import torch again)
from sppnet.app.main import main

SMALL = [
    *("--backbone", "small5", "--weights", "none", "--proposals", "grid", "--imgsz", "160"),
    *("--max-anchors", "60", "--mirror", "off", "--crops", "off"),
]


def fork_training(data: Path, run: Path) -> int:
    """Start the command in a process of its own and return the process number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        words = ["detect", "train", str(data), *SMALL, "--max-proposals", "100"]
        os._exit(main([*words, "--threads", "1", "--out", str(run)]))
    return child


def kill_often(data: Path, runs: Path) -> dict[str, float]:
    """Train straight, then with kills early in the time that this took; the cache shortens it."""
    begin = time.monotonic()
    os.waitpid(fork_training(data, runs / "straight"), 0)
    whole = time.monotonic() - begin
    kills = 0
    for part in (0.15, 0.25, 0.35, 0.45, 0.55):
        child = fork_training(data, runs / "killed")
        time.sleep(part * whole)
        os.kill(child, signal.SIGKILL)  # a zombie may be killed too
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    _, status = os.waitpid(fork_training(data, runs / "killed"), 0)
    return {"kills": kills, "code": os.waitstatus_to_exitcode(status), "seconds": whole}


if __name__ == "__main__":
    report = kill_often(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(report) + "\n")
