"""Pooling right after other parallel code in the same process, which has emptied the caches.

    python benchmarks/pooling_beside.py --threads 2

`sppnet benchmark pooling` calls a contender once before it times it. Here a convolution and a sum
over 96 MB come before every call, in torch's threads, which stay awake for milliseconds afterwards:
what a detector's pooling meets. Contenders take turns; milliseconds are medians with quartiles.
"""

import argparse
import time
from collections.abc import Callable
from statistics import quantiles

import torch
from torch.nn.functional import conv2d

from sppnet.app.benchmark.peers import draw_map, draw_regions, roi_pool_pyramid, rows_to_boxes
from sppnet.app.benchmark.timing import LEVELS
from sppnet.pooling import num_bins, pool_regions
from sppnet.progress import using_threads

REGIONS, SHAPE = 2_000, (256, 40, 60)
OURS, FILL, ROI_POOL = "ours, out= given", "out.fill_", "roi_pool per level + cat"
OTHERS = 24_000_000  # float32 of what the other code works on
SLOW = 10  # roi_pool has its turn in one of so many rounds


def prepare() -> dict[str, Callable[[], object]]:
    """Draw the map and the regions of the first case of the benchmark."""
    features, rows = draw_map((1, *SHAPE), 0), draw_regions(REGIONS, SHAPE[1:], 0)
    boxes, out = rows_to_boxes(rows), torch.empty(REGIONS, SHAPE[0] * num_bins(LEVELS))
    return {
        OURS: lambda: pool_regions(features, rows, LEVELS, out=out),
        FILL: lambda: out.fill_(1.0),
        ROI_POOL: lambda: roi_pool_pyramid(features, boxes, LEVELS),
    }


def work_on_other_things() -> Callable[[], object]:
    """Build what comes before each call."""
    memory, image, weights = (
        torch.zeros(OTHERS),
        torch.rand(1, 64, 60, 60),
        torch.rand(64, 64, 3, 3),
    )
    return lambda: (memory.add_(1), conv2d(image, weights))


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every call."""
    calls, others = prepare(), work_on_other_things()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            if name == ROI_POOL and turn % SLOW:
                continue
            others()
            start = time.perf_counter()
            call()
            samples[name].append(1000 * (time.perf_counter() - start))
    return samples


def main() -> None:
    """Print the medians, and the two ratios that count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    with using_threads(arguments.threads):
        samples = measure(arguments.rounds)
    medians = {}
    for name, values in samples.items():
        low, medians[name], high = quantiles(values, n=4, method="inclusive")
        print(f"{name:26} {medians[name]:8.2f} ({low:.2f} to {high:.2f}), least {min(values):.2f}")
    print(f"times as fast as roi_pool: {medians[ROI_POOL] / medians[OURS]:.1f}")
    print(f"times the fill: {medians[OURS] / medians[FILL]:.2f}")


if __name__ == "__main__":
    main()
