"""What to expect of photos that nobody has labelled: folds over those that are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from sppnet.evaluation import evaluate_detections
from sppnet.evaluation.calibration import match_scores
from sppnet.evaluation.operating_point import OperatingPoints, reaches
from sppnet.geometry import Detections
from sppnet.images import LabelledImage
from sppnet.labelling.base import StoppedError
from sppnet.labelling.learner import WarmLearner

DRAWS = 200  # of the bootstrap over photos


@dataclass(frozen=True)
class Expectation:
    """What to expect of the next photo, measured on photos that no model was fitted to.

    Args:
        photos: On so many photos.
        objects: With so many things.
        ap50: Mean average precision at overlap 0.5, 0..1.
        recall: Share of the things that are found, of detections that count.
        recall_spread: Half the width of its 95 % interval, by drawing photos again and again.
        precision: Share of the detections that count that are right.
        ap_per_class: AP50 of each class that has things.
    """

    photos: int
    objects: int
    ap50: float
    recall: float
    recall_spread: float
    precision: float
    ap_per_class: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"expected of the next photo: finds {self.recall:.0%} (±{100 * self.recall_spread:.0f}"
            f"), {10 * self.precision:.0f} of 10 right (on {self.photos} photos, held out in turn)"
        )


@dataclass(frozen=True)
class HeldOut:
    """What models found that were fitted without the photo.

    Args:
        images: By name.
        found: By name, with confidence.
        names: Class names.
        points: From which score on detections count; None if there are too few right ones.
    """

    images: dict[str, LabelledImage]
    found: dict[str, Detections]
    names: tuple[str, ...]
    points: OperatingPoints | None


def detect_held_out(
    learner: WarmLearner,
    images: Mapping[str, LabelledImage],
    folds: int,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> HeldOut:
    """Find things on labelled photos by models that forgot them.

    Args:
        learner: Knows all of the photos.
        images: Labelled photos by name, which is also their ``image_id``; labels are numbers of
            ``learner.names``.
        folds: Into how many parts they are divided; each is held out once.
        seed: Seed of the division.
        stop: Asked before each photo; the work is given up once it says so.

    Returns:
        What was found; with fewer than two photos nothing.

    Raises:
        StoppedError: If ``stop`` said so.
    """
    names = sorted(images)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    folds = min(folds, len(names))
    found: dict[str, Detections] = {}
    if folds >= 2:
        for number in range(folds):
            held = [names[place] for place in order[number::folds]]
            detector = learner.without([images[name].path for name in held])
            for name in held:
                if stop():
                    raise StoppedError
                image = images[name]
                encoded = learner.encoded(image)
                found[name] = detector.detect(encoded, learner.cached.propose(image))
    judged = {name: images[name] for name in found}
    points = OperatingPoints.fit(list(judged.values()), found, learner.names, "training")
    if points is not None:
        found = {name: points.with_confidence(each) for name, each in found.items()}
    return HeldOut(judged, found, learner.names, points)


def summarise(held: HeldOut) -> Expectation:
    """Measure what was found on photos that were held out.

    Args:
        held: From :func:`detect_held_out`.

    Returns:
        The figures; NaN where there is nothing to measure.
    """
    images = list(held.images.values())
    found = held.found
    objects = [int((~(image.difficult | image.crowd)).sum()) for image in images]
    if not sum(objects):
        nan = float("nan")
        return Expectation(len(images), 0, nan, nan, nan, nan)
    scored = evaluate_detections(images, found, held.names, metric="area")
    zeros = [0.0] * len(held.names)
    thresholds = zeros if held.points is None else held.points.thresholds
    counting = {name: each.select(reaches(each, thresholds)) for name, each in found.items()}
    matched = match_scores(images, counting, held.names)
    right = np.bincount(matched.image[matched.is_true_positive], minlength=len(images))
    recall, spread = bootstrap_share(right, np.array(objects))
    precision = float(matched.is_true_positive.mean()) if len(matched.scores) else float("nan")
    per_class = {n: float(value) for n, value in scored.per_class.items() if value is not None}
    return Expectation(
        len(images), sum(objects), scored.mean_ap, recall, spread, precision, per_class
    )


def bootstrap_share(right: np.ndarray, objects: np.ndarray) -> tuple[float, float]:
    """Give a share of objects over photos, and half the width of its 95 % interval.

    Args:
        right: (N,) objects of each photo that were found.
        objects: (N,) objects of each photo.

    Example:
        >>> bootstrap_share(np.array([1, 1]), np.array([1, 1]))
        (1.0, 0.0)
    """
    random = np.random.default_rng(0)
    drawn = random.integers(len(right), size=(DRAWS, len(right)))
    shares = right[drawn].sum(1) / np.maximum(objects[drawn].sum(1), 1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(right.sum() / objects.sum()), float(high - low) / 2
