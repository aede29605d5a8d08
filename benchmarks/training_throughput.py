r"""Images per second of training on images of many shapes: grouped by size, padded, one by one.

    python benchmarks/training_throughput.py --data DIR --backbone squeezenet1_1 --threads 2

Every way trains the same network on the same images, decoded beforehand, the short side 224, with
the same number of images in an update:

- ``buckets``: what ``--imgsz natural`` does: equal sizes together, nothing padded.
- ``padded``: a shuffled batch, every image padded to the largest height and width of its batch, and
  the pyramid told which cells count.
- ``one by one``: every image in its own shape alone, gradients added up over the batch.
- ``updates of one``: every image in its own shape alone, and an update after each.

Ways take turns over the same number of images; the figures are medians of the rounds, by the clock
and by the processors' time, which other programs disturb less. Writes OUT/training_throughput.json
and prints the table.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from sppnet.app.progress import track
from sppnet.backbones import build_backbone
from sppnet.classification import (
    InputSizes,
    Processes,
    SplitConfig,
    SppNet,
    TrainerConfig,
    TrainingImages,
    build_classifier,
    open_class_data,
)
from sppnet.classification.train.loader import Epoch, MicroBatch, prepare_ahead
from sppnet.classification.train.trainer import (
    CLIP_NORM,
    add_gradients,
    build_network_optimizer,
)
from sppnet.pooling import spatial_pyramid_pool
from sppnet.storage import write_json
from sppnet.training.optimizers import OptimizerConfig, clip_and_step

ALONE = Processes()
GOAL = 2.0


class Contest:
    """One network, one data set, and the ways to show the images to it."""

    def __init__(self, words: argparse.Namespace) -> None:
        data = open_class_data(words.data, SplitConfig())
        sizes = InputSizes((words.imgsz,), natural=True)
        self.plan = TrainerConfig(
            sizes=sizes,
            batch=words.batch,
            optimizer=OptimizerConfig(1e-4),
            mixed_precision=words.amp,
        )
        self.images = TrainingImages(data.paths, words.imgsz, memory_limit=1 << 36, track=track)
        self.labels = data.labels[self.images.kept]
        torch.manual_seed(0)
        backbone = build_backbone(words.backbone)
        self.network = build_classifier(
            backbone, len(data.names), hidden=words.hidden, feature_norm=20.0
        )
        self.network.to(words.device).train()
        self.device = torch.device(words.device)
        self.optimizer = build_network_optimizer(self.network, self.plan)
        self.workers = words.workers

    def batches(self, way: str, updates: int, number: int) -> list[Tensor]:
        """Positions of the images of some updates: in groups of one size, or shuffled."""
        epoch = Epoch(self.images, self.labels, self.plan, number)
        if way == "buckets":
            return list(islice(cycle(epoch.batches), updates))
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(number))
        size = 1 if way == "updates of one" else self.plan.batch
        return list(islice(cycle(order.split(size)), updates * self.plan.batch // size))

    def run(self, way: str, updates: int, number: int) -> tuple[float, float]:
        """Do some updates one way: images per second of the clock, and of all processors."""
        epoch = Epoch(self.images, self.labels, self.plan, number)
        chosen = self.batches(way, updates, number)
        show: Callable[[list[MicroBatch]], None] = {
            "padded": self._padded,
            "one by one": self._one_by_one,
        }.get(way, self._grouped)
        begin, begin_busy = time.perf_counter(), time.process_time()
        for micro_batches in prepare_ahead(epoch.micro_batches, chosen, self.workers):
            show(micro_batches)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        count = sum(map(len, chosen))
        busy = time.process_time() - begin_busy
        return count / (time.perf_counter() - begin), count / busy

    def _grouped(self, micro_batches: list[MicroBatch]) -> None:
        count = sum(len(each.labels) for each in micro_batches)
        self._update(micro_batches, count)

    def _one_by_one(self, micro_batches: list[MicroBatch]) -> None:
        images = [image[None] for each in micro_batches for group in each.groups for image in group]
        labels = torch.cat([each.labels for each in micro_batches]).split(1)
        single = [
            MicroBatch([image.contiguous(memory_format=torch.channels_last)], label)
            for image, label in zip(images, labels, strict=True)
        ]
        self._update(single, len(single))

    def _update(self, shard: list[MicroBatch], count: int) -> None:
        self.optimizer.zero_grad()
        add_gradients(self.network, shard, count, self.plan, ALONE)
        clip_and_step(self.network, self.optimizer, CLIP_NORM)

    def _padded(self, micro_batches: list[MicroBatch]) -> None:
        images, sizes = pad_to_largest([group for each in micro_batches for group in each.groups])
        labels = torch.cat([each.labels for each in micro_batches]).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.mixed_precision):
            logits = padded_logits(self.network, images.to(self.device), sizes)
        cross_entropy(logits.float(), labels).backward()
        self.optimizer.step()


def pad_to_largest(groups: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Put images of many sizes into one batch: (N, 3, H, W) and the size of each."""
    height, width = (max(group.shape[side] for group in groups) for side in (2, 3))
    padded = [
        pad(group, (0, width - group.shape[3], 0, height - group.shape[2])) for group in groups
    ]
    sizes = [(group.shape[2], group.shape[3]) for group in groups for _ in group]
    return torch.cat(padded).contiguous(memory_format=torch.channels_last), sizes


def padded_logits(network: SppNet, images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """What users of padding do: convolve the whole batch, pool the cells of each image."""
    backbone: Any = network.backbone
    cells = [backbone.grid_hw(size) for size in sizes]
    pool: Any = network.pool
    logits: Tensor = network.head(
        spatial_pyramid_pool(backbone(images), pool.levels, sizes_hw=cells)
    )
    return logits


WAYS = ("buckets", "padded", "one by one", "updates of one")


def measure(contest: Contest, rounds: int, updates: int) -> dict[str, list[tuple[float, float]]]:
    """Images per second of every way in every round; a round before does not count."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in track(range(rounds + 1), "rounds"):
        for way in WAYS:
            speed = contest.run(way, updates, number)
            if number:
                found[way].append(speed)
    return found


def pixels_shown(contest: Contest) -> dict[str, float]:
    """Pixels per image that are convolved, in buckets and padded."""
    shown = {}
    sizes = torch.tensor(contest.images.natural_sizes(contest.plan.crop))
    for way in ("buckets", "padded"):
        batches = contest.batches(way, -(-len(sizes) // contest.plan.batch), 0)
        each = [sizes[batch] for batch in batches]
        counts = [len(s) * s.amax(0).prod() if way == "padded" else s.prod(1).sum() for s in each]
        shown[way] = float(sum(counts)) / sum(map(len, batches))
    return shown


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--hidden", type=int, nargs="*", default=[], help="the paper: 4096 4096")
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--updates", type=int, default=6, help="updates in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-training"))
    return parser.parse_args()


def main() -> None:
    """Measure, write and say."""
    words = read_arguments()
    torch.set_num_threads(words.threads)
    contest = Contest(words)
    found = measure(contest, words.rounds, words.updates)
    clock, busy = ({w: median(v[i] for v in found[w]) for w in WAYS} for i in (0, 1))
    ratios, busy_ratios = ({w: s["buckets"] / s[w] for w in WAYS} for s in (clock, busy))
    about = {name: value for name, value in vars(words).items() if name not in ("data", "out")}
    about |= {"images": len(contest.images), "torch": torch.__version__}
    about |= {"machine": platform.platform(), "processors": platform.processor()}
    lines = ["| way | images/s | buckets are faster by | by processor time |"]
    lines += ["| --- | --- | --- | --- |"]
    lines += [f"| {w} | {clock[w]:.2f} | {ratios[w]:.2f} | {busy_ratios[w]:.2f} |" for w in WAYS]
    lines += [f"goal: {GOAL:g} over padded or updates of one", f"pixels: {pixels_shown(contest)}"]
    sys.stdout.write("\n".join(lines) + "\n")
    words.out.mkdir(parents=True, exist_ok=True)
    results = {"rounds": found, "images_per_second": clock, "ratio": ratios, "goal": GOAL}
    results |= {"ratio_of_processor_time": busy_ratios, "pixels_per_image": pixels_shown(contest)}
    write_json(words.out / "training_throughput.json", {"about": about, **results})


if __name__ == "__main__":
    main()
