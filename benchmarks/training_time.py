r"""Seconds of a whole detector's training against those of one epoch of a usual detector.

    python benchmarks/training_time.py --data DIR --threads 2

Ours: from nothing cached to a saved model, proposals included, with the default settings. The
peer: torchvision's Faster R-CNN with MobileNetV3 at 320 pixels, weights random (the time is the
same), batches of 2 on the same decoded photos; a part of the epoch is timed and scaled up. Such
detectors need tens of epochs. Leaves training_time.json in the folder of ``--out``.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from sppnet.app.progress import track
from sppnet.detection import (
    DetectionConfig,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.images import DetectionDataset, open_detection_dataset
from sppnet.storage import FeatureCache, Stages, write_json
from sppnet.storage.runs import environment

BATCH = 2
WARM_UP = 2  # batches


def time_ours(dataset: DetectionDataset, threads: int) -> dict[str, float]:
    """Train and save; seconds by stage."""
    settings, stages = DetectionConfig(), Stages()
    with tempfile.TemporaryDirectory() as name, stages.stage("total"):
        encoder = build_encoder(settings, dataset.images)
        cache = FeatureCache(Path(name) / "cache")
        cached = build_cached_features(settings, dataset.images, encoder, cache)
        detector = train_detector(
            cached, dataset.names, settings, workers=threads, track=track, stage=stages.stage
        )
        detector.save(Path(name) / "model")
    return stages.seconds()


def time_epoch(dataset: DetectionDataset, batches: int) -> float:
    """Seconds of one epoch of the peer, from some of its batches."""
    torch.manual_seed(0)
    peer = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=len(dataset.names) + 1
    ).train()
    optimizer = torch.optim.SGD(peer.parameters(), lr=1e-3)
    images = [image for image in dataset if len(image.boxes)]
    steps = [images[i : i + BATCH] for i in range(0, len(images) - BATCH + 1, BATCH)]
    began = 0.0
    chosen = steps[: batches + WARM_UP]
    for number, step in enumerate(track(chosen, "timing the peer", total=len(chosen))):
        if number == WARM_UP:
            began = time.perf_counter()
        photos = [image.load() for image in step]
        targets = [{"boxes": image.boxes.float(), "labels": image.labels + 1} for image in step]
        losses: dict[str, torch.Tensor] = peer(photos, targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    per_image = (time.perf_counter() - began) / (BATCH * (len(chosen) - WARM_UP))
    return per_image * len(images)


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=20, help="of the peer that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/training-time"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = open_detection_dataset(options.data, options.split)
    ours = time_ours(dataset, options.threads)
    epoch = time_epoch(dataset, options.batches)
    result = {
        "images": len(dataset),
        "threads": options.threads,
        "seconds": ours,
        "peer_epoch_seconds": epoch,
        "share_of_an_epoch": ours["total"] / epoch,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "training_time.json", {**result, **environment()})
    for name, seconds in ours.items():
        print(f"{name:12} {seconds:8.1f} s")
    print(f"one epoch of the peer {epoch:.1f} s: ours is {ours['total'] / epoch:.2f} of it")


if __name__ == "__main__":
    main()
