r"""Compares features of a frozen trunk by the Caltech-101 protocol on class folders.

    python benchmarks/caltech.py --data DIR --splits 10 --backbone efficientnet_lite0

One row for each recipe of features: levels, pooled layer, short side, normalisation, flips, several
scales, the trunk's own classifier, and whole images against crops and warped ones. Three columns:
SVMs with the hinge loss and C = 1, as LIBSVM has it by default, and with the hinge and the squares
loss where C is chosen on a part of the training images of each split. 30 images of each class to
fit, up to 50 of the rest to score, mean class accuracy, mean and deviation over the splits. Every
view is convolved once; only the inner products of the images are kept. Writes OUT/caltech.json and
OUT/caltech.md.
"""

import argparse
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from sppnet.app.progress import track
from sppnet.backbones import Backbone, build_backbone, build_plain_classifier
from sppnet.classification import ClassData, SplitConfig, View, extract_features, open_class_data
from sppnet.classification.scoring import Task
from sppnet.classification.transfer.choice import validate_costs
from sppnet.classification.transfer.features import FeatureEncoder
from sppnet.classification.transfer.recipe import Block, FeatureRecipe, best_recipe
from sppnet.classification.transfer.svm import fit_dual, gram_matrix
from sppnet.config.classification import COSTS
from sppnet.storage import FeatureCache, write_json, write_text

MACHINES = {  # column -> loss, costs to choose from
    "hinge, C = 1": ("hinge", (1.0,)),
    "hinge, C chosen": ("hinge", COSTS),
    "squares, C chosen": ("squares", COSTS),
}
OWN_CLASSIFIER = "the trunk's own classifier, logits of the mean"
SPP, WARP = Block(), Block(view="warp")


EARLIER = {  # how the name of a trunk begins -> layers before its last map, the latest first
    "efficientnet_lite": ("stage6", "stage5"),
    "squeezenet": ("features.11", "features.10", "features.7"),
}


def list_recipes(backbone: str) -> dict[str, FeatureRecipe]:
    """What is compared for a trunk, by what stands in the table."""
    layers = next((EARLIER[start] for start in EARLIER if backbone.startswith(start)), ())
    singles = {
        "SPP (1, 2, 3, 6), whole image, 224": SPP,
        "levels (1, 2, 3)": replace(SPP, levels=(1, 2, 3)),
        "levels (1, 2)": replace(SPP, levels=(1, 2)),
        "6x6 alone": replace(SPP, pool="6x6"),
        "average": replace(SPP, pool="avg"),
        "maximum": replace(SPP, pool="max"),
        "SPP and average": replace(SPP, pool="spp+avg"),
        **{f"layer {layer}": replace(SPP, layer=layer) for layer in layers},
        "short side 160": replace(SPP, short_side=160),
        "short side 320": replace(SPP, short_side=320),
        "SPP, square roots": replace(SPP, norm="power"),
        "average, square roots": replace(SPP, pool="avg", norm="power"),
        "mean of image and mirror": replace(SPP, flip=True),
        "centre crop": replace(SPP, view="crop"),
        "warped": WARP,
    }
    sums = {
        **{f"sum: last layer and {layer}": (SPP, replace(SPP, layer=layer)) for layer in layers},
        "sum: whole and warped": (SPP, WARP),
        "sum: whole at 160, 224, 320": tuple(replace(SPP, short_side=s) for s in (160, 224, 320)),
        "sum: SPP, average with square roots": (SPP, replace(SPP, pool="avg", norm="power")),
        "best": best_recipe(backbone).blocks,
    }
    recipes = {name: FeatureRecipe((block,)) for name, block in singles.items()}
    return {**recipes, **{name: FeatureRecipe(blocks) for name, blocks in sums.items()}}


def measure_grams(
    data: ClassData, backbone: Backbone, blocks: Sequence[Block], cache: FeatureCache
) -> tuple[dict[Block, Tensor], dict[str, float]]:
    """Inner products of all images for every block; each view's images are convolved once."""
    places: dict[tuple[str, int, bool], list[Block]] = {}
    for block in dict.fromkeys(blocks):
        places.setdefault((block.view, block.short_side, block.flip), []).append(block)
    grams: dict[Block, Tensor] = {}
    seconds: dict[str, float] = {}
    for (view, side, flip), here in places.items():
        encoder = FeatureEncoder(backbone, FeatureRecipe(tuple(here)))
        key = cache.make_key(encoder=encoder.digest(), images=tuple(map(str, data.paths)))
        record = cache.get(key)
        if record is None:
            begin = time.perf_counter()
            rows = encoder.extract(data.paths, track=track).rows
            spent = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
            record = {"grams": gram_of_each(rows, encoder), "seconds": spent}
            cache.put(key, record)
        grams |= dict(zip(here, record["grams"], strict=True))
        seconds[f"{view} {side}{' flip' if flip else ''}"] = float(record["seconds"])
    return grams, seconds


def gram_of_each(rows: Tensor, encoder: FeatureEncoder) -> Tensor:
    """Inner products of every block's own columns, (blocks, N, N)."""
    one = [FeatureEncoder(encoder.backbone, FeatureRecipe((b,))) for b in encoder.recipe.blocks]
    widths = [each.encode([torch.zeros(3, 64, 64)]).shape[1] for each in one]
    return torch.stack([gram_matrix(columns) for columns in rows.split(widths, dim=1)])


def measure_own_classifier(data: ClassData, name: str, weights: str, backbone: Backbone) -> Tensor:
    """Inner products of the logits that the trunk's own 1x1 convolutions give the mean of a map."""
    model, _ = build_plain_classifier(name, weights)
    logits = torch.nn.Sequential(model.classifier[1], torch.nn.AdaptiveAvgPool2d(1))
    pool = torch.nn.Sequential(logits, torch.nn.Flatten()).eval()
    rows = extract_features(data.paths, backbone, pool, View(), track=track).rows
    return gram_matrix(torch.nn.functional.normalize(rows))


def score_gram(gram: Tensor, data: ClassData, task: Task, machine: str) -> list[float]:
    """Mean class accuracy on every split."""
    loss, costs = MACHINES[machine]
    figures = []
    for split in data.splits():
        inner = gram[split.train][:, split.train].contiguous()
        targets = task.targets[split.train]
        found = validate_costs(inner, targets, task.figure, costs=costs, loss=loss)
        dual, bias = fit_dual(inner, targets, max(found, key=lambda c: found[c]), loss)
        scores = gram[split.test][:, split.train].float() @ dual + bias
        figures.append(task.figure(scores, task.targets[split.test]))
    return figures


def compare(grams: Mapping[str, Tensor], data: ClassData) -> list[dict[str, Any]]:
    """One record for each recipe and machine."""
    task = data.task(torch.arange(len(data.paths)))
    results = []
    for name, gram in grams.items():
        for machine in MACHINES:
            begin = time.perf_counter()
            each = score_gram(gram, data, task, machine)
            results.append(
                {
                    "features": name,
                    "machine": machine,
                    "mean_class_accuracy": mean(each),
                    "deviation": stdev(each) if len(each) > 1 else 0.0,
                    "each": each,
                    "svm_seconds": time.perf_counter() - begin,
                }
            )
            sys.stderr.write(f"{name}; {machine}: {100 * mean(each):.2f} %\n")
    return results


def to_markdown(results: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Write the table as Markdown."""
    cells: dict[str, list[str]] = {}
    for row in results:
        text = f"{100 * row['mean_class_accuracy']:.2f} +- {100 * row['deviation']:.2f}"
        cells.setdefault(row["features"], []).append(text)
    lines = [
        f"{about['backbone']}, weights {about['weights']}: {about['rule']}; "
        "mean class accuracy, %, with its deviation over the splits.",
        "",
        f"| features | {' | '.join(MACHINES)} |",
        "| --- |" + " --- |" * len(MACHINES),
        *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items()),
    ]
    return "\n".join([*lines, ""])


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--train-per-class", type=int, default=30)
    parser.add_argument("--test-per-class", type=int, default=50)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-caltech"))
    return parser.parse_args()


def main() -> None:
    """Run the comparison."""
    words = read_arguments()
    torch.manual_seed(words.seed)
    split_config = SplitConfig(
        words.train_per_class, words.test_per_class, words.splits, words.seed
    )
    data = open_class_data(words.data, split_config)
    name = words.backbone
    backbone = build_backbone(name, words.weights)
    words.out.mkdir(parents=True, exist_ok=True)
    recipes = list_recipes(name)
    blocks = [block for recipe in recipes.values() for block in recipe.blocks]
    grams, seconds = measure_grams(data, backbone, blocks, FeatureCache(words.out / "cache"))
    sums = {
        title: torch.stack([grams[block] for block in recipe.blocks]).mean(dim=0)
        for title, recipe in recipes.items()
    }
    if name.startswith("squeezenet"):  # whose classifier is a convolution of the last map
        sums[OWN_CLASSIFIER] = measure_own_classifier(data, name, words.weights, backbone)
    results = compare(sums, data)
    about = {
        "backbone": name,
        "weights": words.weights,
        "rule": data.describe_split(),
        "images": len(data.paths),
        "classes": len(data.names),
        "feature_seconds": seconds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
    }
    write_json(words.out / "caltech.json", {"about": about, "results": results})
    table = to_markdown(results, about)
    write_text(words.out / "caltech.md", table)
    sys.stdout.write(table)


if __name__ == "__main__":
    main()
