r"""Kills a small training at random moments and compares what it ends with, bit for bit.

    python benchmarks/kill_training.py --runs 50

Trains once in peace. Then, for every run, trains again in an empty folder, kills the process with
signal 9 at a random moment of the time that the training takes, starts it again, kills it now and
then once more, and lets it end. Every run has to end with the same SHA-256 of the weights and with
every epoch and update once in its log. The moments are spread over reading, updates, writing of
states and of the model. Every try is a fork of this process, which never computes itself. Needs
POSIX.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from sppnet.app.progress import track
from sppnet.classification import (
    Augmentation,
    Checkpoints,
    Classifier,
    InputSizes,
    SplitConfig,
    TrainerConfig,
    TrainingImages,
    TrainingLog,
    View,
    build_classifier,
    open_class_data,
    train_network,
)
from sppnet.images import draw_class_folders
from sppnet.storage import sha256_file

SAVE_SECONDS = 0.03  # an epoch takes a few times as long
SECOND_KILLS = 0.5  # share of the runs that are killed again
PLAN = TrainerConfig(
    epochs=6,
    sizes=InputSizes((32, 40)),
    batch=4,
    averaging=0.9,
    augmentation=Augmentation("paper"),
)


def train(data_folder: Path, run: Path) -> None:
    """Train on everything and save the model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = open_class_data(data_folder, SplitConfig())
    images = TrainingImages(data.paths, PLAN.short_side)
    network = build_classifier(
        "small5", len(data.names), hidden=(8,), dropout=0.5, feature_norm=20.0
    )
    run.mkdir(exist_ok=True)
    train_network(
        network,
        images,
        data.labels[images.kept],
        PLAN,
        checkpoints=Checkpoints(run / "checkpoints", SAVE_SECONDS),
        log=TrainingLog(run),
    )
    Classifier(network, View("full", 48), data.names).save(run / "model")


def start(data_folder: Path, run: Path) -> int:
    """Start the training in a process of its own and return the process number."""
    child = os.fork()
    if child == 0:
        train(data_folder, run)
        os._exit(0)
    return child


def finish(child: int) -> None:
    """Wait for a training that nobody kills."""
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a training that was not killed ended with status {status}")


def kill_after(child: int, seconds: float) -> bool:
    """Kill a process with signal 9, unless it has ended by then: whether it was killed."""
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)  # a process that ended and was not waited for may be killed too
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def ending(run: Path) -> tuple[str, list[tuple[int, int]]]:
    """SHA-256 of the weights, and the epochs and updates in the log."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    places = [(row["epoch"], row.get("update", -1)) for row in rows]
    return sha256_file(run / "model" / "model.safetensors"), places


def train_with_kills(data_folder: Path, run: Path, whole: float, draw: random.Random) -> int:
    """Train with at least one kill, and say how many there were."""
    kills = 0
    while not kills:
        shutil.rmtree(run, ignore_errors=True)
        kills = int(kill_after(start(data_folder, run), draw.uniform(0, whole)))
    if draw.random() < SECOND_KILLS:
        kills += kill_after(start(data_folder, run), draw.uniform(0, whole / 2))
    finish(start(data_folder, run))
    return kills


def main() -> None:
    """Compare all runs with the one in peace; ends with 1 if one differs."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=600.0, help="Begin no run after so many.")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    draw = random.Random(words.seed)
    # Nothing has computed here yet, so there are no threads that a fork could lose.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        data_folder, peace = Path(folder, "data"), Path(folder, "peace")
        draw_class_folders(data_folder, 8, words.seed)
        begin = time.monotonic()
        finish(start(data_folder, peace))
        whole = time.monotonic() - begin
        expected, same, kills, runs = ending(peace), 0, 0, 0
        for _ in track(range(words.runs), "runs that are killed"):
            if time.monotonic() - begin > 60 * words.minutes:
                break
            kills += train_with_kills(data_folder, Path(folder, "run"), whole, draw)
            same += ending(Path(folder, "run")) == expected
            runs += 1
    sys.stdout.write(
        f"{same} of {runs} runs end bit-identical to the run without a kill; "
        f"{kills} kills, {whole:.2f} s for a run in peace, SHA-256 {expected[0][:16]}\n"
    )
    sys.exit(same != runs or not runs)


if __name__ == "__main__":
    main()
