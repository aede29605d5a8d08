r"""Time and memory of ``sppnet evaluate`` on a set of the size of COCO val, against two judges.

    pip install pycocotools faster-coco-eval
    python benchmarks/evaluation_coco.py

Generates 5,000 photos with 36,000 objects of 80 classes and 500,000 detections, and scores them by
``sppnet evaluate`` (which sorts the mistakes and measures the calibration as well), by pycocotools
and by faster-coco-eval, each in a process of its own from the same two files. The twelve numbers
must be equal. Leaves evaluation.json in the folder of ``--out``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sppnet.storage import write_json
from sppnet.storage.runs import environment

GOAL_SECONDS, GOAL_BYTES = 60, 10**9
SIZE = (640, 480)
STATS = (
    "AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge",
    "AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge",
)  # fmt: skip
JUDGE = """
import sys, {imports}
truth = {coco}(sys.argv[1])
judge = {judge}(truth, truth.loadRes(sys.argv[2]), "bbox")
judge.evaluate(), judge.accumulate(), judge.summarize()
print("stats", [float(value) for value in judge.stats])
"""
JUDGES = {
    "pycocotools": JUDGE.format(
        imports="pycocotools.coco, pycocotools.cocoeval",
        coco="pycocotools.coco.COCO",
        judge="pycocotools.cocoeval.COCOeval",
    ),
    "faster-coco-eval": JUDGE.format(
        imports="faster_coco_eval",
        coco="faster_coco_eval.COCO",
        judge="faster_coco_eval.COCOeval_faster",
    ),
}


def generate(folder: Path, images: int, objects: int, detections: int, classes: int) -> None:
    """Write photos, truth.json and found.json."""
    draw = np.random.default_rng(0)
    first = folder / "0.png"
    Image.new("1", SIZE).save(first)
    for number in range(1, images):
        os.link(first, folder / f"{number}.png")
    shown = np.sort(draw.integers(0, images, objects))
    labels = np.minimum(draw.geometric(0.06, objects), classes)  # few classes are frequent
    sides = np.exp(draw.normal(4.0, 0.9, (objects, 2))).clip(4, 400)
    corners = draw.random((objects, 2)) * (np.array(SIZE) - sides)
    boxes = np.concatenate([corners, sides], 1).round(2)
    crowd = draw.random(objects) < 0.01
    write_json(folder / "truth.json", _truth(images, shown, labels, boxes, crowd, classes))
    about = draw.integers(0, objects, detections)  # the object that a detection is near
    spread = boxes[about, 2:].mean(1, keepdims=True) * draw.choice([0.05, 0.2, 1], (detections, 1))
    near = (boxes[about] + spread * draw.normal(0, 0.5, (detections, 4))).round(2)
    near[:, 2:] = near[:, 2:].clip(1)
    named = np.where(draw.random(detections) < 0.7, labels[about], draw.integers(1, 81, detections))
    scores = (1 / (1 + np.exp(spread[:, 0] / 20 + draw.normal(0, 1, detections)))).round(4)
    columns = (shown[about].tolist(), named.tolist(), near.tolist(), scores.tolist())
    keys = ("image_id", "category_id", "bbox", "score")
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    (folder / "found.json").write_text(json.dumps(rows), encoding="utf-8")


def _truth(
    images: int, shown: Any, labels: Any, boxes: Any, crowd: Any, classes: int
) -> dict[str, Any]:
    """The truth as COCO has it."""
    width, height = SIZE
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": width, "height": height}
            for n in range(images)
        ],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, classes + 1)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": 0.6 * box[2] * box[3],
                "iscrowd": int(hides),
            }
            for n, (image, label, box, hides) in enumerate(
                zip(*(part.tolist() for part in (shown, labels, boxes, crowd)), strict=True)
            )
        ],
    }


def measure(command: list[str], log: Path) -> dict[str, float]:
    """Run a command; its seconds, those of the processor, and the most memory that it held."""
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, code, usage = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(log.read_text(encoding="utf-8"))
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": 1024 * usage.ru_maxrss,
    }


def run_all(folder: Path) -> dict[str, dict[str, Any]]:
    """All three, with their twelve numbers."""
    files, log = [str(folder / name) for name in ("truth.json", "found.json")], folder / "log"
    numbers = folder / "numbers.json"
    command = [sys.executable, "-m", "sppnet", "evaluate", *files, "--metric", "coco"]
    rows: dict[str, dict[str, Any]] = {
        "sppnet evaluate": measure([*command, "--json", str(numbers)], log)
    }
    ours = json.loads(numbers.read_text(encoding="utf-8"))["coco"]["mean"]
    rows["sppnet evaluate"]["stats"] = [ours[name] for name in STATS]
    for name, program in JUDGES.items():
        rows[name] = measure([sys.executable, "-c", program, *files], log)
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1]
        rows[name]["stats"] = json.loads(last.removeprefix("stats "))[: len(STATS)]
    return rows


def main() -> None:
    """Generate, run and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--objects", type=int, default=36_000)
    parser.add_argument("--detections", type=int, default=500_000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation-coco"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (options.images, options.objects, options.detections, options.classes)
        generate(folder, *sizes)
        rows = run_all(folder)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "evaluation.json", {"rows": rows, **environment()})
    for judge, row in rows.items():
        print(
            f"{judge:18} {row['seconds']:7.1f} s, processor {row['processor_seconds']:6.1f} s, "
            f"peak {row['peak_bytes'] / 1e6:6.0f} MB, AP {row['stats'][0]:.6f}"
        )
    ours = np.array(rows["sppnet evaluate"]["stats"])
    for judge in JUDGES:
        print(f"largest difference to {judge}: {np.abs(ours - rows[judge]['stats']).max():.1e}")


if __name__ == "__main__":
    main()
