r"""Times 96 views on feature maps against 96 separate crops, and compares their scores.

    python benchmarks/views.py --data DIR --networks squeezenet1_1,zf5 --threads 1

DIR holds photos of any sizes. The ways take turns on every photo with the same network; the least
of --repeats counts, and the table has medians over the photos. The network is the trunk with the
pyramid and one linear layer to 1,000 classes, or one of the paper's with its own head (zf5, ...).

With --accuracy, squeezenet1_1 and its like are converted, classifier and all, and every photo is
scored by every ``--view``; file names must begin with the ImageNet class index. Maps are compared
with true crops there. Writes OUT/views.json and OUT/views.md.
"""

import argparse
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sppnet.app.progress import track
from sppnet.classification import (
    SppNet,
    ViewPlan,
    build_classifier,
    score_on_crops,
    score_on_maps,
)
from sppnet.classification.convert import convert_classifier
from sppnet.classification.network import build_paper_network
from sppnet.classification.views import NINETY_SIX, PLANS, pool_views, score_rows
from sppnet.images import list_images, load_image, resize_image
from sppnet.storage import write_json, write_text

PAPER = ("zf5", "convnet5", "overfeat5", "overfeat7")
MAPS, SINGLE, BATCHED = "on maps", "crops one by one", "crops by 32"


@torch.inference_mode()
def score_one_by_one(network: SppNet, image: Tensor, plan: ViewPlan) -> Tensor:
    """Send every crop through the whole network by itself."""
    scores = []
    for scale in plan.scales((image.shape[1], image.shape[2])):
        resized = resize_image(image, scale.size_hw)
        for side in (resized, resized.flip(-1)):
            for x0, y0, x1, y1 in scale.windows:
                crop = side[None, :, y0:y1, x0:x1].contiguous(memory_format=torch.channels_last)
                scores.append(network(crop).softmax(1))
    return torch.cat(scores).mean(0)


def score_in_bfloat16(network: SppNet, image: Tensor, plan: ViewPlan) -> Tensor:
    """Score on maps with convolutions and products in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return score_on_maps(network, image, plan)


WAYS: dict[str, Callable[[SppNet, Tensor, ViewPlan], Tensor]] = {
    MAPS: score_on_maps,
    BATCHED: score_on_crops,
    SINGLE: score_one_by_one,
    "on maps, bfloat16": score_in_bfloat16,
}


def seconds_of_ways(network: SppNet, image: Tensor, repeats: int) -> dict[str, float]:
    """Least seconds of every way on one photo; the ways take turns."""
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(repeats):
        for name, way in WAYS.items():
            begin = time.perf_counter()
            way(network, image, NINETY_SIX)
            least[name] = min(least[name], time.perf_counter() - begin)
    return least


def pixel_ratio(image: Tensor) -> float:
    """Pixels that all crops convolve over pixels that the maps do."""
    scales = list(NINETY_SIX.scales((image.shape[1], image.shape[2])))
    on_maps = sum(2 * scale.size_hw[0] * scale.size_hw[1] for scale in scales)
    views = sum(2 * len(scale.windows) for scale in scales)
    return views * NINETY_SIX.window**2 / on_maps


def time_network(name: str, photos: list[Tensor], repeats: int) -> dict[str, Any]:
    """Medians over the photos of one network."""
    torch.manual_seed(0)
    network = build_paper_network(name) if name in PAPER else build_classifier(name, 1000)
    network.eval()
    score_on_maps(network, photos[0], NINETY_SIX)  # the first call sets things up
    found = [seconds_of_ways(network, each, repeats) for each in track(photos, f"timing {name}")]
    return {
        "network": name,
        "seconds": {way: median(each[way] for each in found) for way in WAYS},
        "ratio": {way: median(each[way] / each[MAPS] for each in found) for way in WAYS},
        "each": found,
    }


def score_photos(network: SppNet, photos: list[Tensor]) -> dict[str, Tensor]:
    """Probabilities (N, K) by every view, and by the 96 views on crops and in bfloat16."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        name: lambda image, plan=plan: score_rows(network, pool_views(network, image, plan)).mean(0)
        for name, plan in PLANS.items()
    }
    ways["10 on maps"] = lambda image: score_on_maps(network, image, PLANS["10"])
    ways["96 on crops"] = lambda image: score_on_crops(network, image, NINETY_SIX)
    ways["96 in bfloat16"] = lambda image: score_in_bfloat16(network, image, NINETY_SIX)
    return {
        name: torch.stack([way(photo) for photo in track(photos, f"scoring by {name}")])
        for name, way in ways.items()
    }


def accuracy(scores: Tensor, truth: Tensor) -> dict[str, float]:
    """Share of photos whose class is the first, and among the first five."""
    ranks = (scores > scores.gather(1, truth[:, None])).sum(1)
    return {f"top{k}": (ranks < k).float().mean().item() for k in (1, 5)}


def difference(ours: Tensor, other: Tensor) -> dict[str, float]:
    """How far two ways' mean probabilities are apart, and how often their best classes agree."""
    gap = (ours - other).abs()
    best = [each.topk(5, dim=1).indices for each in (ours, other)]
    shared = (best[0][:, :, None] == best[1][:, None, :]).any(2).float().mean().item()
    return {
        "max_abs": gap.max().item(),
        "mean_abs": gap.mean().item(),
        "same_top1": (best[0][:, 0] == best[1][:, 0]).float().mean().item(),
        "shared_top5": shared,
    }


def judge_network(name: str, photos: list[Tensor], truth: Tensor) -> dict[str, Any]:
    """Accuracy of every view, and what maps change, on photos with known classes."""
    network = convert_classifier(name, levels=(1,))  # more levels start at zero and change nothing
    scores = score_photos(network, photos)
    return {
        "network": name,
        "accuracy": {view: accuracy(each, truth) for view, each in scores.items()},
        "differences": {
            "96 views: maps and crops": difference(scores["96"], scores["96 on crops"]),
            "10 views: maps and crops": difference(scores["10 on maps"], scores["10"]),
            "96 views: float32 and bfloat16": difference(scores["96"], scores["96 in bfloat16"]),
        },
    }


def _timing_table(found: dict[str, Any]) -> list[str]:
    about = found["about"]
    head = f"{about['timed']} photos, {about['threads']} threads, crops convolve "
    lines = [f"{head}{about['pixel_ratio']:.2f} times the pixels of the maps (median).", ""]
    lines += [f"| network | {' | '.join(WAYS)} |", "| --- |" + " --- |" * len(WAYS)]
    for row in found["timed"]:
        cells = [f"{row['seconds'][way]:.2f} s (x{row['ratio'][way]:.2f})" for way in WAYS]
        lines.append(f"| {row['network']} | {' | '.join(cells)} |")
    return lines


def to_markdown(found: dict[str, Any]) -> str:
    """Write the tables as Markdown."""
    lines = _timing_table(found) if found["timed"] else []
    for row in found["judged"]:
        lines += ["", f"{row['network']}, {found['about']['images']} photos:", ""]
        lines += ["| view | top-1, % | top-5, % |", "| --- | --- | --- |"]
        for view, each in row["accuracy"].items():
            lines.append(f"| {view} | {100 * each['top1']:.1f} | {100 * each['top5']:.1f} |")
        lines += ["", "| difference | max | mean | same first | shared among five |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for words, each in row["differences"].items():
            gaps = f"{each['max_abs']:.4f} | {each['mean_abs']:.6f}"
            shares = f"{100 * each['same_top1']:.1f} % | {100 * each['shared_top5']:.1f} %"
            lines.append(f"| {words} | {gaps} | {shares} |")
    return "\n".join([*lines, ""])


def class_of(path: Path) -> int:
    """Class index at the beginning of a file's name."""
    found = re.match(r"\d+", path.name)
    if found is None:
        raise SystemExit(f"{path}: with --accuracy the name must begin with the class index")
    return int(found[0])


def read_arguments() -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", default="squeezenet1_1,zf5", help="To be timed.")
    parser.add_argument("--accuracy", default="", help="To be judged, such as squeezenet1_1.")
    parser.add_argument("--images", type=int, default=8, help="Photos to time on.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-views"))
    return parser.parse_args()


def main() -> None:
    """Run the comparison."""
    words = read_arguments()
    torch.set_num_threads(words.threads)
    paths = list_images([str(words.data)]).paths
    photos = [load_image(path) for path in paths]
    timed = photos[:: max(1, len(photos) // words.images)][: words.images]
    networks = [name for name in words.networks.split(",") if name]
    judged = [name for name in words.accuracy.split(",") if name]
    truth = torch.tensor([class_of(path) for path in paths]) if judged else torch.empty(0)
    found = {
        "about": {
            "images": len(photos),
            "timed": len(timed),
            "repeats": words.repeats,
            "pixel_ratio": median(pixel_ratio(each) for each in timed),
            "threads": words.threads,
            "torch": torch.__version__,
            "machine": platform.platform(),
        },
        "timed": [time_network(name, timed, words.repeats) for name in networks],
        "judged": [judge_network(name, photos, truth) for name in judged],
    }
    words.out.mkdir(parents=True, exist_ok=True)
    write_json(words.out / "views.json", found)
    write_text(words.out / "views.md", to_markdown(found))
    sys.stdout.write(to_markdown(found))


if __name__ == "__main__":
    main()
