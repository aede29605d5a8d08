"""Calls the compiled kernels on numbers that a seed gives, with NumPy and ctypes alone.

    python3 benchmarks/reliability/kernel_calls.py LIBRARIES baseline answers.npz

``arm.py`` runs it here and in an emulated processor, and compares the answers bit by bit. It needs
neither torch nor this package, so any Python with NumPy will do.
"""

import ctypes
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
LEVELS = ((1, 2, 3, 6), (6,), (1, 4), (5, 3))
SIZES = ((1, 1), (1, 13), (2, 3), (7, 5), (13, 13), (24, 31), (40, 9))
SPACES = ("hsv", "lab", "rgb")
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64


def numbers_of(random: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Random numbers of a kind, with ties, both zeros, and a NaN or infinity now and then."""
    values = np.round(random.normal(size=shape) * 8) / 8
    values[random.random(shape) < 0.02] = -0.0
    if random.random() < 0.3:
        values.flat[random.integers(values.size)] = random.choice([np.nan, np.inf, -np.inf])
    if kind == "bfloat16":  # the upper half of a float32, whose lower half these numbers lack
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(kind)


def pooling_cases(seed: int) -> Iterator[dict[str, Any]]:
    """Maps, regions and levels of one call each."""
    random = np.random.default_rng(seed)
    for kind in KINDS:
        for levels in LEVELS:
            for height, width in SIZES:
                channels = int(random.integers(1, 40))
                maps = numbers_of(random, (2, channels, height, width), kind)
                if random.random() < 0.5:  # channels last, as networks for processors like it
                    maps = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
                ends = [np.sort(random.random((30, 2)), 1) * side for side in (width, height)]
                first, last = ([np.floor(each[:, i]) for each in ends] for i in (0, 1))
                columns = [random.integers(0, 2, 30), *first, *(each + 1 for each in last)]
                regions = np.stack(columns, 1).astype(np.int64)
                weights = random.normal(size=(channels * sum(n * n for n in levels), 3))
                exact = np.float64 if kind == "float64" else np.float32
                yield {
                    "kind": kind, "levels": levels, "maps": maps, "regions": regions,
                    "weights": weights.astype(exact),
                }  # fmt: skip


def describe(maps: np.ndarray) -> bytes:
    """Address, shape and strides of maps, as the library takes them."""
    strides = [stride // maps.itemsize for stride in maps.strides]
    return struct.pack("9q", maps.ctypes.data, *maps.shape, *strides)


def pool(library: ctypes.CDLL, case: dict[str, Any], threads: int) -> dict[str, np.ndarray]:
    """Pool whole maps and regions, send gradients back, and multiply by weights."""
    maps, regions, weights = case["maps"], case["regions"], case["weights"]
    kind, levels = KINDS[case["kind"]], case["levels"]
    packed, bins = struct.pack(f"{len(levels)}q", *levels), sum(n * n for n in levels)
    pyramid, about = (packed, len(levels)), describe(maps)
    found = {}
    for mode, name in enumerate(("max", "avg")):
        whole = np.zeros((len(maps), maps.shape[1] * bins), maps.dtype)
        some = np.zeros((len(regions), maps.shape[1] * bins), maps.dtype)
        winners = np.zeros(whole.shape, np.int16)
        kept = winners.ctypes.data if name == "max" else None
        arguments = (about, None, 1, *pyramid, mode, whole.ctypes.data, kept, threads)
        _well(library.sppnet_pool_maps(kind, *arguments))
        rows = (regions.ctypes.data, len(regions))
        arguments = (about, None, 1, *rows, *pyramid, mode, some.ctypes.data, threads)
        _well(library.sppnet_pool_regions(kind, *arguments))
        grads = np.zeros_like(maps)
        back = (about, describe(grads), 1, *rows, *pyramid, mode, some.ctypes.data, threads)
        _well(library.sppnet_pool_regions(kind, *back))
        found |= {name: whole, f"regions {name}": some, f"gradient {name}": grads}
        found |= {"winners": winners} if kept else {}
    scores = np.zeros((len(regions), weights.shape[1]), weights.dtype)
    _well(
        library.sppnet_score_regions(
            *(kind, about, 1, regions.ctypes.data, len(regions), *pyramid),
            *(weights.ctypes.data, weights.shape[1], scores.ctypes.data, threads),
        )
    )
    return found | {"scores": scores}


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """(3, H, W) uint8: blocks of colour with noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (3, -(-height // 8), -(-width // 8)))
    plain = np.kron(blocks, np.ones((1, 8, 8), int))[:, :height, :width]
    return np.clip(plain + random.integers(-9, 10, plain.shape), 0, 255).astype(np.uint8)


def group(library: ctypes.CDLL, pixels: np.ndarray, ks: list[float], threads: int) -> np.ndarray:
    """(R, 6) boxes, runs and places of all regions of a picture."""
    spaces, sizes = np.arange(len(SPACES), dtype=np.int64), np.array(ks, np.float32)
    height, width = pixels.shape[1:]
    room = 2 * len(spaces) * len(ks) * 2 * max(1, height * width // int(min(ks)))
    found = np.empty((room, 6), np.int32)
    count = library.sppnet_graph_windows(
        *(pixels.ctypes.data, height, width, spaces.ctypes.data, len(spaces)),
        *(sizes.ctypes.data, len(sizes), threads, found.ctypes.data, room),
    )
    _well(count < 0)
    return found[:count]


def block_case(seed: int, rows: int, length: int, classes: int) -> dict[str, np.ndarray]:
    """A block of examples that some classes share, and their state."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, length)).astype(np.float16)
    wide = values.astype(np.float64)
    labels, which = np.nonzero(random.random((classes, rows)) < 0.6)
    return {
        "values": values,
        "products": wide @ wide.T + 100.0,
        "labels": labels.astype(np.int32),
        "rows": which.astype(np.int32),
        "bounds": np.where(random.random(len(labels)) < 0.3, 0.02, -0.01),
        "duals": np.zeros(len(labels)),
        "active": np.zeros(len(labels), np.uint8),
        "scores": np.zeros(len(labels)),
        "columns": np.arange(classes, dtype=np.int32),
        "weights": np.zeros((classes, length), np.float32),
        "bias": np.zeros(classes),
        "gains": np.zeros(classes),
    }


def visit(library: ctypes.CDLL, case: dict[str, np.ndarray], passes: int, threads: int) -> None:
    """Visit a block once; the state changes in place."""
    values, weights = case["values"], case["weights"]
    places = (values.ctypes.data + np.arange(len(values)) * values.strides[0]).astype(np.int64)
    names = ("labels", "rows", "bounds", "duals", "active", "scores")
    _well(
        library.sppnet_visit(
            *(places.ctypes.data, case["products"].ctypes.data, len(values), values.shape[1]),
            *(case[name].ctypes.data for name in names),
            *(len(case["labels"]), case["columns"].ctypes.data, weights.ctypes.data),
            *(case["bias"].ctypes.data, case["gains"].ctypes.data, len(weights), 100.0),
            *(passes, 0, threads),
        )
    )


def _well(failed: int) -> None:
    """Stop at what a library says went wrong."""
    if failed:
        raise MemoryError("a kernel says that it has no memory")


def load(folder: Path, name: str) -> dict[str, ctypes.CDLL]:
    """The three libraries of a generation of processors."""
    found = {}
    for stem in ("pyramid_pool", "graph_windows", "dual_ascent"):
        found[stem] = ctypes.CDLL(str(folder / f"{stem}_{name}.so"))
    maps, pyramid = [NUMBER, POINTER, POINTER, NUMBER], [POINTER, NUMBER, NUMBER]
    pooling = found["pyramid_pool"]
    pooling.sppnet_pool_maps.argtypes = [*maps, *pyramid, POINTER, POINTER, NUMBER]
    pooling.sppnet_pool_regions.argtypes = [*maps, POINTER, NUMBER, *pyramid, POINTER, NUMBER]
    pooling.sppnet_score_regions.argtypes = [
        *(NUMBER, POINTER, NUMBER, POINTER, NUMBER, POINTER, NUMBER),
        *(POINTER, NUMBER, POINTER, NUMBER),
    ]
    grouping = found["graph_windows"].sppnet_graph_windows
    grouping.argtypes = [
        *(POINTER, NUMBER, NUMBER, POINTER, NUMBER, POINTER, NUMBER, NUMBER, POINTER, NUMBER)
    ]
    grouping.restype = NUMBER
    types = [*[POINTER] * 2, NUMBER, NUMBER, *[POINTER] * 6, NUMBER, *[POINTER] * 4, NUMBER]
    found["dual_ascent"].sppnet_visit.argtypes = [*types, ctypes.c_double, *[NUMBER] * 3]
    return found


def answers(libraries: dict[str, ctypes.CDLL], seed: int) -> dict[str, np.ndarray]:
    """What the kernels say to everything, with one thread and with two."""
    found: dict[str, np.ndarray] = {}
    for threads in (1, 2):
        for number, case in enumerate(pooling_cases(seed)):
            for name, values in pool(libraries["pyramid_pool"], case, threads).items():
                found[f"pool {number} {threads} {name}"] = values
        for number, size in enumerate(((9, 6), (24, 31), (60, 80))):
            pixels = picture(seed + number, *size)
            rows = group(libraries["graph_windows"], pixels, [8.0, 40.0], threads)
            found[f"graph {number} {threads}"] = rows
        for number, shape in enumerate(((1, 5, 1), (20, 33, 4), (64, 700, 7))):
            case = block_case(seed + number, *shape)
            for passes in (2, 2, 0):
                visit(libraries["dual_ascent"], case, passes, threads)
            for name in ("duals", "active", "scores", "weights", "bias", "gains"):
                found[f"ascent {number} {threads} {name}"] = case[name]
    return found


if __name__ == "__main__":
    np.savez(sys.argv[3], **answers(load(Path(sys.argv[1]), sys.argv[2]), seed=0))
