r"""Peak memory of a detector's training, against the number of images.

    python benchmarks/training_memory.py --images 1000 10000

Draws scenes, trains a detector on so many images in a process of its own, and asks the system how
much memory that process had at most. Beyond ``--distinct`` scenes they come again, read from the
cache like any other. Regions have the 25,600 numbers of squeezenet1_1; the images are small, so
that the time is short. Leaves memory.json in the folder of ``--out``.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import torch

from sppnet.app.progress import track
from sppnet.detection import (
    DetectionConfig,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.storage import FeatureCache, write_json
from sppnet.storage.runs import environment

GOAL_BYTES = 4 * 2**30
SETTINGS = DetectionConfig(
    weights="none", imgsz=(128,), max_proposals=200, max_anchors=50, proposals="grid"
)


def train(folder: Path, count: int, results: "multiprocessing.Queue[dict[str, float]]") -> None:
    """Train on so many scenes, and say how much memory and time that took."""
    dataset = open_detection_dataset(folder, "train")
    images = tuple(islice(cycle(dataset.images), count))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        began = time.perf_counter()
        encoder = build_encoder(SETTINGS)
        cached = build_cached_features(SETTINGS, images, encoder, FeatureCache(cache))
        train_detector(cached, dataset.names, SETTINGS, track=track)
        seconds = time.perf_counter() - began
    objects = sum(len(image.boxes) for image in images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put({"images": count, "objects": objects, "peak_bytes": peak, "seconds": seconds})


def main() -> None:
    """Run the trainings and print their peaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--distinct", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("runs/training-memory"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = draw_detection_set(
            Path(name) / "scenes", options.distinct, splits={"train": 1.0}, track=track
        )
        context = multiprocessing.get_context("spawn")
        for count in options.images:
            results: multiprocessing.Queue[dict[str, float]] = context.Queue()
            process = context.Process(target=train, args=(folder, count, results))
            process.start()
            rows.append(results.get())
            process.join()
            print(json.dumps(rows[-1]), flush=True)
    reached = all(row["peak_bytes"] <= GOAL_BYTES for row in rows)
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"rows": rows, "goal_bytes": GOAL_BYTES, "reached": reached, **environment()}
    write_json(options.out / "memory.json", report)
    print(f"goal of 4 GiB: {'reached' if reached else 'missed'}")


if __name__ == "__main__":
    main()
