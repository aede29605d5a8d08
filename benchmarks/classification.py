r"""Compares poolings and views of a frozen trunk by the Caltech-101 protocol on class folders.

    python benchmarks/classification.py --data DIR --backbone squeezenet1_1 --weights DEFAULT \
        --splits 3

For every view (full, crop, warp) each image is convolved once; the pyramid, its finest level alone,
the mean and the maximum of the same map are then compared: 30 images of each class to fit linear
SVMs (C = 1) on L2-normalised rows, up to 50 of the rest to score, mean class accuracy, mean and
deviation over the splits. Writes OUT/classification.json and OUT/classification.md.
"""

import argparse
import platform
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.app.progress import track
from sppnet.backbones import Backbone, build_backbone
from sppnet.classification import ClassData, FeatureSet, SplitRule, View, open_class_data
from sppnet.classification.features import extract_features
from sppnet.classification.fitting import fit_svm_head
from sppnet.classification.network import apply_in_blocks
from sppnet.classification.scoring import score_predictions
from sppnet.pooling import SpatialPyramidPool
from sppnet.storage import FeatureCache, write_json, write_text

LEVELS = (1, 2, 3, 6)
VIEWS = ("full", "crop", "warp")
POOLS = ("SPP (1, 2, 3, 6)", "6x6 alone", "average", "maximum")


class EveryPool(nn.Module):
    """The pyramid and the mean of a map in one row; the other poolings are parts of the pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = SpatialPyramidPool(LEVELS)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, h, w) into (N, C * 51)."""
        return torch.cat([self.pyramid(features), features.mean(dim=(2, 3))], dim=1)


def choose_columns(pool: str, channels: int) -> slice:
    """Where a pooling's numbers are in the row of :class:`EveryPool`."""
    bounds = {POOLS[0]: (0, 50), POOLS[1]: (14, 50), POOLS[2]: (50, 51), POOLS[3]: (0, 1)}
    first, last = bounds[pool]
    return slice(first * channels, last * channels)


def measure(data: ClassData, features: FeatureSet, columns: slice) -> list[float]:
    """Mean class accuracy on every split."""
    labels = data.labels[features.kept]
    rows = features.rows[:, columns]
    figures = []
    for split in data.splits(features.kept):
        head = fit_svm_head(rows[split.train], labels[split.train], len(data.names))
        with torch.inference_mode():
            scores = apply_in_blocks(head, rows[split.test])
        figures.append(score_predictions(scores, labels[split.test], data.names))
    return [each["mean_class_accuracy"] for each in figures]


def compare(data: ClassData, backbone: Backbone, imgsz: int, out: Path) -> list[dict[str, Any]]:
    """One row for each pooling of the whole image, and one for each other view of the pyramid."""
    results = []
    for view in VIEWS:
        cache = FeatureCache(out / "cache")
        begin = time.perf_counter()
        features = extract_features(
            data.paths, backbone, EveryPool().eval(), View(view, imgsz), cache=cache, track=track
        )
        seconds = time.perf_counter() - begin
        for pool in POOLS if view == "full" else POOLS[:1]:
            begin = time.perf_counter()
            accuracy = measure(data, features, choose_columns(pool, backbone.channels))
            results.append(
                {
                    "view": view,
                    "pool": pool,
                    "mean_class_accuracy": mean(accuracy),
                    "deviation": stdev(accuracy) if len(accuracy) > 1 else 0.0,
                    "each": accuracy,
                    "feature_seconds": seconds,
                    "svm_seconds": time.perf_counter() - begin,
                    "failed_images": len(features.problems),
                }
            )
            sys.stderr.write(f"{view:5} {pool:18} {100 * mean(accuracy):.2f} %\n")
    return results


def to_markdown(results: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Write the table as Markdown."""
    lines = [
        f"{about['backbone']}, weights {about['weights']}, short side {about['imgsz']}: "
        f"{about['rule']}; mean class accuracy.",
        "",
        "| view | pooling | mean class accuracy, % | deviation |",
        "| --- | --- | --- | --- |",
    ]
    for row in results:
        accuracy, deviation = 100 * row["mean_class_accuracy"], 100 * row["deviation"]
        lines.append(f"| {row['view']} | {row['pool']} | {accuracy:.2f} | {deviation:.2f} |")
    return "\n".join([*lines, ""])


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--train-per-class", type=int, default=30)
    parser.add_argument("--test-per-class", type=int, default=50)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-classification"))
    return parser.parse_args()


def main() -> None:
    """Run the comparison."""
    words = read_arguments()
    torch.manual_seed(words.seed)
    rule = SplitRule(words.train_per_class, words.test_per_class, words.splits, words.seed)
    data = open_class_data(words.data, rule)
    backbone = build_backbone(words.backbone, words.weights)
    words.out.mkdir(parents=True, exist_ok=True)
    results = compare(data, backbone, words.imgsz, words.out)
    about = {
        "backbone": words.backbone,
        "weights": words.weights,
        "imgsz": words.imgsz,
        "rule": data.rule_words(),
        "images": len(data.paths),
        "classes": len(data.names),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
    }
    write_json(words.out / "classification.json", {"about": about, "results": results})
    table = to_markdown(results, about)
    write_text(words.out / "classification.md", table)
    sys.stdout.write(table)


if __name__ == "__main__":
    main()
