"""One of several processes that fine-tune a detector's network: JOB DATA OUT; RANK is set.

Leaves OUT/rank-N.pt with what this process ended with.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sppnet.backbones import build_backbone
from sppnet.detection import Encoder, propose
from sppnet.detection.assign import SamplingConfig
from sppnet.detection.finetune.network import (
    NetworkTask,
    NetworkTuningConfig,
    build_region_network,
    build_sampler,
    standardise,
    tune_network,
)
from sppnet.images import LabelledImage, open_detection_dataset
from sppnet.training.checkpoints import Checkpoints, TrainingLog
from sppnet.training.distributed import Processes, join_processes
from sppnet.training.optimizers import OptimizerConfig

# dropout draws other numbers in each process, so that there is none to compare with
CONFIG = NetworkTuningConfig(
    updates=8,
    check_every=4,
    sampling=SamplingConfig(batch=48),
    images_per_update=3,  # shares of 2 and 1
    widths=(16, 16),
    dropout=0.0,
    optimizer=OptimizerConfig(0.02),
    validation_fraction=0.3,
)


class Stop(Exception):
    pass


def encoder(seed: int) -> Encoder:
    """A trunk of random weights."""
    torch.manual_seed(seed)
    return Encoder(build_backbone("small5"), (96,), levels=(1, 2))


@functools.cache
def proposals(image: LabelledImage) -> Tensor:
    """A grid."""
    return propose(image.load(), "grid", 100)


def gradients(data: Path, processes: Processes) -> list[list[Tensor]]:
    """Gradient, loss and right answers of some updates, and the validation loss."""
    dataset = open_detection_dataset(data, "train")
    images, count = dataset.images, len(dataset.names)
    network = build_region_network(encoder(0), count, CONFIG)
    sampler = build_sampler(images[:5], network.encoder, count, CONFIG, proposals)
    standardise(network, sampler)
    task, found = NetworkTask(network, sampler, images[5:8], CONFIG, processes), []
    for step in range(3):
        network.zero_grad()
        batch = sampler.draw(step, processes)
        if step == 1 and processes.count > 1 and not processes.is_first:
            batch = []  # as where its only image has no proposals
        if step == 1 and processes.count == 1:
            batch = batch[:2]
        result = task.add_gradients(batch, step)
        assert result is not None
        figures = [torch.tensor(result.loss), torch.tensor(result.right)]
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None] + figures)
    assert task.add_gradients([], 3) is None
    return [*found, [torch.tensor(task.validation_loss())]]


def tune(
    data: Path, out: Path, processes: Processes, seed: int = 0, stop: int | None = None
) -> dict[str, Tensor]:
    """Fine-tune, or only some updates; a state is saved after every update."""

    def track(steps, description, total=None):
        for number in steps:
            if number == stop:
                raise Stop
            yield number

    out.mkdir(exist_ok=True)
    dataset = open_detection_dataset(data, "train")
    tuned = tune_network(
        dataset.images,
        encoder(seed),
        len(dataset.names),
        replace(CONFIG, seed=seed),
        proposals,
        checkpoints=Checkpoints(out / "states", every_seconds=0),
        log=TrainingLog(out),
        track=track,
        processes=processes,
    )
    losses = torch.tensor([row["validation_loss"] for row in tuned.history])
    trunk, boxes = tuned.encoder.backbone.state_dict(), tuned.boxes.tensors()
    return {**trunk, **tuned.head.state_dict(), **boxes, "validation": losses}


def main(job: str, data: Path, out: Path) -> None:
    """Do a job together with the other processes."""
    torch.set_num_threads(1)
    with join_processes(torch.device("cpu")) as processes:
        jobs: dict[str, Callable[[], object]] = {
            "everything": lambda: {
                "gradients": gradients(data, processes),
                "tuned": tune(data, out / "tuned", processes),
            },
            "until-5": lambda: tune(data, out, processes, stop=5),
            "lost": lambda: tune(data, out, processes, stop=5 * processes.rank or None),
        }
        try:
            result = jobs[job]()
        except Stop:
            if job == "lost":
                raise
            result = None
        torch.save(result, out / f"rank-{processes.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
