"""Small runs of every long command, forked or in processes of their own, and what they must leave.

``seeds.py``, ``stops.py`` and ``poor_places.py`` disturb these runs. A run has a folder of its own
beside the photos and models, and writes into ``out`` there. A fork of a process that has imported
everything and computed nothing is the command but for the two seconds that importing takes.
"""

import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "tests"))

TRUNK = "--backbone small5 --weights none"
DETECTOR = f"{TRUNK} --imgsz 96 --proposals grid --max-proposals 60 --no-box-regression"
WORDS = {
    "detect train": f"detect train ../scenes {DETECTOR} --no-anchors --out out",
    "detect val": "detect val model ../scenes --out out",
    "detect predict": "detect predict ../detector ../scenes/JPEGImages --out out",
    "classify fit": f"classify fit ../photos {TRUNK} --imgsz 32 --out out",
    "classify train": f"classify train ../photos {TRUNK} --imgsz 32 --epochs 6 --out out",
    "classify val": "classify val ../classifier ../photos --out out",
    "classify predict": "classify predict ../classifier ../photos --out out",
    "embed": "embed ../classifier ../photos --out out",
    "evaluate": "evaluate ../scenes ../detections.json --out out",
}
# what is imported before a run is forked: all that the commands need
MODULES = (
    "sppnet.app.main",
    *(f"sppnet.app.detect.{name}" for name in ("train", "val", "predict")),
    *(f"sppnet.app.classify.{name}" for name in ("fit", "train", "predict")),
    "sppnet.app.embed",
    "sppnet.app.evaluate",
    "sppnet.bulk.cluster",
    "pyarrow.parquet",
    "onnxruntime",
    "cv2",
)
OWN = re.compile(r"(^|/)(cache|unfinished|checkpoints)/|(^|/)(\.lock|run\.json|stages\.json)$")
TIMES = re.compile(r"\d[\d.]* (?:ms|s)\b|<svg [^>]*time per stage.*?</svg>", re.DOTALL)
UNTOLD, STAMPED = ("looked_at", "threads", "machine"), 6
PATIENCE = 120.0  # seconds until a run that does not end is killed
MOMENT = 0.002


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Args:
        code: Its exit code; -N if signal N killed it.
        seconds: From the start, or from what disturbed it.
        said: What it wrote, on both streams.
    """

    code: int
    seconds: float
    said: str


def prepare(folder: Path, per_class: int = 6, scenes: int = 16) -> None:
    """Draw photos and train a detector and a classifier on them, for the runs beside them."""
    from small_photos import draw_folders
    from sppnet.images import draw_detection_set

    draw_folders(folder / "photos", per_class)
    draw_detection_set(folder / "scenes", scenes, seed=0, splits={"train": 0.5, "test": 0.5})
    made = {"detector": "detect train", "classifier": "classify train"}
    for name, command in made.items():
        run = new_run(folder, f"making-{name}", command)
        needed(Run(WORDS[command].split(), run).wait())
        (run / "out" / "model").rename(folder / name)
    run = new_run(folder, "making-detections", "detect val")
    needed(Run(WORDS["detect val"].split(), run).wait())
    (run / "out" / "detections.json").rename(folder / "detections.json")


def needed(ended: Ended) -> Ended:
    """The end of a run that nothing disturbed.

    Raises:
        RuntimeError: If it went wrong.
    """
    if ended.code:
        raise RuntimeError(f"a run in peace ended with {ended.code}: {ended.said[-2000:]}")
    return ended


def new_run(folder: Path, name: str, command: str) -> Path:
    """An empty folder for a run, with what it changes in place."""
    run = folder / name
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    if command == "detect val":  # writes its operating point into the model
        shutil.copytree(folder / "detector", run / "model")
    return run


def import_all() -> None:
    """Import what the commands need, so that forks need not."""
    for name in MODULES:
        importlib.import_module(name)


class Run:
    """A command that runs.

    Args:
        words: After ``sppnet``.
        folder: Where it runs; what it says goes to ``said`` there.
        fresh: Whether in a Python of its own instead of a fork.
        program: What a fork does instead of the command; gives the exit code.
        variables: Of the environment of a fresh process.
        within: Words before ``python`` of a fresh process, such as those of setpriv.
        before: Called in the fork before the command.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        fresh: bool = False,
        program: Callable[[], int] | None = None,
        variables: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.said = folder / "said"
        self.begin = time.monotonic()
        if fresh:
            with self.said.open("wb") as file:
                command = [*within, sys.executable, "-m", "sppnet", *words]
                environment = {**os.environ, **(variables or {})}
                signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits it
                self.child = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                )
            self.pid = self.child.pid
        else:
            sys.stdout.flush()
            listens, ready = os.pipe()
            self.pid = os.fork()
            if not self.pid:
                _be(words, folder, program, before, ready)
            os.close(ready)
            os.read(listens, 1)  # so that no signal comes before it listens
            os.close(listens)
            self.begin = time.monotonic()

    def kill(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended, for nobody has waited for it yet."""
        os.kill(self.pid, number)

    def wait(self, since: float | None = None) -> Ended:
        """Wait until it ends, at most two minutes; the seconds count from ``since``."""
        since = self.begin if since is None else since
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            seconds = time.monotonic() - since
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return Ended(code, seconds, self.said.read_text(errors="replace"))
            if seconds > PATIENCE:
                self.kill(signal.SIGKILL)
            time.sleep(MOMENT)


def _be(
    words: Sequence[str],
    folder: Path,
    program: Callable[[], int] | None,
    before: Callable[[], None],
    ready: int,
) -> None:
    """Be the command, in a fork; never comes back."""
    code = 1
    try:
        from sppnet.app import main

        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)  # where something stands before them
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        before()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signals = main.StopSignals()
        signals.install()
        os.write(ready, b".")
        os.close(ready)
        run = main._run_until_stopped
        code = program() if program else run(list(words), signals)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ending(run: Path) -> dict[str, str]:
    """SHA-256 of every file that a run leaves for its user, without times.

    Caches, checkpoints, locks and the record of the run itself are left out. Of JSON, tables and
    pages what they say of seconds and threads is; of Parquet the rows count, in the order of their
    paths, and of JPEG the pixels.
    """
    files = (path for part in ("out", "model") for path in sorted((run / part).rglob("*")))
    named = {path.relative_to(run).as_posix(): path for path in files if path.is_file()}
    named = {name: path for name, path in named.items() if not OWN.search(name)}
    found = {name: _digest(path) for name, path in named.items() if path.suffix != ".parquet"}
    if len(found) < len(named):
        found["rows"] = hashlib.sha256(json.dumps(rows_of(run / "out")).encode()).hexdigest()
    return found


def _digest(path: Path) -> str:
    """SHA-256 of what a file says beside times."""
    data = path.read_bytes()
    if path.suffix == ".json":
        document = json.loads(data)
        if path.name == "manifest.json":
            del document["sha256"]  # of all that it says
        data = json.dumps(_timeless(document)).encode()
    elif path.suffix == ".jpg":  # its comment says on how many threads
        image = Image.open(path)
        data = f"{image.size}".encode() + image.tobytes()
    elif path.suffix == ".jsonl":
        data = json.dumps([_timeless(json.loads(line)) for line in data.splitlines()]).encode()
    elif path.name == "log.csv":  # its last column are the seconds
        data = b"\n".join(line.rpartition(b",")[0] for line in data.splitlines())
    elif path.suffix == ".html":
        data = TIMES.sub("", data.decode()).encode()
    return hashlib.sha256(data).hexdigest()


def _timeless(value: Any) -> Any:
    """A value of JSON without what it says of times and of the number of threads."""
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key not in UNTOLD}
        return {key: _timeless(each) for key, each in kept.items() if key[:7] != "seconds"}
    if isinstance(value, list) and len(value) == STAMPED and isinstance(value[-1], int):
        value = value[:-2]  # of a file that was learnt from: when it was changed
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def rows_of(out: Path) -> list[Any]:
    """The rows of Parquet below a folder for results, in the order of their paths."""
    from pyarrow import parquet

    parts = sorted((out / "rows").glob("*.parquet"))
    rows = [row for part in parts for row in parquet.ParquetFile(part).read().to_pylist()]
    rows = [{**row, "path": os.path.relpath(row["path"], out)} for row in rows]
    return sorted(rows, key=lambda row: row["path"])


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Names of files that are other ones, missing or too many."""
    return sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
