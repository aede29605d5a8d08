"""Memory and seconds of `RidgeSums` for 10,000 classes: python benchmarks/ridge_sums.py."""

import resource
import sys
import time

import torch

from sppnet import RidgeSums

CLASSES, LENGTH, ROWS, PARTS = 10_000, 4096, 4096, 3


def main() -> None:
    """Sum some rows, solve all classes, and say what it took."""
    torch.manual_seed(0)
    sums, start = RidgeSums(LENGTH, CLASSES), time.perf_counter()
    for _ in range(PARTS):
        rows = torch.nn.functional.normalize(torch.randn(ROWS, LENGTH))
        sums.partial_fit(rows, torch.randint(CLASSES, (ROWS,)))
    summed = time.perf_counter()
    sums.solve(10.0)
    solved = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(
        f"{(summed - start) / PARTS:.1f} s for {ROWS} rows, {solved - summed:.1f} s to solve, "
        f"{peak:.2f} GB at most\n"
    )


if __name__ == "__main__":
    main()
