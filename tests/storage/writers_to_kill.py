"""Script that forks writers of records, models or runs and kills them; torch is loaded once.

Protocol: a line "WRITER<tab>FOLDER<tab>SECONDS" on stdin; the answer is one JSON line with what the
writer had acknowledged when SIGKILL reached it. "share<tab>FOLDER<tab>COUNT" runs COUNT writers on
one cache to their end and answers their exit codes; "share and kill<tab>FOLDER<tab>SECONDS" runs
eight, kills the last after SECONDS, and answers the same.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from sppnet.errors import UnusableFileError
from sppnet.storage import FeatureCache, RunFolder, load_model, save_model


def record(index: int) -> dict[str, torch.Tensor]:
    """What the cache holds under key ``index``: about 50 kB."""
    maps = torch.full((13, 31, 32), float(index))
    return {"map": maps, "size": torch.tensor([index, index + 1])}


def key_of(index: int) -> str:
    return FeatureCache.make_key(index=index)


def write_records(folder: Path, acknowledge: Callable[[int], None]) -> None:
    cache = FeatureCache(folder)
    for index in count():
        if key_of(index) not in cache:
            cache.put(key_of(index), record(index))
            acknowledge(index)


def write_models(folder: Path, acknowledge: Callable[[int], None]) -> None:
    model = folder / "model"
    try:
        first = load_model(model, "toy")[0]["index"] + 1
    except UnusableFileError:
        first = 0
    for index in count(first):
        save_model(model, "toy", {"index": index}, {"w": torch.full((3000,), float(index))})
        acknowledge(index)


def write_stages(folder: Path, acknowledge: Callable[[int], None]) -> None:
    with RunFolder.open(folder, "toy", {"levels": (1, 2)}, seed=3) as run:
        for index in count():
            with run.stage(f"stage {index % 10}"):
                run.mark_done(f"stage {index}")
            acknowledge(index)


WRITERS = {"records": write_records, "models": write_models, "stages": write_stages}


def trial(writer: str, folder: Path, seconds: float) -> list[int]:
    """Start a writer, kill it after a while, return what it acknowledged."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        WRITERS[writer](folder, lambda index: os.write(write_end, f"{index}\n".encode()))
    os.close(write_end)
    received = b""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([read_end], [], [], left)[0]:
            received += os.read(read_end, 65536)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while block := os.read(read_end, 65536):
        received += block
    os.close(read_end)
    return [int(line) for line in received.split(b"\n")[:-1]]


def share(folder: Path, processes: int) -> list[int]:
    """Let several processes fill and read one cache; they exit with their wrong answers."""
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            os._exit(use_cache(folder))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def share_and_kill(folder: Path, seconds: float) -> list[int]:
    """Let eight processes fill and read one cache, and kill the last of them after a while."""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os._exit(use_cache(folder))
        children.append(child)
    time.sleep(seconds)
    os.kill(children[-1], signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def use_cache(folder: Path) -> int:
    """Read or write 30 keys twice; count answers that are wrong."""
    cache, wrong = FeatureCache(folder), 0
    for index in [*range(30), *range(30)]:
        found = cache.get(key_of(index))
        if found is None:
            cache.put(key_of(index), record(index))
        elif not torch.equal(found["map"], record(index)["map"]):
            wrong += 1
    return wrong + cache.damaged


def main() -> None:
    for line in sys.stdin:
        task, folder, number = line.rstrip("\n").split("\t")
        if task == "share":
            answer = share(Path(folder), int(number))
        elif task == "share and kill":
            answer = share_and_kill(Path(folder), float(number))
        else:
            answer = trial(task, Path(folder), float(number))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
