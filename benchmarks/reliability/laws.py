r"""Pooling, boxes and scores against slow readable definitions: ids E1 to E5, E12, E13.

    python benchmarks/reliability/laws.py pooling

Each of the works draws random cases and compares with the loops of ``tests/oracles``. ``pooling``:
maps of any size, levels, type and strides against the paper's definition, bit by bit; also NaN,
infinities, and nothing at all. ``gradients``: both derivatives against finite differences, and
that none of a gradient gets lost. ``regions``: 5,000 regions of any size and place, and those that
must be refused. ``boxes``: suppression against exact fractions. ``threads``: one model asked by
eight threads at once. Prints JSON.
"""

import argparse
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from oracles import box_loops, pyramid_loops
from sppnet.geometry import nms
from sppnet.pooling import pool_regions, spatial_pyramid_pool

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


WORK: dict[str, Callable[[], dict[str, Any]]] = {
    "pooling": pooling,
    "gradients": gradients,
    "regions": regions,
    "boxes": boxes,
    "threads": threads,
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
