"""A program for tests: ``sppnet planted ENDING`` ends in the way its word says."""

import atexit
import errno
import hashlib
import logging
import sys
import time
import types
import warnings
from pathlib import Path

import typer

from sppnet.app import main
from sppnet.app.console import Tally, note, report_problems, say
from sppnet.app.options import Debug, Seed, command_app
from sppnet.app.progress import track
from sppnet.errors import (
    InputError,
    MissingPackageError,
    NothingUsableError,
    OutputError,
    Problem,
    UnusableFileError,
    UsageError,
)

ERRORS = {
    "usage": UsageError("--x must be 1, got 2"),
    "package": MissingPackageError("needs tea: pip install tea"),
    "nothing": NothingUsableError("no images in it", path="folder"),
    "model": UnusableFileError("not a model", path="run/model", code="E_CHECKSUM"),
    "output": OutputError("No space left on device", path="out/a.json"),
    "full": OSError(errno.ENOSPC, "No space left on device", "out/a.json"),
    "bug": RuntimeError("two\nlines"),
    "memory": MemoryError(),
    "onednn": RuntimeError("could not create a primitive"),
    "cpu": RuntimeError("[enforce fail at a.cpp:1] . DefaultCPUAllocator: not enough memory: you"),
    "cuda": RuntimeError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"),
    "enomem": OSError(12, "Cannot allocate memory"),
    "threads": RuntimeError("can't start new thread"),
    "rooms": FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    "hostile": InputError("\x1b[31mred", path="a\nb\udcff.jpg", code="E_FORMAT"),
}

app = command_app("End in a given way.")


@app.command()
def planted(ending: str, seed: Seed = 0, debug: Debug = False) -> None:
    """End in a given way."""
    if ending in ERRORS:
        raise ERRORS[ending]
    if ending == "some":
        count(["a", "bad", "c"])
    if ending == "all":
        count(["bad", "bad"])
    if ending == "problems":
        raise typer.Exit(report_problems([Problem("a.xml", "box is empty", "E_BOX", line=3)]))
    if ending == "warning":
        warnings.warn("first line\nsecond line", stacklevel=1)
    if ending == "log":
        logging.getLogger("sppnet.images").warning("%s", "first line\nsecond line")
    if ending == "lines":
        print_lines()
    if ending == "sleep":
        sleep()
    if ending == "sleep in a text":
        exec("sleep()", globals())  # as dataclasses do
    if ending == "compute":
        note("ready")
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 60_000_000)  # no signal is heeded meanwhile
    if ending == "sleep badly":
        try:
            sleep()
        except KeyboardInterrupt as stop:
            raise RecursionError("maximum recursion depth exceeded") from stop
    if ending == "sleep afterwards":
        atexit.register(sleep)
    say("over")


def count(names: list[str]) -> None:
    """Count inputs of which those called bad fail."""
    tally = Tally(listed=len(names))
    for name in track(names, "reading"):
        if name == "bad":
            tally.add_failed(InputError("the file is empty", path=name, code="E_EMPTY"))
        else:
            tally.add_ok()
    tally.finish()


def print_lines() -> None:
    """Say more than a pipe holds, and leave a mark that the end was reached."""
    for _ in range(5000):
        say("x" * 80)
    Path("end-reached").write_text("yes", encoding="utf-8")


def sleep() -> None:
    """Wait for a signal; save in order when it comes."""
    try:
        note("ready")
        time.sleep(30)
    finally:
        Path("saved").write_text("yes", encoding="utf-8")
        if Path("stubborn").exists():
            time.sleep(30)


if __name__ == "__main__":
    sys.modules["sppnet.app.planted"] = types.SimpleNamespace(app=app)  # type: ignore[assignment]
    main.COMMANDS["planted"] = "End in a given way."
    main.run()
