r"""Seconds of a whole detector's training against those of one epoch of a usual detector.

    python benchmarks/training_time.py --data DIR --threads 2
    python benchmarks/training_time.py --data DIR --photos 24 --megapixels 12 --batches 0

Ours: from nothing cached to a saved model, proposals included, with the default settings. The
peer: torchvision's Faster R-CNN with MobileNetV3 at 320 pixels, weights random (the time is the
same), batches of 2 on the same decoded photos; a part of the epoch is timed and scaled up. Such
detectors need tens of epochs. ``--batches 0`` leaves it out. ``--megapixels`` enlarges the photos
first, as large as those of a phone. Leaves training_time.json in the folder of ``--out``.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from sppnet.app.progress import track
from sppnet.detection import (
    DetectionConfig,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.storage import FeatureCache, Stages, write_json
from sppnet.storage.runs import environment

BATCH = 2
Images = tuple[LabelledImage, ...]
WARM_UP = 2  # batches


def enlarge(images: Images, megapixels: float, folder: Path) -> Images:
    """Write photos as JPEGs of another size, their boxes with them."""
    made = list[LabelledImage]()
    for number, image in enumerate(images):
        with Image.open(image.path) as opened:
            picture = opened.convert("RGB")
        factor = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
        width, height = round(factor * picture.width), round(factor * picture.height)
        path = folder / f"{number}.jpg"
        picture.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=92)
        zoom = torch.tensor([width / image.size_hw[1], height / image.size_hw[0]]).repeat(2)
        boxes = image.boxes * zoom
        size = {"size_hw": (height, width), "stated_boxes": None, "areas": None}
        made.append(replace(image, path=path, boxes=boxes, **size))
    return tuple(made)


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
    parser.add_argument("--photos", type=int, help="at most so many of the split")
    parser.add_argument("--megapixels", type=float, help="of a photo; as it is if not given")
    parser.add_argument("--batches", type=int, default=20, help="of the peer that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/training-time"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = open_detection_dataset(options.data, options.split)
    with tempfile.TemporaryDirectory() as name:
        images = dataset.images[: options.photos]
        if options.megapixels:
            images = enlarge(images, options.megapixels, Path(name))
        dataset = replace(dataset, images=images)
        ours = time_ours(dataset, options.threads)
        epoch = time_epoch(dataset, options.batches) if options.batches else None
    result = {
        "images": len(dataset),
        "megapixels": options.megapixels,
        "threads": options.threads,
        "seconds": ours,
        "peer_epoch_seconds": epoch,
        "share_of_an_epoch": epoch and ours["total"] / epoch,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "training_time.json", {**result, **environment()})
    for name, seconds in ours.items():
        print(f"{name:12} {seconds:8.1f} s")
    if epoch:
        print(f"one epoch of the peer {epoch:.1f} s: ours is {ours['total'] / epoch:.2f} of it")


if __name__ == "__main__":
    main()
