r"""Frozen trunk against one that is fine-tuned through the pooling: average precision and seconds.

    python benchmarks/finetuning.py --data DIR --data DIR2 --threads 2

On the same photos and proposals: SVMs and ridge regression on the maps of the frozen trunk; the
same on the maps of the tuned trunk; and the softmax and box regression that were tuned with it.
The tuning sees the split "train" only and chooses its best state on a part of it; all are scored on
the split "test". Seconds are those of training, from proposals that are there. A run that is
stopped goes on. Writes OUT/finetuning.json and .md and prints the table.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sppnet.app.progress import track
from sppnet.classification import Checkpoints
from sppnet.detection import (
    CachedFeatures,
    DetectionConfig,
    Detector,
    Encoder,
    build_encoder,
    train_detector,
)
from sppnet.detection.finetune.network import NetworkTuningConfig, TunedNetwork, tune_network
from sppnet.detection.heads.classifiers import SoftmaxRegionClassifier
from sppnet.evaluation import evaluate_detections
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.storage import FeatureCache, write_json, write_text
from sppnet.storage.runs import environment
from sppnet.training.optimizers import OptimizerConfig

FROZEN, TUNED, JOINT = "frozen, SVM and ridge", "tuned, SVM and ridge", "tuned, softmax and boxes"


class Comparison:
    """One data set."""

    def __init__(self, folder: Path, words: argparse.Namespace) -> None:
        self.train, self.test = (open_detection_dataset(folder, part) for part in ("train", "test"))
        self.out = words.out / folder.name
        self.config = DetectionConfig(
            backbone=words.backbone,
            imgsz=(words.imgsz,),
            proposals=words.proposals,
            max_proposals=words.windows,
            anchors=False,  # the same proposals for all
        )
        self.plan = NetworkTuningConfig(
            updates=words.updates,
            trainable_from=words.trainable_from,
            optimizer=OptimizerConfig(words.rate),
            mixed_precision=words.amp,
        )

    def run(self) -> dict[str, dict[str, Any]]:
        """Train and score all three."""
        encoder = build_encoder(self.config)
        self._prepare(self.train, encoder).propose_all(track=track)
        rows = {FROZEN: self._score(*self._fit(encoder))}
        begin = time.perf_counter()
        tuned = self._tune(encoder)
        # of a run that went on, the seconds of the part before are in the history
        seconds = max(time.perf_counter() - begin, sum(row["seconds"] for row in tuned.history))
        detector, more = self._fit(tuned.encoder)
        rows[TUNED] = self._score(detector, seconds + more)
        parts = (
            SoftmaxRegionClassifier(tuned.head),
            tuned.boxes,
            self.train.names,
            detector.inference,
        )
        rows[JOINT] = self._score(Detector(tuned.encoder, *parts), seconds)
        return rows

    def _prepare(self, dataset: DetectionDataset, encoder: Encoder) -> CachedFeatures:
        """Proposals and maps of a split, kept on disk."""
        cache, config = FeatureCache(self.out / "cache"), self.config
        images: tuple[LabelledImage, ...] = dataset.images
        return CachedFeatures(images, encoder, cache, config.proposals, config.max_proposals)

    def _fit(self, encoder: Encoder) -> tuple[Detector, float]:
        """Fit SVMs and box regressions, and say in how many seconds."""
        begin = time.perf_counter()
        cached = self._prepare(self.train, encoder)
        detector = train_detector(cached, self.train.names, self.config, track=track)
        return detector, time.perf_counter() - begin

    def _tune(self, encoder: Encoder) -> TunedNetwork:
        """Fine-tune trunk and head, or go on with it."""
        return tune_network(
            self.train.images,
            encoder,
            len(self.train.names),
            self.plan,
            self._prepare(self.train, encoder).propose,
            checkpoints=Checkpoints(self.out / "checkpoints"),
            track=track,
        )

    def _score(self, detector: Detector, seconds: float) -> dict[str, Any]:
        """AP50 and AP75 on the test split."""
        cached = self._prepare(self.test, detector.encoder)
        found = {}
        for image in track(self.test.images, "detecting"):
            encoded = detector.encode(image.load())
            found[image.image_id] = detector.detect(encoded, cached.propose(image))
        precision = {
            name: evaluate_detections(
                self.test.images, found, self.test.names, metric="area", iou_threshold=threshold
            ).mean_ap
            for name, threshold in (("ap50", 0.5), ("ap75", 0.75))
        }
        return {**precision, "seconds": seconds}


def to_markdown(result: dict[str, Any]) -> str:
    """Write the table as Markdown."""
    lines = [
        "| data | detector | AP50 | AP75 | seconds to train |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for data, rows in result["data"].items():
        for name, row in rows.items():
            scores = f"{row['ap50']:.3f} | {row['ap75']:.3f} | {row['seconds']:.0f}"
            lines.append(f"| {data} | {name} | {scores} |")
    return "\n".join([*lines, ""])


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    plan = NetworkTuningConfig()
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--imgsz", type=int, default=600)
    parser.add_argument("--proposals", default="graph+grid")
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--updates", type=int, default=plan.updates)
    parser.add_argument("--trainable-from", default=plan.trainable_from)
    parser.add_argument("--rate", type=float, default=plan.optimizer.rate)
    parser.add_argument("--amp", action="store_true", help="Convolve in bfloat16 while tuning.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-finetuning"))
    return parser.parse_args()


def main() -> None:
    """Run the comparison."""
    words = read_arguments()
    torch.set_num_threads(words.threads)
    words.out.mkdir(parents=True, exist_ok=True)
    plans = {folder.name: Comparison(folder, words) for folder in words.data}
    result = {
        "plan": {name: asdict(each.plan) for name, each in plans.items()},
        "surroundings": environment(),
        "data": {name: each.run() for name, each in plans.items()},
    }
    write_json(words.out / "finetuning.json", result)
    write_text(words.out / "finetuning.md", to_markdown(result))
    sys.stdout.write(to_markdown(result))


if __name__ == "__main__":
    main()
