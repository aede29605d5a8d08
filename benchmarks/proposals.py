r"""Compares ways to find proposals: how many objects they cover, and how long they take.

    python benchmarks/proposals.py --data DIR --split train --threads 1

DIR is a detection data set in any layout. The methods take turns on every image, shrunk to the
working size beforehand as every method sees it; the least of --repeats counts, and the table has
the median over the images. Recall is that of ``propose`` on the whole image, proposals that are too
thin left out. OpenCV uses as many threads as torch. Writes OUT/proposals.json and OUT/proposals.md.
"""

import argparse
import platform
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch

from sppnet.app.progress import track
from sppnet.config.detection import split_methods
from sppnet.detection.proposals.graph import kernel_name
from sppnet.detection.proposals.propose import PROPOSERS, propose, shrink_to_search
from sppnet.evaluation import proposal_recall_curve
from sppnet.images import LabelledImage, load_image, open_detection_dataset
from sppnet.storage import write_json, write_text

PEER = "selective_search"
LIMITS, OVERLAPS = (500, 1000, 2000), (0.5, 0.7)


def seconds_of_methods(
    images: list[LabelledImage], methods: list[str], repeats: int
) -> dict[str, list[float]]:
    """Least seconds of every method on each image; the methods take turns."""
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for image in track(images, "timing"):
        small = shrink_to_search(load_image(image.path))
        least = dict.fromkeys(methods, float("inf"))
        for _ in range(repeats):
            for method in methods:
                begin = time.perf_counter()
                for name in split_methods(method):
                    PROPOSERS[name](small, 0)
                least[method] = min(least[method], time.perf_counter() - begin)
        for method in methods:
            seconds[method].append(least[method])
    return seconds


def recall_of(images: list[LabelledImage], method: str) -> dict[str, Any]:
    """Share of the objects covered, by overlap and number of proposals."""
    found = {
        image.image_id: propose(load_image(image.path), method, max(LIMITS))
        for image in track(images, f"proposals of {method}")
    }
    curve = proposal_recall_curve(images, found, OVERLAPS, LIMITS)
    shares = {
        str(overlap): dict(zip(map(str, LIMITS), curve.recall[overlap].tolist(), strict=True))
        for overlap in OVERLAPS
    }
    return {"recall": shares, "objects": curve.num_truth, "mean_windows": curve.mean_proposals}


def measure(images: list[LabelledImage], methods: list[str], repeats: int) -> list[dict[str, Any]]:
    """Time and recall of every method; how many times as fast as OpenCV each is, if it ran."""
    seconds = seconds_of_methods(images, methods, repeats)
    rows = []
    for method in methods:
        ratio = None
        if PEER in seconds:
            ratio = median(b / a for a, b in zip(seconds[method], seconds[PEER], strict=True))
        row = {"method": method, "median_ms": 1000 * median(seconds[method]), "ratio": ratio}
        rows.append({**row, **recall_of(images, method), "seconds": seconds[method]})
    return rows


def to_markdown(found: dict[str, Any]) -> str:
    """Write the table as Markdown."""
    about, rows = found["about"], found["methods"]
    columns = [f"{limit} at {overlap}" for overlap in OVERLAPS for limit in LIMITS]
    lines = [
        f"{about['data']}: {about['images']} images, {rows[0]['objects']} objects, "
        f"{about['threads']} threads, kernel {about['kernel']}.",
        "",
        f"| method | ms | times as fast as {PEER} | {' | '.join(columns)} |",
        "| --- |" + " --- |" * (len(columns) + 2),
    ]
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}"
        shares = [row["recall"][str(o)][str(n)] for o in OVERLAPS for n in LIMITS]
        cells = " | ".join(f"{share:.3f}" for share in shares)
        lines.append(f"| {row['method']} | {row['median_ms']:.1f} | {ratio} | {cells} |")
    return "\n".join([*lines, ""])


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default=None)
    parser.add_argument("--methods", default=f"graph,{PEER},edge_boxes,grid,graph+grid")
    parser.add_argument("--images", type=int, default=40, help="At most so many, spread evenly.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-proposals"))
    return parser.parse_args()


def main() -> None:
    """Run the comparison."""
    words = read_arguments()
    torch.set_num_threads(words.threads)
    cv2.setNumThreads(words.threads)
    images = list(open_detection_dataset(words.data, words.split))
    images = images[:: max(1, len(images) // words.images)][: words.images]
    about = {
        "data": words.data.name,
        "split": words.split,
        "images": len(images),
        "repeats": words.repeats,
        "threads": words.threads,
        "kernel": kernel_name(),
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "machine": platform.platform(),
    }
    found = {"about": about, "methods": measure(images, words.methods.split(","), words.repeats)}
    words.out.mkdir(parents=True, exist_ok=True)
    write_json(words.out / "proposals.json", found)
    write_text(words.out / "proposals.md", to_markdown(found))
    sys.stdout.write(to_markdown(found))


if __name__ == "__main__":
    main()
