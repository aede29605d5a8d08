r"""Pooling, boxes and scores against slow readable definitions: ids E1 to E3, E11 to E15.

    python benchmarks/reliability/laws.py pooling

Each of the works draws random cases and compares with the loops of ``tests/oracles``. ``pooling``:
maps of any size, levels, type and strides against the paper's definition, bit by bit; also NaN,
infinities, and nothing at all. ``gradients``: both derivatives against finite differences, and that
none of a gradient gets lost. ``regions``: 5,000 regions of any size and place, and those that must
be refused. ``boxes``: suppression against exact fractions. ``threads``: one model asked by eight
threads at once. ``solvers``: SVMs and regressions of rows of 1e-6 to 1e6, of rows that are there
thrice, of one row, of one class: finite or refused; another order of the rows changes scores by a
thousandth at most, and no bit of sums that are merged. ``photos``: what must not change what a
detector finds in a photo. The file is a PNG or a BMP: the same bits. It is mirrored, with
``--flip`` and mirrored proposals: mirrored boxes, the same bits of scores. It lies whole strides
elsewhere, far from the edges: moved boxes, scores within 1e-5 of the largest. The classes are in
another order: the same boxes under the same names, scores within 1e-6. ``precision``: networks are
trained on drawn photos in float32 and, as can be asked for, in bfloat16: shares of 400 other photos
that are named right, of three seeds each; the means may differ by half a point. Prints JSON.
"""

import argparse
import io
import json
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from oracles import box_loops, pyramid_loops
from small_photos import PATTERNS, draw_folders, draw_pattern
from sppnet.geometry import nms
from sppnet.pooling import pool_regions, spatial_pyramid_pool

MOST_POINTS = 0.5  # that lower precision may cost
MOST_BY_ORDER = 1e-3  # of the largest score, that another order of the rows may change
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def same(one: Tensor, two: Tensor) -> bool:
    """Equal with NaN where NaN is."""
    return (
        one.shape == two.shape
        and torch.equal(one.isnan(), two.isnan())
        and torch.equal(one.nan_to_num(7.5), two.nan_to_num(7.5))
    )


def draw_levels(draw: random.Random) -> tuple[int, ...]:
    """One to four levels of up to 12 bins along a side."""
    return tuple(draw.sample(range(1, 13), draw.randint(1, 4)))


def draw_map(draw: random.Random, shape: tuple[int, int, int, int], odd: bool) -> Tensor:
    """A map of any type and strides; with NaN and infinities if it is to be odd."""
    seed = torch.Generator().manual_seed(draw.randrange(2**31))
    maps = torch.randint(-40, 40, shape, generator=seed).double() / 4  # has ties
    if odd and maps.numel():
        for _ in range(3):
            value = draw.choice([float("nan"), float("inf"), float("-inf")])
            maps.view(-1)[draw.randrange(maps.numel())] = value
    maps = maps.to(draw.choice(DTYPES))
    way = draw.choice(["plain", "transposed", "channels last", "every second", "expanded"])
    if way == "transposed":
        return maps.transpose(2, 3)
    if way == "channels last":
        return maps.to(memory_format=torch.channels_last)
    if way == "every second":
        return maps.repeat_interleave(2, dim=3)[..., ::2]
    return maps[:1].expand(shape) if way == "expanded" and shape[0] else maps


def pooling(cases: int = 2000) -> dict[str, Any]:
    """Compare maps with the definition."""
    draw, wrong, empty = random.Random(0), Counter[str](), 0
    for number in range(cases):
        side = draw.choice([6, 20, 40, 200])
        shape = (
            draw.randint(0, 3),
            draw.randint(0, 4),
            draw.randint(1, side),
            draw.randint(1, side),
        )
        if side == 200:
            shape = (1, 1, shape[2], shape[3])
        maps, levels = draw_map(draw, shape, odd=number % 3 == 0), draw_levels(draw)
        found = spatial_pyramid_pool(maps, levels)
        length = maps.shape[1] * sum(n * n for n in levels)
        if not maps.numel():
            empty += 1
            wrong["shape of nothing"] += found.shape != (len(maps), length)
            continue
        loops = [pyramid_loops.pool_map(each.double().tolist(), levels) for each in maps]
        wrong["another value"] += not same(found, torch.tensor(loops).to(maps.dtype))
    return {"cases": cases, "of_nothing": empty, "wrong": sum(wrong.values()), "kinds": dict(wrong)}


def gradients(cases: int = 200) -> dict[str, Any]:
    """Derivatives of maps without ties."""
    draw, wrong = random.Random(0), Counter[str]()
    for _ in range(cases):
        shape = (draw.randint(1, 2), draw.randint(1, 2), draw.randint(1, 7), draw.randint(1, 7))
        levels = tuple(draw.sample(range(1, 5), draw.randint(1, 2)))
        count = shape[0] * shape[1] * shape[2] * shape[3]
        maps = torch.tensor(draw.sample(range(count), count)).double().reshape(shape)
        maps.requires_grad_()

        def pool(maps: Tensor, levels: tuple[int, ...] = levels) -> Tensor:
            return spatial_pyramid_pool(maps, levels)

        wrong["first"] += not torch.autograd.gradcheck(pool, maps, eps=1e-6, atol=1e-5)
        wrong["second"] += not torch.autograd.gradgradcheck(pool, maps, eps=1e-6, atol=1e-5)
        pooled = pool(maps)
        given = torch.rand(pooled.shape, dtype=torch.float64)
        (back,) = torch.autograd.grad(pooled, maps, given)
        wrong["mass"] += abs(float(back.sum() - given.sum())) > 1e-9
    return {"cases": cases, "wrong": sum(wrong.values()), "kinds": dict(wrong)}


BAD_REGIONS: list[list[float]] = [
    [0, 3, 0, 3, 5],  # empty
    [0, 5, 0, 3, 5],  # reversed
    [0, -1, 0, 3, 5],
    [0, 0, 0, 99, 5],
    [-1, 0, 0, 3, 5],
    [9, 0, 0, 3, 5],
    [0, float("nan"), 0, 3, 5],
    [0, float("inf"), 0, 3, 5],
    [0, 1e30, 0, 3, 5],
]


def regions(cases: int = 5000) -> dict[str, Any]:
    """Compare regions with the definition; refuse what is none, with its row."""
    draw, wrong = random.Random(0), Counter[str]()
    for _ in range(cases // 50):
        shape = (draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 40), draw.randint(1, 40))
        maps, levels = draw_map(draw, shape, odd=draw.random() < 0.3), draw_levels(draw)
        shape = tuple(maps.shape)  # type: ignore[assignment]
        rows = []
        for _ in range(50):
            x0, y0 = draw.randrange(shape[3]), draw.randrange(shape[2])
            x1, y1 = draw.randint(x0 + 1, shape[3]), draw.randint(y0 + 1, shape[2])
            rows.append([draw.randrange(shape[0]), x0, y0, x1, y1])
        found = pool_regions(maps, torch.tensor(rows), levels)
        plain = maps.double().tolist()
        loops = [pyramid_loops.pool_region(plain[row[0]], row[1:], levels) for row in rows]
        wrong["another value"] += not same(found, torch.tensor(loops).to(maps.dtype))
    maps = torch.rand(2, 3, 10, 10)
    none = pool_regions(maps, torch.zeros(0, 5, dtype=torch.long), (1, 2))
    wrong["shape of none"] += none.shape != (0, 15)
    many = torch.tensor([[1, 2, 3, 7, 9]]).expand(20_000, 5)
    wrong["20,000"] += not (
        pool_regions(maps, many, (1, 2)) == pool_regions(maps, many[:1], (1, 2))
    ).all()
    good = [0, 0, 0, 3, 5]
    for bad in BAD_REGIONS:
        is_whole = all(value == value and abs(value) < 1e9 for value in bad)
        rows_of = torch.tensor([good, bad], dtype=torch.long if is_whole else torch.float64)
        try:
            pool_regions(maps, rows_of, (1, 2))
        except (ValueError, TypeError) as error:
            wrong["does not name the row"] += is_whole and "1" not in str(error)
        else:
            wrong[f"takes {bad}"] += 1
    figures = {"cases": cases // 50 * 50, "refused": len(BAD_REGIONS), "of_20000": True}
    return {**figures, "wrong": sum(wrong.values()), "kinds": dict(wrong)}


def boxes(cases: int = 1000) -> dict[str, Any]:
    """Suppression with ties, against exact fractions; scores that are no numbers are refused."""
    draw, wrong = random.Random(0), Counter[str]()
    for _ in range(cases):
        found = []
        for _ in range(draw.randint(0, 25)):
            x, y = draw.randrange(12), draw.randrange(12)
            found.append([x, y, x + draw.randint(1, 8), y + draw.randint(1, 8)])
        scores = [draw.randrange(6) / 8 for _ in found]
        threshold = draw.choice([0.25, 0.5, 0.75])
        kept = nms(
            torch.tensor(found, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), threshold
        )
        wrong["others"] += kept.tolist() != box_loops.suppress(found, scores, Fraction(threshold))
    try:
        nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([float("nan")]), 0.5)
        wrong["takes NaN"] += 1
    except ValueError:
        pass
    return {"cases": cases, "wrong": sum(wrong.values()), "kinds": dict(wrong)}


def threads(calls: int = 2000, count: int = 8) -> dict[str, Any]:
    """Ask one model from several threads; bits, and what is global, stay as they were."""
    from sppnet.classification import Classifier, View, build_classifier

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_classifier("small5", 6, hidden=(32,), feature_norm=1.0)
    classifier = Classifier(network, View("full", 40), ("a", "b", "c", "d", "e", "f"))
    images = [torch.rand(3, 20 + 3 * n, 60 - 2 * n) for n in range(10)]
    serial = [classifier.scores(image) for image in images]
    state = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.is_grad_enabled())
    wrong = []

    def ask(own: int) -> None:
        for number in range(calls // count):
            place = (own + number) % len(images)
            if not torch.equal(classifier.scores(images[place]), serial[place]):
                wrong.append(place)

    workers = [threading.Thread(target=ask, args=(own,)) for own in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    after = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.is_grad_enabled())
    stuck = sum(worker.is_alive() for worker in workers)
    return {"calls": calls, "threads": count, "wrong": len(wrong) + stuck + (after != state)}


def plain_detector(
    proposals: str, *, flip: bool, order: Sequence[int] = (0, 1, 2, 3), side: int = 64
) -> Any:
    """A detector of random weights, whose classes come in some order."""
    from sppnet.backbones import build_backbone
    from sppnet.detection import Detector, Encoder, InferenceConfig, LinearRegionClassifier

    torch.manual_seed(0)
    encoder = Encoder(build_backbone("small5"), short_sides=(side,), levels=(1, 2, 3))
    weights = torch.randn(encoder.length, len(order)) / 20
    classifier = LinearRegionClassifier(weights[:, list(order)], torch.zeros(len(order)))
    rule = InferenceConfig(proposals=proposals, flip=flip, score_threshold=-10.0, max_detections=40)
    return Detector(encoder, classifier, None, [str(number) for number in order], rule)


def alike(one: Any, two: Any, tolerance: float = 0.0) -> bool:
    """The same boxes and labels in the same order, and scores so close to each other."""
    return (
        torch.equal(one.boxes, two.boxes)
        and torch.equal(one.labels, two.labels)
        and bool(((one.scores - two.scores).abs() <= tolerance * one.scores.abs().max()).all())
    )


def photos(count: int = 200) -> dict[str, Any]:
    """Ask detectors about photos that are stored, mirrored, named and placed otherwise."""
    from sppnet.geometry import Detections, flip_boxes
    from sppnet.images import flip_left_right
    from sppnet.images.decode import decode_image

    torch.set_num_threads(1)
    order = [2, 0, 3, 1]
    detector, placed = (plain_detector("grid", flip=flip) for flip in (True, False))
    renamed = plain_detector("grid", flip=True, order=order)
    stride, seen = (getattr(placed.encoder.backbone, n) for n in ("stride", "receptive_field"))
    margin = (seen // 2 // stride + 2) * stride  # beyond it no cell of the photo sees the edge
    wrong, found = Counter[str](), 0

    def look(model: Any, pixels: Tensor, boxes: Tensor) -> Any:
        return model.detect(model.encode(pixels), boxes)

    for number in range(count):
        rng = np.random.default_rng(number)
        picture = draw_pattern(PATTERNS[number % len(PATTERNS)], rng)
        width, height = picture.size
        corners = rng.integers(0, [width - 8, height - 8], (50, 2))
        ends = np.minimum(corners + rng.integers(8, 60, (50, 2)), [width, height])
        boxes = torch.from_numpy(np.hstack([corners, ends])).float()
        pixels, other = (decode_image(stored(picture, kind)) for kind in ("PNG", "BMP"))
        first = look(detector, pixels, boxes)
        found += first.count
        wrong["stored"] += not alike(first, look(detector, other, boxes))
        turned = look(detector, flip_left_right(pixels), flip_boxes(boxes, width))
        turned = Detections(flip_boxes(turned.boxes, width), turned.scores, turned.labels)
        wrong["mirrored"] += not alike(first, turned)
        named = look(renamed, pixels, boxes)
        named = Detections(named.boxes, named.scores, torch.tensor(order)[named.labels])
        wrong["named"] += not alike(first, named, 1e-6)
        side = 2 * margin + 96 + 4 * stride
        placed.encoder.short_sides = (side,)  # nothing is resized
        several = []
        for across, down in ((0, 0), (int(rng.integers(1, 4)), int(rng.integers(0, 4)))):
            x, y = margin + stride * across, margin + stride * down
            canvas = torch.full((3, side, side), 0.5)
            canvas[:, y : y + height, x : x + width] = pixels
            move = torch.tensor([x, y, x, y])
            one = look(placed, canvas, boxes + move)
            several.append(Detections(one.boxes - move, one.scores, one.labels))
        wrong["placed"] += not alike(*several, 1e-5)
    total = sum(wrong.values())
    return {"photos": count, "detections": found, "wrong": total, "kinds": dict(wrong)}


def _fit_by_visits(rows: Tensor, signs: Tensor, boxes: Tensor) -> Tensor:  # noqa: ARG001
    """Scores of rows by the SVMs of detection, of one class."""
    from sppnet.detection.heads.dual_svm import DualCoordinateDescentSvm

    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    costs = 1e-2 * signs.double().numpy()[:, None]
    svms.add(rows, np.minimum(costs, 0), np.maximum(costs, 0))
    svms.fit([0], 1e-9)
    return rows @ svms.weights[0] + svms.bias[0]


def _fit_by_kernel(rows: Tensor, signs: Tensor, boxes: Tensor) -> Tensor:  # noqa: ARG001
    """Scores of rows by the kernel machine of detection; every row is a centre."""
    from sppnet.detection.heads.kernel_svm import KernelSvmConfig, fit_kernel

    return fit_kernel(rows, signs.long()[:, None], KernelSvmConfig()).decision_function(rows)


def _move_boxes(rows: Tensor, signs: Tensor, boxes: Tensor) -> Tensor:
    """Boxes of one class, moved by the regression that was fitted on them."""
    from sppnet.detection.heads.box_regression import RidgeBoxRegressor

    goals = boxes + signs[:, None] * torch.tensor([1.0, 2.0, 3.0, 1.0])
    regressor = RidgeBoxRegressor(strength=1.0).fit([rows], [boxes], [goals])
    return regressor.refine(rows, torch.zeros(len(rows), dtype=torch.long), boxes)


def _fit_by_gram(loss: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Scores of rows by the SVMs of classification, of two classes."""

    def fit(rows: Tensor, signs: Tensor, boxes: Tensor) -> Tensor:  # noqa: ARG001
        from sppnet.classification.transfer.svm import LinearSvm

        return LinearSvm(loss=loss).fit(rows, (signs > 0).long(), 2).decision_function(rows)

    return fit


def _fit_by_sums(rows: Tensor, signs: Tensor, boxes: Tensor) -> Tensor:  # noqa: ARG001
    """Scores of rows by the sums that shards are merged of."""
    from sppnet.classification.transfer.svm import RidgeSums

    sums = RidgeSums(rows.shape[1], 2, float(rows.abs().max()) if len(rows) else 1.0)
    return sums.partial_fit(rows, (signs > 0).long()).solve().decision_function(rows)


SOLVERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "SVMs by visits": _fit_by_visits,
    "kernel machine": _fit_by_kernel,
    "box regression": _move_boxes,
    "SVMs by Gram matrix": _fit_by_gram("hinge"),
    "least squares": _fit_by_gram("squares"),
    "sums": _fit_by_sums,
}


def solvers(rows_of_each: int = 60) -> dict[str, Any]:
    """Scales of 1e-6 to 1e6 and sets that teach little: finite, or refused in words."""
    from sppnet.errors import SppnetError

    torch.set_num_threads(1)
    torch.manual_seed(0)
    signs = torch.where(torch.rand(rows_of_each) < 0.4, 1.0, -1.0)
    rows = torch.randn(rows_of_each, 5) + signs[:, None]
    boxes = torch.rand(rows_of_each, 4) * 50
    boxes[:, 2:] += boxes[:, :2] + 10
    every = torch.arange(rows_of_each)
    chosen = {
        "all": every,
        "each thrice": every.repeat(3),
        "one": every[signs > 0][:1],
        "no positives": every[signs < 0],
        "only positives": every[signs > 0],
        "none": every[:0],
    }
    counts, wrong, furthest = Counter[str](), Counter[str](), dict[str, float]()
    for name, solve in SOLVERS.items():
        for power in range(-6, 7):
            for which, places in chosen.items():
                try:
                    found = solve(rows[places] * 10.0**power, signs[places], boxes[places])
                except (ValueError, SppnetError) as error:
                    counts["refused"] += 1
                    wrong[f"{name}: no words"] += len(str(error)) < 10
                except Exception as error:
                    wrong[f"{name}: {type(error).__name__}, {which}, 1e{power}"] += 1
                else:
                    counts["finite"] += 1
                    wrong[f"{name}: not finite, {which}, 1e{power}"] += not found.isfinite().all()
        order = torch.randperm(rows_of_each)
        first = solve(rows, signs, boxes)
        again = torch.empty_like(first)
        again[order] = solve(rows[order], signs[order], boxes[order])
        furthest[name] = float((first - again).abs().max() / first.abs().max())
        wrong[f"{name}: another order"] += furthest[name] > MOST_BY_ORDER
    wrong["sums: order changes bits"] += furthest["sums"] > 0
    kinds = {name: count for name, count in wrong.items() if count}
    figures = {"fits": sum(counts.values()), **counts, "wrong": sum(wrong.values())}
    return {**figures, "kinds": kinds, "each": {"furthest_by_order": furthest}}


def stored(picture: Image.Image, kind: str) -> bytes:
    """A picture as a file."""
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


def precision(seeds: int = 3, per_class: int = 100) -> dict[str, Any]:
    """Train in both precisions; what each names right of photos that it has not seen, in %."""
    from sppnet.classification import (
        Classifier,
        InputSizes,
        SplitConfig,
        TrainerConfig,
        TrainingImages,
        View,
        build_classifier,
        open_class_data,
        train_network,
    )

    torch.set_num_threads(1)
    right: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as name:
        folders = [
            draw_folders(Path(name) / part, count, seed)
            for part, count, seed in (("learn", 40, 0), ("judge", per_class, 1))
        ]
        learn, judge = (open_class_data(folder, SplitConfig()) for folder in folders)
        for seed in range(seeds):
            for kind, found in right.items():
                plan = TrainerConfig(
                    epochs=12,
                    sizes=InputSizes((48,)),
                    batch=8,
                    mixed_precision=kind == "bfloat16",
                    seed=seed,
                )
                images = TrainingImages(learn.paths, plan.short_side)
                torch.manual_seed(seed)
                network = build_classifier("small5", len(learn.names), feature_norm=20.0)
                train_network(network, images, learn.labels[images.kept], plan)
                classifier = Classifier(network, View("full", 48), learn.names)
                answers = [int(each["labels"][0]) for each in classifier.predict(judge.paths)]
                share = (torch.tensor(answers) == judge.labels).double().mean()
                found.append(round(100 * float(share), 2))
    lost = sum(right["float32"]) / seeds - sum(right["bfloat16"]) / seeds
    figures = {"photos": 4 * per_class, "right_percent": right, "points_lost": round(lost, 2)}
    return {**figures, "wrong": int(lost > MOST_POINTS)}


WORK: dict[str, Callable[[], dict[str, Any]]] = {
    "pooling": pooling,
    "gradients": gradients,
    "regions": regions,
    "boxes": boxes,
    "threads": threads,
    "solvers": solvers,
    "photos": photos,
    "precision": precision,
}


def main() -> None:
    """Compare, print, and leave with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", choices=list(WORK))
    found = WORK[parser.parse_args().work]()
    print(json.dumps(found, indent=1, default=int))
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
