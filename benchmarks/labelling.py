r"""How fast a session learns from an edit, and what its models are worth against full trainings.

    python benchmarks/labelling.py refit --data DIR --photos 200 --threads 2
    python benchmarks/labelling.py first --data DIR
    python benchmarks/labelling.py warm --data DIR --photos 100 --rounds 10
    python benchmarks/labelling.py doubts --data DIR --photos 80 --seeds 3
    python benchmarks/labelling.py order --data DIR --photos 60 --seeds 5
    python benchmarks/labelling.py replay --data DIR --photos 60

DIR is a set with splits ``train`` and ``test`` in any layout; its photos are copied, its labels
play the person. ``refit``: seconds from one moved box to new suggestions for its photo. ``first``:
the same after the 5th box of a new folder. ``warm``: AP50 after so many warm rounds, and of a full
fit on the same labels. ``doubts``: planted label errors among the 40 most doubtful. ``order``:
boxes until 90 % of the full AP50, in our order and at random. ``replay``: actions of a person who
labels the whole set with suggestions, against drawing every box (see ``label_replay.py`` for the
rules). ``--features`` keeps the maps for other runs. Leaves labelling_WHAT_DATA.json in the folder
of ``--out``; ``order`` and ``doubts`` go on from there with the seeds that are missing.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from label_replay import Hand, Named
from sppnet import Detector, LabelSession
from sppnet.config.detection import DetectionConfig
from sppnet.detection import CachedFeatures, build_cached_features
from sppnet.detection.proposals.propose import take_turns
from sppnet.evaluation import evaluate_detections
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.server.board import is_withheld, overlap
from sppnet.storage import FeatureCache, write_json
from sppnet.storage.runs import environment

MOVE = 0.04  # of its side by which a box is moved
FIRST_PHOTOS = 3  # that are labelled before there is an order to choose by
HALF = 0.5  # precision from which on sheets are opened


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


@dataclass
class Judge:
    """Measures models on photos whose maps are computed once.

    Args:
        images: The photos, labelled.
        names: Class names of the labels.
        folder: Keeps the maps.
    """

    images: Sequence[LabelledImage]
    names: tuple[str, ...]
    folder: Path

    def __post_init__(self) -> None:
        self.features: CachedFeatures | None = None

    def measure(self, detector: Detector) -> float:
        """AP50 by the area under the curve, of classes by their names."""
        if self.features is None or self.features.encoder.config() != detector.encoder.config():
            cache = FeatureCache(self.folder)
            self.features = build_cached_features(
                DetectionConfig(), self.images, detector.encoder, cache
            )
        found, features = {}, self.features
        anchors = detector.anchors
        label_of = torch.tensor([self.names.index(name) for name in detector.names])
        for image in self.images:
            encoded, boxes = features.encoded(image), features.propose_from_pixels(image)
            if anchors is not None:
                boxes = take_turns([boxes, anchors.propose(encoded, features.max_anchors)[0]])
            one = detector.detect(encoded, boxes)
            found[image.image_id] = replace_labels(one, label_of)
        return evaluate_detections(self.images, found, self.names, metric="area").mean_ap

    def measure_session(self, session: LabelSession) -> float:
        """AP50 of what a session has learnt."""
        with tempfile.TemporaryDirectory() as folder:
            return self.measure(Detector.load(session.save_model(Path(folder) / "model")))


def open_judge(options: argparse.Namespace, names: tuple[str, ...]) -> Judge:
    """The photos of the split ``test``, or the first of them."""
    images = list(open_detection_dataset(options.data, "test", names=names))
    folder = options.features or Path(tempfile.mkdtemp())
    return Judge(images[: options.test_photos], names, folder)


def replace_labels(found: Any, label_of: torch.Tensor) -> Any:
    """The same detections with other numbers of their classes."""
    return type(found)(found.boxes, found.scores, label_of[found.labels])


def finish(session: LabelSession) -> None:
    """Let all of the background's work be done."""
    while session.improve(60) > 59:
        print("  improving:", session.state.model, session.state.waiting, "waiting", flush=True)


def think(session: LabelSession, seconds: float) -> None:
    """Let the background work for some seconds of the processor, whatever else it does."""
    end = time.process_time() + seconds
    while time.process_time() < end and session.improve(0.01) >= 0.01:
        pass


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
    session, judge = person.session, open_judge(options, dataset.names)
    for number in range(options.rounds):
        for photo in session.photos[number :: options.rounds]:
            person.label(photo)
        session.refit(600)
        finish(session)
        print(f"round {number + 1}: {session.state}", flush=True)
    warm = judge.measure_session(session)
    print(f"warm {warm:.4f}", flush=True)
    full_seconds = time_of(lambda: session.refit(full=True))[0]
    full = judge.measure_session(session)
    print(f"full {full:.4f}", flush=True)
    return {
        "photos": options.photos,
        "rounds": options.rounds,
        "test_photos": len(judge.images),
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
    """Planted errors among the most doubtful, for several sets of errors."""
    known = read_known(options)
    rounds = known.get("rounds", [])
    for seed in range(len(rounds), options.seeds):
        place = folder / str(seed)
        place.mkdir()
        rounds.append(doubt_once(options, dataset, place, seed))
        keep_known(options, {"rounds": rounds})
        print(rounds[-1], flush=True)
    found = [each["among_40"] for each in rounds]
    return {"photos": options.photos, "mean_among_40": float(np.mean(found)), "rounds": rounds}


def doubt_once(
    options: argparse.Namespace, dataset: DetectionDataset, folder: Path, seed: int
) -> dict[str, Any]:
    """Plant errors, learn, and look."""
    person = open_session(dataset, options.photos, folder, options.features, seed)
    session = person.session
    for photo in session.photos:
        person.label(photo)
    planted = plant_errors(person, 20, seed)
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
    seconds = time.perf_counter() - begin
    session.close()
    return {"planted": len(planted), "among_40": len(found), "by_kind": kinds, "seconds": seconds}


def bench_order(options: argparse.Namespace, dataset: DetectionDataset, folder: Path) -> Any:
    """Boxes until 90 % of the AP50 with all labels, in our order and at random."""
    judge = open_judge(options, dataset.names)
    known = read_known(options)
    needed: dict[str, list[int]] = {way: known.get(way, []) for way in ("ours", "random")}
    for seed in range(len(needed["random"]), options.seeds):
        person, boxes, left = begin_order(options, dataset, folder / f"all{seed}", seed)
        boxes += sum(person.label(photo) for photo in left)
        goal = 0.9 * learn_and_measure(person.session, judge, 3600)
        person.session.close()
        print(f"seed {seed}: {boxes} boxes, goal {goal:.3f}", flush=True)
        needed["ours"] = needed["ours"][:seed]
        for way in needed:
            place = folder / f"{way}{seed}"
            needed[way].append(boxes_until(options, dataset, place, seed, judge, goal, way))
        keep_known(options, needed)
    return {**needed, "ratio": float(np.mean(needed["ours"]) / np.mean(needed["random"]))}


def begin_order(
    options: argparse.Namespace, dataset: DetectionDataset, folder: Path, seed: int
) -> tuple[Person, int, list[str]]:
    """Open the photos of a seed and label the first few, the same in every order."""
    folder.mkdir()
    person = open_session(dataset, options.photos, folder, options.features, seed)
    finish(person.session)  # convolves
    left = list(person.session.photos)
    first = random.Random(seed).sample(left, FIRST_PHOTOS)
    boxes = sum(person.label(photo) for photo in first)
    return person, boxes, [photo for photo in left if photo not in first]


def learn_and_measure(session: LabelSession, judge: Judge, seconds: float) -> float:
    """AP50 after a fit, and some seconds of the background's work."""
    session.refit(600)
    think(session, seconds)
    return judge.measure_session(session)


def boxes_until(
    options: argparse.Namespace,
    dataset: DetectionDataset,
    folder: Path,
    seed: int,
    judge: Judge,
    goal: float,
    way: str,
) -> int:
    """Boxes that had to be drawn until the goal was reached, a few photos at a time."""
    person, boxes, left = begin_order(options, dataset, folder, seed)
    session, draw = person.session, random.Random(seed)
    step = max(2, options.photos // options.rounds)
    while (ap := learn_and_measure(session, judge, options.think)) < goal and left:
        print(f"seed {seed} {way}: {boxes} boxes, AP50 {ap:.3f}", flush=True)
        count = min(step, len(left))
        chosen = session.next(count) if way == "ours" else draw.sample(left, count)
        boxes += sum(person.label(photo) for photo in chosen)
        left = [photo for photo in left if photo not in chosen]
    print(f"seed {seed} {way}: {boxes} boxes, AP50 {ap:.3f}: there", flush=True)
    session.close()
    return boxes


def bench_replay(options: argparse.Namespace, dataset: DetectionDataset, folder: Path) -> Any:
    """Label a whole set as a person does who sees suggestions, and count what they do.

    A batch of photos, chosen by ``next``, is labelled one after the other; then the session learns,
    its background works for ``--think`` seconds of the processor, it measures its confidence, and
    so on. Once it expects half of what it says to be right, the person first opens a sheet of the
    surest photos, and closes it if fewer than half are right. ``--sheet 0`` is without sheets. See
    ``label_replay.py`` for what counts.
    """
    person = open_session(dataset, options.photos, folder, options.features)
    session, left = person.session, set(person.session.photos)
    finish(session)  # convolves
    hand = Hand(options.threshold)
    others = {f"from_{sure}": Hand(sure) for sure in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)}
    others["drawn_as_the_last"] = Hand(options.threshold, guesses=False)
    curve, sheets, is_good = [], [], False
    while left:
        before, plain = hand.keys, hand.plain_keys
        batch = session.surest(options.sheet, hidden_of(left)) if is_good else []
        seen = [see(person, photo) for photo in batch]
        is_sheet = len(batch) > 1 and hand.look_through(seen)
        if len(batch) > 1:
            sheets.append((len(batch), is_sheet))
        if is_sheet:
            hand.label_sheet(seen)
        else:
            batch = session.next(min(options.batch, len(left)))
            seen = [see(person, photo) for photo in batch]
        for photo in seen:
            for each in others.values() if is_sheet else (hand, *others.values()):
                each.label(*photo)
        for name in batch:
            person.label(name)
        left -= set(batch)
        session.refit(600)
        think(session, options.think)
        expected = session.evaluate(20)
        is_good = options.sheet > 0 and expected.precision >= HALF
        curve.append((hand.keys - before) / (hand.plain_keys - plain))
        print(f"{len(left)} photos left, {expected}", flush=True)
        print(f"  keys {curve[-1]:.2f} of those without", "(sheet)" if is_sheet else "", flush=True)
    return {
        "boxes": hand.boxes,
        "actions": hand.actions / hand.boxes,
        "keys": hand.keys / hand.plain_keys,
        "keys_without_sheets": {name: each.keys / each.plain_keys for name, each in others.items()},
        "photos_right_at_once": hand.right / options.photos,
        "kinds": hand.kinds,
        "sheets": sheets,
        "curve": curve,
    }


def hidden_of(photos: Collection[str]) -> list[str]:
    """Photos that come without suggestions."""
    return [photo for photo in photos if is_withheld(photo)]


def see(person: Person, photo: str) -> tuple[list[Named], list[Named]]:
    """The things on a photo, and the suggestions for it; none where it comes without."""
    image, found = person.truth[photo], person.session.suggest(photo)
    names = [person.names[label] for label in image.labels.tolist()]
    things = [Named(*pair) for pair in zip(image.boxes.tolist(), names, strict=True)]
    if is_withheld(photo):
        return things, []
    sure, there = found.sureness.tolist(), found.there.tolist()
    columns = zip(found.boxes.tolist(), found.names, sure, there, strict=True)
    return things, [Named(*each) for each in columns]


def known_path(options: argparse.Namespace) -> Path:
    """Where the figures of a bench are."""
    return Path(options.out) / f"labelling_{options.what}_{options.data.name}.json"


def read_known(options: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run measured, with the same options."""
    path = known_path(options)
    if not path.exists():
        return {}
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known if known.get("options") == options_of(options) else {}


def keep_known(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what was measured so far."""
    path = known_path(options)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"data": options.data.name, "options": options_of(options), **found}
    write_json(path, {**data, "environment": environment()})


def options_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options that decide the figures."""
    names = ("photos", "rounds", "test_photos", "batch", "sheet", "threshold", "think", "threads")
    return {name: getattr(options, name) for name in names}


BENCHES = {
    "refit": bench_refit,
    "first": bench_first,
    "warm": bench_warm,
    "doubts": bench_doubts,
    "order": bench_order,
    "replay": bench_replay,
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
    parser.add_argument("--batch", type=int, default=5, help="photos between two fits of replay")
    parser.add_argument("--sheet", type=int, default=12, help="photos of a sheet in replay")
    parser.add_argument("--threshold", type=float, default=0.3, help="the slider, in replay")
    parser.add_argument("--think", type=float, default=15.0, help="seconds of the processor")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--features", type=Path, help="folder that keeps the maps for other runs")
    parser.add_argument("--out", type=Path, default=Path("runs/labelling"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = open_detection_dataset(options.data, "train")
    with tempfile.TemporaryDirectory() as folder:
        found = BENCHES[options.what](options, dataset, Path(folder))
    keep_known(options, found)
    print(found)


if __name__ == "__main__":
    main()
