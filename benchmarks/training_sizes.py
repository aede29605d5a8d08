r"""Trains the same network in several ways and scores every one at many sizes.

    python benchmarks/training_sizes.py sizes --data DIR
    python benchmarks/training_sizes.py views --data DIR --backbone squeezenet1_1 --weights DEFAULT

``sizes`` trains from random weights at one size, at two sizes in turn and on
natural sizes, with the same number of epochs, and scores whole images at short sides from 128 to
320 and at their natural size. ``views`` fine-tunes a trained trunk with pyramid pooling and with
global average pooling, on crops, whole and warped images. Class folders are divided by the
Caltech-101 protocol; every seed has its own division, weights and order. Writes NAME.json, NAME.md
and NAME.html to OUT; what is finished is kept, and the same command goes on from there.
"""

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from PIL import Image

from sppnet.app.progress import track
from sppnet.backbones import build_backbone
from sppnet.classification import (
    ClassData,
    Classifier,
    SplitConfig,
    TrainerConfig,
    TrainingImages,
    View,
    build_classifier,
    open_class_data,
    predict_files,
    score_predictions,
    train_network,
)
from sppnet.classification.train.config import InputSizes
from sppnet.evaluation.report import Page, Series, figure, figures, line_chart, table
from sppnet.images import load_image
from sppnet.storage import read_json, write_json, write_text
from sppnet.training.checkpoints import Checkpoints

TEST_SIDES = (128, 160, 192, 224, 256, 320)
WARPED_SIDE = 256


@dataclass(frozen=True)
class Variant:
    """One variant of training, and the views that it is scored in.

    Args:
        name: What the tables call it.
        sizes: Training sizes, as ``--imgsz`` has them.
        views: Name and view of each test.
        pool: Pooling of the map.
        warped: Whether images are squeezed into squares before anything else.
    """

    name: str
    sizes: str
    views: tuple[tuple[str, View], ...]
    pool: str = "spp"
    warped: bool = False


WHOLE = tuple((str(side), View("full", side)) for side in TEST_SIDES)
EVERY_SIZE = (*WHOLE, ("natural size", View("native")))
ONE_SIZE = (("whole", View("full", 256)), ("centre crop", View("crop", 256)))
VARIANTS = {
    "sizes": (
        Variant("single size 224", "224", EVERY_SIZE),
        Variant("180 and 224 in turn", "180,224", EVERY_SIZE),
        Variant("natural sizes", "natural", EVERY_SIZE),
    ),
    "views": (
        Variant("SPP, crops", "224", ONE_SIZE),
        Variant("global average, crops", "224", ONE_SIZE, pool="avg"),
        Variant("SPP, whole images", "natural", (("whole", View("full", 224)),)),
        Variant(
            "global average, whole images", "natural", (("whole", View("full", 224)),), pool="avg"
        ),
        Variant("SPP, warped images", "224", (("warped", View("full", 256)),), warped=True),
    ),
}


def run_variant(
    variant: Variant, words: argparse.Namespace, data: ClassData, seed: int
) -> dict[str, Any]:
    """Train one network and score it in every view; a finished one is read from its file."""
    folder = words.out / words.name / f"{variant.name.replace(' ', '-').replace(',', '')}-{seed}"
    done = folder / "figures.json"
    if done.exists():
        return dict(read_json(done, 1 << 20))
    sys.stderr.write(f"{variant.name}, seed {seed}\n")
    split = data.splits()[0]
    paths = warped_copies(data.paths, words.out / "warped") if variant.warped else data.paths
    config = TrainerConfig(
        epochs=words.epochs,
        sizes=InputSizes.parse(variant.sizes),
        rate=words.lr,
        trunk_rate=1.0 if words.weights == "none" else 0.1,
        schedule="cosine",
        seed=seed,
    )
    torch.manual_seed(seed)
    backbone = build_backbone(words.backbone, words.weights)
    network = build_classifier(
        backbone, len(data.names), dropout=0.5, pool=variant.pool, feature_norm=20.0
    )
    photos = TrainingImages(
        [paths[i] for i in split.train.tolist()], config.short_side, track=track
    )
    labels = data.labels[split.train[photos.kept]]
    begin = time.perf_counter()
    states = Checkpoints(folder / "checkpoints")
    train_network(network, photos, labels, config, checkpoints=states, track=track)
    seconds = time.perf_counter() - begin
    figures = {
        name: score_view(Classifier(network, view, data.names), data, paths, split.test)
        for name, view in variant.views
    }
    record = {"way": variant.name, "seed": seed, "seconds": seconds, "accuracy": figures}
    write_json(done, record)
    return record


def score_view(
    classifier: Classifier, data: ClassData, paths: Sequence[Path], test: torch.Tensor
) -> float:
    """Mean class accuracy on the images that were not trained on."""
    found = predict_files(classifier, [paths[index] for index in test.tolist()], track=track)
    labels = data.labels[test[found.kept]]
    return float(score_predictions(found.rows, labels, data.names)["mean_class_accuracy"])


def warped_copies(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write every image squeezed into a square, once."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = [folder / f"{index:05d}.png" for index in range(len(paths))]
    for path, copy in zip(paths, copies, strict=True):
        if not copy.exists():
            pixels = load_image(path).mul(255).round().byte().permute(1, 2, 0).numpy()
            image = Image.fromarray(pixels).resize((WARPED_SIDE, WARPED_SIDE), Image.BILINEAR)
            image.save(copy.with_suffix(".part"), format="PNG")
            copy.with_suffix(".part").replace(copy)
    return copies


def summarise(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds, for every variant and view."""
    rows = []
    for variant in dict.fromkeys(record["way"] for record in records):
        mine = [record for record in records if record["way"] == variant]
        for view in mine[0]["accuracy"]:
            values = [100 * record["accuracy"][view] for record in mine]
            deviation = stdev(values) if len(values) > 1 else 0.0
            seconds = mean(record["seconds"] for record in mine)
            rows.append(
                {
                    "way": variant,
                    "view": view,
                    "mean": mean(values),
                    "deviation": deviation,
                    "each": values,
                    "seconds": seconds,
                }
            )
    return rows


def to_markdown(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Write a table with one row for each variant and one column for each view."""
    views = list(dict.fromkeys(row["view"] for row in rows))
    lines = [
        f"{about['backbone']}, weights {about['weights']}, {about['epochs']} epochs, "
        f"{about['seeds']} seeds; mean class accuracy in % and its deviation.",
        "",
        f"| training | {' | '.join(views)} | seconds |",
        f"| --- |{' --- |' * (len(views) + 1)}",
    ]
    for variant in dict.fromkeys(row["way"] for row in rows):
        cells = {row["view"]: row for row in rows if row["way"] == variant}
        shown = [
            f"{cells[view]['mean']:.1f} ± {cells[view]['deviation']:.1f}" if view in cells else "-"
            for view in views
        ]
        seconds = next(iter(cells.values()))["seconds"]
        lines.append(f"| {variant} | {' | '.join(shown)} | {seconds:.0f} |")
    return "\n".join([*lines, ""])


def to_page(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Write the page: accuracy against the size at test, and the table."""
    page = Page(f"Training {name}", "mean class accuracy over the seeds")
    curves = []
    for variant in dict.fromkeys(row["way"] for row in rows):
        points = [row for row in rows if row["way"] == variant and row["view"].isdecimal()]
        x = [int(row["view"]) for row in points]
        curves.append(Series(variant, x, [row["mean"] / 100 for row in points]))
    if any(len(curve.x) for curve in curves):
        low = min(row["mean"] for row in rows) / 100
        high = max(row["mean"] for row in rows) / 100
        chart = line_chart(
            curves,
            x_label="short side at test, pixels",
            y_label="mean class accuracy",
            x_range=(TEST_SIDES[0], TEST_SIDES[-1]),
            y_range=(max(0.0, low - 0.05), min(1.0, high + 0.05)),
        )
        page.add_section("By size", figures(figure(chart, "Whole images", "Mean of the seeds.")))
    header = ("training", "view", "mean, %", "deviation", "seconds of training")
    keys = ("way", "view", "mean", "deviation", "seconds")
    page.add_section("Table", table(header, [tuple(r[k] for k in keys) for r in rows], decimals=1))
    return page.render()


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("name", choices=sorted(VARIANTS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="small5")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-per-class", type=int, default=30)
    parser.add_argument("--test-per-class", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-training"))
    return parser.parse_args()


def main() -> None:
    """Run one comparison."""
    words = read_arguments()
    records = []
    for seed in range(words.seeds):
        split_config = SplitConfig(words.train_per_class, words.test_per_class, 1, seed)
        data = open_class_data(words.data, split_config)
        records += [run_variant(variant, words, data, seed) for variant in VARIANTS[words.name]]
    rows = summarise(records)
    about = {
        **{key: str(value) for key, value in vars(words).items()},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
    }
    write_json(words.out / f"{words.name}.json", {"about": about, "rows": rows})
    text = to_markdown(rows, about)
    write_text(words.out / f"{words.name}.md", text)
    write_text(words.out / f"{words.name}.html", to_page(words.name, rows))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
