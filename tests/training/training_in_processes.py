"""One of several processes that train together: JOB DATA OUT; RANK and WORLD_SIZE are set.

Leaves OUT/rank-N.pt with what this process ended with.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from sppnet.classification import (
    Augmentation,
    Checkpoints,
    InputSizes,
    Processes,
    SplitConfig,
    SppNet,
    TrainerConfig,
    TrainingImages,
    TrainingLog,
    build_classifier,
    join_processes,
    open_class_data,
    train_network,
)
from sppnet.classification.train.loader import Epoch
from sppnet.classification.train.trainer import add_gradients
from sppnet.pooling import SpatialPyramidPool

CONFIG = TrainerConfig(
    epochs=3,
    sizes=InputSizes.parse("natural:32"),
    batch=7,
    averaging=0.9,
    augmentation=Augmentation(colour_noise=0.2),
)
BATCHES = ([0, 1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11, 12])  # shards of 3 + 2, 1 + 0, 4 + 3 images


class Stop(Exception):
    pass


def plain_network(seed: int = 0) -> SppNet:
    """A network whose result for an image does not depend on its batch."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 5, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
    return SppNet(trunk, SpatialPyramidPool((1, 2)), nn.Linear(40, 4))


def normalised_network() -> SppNet:
    """A network that normalises by batches: each process by its own."""
    torch.manual_seed(0)
    return build_classifier("small5", 4, feature_norm=20.0)


def read(data: Path) -> tuple[TrainingImages, torch.Tensor]:
    """All images of the folder."""
    found = open_class_data(data, SplitConfig())
    return TrainingImages(found.paths, CONFIG.short_side), found.labels


def gradients(data: Path, processes: Processes) -> list[list[torch.Tensor]]:
    """Gradient, loss and right answers of each of the batches."""
    network, (images, labels) = plain_network(), read(data)
    epoch, found = Epoch(images, labels, CONFIG, 0), []
    for batch in map(torch.tensor, BATCHES):
        shard = epoch.micro_batches(processes.shard(batch))
        network.zero_grad()
        result = add_gradients(network, shard, len(batch), CONFIG, processes)
        figures = [torch.tensor(result.loss), torch.tensor(result.right)]
        found.append([p.grad.clone() for p in network.parameters()] + figures)
    return found


def train(
    network: SppNet, data: Path, out: Path, processes: Processes, stop: int | None = None
) -> dict[str, torch.Tensor]:
    """Train, or only some updates; a state is saved after every update."""

    def track(iterable, description, total=None):
        for count, number in enumerate(iterable):
            if count == stop:
                raise Stop
            yield number

    out.mkdir(exist_ok=True)
    train_network(
        network,
        *read(data),
        CONFIG,
        checkpoints=Checkpoints(out / "states", every_seconds=0),
        log=TrainingLog(out),
        processes=processes,
        track=track,
    )
    return network.state_dict()


def main(job: str, data: Path, out: Path) -> None:
    """Do a job together with the other processes."""
    torch.set_num_threads(1)
    with join_processes(torch.device("cpu")) as processes:
        if job == "everything":
            result: object = {
                "gradients": gradients(data, processes),
                # other first weights in every process: the first one's count
                "plain": train(plain_network(processes.rank), data, out / "plain", processes),
                "normalised": train(normalised_network(), data, out / "normalised", processes),
            }
        elif job == "until-5":
            try:
                result = train(plain_network(9), data, out, processes, stop=5)
            except Stop:
                result = None
        else:  # "lost": the second process ends early
            result = train(plain_network(), data, out, processes, stop=5 * processes.rank or None)
        torch.save(result, out / f"rank-{processes.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
