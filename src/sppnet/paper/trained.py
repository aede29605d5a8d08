"""Trains a network of the paper on class folders, in the paper's way."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sppnet.classification import (
    Classifier,
    TrainingImages,
    TrainingPlan,
    View,
    train_network,
)
from sppnet.classification.network import build_paper_network
from sppnet.classification.train.config import InputSizes
from sppnet.classification.views import BASE_SIDE
from sppnet.errors import Problem
from sppnet.paper.labelled import images_to_train
from sppnet.paper.slots import BACKBONES, Slot
from sppnet.paper.supplies import Supplies, Training
from sppnet.progress import Track
from sppnet.training.checkpoints import Checkpoints

RATE = 0.01


def train_slot(
    slot: Slot, root: Path, supplies: Supplies, track: Track
) -> tuple[Classifier, Sequence[Problem]]:
    """Train one network and keep it where the tables look for it.

    No SPP and single-size training see the largest size only, multi-size training all of them in
    turn. A run that was killed goes on from its last checkpoint.

    Args:
        slot: Which network, and how.
        root: Class folders.
        supplies: Where everything is; ``training`` says how.
        track: Shows the progress.

    Returns:
        The trained network, and what was wrong with files.

    Raises:
        ValueError: If ``supplies`` do not say how to train.

    Source:
        SPP-net, sections 2.3 and 3.1.
    """
    if supplies.training is None:
        raise ValueError("training must be given, got None")
    plan = slot_plan(slot, supplies.training, supplies.seed)
    dataset = images_to_train(root, supplies.seed)
    torch.manual_seed(supplies.seed)
    network = build_paper_network(
        BACKBONES[slot.network],
        len(dataset.names),
        spp=slot.kind != "no-spp",
        hidden=supplies.training.hidden,
    ).to(supplies.device)
    photos = TrainingImages(dataset.paths, plan.short_side, track=track)
    folder = supplies.models_folder / slot.name
    checkpoints = Checkpoints(folder / "checkpoints")
    labels = dataset.labels[photos.kept]
    train_network(network, photos, labels, plan, checkpoints=checkpoints, track=track)
    about = {"command": "reproduce", "settings": {"epochs": plan.epochs, "kind": slot.kind}}
    classifier = Classifier(
        network, View("full", BASE_SIDE), dataset.names, seen=photos.digests, about=about
    )
    classifier.save(folder / "model")
    return classifier, (*dataset.problems, *photos.problems)


def slot_plan(slot: Slot, training: Training, seed: int) -> TrainingPlan:
    """Turn a kind of training into a plan.

    Example:
        >>> slot_plan(Slot("ZF-5", "single"), Training(epochs=2), seed=0).crop
        224
    """
    sizes = training.sizes if slot.kind == "multi" else (max(training.sizes),)
    return TrainingPlan(
        epochs=training.epochs,
        sizes=InputSizes(sizes),
        batch=training.batch,
        rate=RATE,
        seed=seed,
    )
