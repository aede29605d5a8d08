r"""Memory and use of the processor while ``predict`` goes over many photos.

    python benchmarks/prediction_memory.py --images 2000

Learns a detector and a classifier with a small trunk from drawn scenes, then runs ``sppnet detect
predict`` and ``sppnet classify predict`` over so many small photos, each in a process of its own:
the memory that it holds after 500 photos and at most from then on, seconds of the processor over
seconds on the clock, and a second run that finds all of it done. The photos are copies of the
scenes whose bytes differ, so that none is looked up instead of computed. Leaves prediction.json in
the folder of ``--out``.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sppnet.images import draw_detection_set
from sppnet.storage import write_json
from sppnet.storage.runs import environment

FIRST = 500  # photos after which memory must not grow
SMALL = ("--backbone", "small5", "--weights", "none")
DETECTOR = (*SMALL, "--imgsz", "96", "--max-proposals", "200", "--max-anchors", "50")
MEBIBYTE = 2**20


def copy_photos(scenes: Path, folder: Path, count: int) -> None:
    """Write so many copies of the scenes whose bytes differ behind the end of the image."""
    folder.mkdir()
    contents = [path.read_bytes() for path in sorted(scenes.glob("*.jpg"))]
    for number in range(count):
        data = contents[number % len(contents)] + number.to_bytes(4, "big")
        (folder / f"{number:06d}.jpg").write_bytes(data)


def sort_scenes(scenes: Path, folder: Path) -> None:
    """Class folders of scenes, as a classifier learns from."""
    for number, path in enumerate(sorted(scenes.glob("*.jpg"))[:40]):
        place = folder / ("even" if number % 2 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def run(*words: str) -> None:
    """Run a command to its end."""
    subprocess.run([sys.executable, "-m", "sppnet", *words], check=True, capture_output=True)


def watch(words: list[str], done: Path, count: int) -> dict[str, Any]:
    """Run a command; how much memory it holds as the photos that are done grow in number."""
    held: dict[str, int] = {}  # by number of photos
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "sppnet", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        finished, code, usage = os.wait4(process.pid, os.WNOHANG)
        if finished:
            break
        with suppress(FileNotFoundError):  # at the end the folder is removed
            held[str(min(count, sum(1 for _ in done.glob("*/*.record"))))] = memory_of(process.pid)
        time.sleep(0.5)
    seconds = time.perf_counter() - began
    busy = usage.ru_utime + usage.ru_stime
    return {
        "exit_code": os.waitstatus_to_exitcode(code),
        "seconds": seconds,
        "processor_seconds": busy,
        "processors_busy": busy / seconds,
        "bytes_by_photos": held,
        "peak_bytes": 1024 * usage.ru_maxrss,
    }


def at(held: dict[int, int], count: int) -> float:
    """MiB held when so many photos were done, or the first number after that."""
    later = [number for number in sorted(held) if number >= count]
    return held[later[0]] / MEBIBYTE if later else 0.0


def memory_of(pid: int) -> int:
    """Bytes that a process holds; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def main() -> None:
    """Learn, predict and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--commands", nargs="+", default=["detect", "classify"])
    parser.add_argument("--out", type=Path, default=Path("runs/prediction-memory"))
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = draw_detection_set(folder / "scenes", 50) / "JPEGImages"
        copy_photos(scenes, folder / "photos", options.images)
        sort_scenes(scenes, folder / "classes")
        learn = {
            "detect": ["detect", "train", str(folder / "scenes"), *DETECTOR],
            "classify": ["classify", "fit", str(folder / "classes"), *SMALL, "--imgsz", "64"],
        }
        places = {"detect": "cache", "classify": "unfinished"}
        for command in options.commands:
            run(*learn[command], "--out", str(folder / command))
            model, out = folder / command / "model", folder / f"found-{command}"
            words = [command, "predict", str(model), str(folder / "photos"), "--out", str(out)]
            words += ["--threads", options.threads]
            rows[command] = watch(words, out / places[command], options.images)
            if command == "detect":  # the other drops what it kept when its files stand
                rows["detect, again"] = watch(words, out / places[command], options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {"images": options.images, "threads": options.threads}
    write_json(options.out / "prediction.json", {**about, "rows": rows, **environment()})
    count = options.images
    for command, row in rows.items():
        held = {int(number): each for number, each in row["bytes_by_photos"].items()}
        steps = [FIRST, (FIRST + count) // 2, round(0.98 * count)]
        shown = ", ".join(f"{at(held, step):.0f} MiB at {step}" for step in steps)
        print(
            f"{command:14} {count} photos: {row['seconds']:.0f} s, processors busy "
            f"{row['processors_busy']:.2f}, {1000 * row['processor_seconds'] / count:.1f} ms a "
            f"photo, {shown}, peak {row['peak_bytes'] / MEBIBYTE:.0f}"
        )


if __name__ == "__main__":
    main()
