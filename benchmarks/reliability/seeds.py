r"""Runs the commands of a small work again and again with one seed: id E8.

    python benchmarks/reliability/seeds.py --runs 5

Every run is all of it, each command in a process of its own: train a detector, score it, predict;
fit and train classifiers, score, predict, embed; evaluate detections. The runs differ in
PYTHONHASHSEED, in the order in which the files of the sets were made and are listed (below
``--memory``, on a tmpfs, where that is the order of making; it is checked), in the workers that
prepare images (0, 1, 2), in names of folders, and in the number of threads where the docs promise
the same bits for any: a frozen trunk by onnxruntime. SHA-256 of weights, figures, detections and
whatever else is for the user must be that of the first run. Then one run with another seed, which
must be another one, so that a comparison that sees nothing is seen. Needs Linux. Prints JSON.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bars import tell
from small_runs import WORDS, Run, differences, ending, needed, new_run, prepare

from sppnet.app.progress import track

WORKERS = ("detect train", "classify train")  # they have the option
ANY_THREADS = ("detect train", "detect predict", "classify fit")
SEEDED = ("detect train", "classify fit", "classify train")
# what later commands need of earlier ones: under that name beside the runs
PASSED_ON = {
    "detect train": ("out/model", "detector"),
    "classify train": ("out/model", "classifier"),
    "detect val": ("out/detections.json", "detections.json"),
}
ORDER = (
    *("detect train", "detect val", "detect predict", "classify fit", "classify train"),
    *("classify val", "classify predict", "embed", "evaluate"),
)


def scatter(source: Path, target: Path, draw: random.Random) -> list[str]:
    """Copy a folder, its files made in random order; the order in which the system lists them."""
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    draw.shuffle(files)
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    return listed(target)


def listed(folder: Path) -> list[str]:
    """Files in the order in which the system lists them."""
    return [
        str(Path(place, name).relative_to(folder))
        for place, _, names in os.walk(folder)
        for name in names
    ]


def work(
    folder: Path, number: int, seed: int = 0, commands: tuple[str, ...] = ORDER
) -> dict[str, str]:
    """Do all of it in a folder with the sets; SHA-256 by command and file."""
    found: dict[str, str] = {}
    for command in commands:
        run = new_run(folder, f"run-{number}", command)
        words = WORDS[command].split()
        words += ["--workers", str(number % 3)] * (command in WORKERS)
        words += ["--seed", str(seed)] * (command in SEEDED)
        if command != "evaluate":
            words += ["--threads", str(1 + number % 2 * (command in ANY_THREADS))]
        variables = {"PYTHONHASHSEED": str(number * 1000 + 1)}
        needed(Run(words, run, fresh=True, variables=variables).wait())
        found |= {f"{command}: {name}": digest for name, digest in ending(run).items()}
        if command in PASSED_ON:
            made, place = PASSED_ON[command]
            (run / made).rename(folder / place)
    return found


def main() -> None:
    """Run, print, and leave with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="Folder in memory.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    chosen = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=chosen.memory) as folder:
        figures = compare(Path(folder), chosen.runs)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    tell(figures, chosen.out)
    sys.exit(1 if figures["wrong"] else 0)


def compare(root: Path, runs: int) -> dict[str, Any]:
    """Run all of it several times, and once with another seed; what differs."""
    made, wrong, first = root / "made", Counter[str](), dict[str, str]()
    made.mkdir()
    prepare(made)
    orders, other = set(), dict[str, str]()
    for number in track(range(runs + 1), "runs"):
        folder, draw = root / f"set-{number}", random.Random(number)
        order = [scatter(made / name, folder / name, draw) for name in ("photos", "scenes")]
        orders.add(str(order))
        found = work(folder, number % max(runs, 1), seed=int(number == runs))
        first = first or found
        if number < runs:
            wrong.update(differences(found, first))
        other = found
        shutil.rmtree(folder)
    another = differences(other, first)
    unseen = [name for name in SEEDED if f"{name}: out/model/model.safetensors" not in another]
    wrong.update(f"another seed, the same model: {name}" for name in unseen)
    if len(orders) <= runs:
        wrong["the system lists files in the same order whatever the order of making"] += 1
    return {
        "runs": runs,
        "files": len(first),
        "orders_of_files": len(orders),
        "wrong": sum(wrong.values()),
        "other_with_another_seed": len(another),
        "each": dict(wrong),
    }


if __name__ == "__main__":
    main()
