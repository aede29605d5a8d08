"""How early swapped labels come on the page of ``sppnet check --page``.

``python benchmarks/label_gallery.py DATA/bccd DATA/cards`` swaps 3 % of the labels at random, in
memory, and counts how many of them are among the first pictures.
"""

import argparse
from pathlib import Path

import numpy as np

from sppnet.app.check import compare_looks, list_labels, look_at, with_pictures

SHARE = 0.03


def measure(data: Path, most_photos: int, seed: int) -> dict[str, object]:
    """Swap labels of one data set and rank all of them."""
    labels = list(list_labels(data, None))
    photos = list(dict.fromkeys(label.image for label in labels))[:most_photos]
    chosen = [label for label in labels if label.image in set(photos)]
    seen = [(label, look_at(picture, label)) for label, picture in with_pictures(chosen, "looking")]
    names = sorted({label.name for label, _ in seen})
    numbers = np.array([names.index(label.name) for label, _ in seen])
    random = np.random.default_rng(seed)
    swapped = random.random(len(numbers)) < SHARE
    given = numbers.copy()
    given[swapped] += random.integers(1, len(names), int(swapped.sum()))
    oddness, _ = compare_looks(np.array([look for _, look in seen]), given % len(names), len(names))
    order, count = np.argsort(-oddness, kind="stable"), int(swapped.sum())
    found = [int(swapped[order[: times * count]].sum()) for times in (1, 2, 4)]
    return {"set": data.name, "labels": len(numbers), "swapped": count, "found": found}


def main() -> None:
    """Print a line for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for data in asked.data:
        print(measure(data, asked.photos, asked.seed))


if __name__ == "__main__":
    main()
