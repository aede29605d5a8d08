r"""Seconds per image of detection, stage by stage: SPP-net's way against R-CNN's and others.

    python benchmarks/detection_speed.py --data DIR --backbone squeezenet1_1 --threads 2
    python benchmarks/detection_speed.py --data DIR --backbone alexnet --weights none --threads 2

All ways get the same photos, the same proposals, the same trunk in the same memory layout, and the
same code for scores, suppression and boxes; they take turns on every photo, and the table has the
medians. Both have their convolutions in float32 and in bfloat16. Proposals are outside of the
times, as in the paper.

Average precision: SVMs and box regressions are learnt for both ways with the same protocol, from
--train-images photos with --train-windows proposals each, and scored on --test-images photos of the
split "test" with --test-windows each; R-CNN's way cannot pay for more. Heads are not trained: only
their seconds count.

R-CNN computes every n-th window with --share 1/n; its seconds per window are scaled up then.
Writes OUT/detection_speed.json and .md and prints the table.
"""

import argparse
import copy
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from detection_ways import (
    STAGES,
    CropLoopEncoder,
    RoiPoolEncoder,
    TimedDetector,
    TimedEncoder,
    TimedRcnnEncoder,
    prepare_trunk,
)
from sppnet.app.progress import track
from sppnet.backbones import build_backbone
from sppnet.detection import CachedFeatures, DetectionConfig, Detector, Encoder, train_detector
from sppnet.detection.heads.classifiers import (
    RegionClassifier,
    SoftmaxRegionClassifier,
    TwoStageRegionClassifier,
)
from sppnet.detection.heads.region_head import COMPACT_WIDTHS, PAPER_WIDTHS, RegionHead
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.evaluation import evaluate_detections
from sppnet.images import LabelledImage, open_detection_dataset
from sppnet.storage import FeatureCache, write_json, write_text
from sppnet.storage.runs import environment

FIVE_SCALES = (480, 576, 688, 864, 1200)
RCNN, OURS = "R-CNN's way", "SPP-net's way"
# The background of an untrained head: few boxes go on to suppression, as with a trained one.
BACKGROUND = 6.0


class Contest:
    """Trunk, proposals and detectors of one run."""

    def __init__(self, words: argparse.Namespace) -> None:
        self.words = words
        torch.manual_seed(0)
        backbone = build_backbone(words.backbone, words.weights).to(words.device)
        self.trunks = {half: prepare_trunk(backbone, is_half=half) for half in (False, True)}
        self.train, self.test = (open_detection_dataset(words.data, s) for s in ("train", "test"))
        self.names = self.train.names
        self.learnt = {
            OURS: self._learn(Encoder(self.trunks[False], (words.imgsz,)), OURS),
            RCNN: self._learn(RcnnEncoder(self.trunks[False]), RCNN),
        }

    def _prepare(
        self, images: tuple[LabelledImage, ...], encoder: Encoder, method: str, limit: int
    ) -> CachedFeatures:
        """Proposals and maps of images; each way has a cache of its own."""
        cache = FeatureCache(self.words.out / "cache" / ("rcnn" if method == RCNN else "spp"))
        return CachedFeatures(images, encoder, cache, self.words.proposals, limit)

    def _learn(self, encoder: Encoder, method: str) -> Detector:
        """Fit SVMs and boxes on the first photos."""
        images, limit = self.train.images[: self.words.train_images], self.words.train_windows
        settings = DetectionConfig(
            proposals=self.words.proposals,
            max_proposals=limit,
            anchors=False,
            mirror="off",
            crops="off",
            box_stages=1,
            box_bins="cells",  # what all ways have
            box_strength=400.0,
        )
        cached = self._prepare(images, encoder, method, limit)
        return train_detector(cached, self.names, settings, track=track).to(self.words.device)

    def precision(self, detector: Detector, method: str) -> dict[str, float]:
        """AP50 and AP75 on photos of the test split."""
        images = self.test.images[: self.words.test_images]
        cached = self._prepare(images, detector.encoder, method, self.words.test_windows)
        found = {}
        for image in track(images, f"detecting, {method}"):
            encoded = detector.encode(image.load())
            found[image.image_id] = detector.detect(encoded, cached.propose(image))
        return {
            name: evaluate_detections(
                images, found, self.names, metric="area", iou_threshold=threshold
            ).mean_ap
            for name, threshold in (("ap50", 0.5), ("ap75", 0.75))
        }

    def detectors(self) -> dict[str, TimedDetector]:
        """All that take part, by name."""
        side, trunks = (self.words.imgsz,), self.trunks
        ours, half = TimedEncoder(trunks[False], side), TimedEncoder(trunks[True], side)
        rcnn, rcnn_half = TimedRcnnEncoder(trunks[False]), TimedRcnnEncoder(trunks[True])
        rcnn.share = rcnn_half.share = self.words.share
        linear, paper = self.learnt[OURS].classifier, self._head(PAPER_WIDTHS)
        compact = self._head(COMPACT_WIDTHS)
        return {
            RCNN: self._timed(rcnn, RCNN),
            f"{RCNN}, bfloat16": self._timed(rcnn_half, RCNN),
            "our maps, crops in a loop": self._timed(CropLoopEncoder(trunks[False], side)),
            "our maps, roi_pool per level": self._timed(RoiPoolEncoder(trunks[False], side)),
            OURS: self._timed(ours),
            f"{OURS}, bfloat16": self._timed(half),
            f"{OURS}, five scales": self._timed(TimedEncoder(trunks[False], FIVE_SCALES)),
            f"{OURS}, five scales, bfloat16": self._timed(TimedEncoder(trunks[True], FIVE_SCALES)),
            f"{RCNN}, fc 4096-4096": self._timed(rcnn, RCNN, paper),
            f"{OURS}, fc 4096-4096": self._timed(ours, OURS, paper),
            f"{OURS}, fc 256-256": self._timed(ours, OURS, compact),
            f"{OURS}, fc 4096-4096 on the best 100": self._timed(
                ours, OURS, TwoStageRegionClassifier(linear, paper, 100)
            ),
        }

    def _head(self, widths: tuple[int, int]) -> SoftmaxRegionClassifier:
        """An untrained head that finds little."""
        length = Encoder(self.trunks[False]).length
        head = RegionHead(length, len(self.names), widths).eval().requires_grad_(False)
        head.logits.bias[-1] = BACKGROUND
        return SoftmaxRegionClassifier(head.to(self.words.device))

    def _timed(
        self, encoder: Encoder, method: str = OURS, classifier: RegionClassifier | None = None
    ) -> TimedDetector:
        """A detector with the parts that were learnt for a way."""
        learnt = self.learnt[method]
        parts = (
            classifier or learnt.classifier,
            learnt.box_regressor,
            self.names,
            learnt.inference,
        )
        return TimedDetector(encoder, *parts)

    def photos(self) -> list[tuple[Tensor, Tensor]]:
        """Images to time on, with as many proposals as asked for."""
        images = self.test.images[: self.words.images]
        cached = self._prepare(images, self.learnt[OURS].encoder, OURS, self.words.windows)
        return [(image.load(), cached.propose(image)) for image in images]


def take_turns(
    detectors: dict[str, TimedDetector], photos: list[tuple[Tensor, Tensor]], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Seconds of the stages of every way, photo by photo; the medians of the rounds."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in detectors}
    for image, boxes in track(photos, "timing"):
        clocks: dict[str, list[dict[str, float]]] = {name: [] for name in detectors}
        for _ in range(rounds):
            for name, detector in detectors.items():
                clocks[name].append(dict(detector.run(image, boxes)[1].seconds))
        for name, each in clocks.items():
            middle = {stage: median(s.get(stage, 0.0) for s in each) for stage in STAGES}
            found[name].append(middle)
    return found


def summarise(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Medians over the photos: stages, total, and how many times as fast as R-CNN's way."""
    totals = {name: [sum(s.values()) for s in each] for name, each in found.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, each in found.items():
        kind = ", fc 4096-4096" if ", fc" in name else ", bfloat16" if "bfloat16" in name else ""
        peer = totals[RCNN + kind]
        rows[name] = {
            "stages": {stage: median(s[stage] for s in each) for stage in STAGES},
            "seconds": median(totals[name]),
            "ratio": median(p / t for p, t in zip(peer, totals[name], strict=True)),
        }
    return rows


def to_markdown(result: dict[str, Any]) -> str:
    """Write the table as Markdown."""
    about = result["about"]
    lines = [
        f"{about['backbone']} ({about['weights']} weights), short side {about['imgsz']}, "
        f"{about['mean_windows']:.0f} windows, {about['images']} photos, "
        f"{about['surroundings']['threads']} threads; seconds.",
        "",
        f"| way | {' | '.join(STAGES)} | total | against R-CNN's | AP50 | AP75 |",
        "| --- |" + " ---: |" * (len(STAGES) + 4),
    ]
    for name, row in result["ways"].items():
        stages = " | ".join(f"{row['stages'][stage]:.4f}" for stage in STAGES)
        scores = " | ".join(f"{row[k]:.3f}" if k in row else "" for k in ("ap50", "ap75"))
        lines.append(
            f"| {name} | {stages} | {row['seconds']:.3f} | {row['ratio']:.1f} | {scores} |"
        )
    return "\n".join([*lines, ""])


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--imgsz", type=int, default=688)
    parser.add_argument("--proposals", default="graph+grid")
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--images", type=int, default=5, help="Photos to time on.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="Of R-CNN's windows.")
    parser.add_argument("--train-images", type=int, default=40)
    parser.add_argument("--train-windows", type=int, default=250)
    parser.add_argument("--test-images", type=int, default=40)
    parser.add_argument("--test-windows", type=int, default=400)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-detection"))
    return parser.parse_args()


def main() -> None:
    """Run the comparison."""
    words = read_arguments()
    torch.set_num_threads(words.threads)
    words.out.mkdir(parents=True, exist_ok=True)
    contest = Contest(words)
    photos = contest.photos()
    with torch.inference_mode():
        rows = summarise(take_turns(contest.detectors(), photos, words.rounds))
        write(words, rows, photos)  # scoring takes long, too
        for method, detector in contest.learnt.items():
            rows[method] |= contest.precision(detector, method)
        half = copy.copy(contest.learnt[OURS])
        half.encoder = Encoder(contest.trunks[True], (words.imgsz,))
        rows[f"{OURS}, bfloat16"] |= contest.precision(half, OURS)
    sys.stdout.write(write(words, rows, photos))


def write(
    words: argparse.Namespace,
    rows: dict[str, dict[str, Any]],
    photos: list[tuple[Tensor, Tensor]],
) -> str:
    """Write the figures and the table; returns the table."""
    about = {k: str(v) if isinstance(v, Path) else v for k, v in vars(words).items()}
    about["mean_windows"] = sum(len(boxes) for _, boxes in photos) / len(photos)
    result = {"about": {**about, "surroundings": environment()}, "ways": rows}
    write_json(words.out / f"{words.backbone}.json", result)
    table = to_markdown(result)
    write_text(words.out / f"{words.backbone}.md", table)
    return table


if __name__ == "__main__":
    main()
