"""A small training, once without and once with kill -9 at many moments: DATA RUNS.

Every try is a fork of this process, which imports torch but never computes with it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from sppnet.classification import (
    Classifier,
    SplitRule,
    TrainingImages,
    TrainingPlan,
    View,
    build_classifier,
    open_class_data,
    train_network,
)
from sppnet.classification.checkpoints import Checkpoints


def train(data_folder: Path, run: Path, plan: TrainingPlan) -> None:
    """Train on everything and save the model."""
    torch.manual_seed(0)
    data = open_class_data(data_folder, SplitRule())
    images = TrainingImages(data.paths, plan.short_side)
    network = build_classifier("small5", 4, hidden=(8,), dropout=0.5, feature_norm=20.0)
    labels = data.labels[images.kept]
    train_network(network, images, labels, plan, checkpoints=Checkpoints(run / "checkpoints"))
    Classifier(network, View("full", 48), data.names).save(run / "model")


def fork_training(data_folder: Path, run: Path) -> int:
    """Start the training in a process of its own and return the process number."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        train(data_folder, run, TrainingPlan(epochs=8, sizes=(32, 40), batch=8))
        os._exit(0)
    return child


def main(data_folder: Path, runs: Path) -> None:
    """Train straight, then with kills after 10 to 35 % of the time that this took."""
    begin = time.monotonic()
    os.waitpid(fork_training(data_folder, runs / "straight"), 0)
    whole = time.monotonic() - begin
    kills = 0
    for part in (0.1, 0.2, 0.3, 0.15, 0.25, 0.35, 0.1):
        child = fork_training(data_folder, runs / "killed")
        time.sleep(part * whole)
        os.kill(child, signal.SIGKILL)  # a zombie may be killed too
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    os.waitpid(fork_training(data_folder, runs / "killed"), 0)
    sys.stdout.write(json.dumps({"kills": kills, "seconds": whole}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
