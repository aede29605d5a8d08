"""Two runs scored on the same photos: what differs, and whether it is more than chance."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sppnet.errors import UnusableFileError, UsageError
from sppnet.evaluation.average_precision import average_precision_area
from sppnet.storage import read_json

PHOTOS = "photos.json"  # what a report leaves beside it


class ScoredRun(NamedTuple):
    """A run that was scored, photo by photo: P photos, N detections, K classes."""

    names: tuple[str, ...]
    files: tuple[str, ...]
    objects: np.ndarray  # (P, K)
    photo: np.ndarray  # (N,)
    label: np.ndarray  # (N,)
    score: np.ndarray  # (N,)
    right: np.ndarray  # (N,) bool
    shown: np.ndarray  # (N,) bool, reaches the threshold of the run


class Difference(NamedTuple):
    """A measure of two runs, and the interval of its difference."""

    name: str
    first: float
    second: float
    low: float
    high: float


class Change(NamedTuple):
    """A photo on which two runs differ: (found, false, missed) of each."""

    file: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]

    @property
    def gain(self) -> int:
        """How many mistakes fewer the second run makes."""
        return sum(self.first[1:]) - sum(self.second[1:])


class Comparison(NamedTuple):
    """Two runs over the same photos."""

    differences: tuple[Difference, ...]  # AP50, finds, right, and the AP50 of each class
    changes: tuple[Change, ...]  # photos on which they differ, the largest gain first
    photos: int  # that both scored
    left_out: int  # that only one of them scored

    def verdict(self) -> str:
        """Say what the interval of AP50 allows to say."""
        name, first, second, low, high = self.differences[0]
        span = f"{second - first:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
        if not low <= 0 <= high:
            return f"{'B' if low > 0 else 'A'} is better: {name} of B minus A is {span}"
        return f"no difference is shown: {name} of B minus A is {span}"

    def to_json(self, titles: Sequence[str]) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            "runs": list(titles),
            "photos": self.photos,
            "left_out": self.left_out,
            "verdict": self.verdict(),
            "differences": [each._asdict() for each in self.differences],
            "changed": [{**each._asdict(), "gain": each.gain} for each in self.changes],
        }


def read_scored(folder: Path) -> ScoredRun:
    """Read what a report left beside it.

    Raises:
        UsageError: If there is no such file in the folder.
        UnusableFileError: If it is none of ours.
    """
    path = folder / PHOTOS
    if not path.is_file():
        raise UsageError(
            f"no {PHOTOS} in it: score it with detect val, or evaluate --out", path=folder
        )
    saved = read_json(path)
    try:
        photos = saved["photos"]
        rows = [(n, *row) for n, photo in enumerate(photos) for row in photo["found"]]
        table = np.array(rows, np.float64).reshape(-1, 5)
        return ScoredRun(
            tuple(saved["names"]),
            tuple(photo["file"] for photo in photos),
            np.array([photo["objects"] for photo in photos], np.int64).reshape(
                -1, len(saved["names"])
            ),
            table[:, 0].astype(np.int64),
            table[:, 1].astype(np.int64),
            table[:, 2],
            table[:, 4] == 1,
            table[:, 3] >= saved["threshold"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableFileError(f"not what a report leaves: {error}", path=path) from error


def compare_runs(first: ScoredRun, second: ScoredRun, resamples: int, seed: int) -> Comparison:
    """Compare two runs by paired bootstrap over the photos that both were scored on.

    ``resamples`` is how often the photos are drawn, ``seed`` the beginning of the draws.

    Raises:
        UsageError: If they have other classes, no photo in common, or other objects on one.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals.
    """
    if first.names != second.names:
        raise UsageError("the runs must have the same classes in the same order")
    seconds = set(second.files)
    common = [file for file in first.files if file in seconds]
    if not common:
        raise UsageError("the runs must be scored on the same photos, and have none in common")
    one, two = _only(first, common), _only(second, common)
    if (one.objects != two.objects).any():
        raise UsageError("the labels of the photos differ: score both runs on the same data")
    draws = np.random.default_rng(seed)
    weights = [np.ones(len(common))]
    for _ in range(resamples):
        chosen = draws.integers(0, len(common), len(common))
        weights.append(np.bincount(chosen, minlength=len(common)).astype(np.float64))
    measured = np.array([[_measure(run, w) for w in weights] for run in (one, two)])  # (2, R+1, M)
    gaps = measured[1] - measured[0]
    names = ["AP50", "finds", "right", *(f"AP50 {name}" for name in first.names)]
    differences = []
    for column, name in enumerate(names):
        usable = gaps[1:, column][np.isfinite(gaps[1:, column])]
        low, high = np.percentile(usable, (2.5, 97.5)) if len(usable) else (np.nan, np.nan)
        one_value, two_value = measured[:, 0, column].tolist()
        differences.append(Difference(name, one_value, two_value, float(low), float(high)))
    lone = len(first.files) + len(second.files) - 2 * len(common)
    return Comparison(tuple(differences), _changes(one, two), len(common), lone)


def _only(run: ScoredRun, files: Sequence[str]) -> ScoredRun:
    """The part of a run that is about some photos, in their order; each class best score first."""
    places = {file: n for n, file in enumerate(files)}
    row_of = {file: n for n, file in enumerate(run.files)}
    rows = [row_of[file] for file in files]
    place = np.array([places.get(file, -1) for file in run.files], np.int64)[run.photo]
    order = np.lexsort((place, -run.score))
    order = order[place[order] >= 0]
    columns = (column[order] for column in (place, run.label, run.score, run.right, run.shown))
    return ScoredRun(run.names, tuple(files), run.objects[rows], *columns)


def _measure(run: ScoredRun, weights: np.ndarray) -> list[float]:
    """AP50, finds, right, and AP50 by class of photos that count as often as the weights say."""
    asked = weights @ run.objects
    weight = weights[run.photo]
    of_class = [run.label == label for label in range(len(run.names))]
    by_class = [
        _weighted_ap(run.right[own], weight[own], float(asked[label]))
        for label, own in enumerate(of_class)
    ]
    known = [value for value in by_class if not math.isnan(value)]
    right = float(weight[run.shown & run.right].sum())
    said, objects = float(weight[run.shown].sum()), float(asked.sum())
    finds, precision = right / objects if objects else np.nan, right / said if said else np.nan
    return [float(np.mean(known)) if known else np.nan, finds, precision, *by_class]


def _weighted_ap(right: np.ndarray, weight: np.ndarray, asked: float) -> float:
    """Area under the monotone precision-recall curve; NaN without objects."""
    if not asked:
        return math.nan
    hits = np.cumsum(weight * right)
    said = np.maximum(np.cumsum(weight), 1e-12)
    return average_precision_area(hits / asked, hits / said)


def _changes(one: ScoredRun, two: ScoredRun) -> tuple[Change, ...]:
    """Photos whose counts are not the same, those that gained most first."""
    counts = []
    for run in (one, two):
        right = np.bincount(run.photo[run.shown & run.right], minlength=len(run.files))
        false = np.bincount(run.photo[run.shown & ~run.right], minlength=len(run.files))
        counts.append(np.stack([right, false, run.objects.sum(1) - right], 1).tolist())
    changes = [
        Change(file, tuple(before), tuple(after))
        for file, before, after in zip(one.files, *counts, strict=True)
        if before != after
    ]
    return tuple(sorted(changes, key=lambda change: (-change.gain, change.file)))
