r"""Builds the kernels for Arm with Zig and runs them in an emulated processor, bit by bit as here.

    pip install ziglang
    apt-get install qemu-user-static debootstrap
    debootstrap --foreign --variant=minbase --arch=arm64 --include=python3,python3-numpy \
        trixie ARM http://deb.debian.org/debian
    for each in ARM/var/cache/apt/archives/*.deb; do dpkg-deb -x $each ARM; done
    python benchmarks/reliability/arm.py --root ARM

The three sources are compiled for aarch64 and for this processor with the flags of
``hatch_build.py``. ``kernel_calls.py`` then calls each on the same numbers: here, and by the Python
of the Arm system under QEMU. Prints JSON: answers, how many of them differ in any bit between the
two, and how many of ours differ from the slow definitions of ``tests/oracles``.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kernel_calls
import numpy as np
from bars import tell

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
PYTHON = "usr/bin/python3"
ASKED = (
    "import platform, numpy; "
    "print(platform.machine(), platform.python_version(), numpy.__version__)"
)
# where Debian keeps what NumPy links to, without the links that an installation makes
ALGEBRA = ("/usr/lib/aarch64-linux-gnu/blas", "/usr/lib/aarch64-linux-gnu/lapack")


def compile_for(machine: str, folder: Path) -> dict[str, int]:
    """Compile the sources for the oldest processor of a machine; bytes of each library."""
    from hatch_build import FLAGS, GENERATIONS, SOURCES

    def one(source: Path) -> None:
        out = folder / f"{source.stem}_baseline.so"
        target = ["-target", f"{machine}-linux-gnu.2.28", "-fPIC", "-lpthread"]
        cpu = f"-mcpu={GENERATIONS[machine]['baseline']}"
        words = [*target, cpu, *FLAGS, "-o", str(out), str(ROOT / source)]
        cache = {
            name: str(folder / "zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
        }
        command = [sys.executable, "-m", "ziglang", "c++", *words]
        subprocess.run(command, env={**os.environ, **cache}, check=True)

    with ThreadPoolExecutor(1) as executor:
        list(executor.map(one, SOURCES))
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.so"))}


def ask(python: list[str], folder: Path) -> tuple[dict[str, np.ndarray], float]:
    """The answers of the libraries in a folder by some Python, and its seconds."""
    begin = time.monotonic()
    script, out = Path(kernel_calls.__file__), folder / "answers.npz"
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*python, str(script), str(folder), "baseline", str(out)], env=environment, check=True
    )
    with np.load(out) as found:
        return dict(found), time.monotonic() - begin


def different(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """Names of answers that are not the same bits, but for those of a NaN.

    Infinity times nothing is a NaN with a sign on x86-64, and one without on Arm.
    """
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one
        or name not in other
        or one[name].dtype != other[name].dtype
        or _bits(one[name]) != _bits(other[name])
    ]


def _bits(values: np.ndarray) -> bytes:
    """The bits of numbers, where every NaN is the same one."""
    if values.dtype.kind != "f":
        return values.tobytes()
    return np.where(np.isnan(values), np.array(np.nan, values.dtype), values).tobytes()


def wrong(found: dict[str, np.ndarray], seed: int = 0) -> tuple[int, list[str]]:
    """How many answers were compared with the slow definitions, and which differ."""
    from oracles.graph_grouping import graph_rows
    from oracles.pyramid_loops import pool_map, pool_region

    compared, bad = 0, []
    for number, case in enumerate(kernel_calls.pooling_cases(seed)):
        if case["kind"] == "bfloat16":  # NumPy has none; the others show the same code
            continue
        maps, levels = case["maps"].astype(np.float64).tolist(), case["levels"]
        truth = {
            "max": [pool_map(each, levels) for each in maps],
            "regions max": [
                pool_region(maps[r[0]], r[1:], levels) for r in case["regions"].tolist()
            ],
        }
        for name, rows in truth.items():
            compared += 1
            said = found[f"pool {number} 1 {name}"].astype(np.float64)
            if not np.array_equal(said, np.array(rows), equal_nan=True):
                bad.append(f"pool {number} {name}")
    for number, size in enumerate(((9, 6), (24, 31))):
        compared += 1
        rows = graph_rows(
            kernel_calls.picture(seed + number, *size), kernel_calls.SPACES, [8.0, 40.0]
        )
        if found[f"graph {number} 1"].tolist() != rows:
            bad.append(f"graph {number}")
    for number, shape in enumerate(((1, 5, 1), (20, 33, 4), (64, 700, 7))):
        compared += 1
        truth = ascended(kernel_calls.block_case(seed + number, *shape))
        said = {name: found[f"ascent {number} 1 {name}"] for name in truth}
        if not all(np.allclose(said[name], truth[name], rtol=1e-4, atol=1e-6) for name in truth):
            bad.append(f"ascent {number}")
    return compared, bad


def ascended(case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What two visits of a block make of it, by the loops that run where nothing was compiled."""
    from sppnet.detection.heads.example_blocks import INNER_PASSES, ascend_block

    assert INNER_PASSES == 2  # as kernel_calls asks
    values = case["values"].astype(np.float64)
    shape = len(values), len(case["weights"])
    bounds, duals = np.zeros(shape), np.zeros(shape)
    bounds[case["rows"], case["labels"]] = case["bounds"]
    curvature = case["products"].diagonal()[:, None]
    for _ in range(2):
        missing = np.sign(bounds) - case["products"] @ duals
        low, high = np.minimum(bounds, 0), np.maximum(bounds, 0)
        ascend_block(duals, missing / curvature, low, high, case["products"] / curvature)
    return {
        "duals": duals[case["rows"], case["labels"]],
        "weights": duals.T @ values,
        "bias": 100.0 * duals.sum(0),
        "scores": (case["products"] @ duals)[case["rows"], case["labels"]],
    }


def compare(root: Path, qemu: str) -> dict[str, Any]:
    """Build, run on both, and compare."""
    here = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine()
    )
    with tempfile.TemporaryDirectory() as name:
        folders = {machine: Path(name) / machine for machine in (here, "aarch64")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        sizes = {machine: compile_for(machine, folder) for machine, folder in folders.items()}
        ours, _ = ask([sys.executable], folders[here])
        found_in = f"LD_LIBRARY_PATH={':'.join(ALGEBRA)}"
        emulated = [qemu, "-L", str(root), "-E", found_in, str(root / PYTHON)]
        theirs, seconds = ask(emulated, folders["aarch64"])
        said = subprocess.run([*emulated, "-c", ASKED], capture_output=True, text=True, check=True)
        versions = said.stdout.split()
    compared, bad = wrong(theirs)
    apart = different(ours, theirs)
    return {
        "machine": versions[0],
        "python": versions[1],
        "numpy": versions[2],
        "answers": len(theirs),
        "bits_differ": len(apart),
        "by_definition": compared,
        "wrong": len(bad) + len(apart),
        "examples": [*apart[:10], *bad[:10]],
        "each": sizes,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Build, run, print; leave with 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="An unpacked Arm system.")
    parser.add_argument("--qemu", default="qemu-aarch64-static", help="The emulator.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    asked = parser.parse_args()
    if shutil.which(asked.qemu) is None:
        raise SystemExit(f"{asked.qemu} is not installed")
    found = compare(asked.root.resolve(), asked.qemu)
    tell(found, asked.out)
    raise SystemExit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
