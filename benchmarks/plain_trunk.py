"""Scores a trained network with its own classifier on photos whose names begin with the class.

    python benchmarks/plain_trunk.py --data DIR --backbone efficientnet_lite0 --weights DEFAULT

Shows that weights and preprocessing are right: the file name begins with the ImageNet class index,
and each photo gets the network's own transform (short side 256, centre 224, for most). Prints and
writes top-1 and top-5.
"""

import argparse
import re
import sys
from pathlib import Path

import torch

from sppnet.backbones import build_plain_classifier
from sppnet.images import list_images, load_image
from sppnet.storage import write_json


def rank_of_truth(logits: torch.Tensor, truth: int) -> int:
    """Place of the true class among (K,) logits, 0 for the best."""
    return int((logits > logits[truth]).sum())


def main() -> None:
    """Run the check."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-plain-trunk.json"))
    words = parser.parse_args()
    model, transform = build_plain_classifier(words.backbone, words.weights)
    ranks = []
    with torch.inference_mode():
        for path in list_images([words.data]).paths:
            found = re.match(r"\d+", path.name)
            if found is None:
                raise SystemExit(f"{path}: the name must begin with the class index")
            logits = model(transform(load_image(path))[None])[0]
            ranks.append(rank_of_truth(logits, int(found[0])))
    figures = {
        "backbone": words.backbone,
        "weights": words.weights,
        "images": len(ranks),
        "top1": sum(rank < 1 for rank in ranks) / len(ranks),
        "top5": sum(rank < 5 for rank in ranks) / len(ranks),
    }
    words.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(words.out, figures)
    sys.stdout.write(
        f"{words.backbone} on {len(ranks)} photos: "
        f"top-1 {100 * figures['top1']:.1f} %, top-5 {100 * figures['top5']:.1f} %\n"
    )


if __name__ == "__main__":
    main()
