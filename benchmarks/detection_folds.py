r"""Average precision over all images of a data set, each scored by a detector that never saw it.

    python benchmarks/detection_folds.py --data DIR --splits train test

The images of the splits are shuffled and divided into folds; each fold is scored by a detector that
learnt from the others. Few test photos tell little between settings; all photos tell more. Settings
other than the defaults come from a TOML file, as for ``sppnet detect train``. Windows and maps stay
in OUT/cache, so that several settings share them. Leaves NAME.json in the folder of ``--out``.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sppnet.app.progress import track
from sppnet.app.settings import load_settings
from sppnet.detection import (
    DetectionConfig,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.evaluation import summarise_detections
from sppnet.images import LabelledImage, open_detection_dataset
from sppnet.storage import FeatureCache, write_json
from sppnet.storage.runs import environment


def read_all(folder: Path, splits: list[str]) -> tuple[list[LabelledImage], tuple[str, ...]]:
    """Images of several splits, with the classes of the first."""
    first, *others = splits
    dataset = open_detection_dataset(folder, first)
    images = list(dataset.images)
    for split in others:
        images += open_detection_dataset(folder, split, names=dataset.names).images
    # splits of COCO may use an id twice
    return [replace(image, image_id=number) for number, image in enumerate(images)], dataset.names


def score_folds(
    images: list[LabelledImage],
    names: tuple[str, ...],
    settings: DetectionConfig,
    cache: FeatureCache,
    words: argparse.Namespace,
) -> dict[str, Any]:
    """Train and score fold by fold; average precision over all images together."""
    shuffle = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(images), generator=shuffle).tolist()
    found = {}
    for fold in range(words.folds):
        parts: tuple[list[LabelledImage], ...] = ([], [])
        for place, number in enumerate(order):
            parts[place % words.folds == fold].append(images[number])
        learnt, scored = parts
        encoder = build_encoder(settings, learnt)
        cached = build_cached_features(settings, learnt, encoder, cache)
        detector = train_detector(cached, names, settings, track=track)
        test = build_cached_features(
            settings, scored, detector.encoder, cache, anchors=detector.anchors
        )
        test.propose_all(track=track)
        for image, encoded, proposals in test.samples("detecting", track):
            found[image.image_id] = detector.detect(encoded, proposals)
    return summarise_detections(images, found, names)


def main() -> None:
    """Score, print and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", default=["train"])
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--config", type=Path, help="TOML file of settings")
    parser.add_argument("--name", default="folds", help="of the file that is written")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/detection-folds"))
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    settings = load_settings(DetectionConfig, words.config, {"seed": words.seed})
    images, names = read_all(words.data, words.splits)
    result = score_folds(images, names, settings, FeatureCache(words.out / "cache"), words)
    write_json(
        words.out / f"{words.name}.json",
        {**result, "images": len(images), "settings": asdict(settings), **environment()},
    )
    print(" ".join(f"{name} {result[name]:.3f}" for name in ("ap50", "ap75", "ap")))


if __name__ == "__main__":
    main()
