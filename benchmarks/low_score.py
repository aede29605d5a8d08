r"""What two pieces of advice on a low score are worth: empty photos, and labels that lie in others.

    python benchmarks/low_score.py DATA/raccoon DATA/microcontrollers --empty DATA/caltech101-20
    python benchmarks/low_score.py DATA/raccoon --empty DATA/caltech101-20 --photos 80 --draws 1

Each set, with splits ``train`` and ``test``, is learnt from four times a draw: as it is; with
photos of ``--empty``, which show none of its things, as photos without boxes; and with every fourth
object labelled twice, the second box a part of the first, once for each of ``--part`` (a share of
its sides). All are scored on the test split, the first two also with other photos of ``--empty``
beside it, and all but the second also with ``--nms hard``. A draw is a seed of the training, and
which photos and objects are taken. "found" and "right" are counted at the thresholds that each
training found on its own photos. Leaves NAME.json and NAME.md in the
folder of ``--out``.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from sppnet import DetectionConfig, Detector
from sppnet.app.progress import track
from sppnet.detection import build_cached_features, build_encoder, train_detector
from sppnet.evaluation import summarise_detections
from sppnet.evaluation.error_analysis import count_matches, find_error_types
from sppnet.evaluation.operating_point import reaches
from sppnet.geometry import Detections
from sppnet.images import LabelledImage, list_images, open_detection_dataset
from sppnet.images.decode import read_image_size
from sppnet.storage import FeatureCache, write_json, write_text
from sppnet.storage.runs import environment

Images = list[LabelledImage]
COSTS = ("localisation", "duplicate", "background")
FIGURES = ("ap50", "ap75", "found", "right", *(f"cost of {kind}" for kind in COSTS))
TRAININGS = ("plain", "empty", "parts")
EVERY = 4  # one of so many objects is labelled twice


def empty_images(folder: Path, draw: int, count: int) -> Images:
    """Take photos of a folder as photos without boxes, at random."""
    paths = list(list_images([folder]).paths)
    random.Random(draw).shuffle(paths)
    none, flags = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
    labels = torch.zeros(0, dtype=torch.int64)
    return [
        LabelledImage(
            path, f"empty {number}", read_image_size(path), none, labels, flags, flags, flags
        )
        for number, path in enumerate(paths[:count])
    ]


def label_parts(images: Images, share: float, draw: int) -> Images:
    """Label every fourth object twice, the second box a part of it that begins anywhere in it."""
    chance, number = random.Random(draw), draw
    labelled: Images = []
    for image in images:
        rows, parts = [], []
        for row, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
            number += 1
            if number % EVERY:
                continue
            width, height = share * (x2 - x1), share * (y2 - y1)
            left = x1 + chance.random() * (x2 - x1 - width)
            top = y1 + chance.random() * (y2 - y1 - height)
            rows.append(row)
            parts.append([left, top, left + width, top + height])
        twice = torch.cat([torch.arange(len(image.boxes)), torch.tensor(rows, dtype=torch.int64)])
        boxes = torch.cat([image.boxes, torch.tensor(parts).reshape(-1, 4)])
        flags = {k: getattr(image, k)[twice] for k in ("labels", "difficult", "crowd", "truncated")}
        labelled.append(replace(image, boxes=boxes, areas=None, stated_boxes=None, **flags))
    return labelled


class Study:
    """One set and one draw."""

    def __init__(self, folder: Path, draw: int, words: argparse.Namespace) -> None:
        learnt = open_detection_dataset(folder, "train")
        self.names, self.learnt = learnt.names, list(learnt.images)
        random.Random(draw).shuffle(self.learnt)
        self.learnt = self.learnt[: words.photos or None]
        self.test = list(open_detection_dataset(folder, "test", names=self.names).images)
        drawn = empty_images(words.empty, draw, words.learnt + words.scored)
        self.kept, self.beside = drawn[: words.learnt], drawn[words.learnt :]
        self.draw, self.parts, self.cache = draw, words.part, FeatureCache(words.out / "cache")

    def run(self, trainings: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
        """Train and score; a row's name and its figures."""
        plain, both = self.test, self.test + self.beside
        if "plain" in trainings:
            detector = self._train(self.learnt)
            yield "as it is", self._score(detector, plain)
            yield "as it is, --nms hard", self._score(detector, plain, "hard")
            yield "as it is; empty photos scored", self._score(detector, both)
        if "empty" in trainings:
            detector = self._train(self.learnt + self.kept)
            yield "empty photos learnt from", self._score(detector, plain)
            yield "empty photos learnt from; empty photos scored", self._score(detector, both)
        for share in self.parts if "parts" in trainings else ():
            detector = self._train(label_parts(self.learnt, share, self.draw))
            yield f"parts of {share:g} labelled", self._score(detector, plain)
            yield f"parts of {share:g} labelled, --nms hard", self._score(detector, plain, "hard")

    def _train(self, images: Images) -> Detector:
        config = DetectionConfig(seed=self.draw)
        cached = build_cached_features(config, images, build_encoder(config, images), self.cache)
        return train_detector(cached, self.names, config, track=track)

    def _score(self, detector: Detector, images: Images, nms: str = "") -> dict[str, float]:
        inference = detector.inference
        detector.inference = inference.changed({"nms": nms} if nms else {})
        config = DetectionConfig(seed=self.draw)
        parts = (config, images, detector.encoder, self.cache)
        cached = build_cached_features(*parts, anchors=detector.anchors)
        cached.propose_all(track=track)
        found = {
            image.image_id: detector.detect(encoded, proposals)
            for image, encoded, proposals in cached.samples("detecting", track)
        }
        detector.inference = inference
        return self._measure(detector, images, found)

    def _measure(
        self, detector: Detector, images: Images, found: dict[Any, Detections]
    ) -> dict[str, float]:
        points = detector.operating_points
        if points is None:
            raise RuntimeError("the training found no operating point")
        precision = summarise_detections(images, found, self.names)
        costs = find_error_types(images, found, self.names).ap_cost
        shown = {k: each.select(reaches(each, points.thresholds)) for k, each in found.items()}
        counts = count_matches(images, shown, -torch.inf)
        right = sum(each.true_positives for each in counts)
        wrong = sum(each.false_positives for each in counts)
        asked = right + sum(each.false_negatives for each in counts)
        alarmed = sum(shown[image.image_id].count > 0 for image in images if not len(image.boxes))
        return {
            "ap50": precision["ap50"],
            "ap75": precision["ap75"],
            "found": right / asked,
            "right": right / max(right + wrong, 1),
            **{f"cost of {kind}": costs[kind] for kind in COSTS},
            "empty photos with something": alarmed,
            "empty photos": sum(not len(image.boxes) for image in images),
        }


def to_markdown(sets: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Write the table: means over the draws, and the deviation of AP50."""
    lines = [
        f"| set, learnt from | {' | '.join(FIGURES)} | empty photos with something |",
        f"| --- {'| ---: ' * (len(FIGURES) + 1)}|",
    ]
    for name, rows in sets.items():
        for row, draws in rows.items():
            cells = [f"{mean(draw[figure] for draw in draws):.3f}" for figure in FIGURES]
            if len(draws) > 1:
                cells[0] += f" ± {stdev(draw['ap50'] for draw in draws):.3f}"
            alarmed = sum(draw["empty photos with something"] for draw in draws)
            empty = sum(draw["empty photos"] for draw in draws)
            cells.append(f"{alarmed:.0f} of {empty:.0f}" if empty else "")
            lines.append(f"| {name}, {row} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, nargs="+", help="folders of the sets")
    parser.add_argument("--empty", type=Path, required=True, help="folder of photos without them")
    parser.add_argument("--photos", type=int, default=0, help="to learn from; 0 for all")
    parser.add_argument("--learnt", type=int, default=60, help="empty photos to learn from")
    parser.add_argument("--scored", type=int, default=100, help="other empty photos to score")
    parser.add_argument("--part", type=float, nargs="*", default=[0.8, 0.5], help="of the sides")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--trainings", nargs="*", default=TRAININGS, choices=TRAININGS)
    parser.add_argument("--name", default="low_score", help="of the files that are written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/low-score"))
    return parser.parse_args(arguments)


def main() -> None:
    """Run every set and draw, print a row as soon as it is there, and write."""
    words = read_arguments()
    torch.set_num_threads(words.threads)
    words.out.mkdir(parents=True, exist_ok=True)
    sets: dict[str, dict[str, list[dict[str, float]]]] = {}
    for draw in range(words.draws):
        for folder in words.data:
            begin = time.perf_counter()
            for row, figures in Study(folder, draw, words).run(words.trainings):
                sets.setdefault(folder.name, {}).setdefault(row, []).append(figures)
                listed = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
                seconds = time.perf_counter() - begin
                print(f"{folder.name}, draw {draw}, {row} ({seconds:.0f} s): {listed}", flush=True)
            write_json(words.out / f"{words.name}.json", {"sets": sets, **environment()})
            write_text(words.out / f"{words.name}.md", to_markdown(sets))
    sys.stdout.write(to_markdown(sets))


if __name__ == "__main__":
    main()
