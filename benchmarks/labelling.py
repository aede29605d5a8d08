r"""How fast a session learns from an edit, and what its models are worth against full trainings.

    python benchmarks/labelling.py refit --data DIR --photos 200 --threads 2
    python benchmarks/labelling.py first --data DIR
    python benchmarks/labelling.py warm --data DIR --photos 100 --rounds 10
    python benchmarks/labelling.py doubts --data DIR --photos 100
    python benchmarks/labelling.py order --data DIR --photos 60 --seeds 5

DIR is a set with splits ``train`` and ``test`` in any layout; its photos are copied, its labels
play the person. ``refit``: seconds from one moved box to new suggestions for its photo. ``first``:
the same after the 5th box of a new folder. ``warm``: AP50 after so many warm rounds, and of a full
fit on the same labels. ``doubts``: planted label errors among the 40 most doubtful. ``order``:
boxes until 90 % of the full AP50, in our order and at random. ``--features`` keeps the maps for
other runs. Leaves labelling_WHAT.json in the folder of ``--out``.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sppnet import Detector, LabelSession
from sppnet.evaluation import evaluate_detections
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.storage import write_json
from sppnet.storage.runs import environment

MOVE = 0.04  # of its side by which a box is moved


@dataclass
class Person:
    """Plays a person who knows the labels.

    Args:
        session: Is labelled.
        truth: Images by the names of their photos.
        names: Class names of the truth.
    """

    session: LabelSession
    truth: dict[str, LabelledImage]
    names: tuple[str, ...]

    def label(self, photo: str) -> int:
        """Draw all boxes of a photo; their number."""
        image = self.truth[photo]
        names = [self.names[label] for label in image.labels.tolist()]
        if names:
            self.session.set_boxes(photo, image.boxes, names)
        else:
            self.session.set_empty(photo)
        return len(names)


def open_session(
    dataset: DetectionDataset, count: int, folder: Path, features: Path | None, seed: int = 0
) -> Person:
    """Copy photos into a folder, and open it."""
    images = [image for image in dataset if len(image.boxes)]
    random.Random(seed).shuffle(images)
    photos = folder / "photos"
    photos.mkdir()
    truth = {}
    for number, image in enumerate(images[:count]):
        name = f"{number:04}{image.path.suffix}"
        shutil.copyfile(image.path, photos / name)
        truth[name] = image
    (photos / ".sppnet").mkdir()
    if features is not None:
        features.mkdir(parents=True, exist_ok=True)
        (photos / ".sppnet" / "features").symlink_to(features.resolve())
    return Person(LabelSession.open(photos, background=False), truth, dataset.names)


def measure_ap(detector: Detector, images: Sequence[LabelledImage], names: Sequence[str]) -> float:
    """AP50 by the area under the curve, of classes by their names."""
    found = {}
    for image in images:
        one = detector.predict(image.path)
        label_of = torch.tensor([names.index(name) for name in detector.names])
        found[image.image_id] = replace_labels(one, label_of)
    return evaluate_detections(images, found, names, metric="area").mean_ap


def replace_labels(found: Any, label_of: torch.Tensor) -> Any:
    """The same detections with other numbers of their classes."""
    return type(found)(found.boxes, found.scores, label_of[found.labels])


def finish(session: LabelSession) -> None:
    """Let all of the background's work be done."""
    while session.improve(60) > 59:
        print("  improving:", session.state.model, session.state.waiting, "waiting", flush=True)


def time_of(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def spread(seconds: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Median and 95th percentile."""
    clock, processor = np.array(seconds).T
    return {
        "p50": float(np.quantile(clock, 0.5)),
        "p95": float(np.quantile(clock, 0.95)),
        "processor_p50": float(np.quantile(processor, 0.5)),
        "processor_p95": float(np.quantile(processor, 0.95)),
        "times": len(seconds),
    }


def bench_refit(options: argparse.Namespace, dataset: DetectionDataset, folder: Path) -> Any:
    """Move one box, again and again."""
    person = open_session(dataset, options.photos, folder, options.features)
    session = person.session
    for photo in session.photos:
        person.label(photo)
    prepared = time_of(lambda: (session.refit(600), finish(session)))
    draw, seconds = random.Random(0), []
    for _ in range(options.rounds):
        photo = draw.choice(session.photos)
        labels = session.labels(photo)
        boxes = torch.tensor([box.corners for box in labels.boxes])
        row = draw.randrange(len(boxes))
        boxes[row] += MOVE * (boxes[row, 2:] - boxes[row, :2]).repeat(2) * draw.choice([-1, 1])
        session.suggest(photo)  # the photo is open

        def edit(photo: str = photo, boxes: torch.Tensor = boxes, labels: Any = labels) -> None:
            session.set_boxes(photo, boxes, [box.name for box in labels.boxes])
            session.refit()
            session.suggest(photo)

        seconds.append(time_of(edit))
        print(f"{seconds[-1][0]:.2f} s, {seconds[-1][1]:.2f} s of the processor", flush=True)
    return {"photos": options.photos, "prepared": prepared[0], **spread(seconds)}


def bench_first(options: argparse.Namespace, dataset: DetectionDataset, folder: Path) -> Any:
    """A new folder: refit and suggest after the 5th box."""
    seconds = []
    for number in range(options.rounds):
        place = folder / str(number)
        place.mkdir()
        person = open_session(dataset, 8, place, options.features, seed=number)
        session = person.session
        finish(session)  # convolves the photos, which nobody has labelled yet
        boxes = 0
        for photo in session.photos[:6]:
            if boxes >= 5:
                break
            boxes += person.label(photo)

        def learn(session: LabelSession = session) -> None:
            session.refit()
            session.suggest(session.photos[6])

        seconds.append(time_of(learn))
        session.close()
        print(f"{seconds[-1][0]:.2f} s, {seconds[-1][1]:.2f} s of the processor", flush=True)
    return spread(seconds)


def bench_warm(options: argparse.Namespace, dataset: DetectionDataset, folder: Path) -> Any:
    """Label in rounds, each followed by a warm fit; then train from nothing on the same labels."""
    person = open_session(dataset, options.photos, folder, options.features)
    session, test = person.session, list(open_detection_dataset(options.data, "test"))
    test = test[: options.test_photos]
    for number in range(options.rounds):
        for photo in session.photos[number :: options.rounds]:
            person.label(photo)
        session.refit(600)
        finish(session)
        print(f"round {number + 1}: {session.state}", flush=True)
    session.save_model(folder / "warm")
    warm = measure_ap(Detector.load(folder / "warm"), test, dataset.names)
    print(f"warm {warm:.4f}", flush=True)
    full_seconds = time_of(lambda: session.refit(full=True))[0]
    session.save_model(folder / "full")
    full = measure_ap(Detector.load(folder / "full"), test, dataset.names)
    print(f"full {full:.4f}", flush=True)
    return {
        "photos": options.photos,
        "rounds": options.rounds,
        "test_photos": len(test),
        "warm_ap50": warm,
        "full_ap50": full,
        "difference": warm - full,
        "full_seconds": full_seconds,
    }


def plant_errors(
    person: Person, count: int, seed: int = 0
) -> set[tuple[str, str, tuple[int, ...]]]:
    """Give some photos a wrong class, a box that is gone, or one that is beside its thing."""
    session, draw = person.session, random.Random(seed)
    planted = set()
    for number, photo in enumerate(draw.sample(session.photos, count)):
        image = person.truth[photo]
        names = [person.names[label] for label in image.labels.tolist()]
        boxes, row = image.boxes.clone(), draw.randrange(len(names))
        kind = "label"
        if number % 3 == 0:
            names[row] = draw.choice([name for name in person.names if name != names[row]])
        elif number % 3 == 1 and len(names) > 1:
            kind = "missing"
        else:
            boxes[row] = beside(boxes[row], image.size_hw)
        planted.add((photo, kind, tuple(int(side) for side in boxes[row].tolist())))
        if kind == "missing":
            keep = [place for place in range(len(names)) if place != row]
            boxes, names = boxes[keep], [names[place] for place in keep]
        session.set_boxes(photo, boxes, names)
    return planted


def beside(box: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """A box of the same size that misses most of its thing."""
    x1, y1, x2, y2 = box.tolist()
    step = 0.8 * (x2 - x1)
    shift = step if x2 + step <= size_hw[1] else -step
    return torch.tensor([max(0.0, x1 + shift), y1, max(2.0, x2 + shift), y2])


def bench_doubts(options: argparse.Namespace, dataset: DetectionDataset, folder: Path) -> Any:
    """Planted errors among the most doubtful."""
    person = open_session(dataset, options.photos, folder, options.features)
    session = person.session
    for photo in session.photos:
        person.label(photo)
    planted = plant_errors(person, 20)
    session.refit(600)
    finish(session)
    begin = time.perf_counter()
    doubts = session.doubtful(40)
    found = {
        one
        for one in planted
        for doubt in doubts
        if (doubt.photo, doubt.kind) == one[:2] and overlap(doubt.box, one[2]) > 0.5
    }
    kinds = {kind: [sum(o[1] == kind for o in part) for part in (found, planted)]
             for kind in ("label", "missing")}  # fmt: skip
    return {
        "photos": options.photos,
        "planted": len(planted),
        "among_40": len(found),
        "by_kind": kinds,
        "seconds": time.perf_counter() - begin,
    }


def overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """IoU of two boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return shared / (sum(areas) - shared)


def bench_order(options: argparse.Namespace, dataset: DetectionDataset, folder: Path) -> Any:
    """Boxes until 90 % of the AP50 with all labels, in our order and at random."""
    test = list(open_detection_dataset(options.data, "test"))[: options.test_photos]
    needed: dict[str, list[int]] = {"ours": [], "random": []}
    for seed in range(options.seeds):
        goal = 0.0
        for way in ("all", "ours", "random"):
            place = folder / f"{way}{seed}"
            place.mkdir()
            person = open_session(dataset, options.photos, place, options.features, seed)
            session, boxes = person.session, 0
            draw = random.Random(seed)
            step = options.photos if way == "all" else max(2, options.photos // options.rounds)
            left = list(session.photos)
            while left:
                if way == "ours" and len(left) < len(session.photos):
                    chosen = [photo for photo in session.next(step) if photo in left]
                else:
                    chosen = draw.sample(left, min(step, len(left)))
                boxes += sum(person.label(photo) for photo in chosen)
                left = [photo for photo in left if photo not in chosen]
                session.refit(600)
                finish(session)
                session.save_model(place / "model")
                ap = measure_ap(Detector.load(place / "model"), test, dataset.names)
                print(f"seed {seed} {way}: {boxes} boxes, AP50 {ap:.3f}", flush=True)
                if way != "all" and ap >= 0.9 * goal:
                    break
            goal = ap if way == "all" else goal
            if way != "all":
                needed[way].append(boxes)
            session.close()
    return {**needed, "ratio": float(np.mean(needed["ours"]) / np.mean(needed["random"]))}


BENCHES = {
    "refit": bench_refit,
    "first": bench_first,
    "warm": bench_warm,
    "doubts": bench_doubts,
    "order": bench_order,
}


def main() -> None:
    """Measure one thing, and leave its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=BENCHES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--test-photos", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--features", type=Path, help="folder that keeps the maps for other runs")
    parser.add_argument("--out", type=Path, default=Path("runs/labelling"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = open_detection_dataset(options.data, "train")
    with tempfile.TemporaryDirectory() as folder:
        found = BENCHES[options.what](options, dataset, Path(folder))
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"data": options.data.name, "threads": options.threads, **found}
    write_json(
        options.out / f"labelling_{options.what}.json", {**result, "environment": environment()}
    )
    print(result)


if __name__ == "__main__":
    main()
