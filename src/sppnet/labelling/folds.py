"""What models say of photos that they did not learn from.

Folds over the labelled ones tell what to expect of the others, and which labels to look at again;
of those that are not labelled yet, the most useful one comes next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sppnet.errors import count_of
from sppnet.evaluation import evaluate_detections
from sppnet.evaluation.calibration import match_scores
from sppnet.evaluation.operating_point import OperatingPoints, reaches
from sppnet.geometry import Detections, box_area, box_iou
from sppnet.geometry.boxes import box_intersection
from sppnet.images import LabelledImage
from sppnet.labelling.base import StoppedError
from sppnet.labelling.learner import WarmLearner

DRAWS = 200  # of the bootstrap over photos
# Overlaps from which on boxes show the same thing, and below which they do not.
SAME, OTHER = 0.5, 0.3
PLACE = 0.6  # overlap from which on detections of several classes are of one place
SURE = 0.5  # confidence from which on a detection is rather right than wrong
UNFOUND = 0.3  # confidence below which a label counts as not found
REACH = 1.05  # diagonals of a label between its centre and a thing that it may be meant for
NOVELTY_FLOOR = 0.1  # a photo like one that is labelled still counts a little


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
        photos = count_of(self.photos, "photo")
        return (
            f"expected of the next photo: finds {self.recall:.0%} (±{100 * self.recall_spread:.0f}"
            f"), {10 * self.precision:.0f} of 10 right (on {photos}, held out in turn)"
        )


@dataclass(frozen=True)
class HeldOut:
    """What models found that were fitted without the photo.

    Args:
        images: By name.
        found: By name, with confidence.
        names: Class names.
        points: From which score on detections count; None if there are too few right ones.
        thing_points: The same of places where something is, whichever class (:func:`join_places`).
    """

    images: dict[str, LabelledImage]
    found: dict[str, Detections]
    names: tuple[str, ...]
    points: OperatingPoints | None
    thing_points: OperatingPoints | None = None


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
    temperature = learner.inference.softmax_temperature
    places = {name: join_places(each, temperature)[1] for name, each in found.items()}
    things = [replace(each, labels=torch.zeros_like(each.labels)) for each in judged.values()]
    thing_points = OperatingPoints.fit(things, places, ("thing",), "training")
    if points is not None:
        found = {name: points.with_confidence(each) for name, each in found.items()}
    return HeldOut(judged, found, learner.names, points, thing_points)


def join_places(found: Detections, temperature: float) -> tuple[Tensor, Detections]:
    """Ask whether something is at a place, whichever class: detections that coincide become one.

    A detector that does not know a jack from a king may well see that there is a card. The score of
    a place is to its classes together what the score of a detection is to its class.

    Args:
        found: Detections of one photo, whose classes competed at this temperature.
        temperature: 0 if each class scored alone; a place then has the best score.

    Returns:
        (P,) rows of the best detection of each place, and these with label 0 and scores of places.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [20, 0, 29, 9]])
        >>> found = Detections(boxes, torch.tensor([0.0, -0.05, -1.0]), torch.tensor([0, 1, 0]))
        >>> rows, places = join_places(found, 0.125)
        >>> rows.tolist(), [round(score, 2) for score in places.scores.tolist()]
        ([0, 2], [0.28, -1.0])
    """
    near = box_iou(found.boxes, found.boxes) >= PLACE
    nothing = torch.full((int(found.labels.amax()) + 1 if found.count else 0,), -torch.inf).double()
    free, rows, scores = torch.ones(len(near), dtype=torch.bool), [], []
    for row in found.scores.argsort(descending=True, stable=True).tolist():
        if not free[row]:
            continue
        own = near[row] & free
        free &= ~own
        best = nothing.scatter_reduce(0, found.labels[own], found.scores[own].double(), "amax")
        rows.append(row)
        if temperature:
            share = (best / temperature).sigmoid().sum().clamp(1e-9, 1 - 1e-9)
            best = temperature * share.logit()
        scores.append(max(float(best.max()), float(found.scores[row])))
    chosen = torch.tensor(rows, dtype=torch.int64)
    zeros = torch.zeros_like(chosen)
    return chosen, Detections(found.boxes[chosen], torch.tensor(scores), zeros)


def measure_presence(
    found: Detections, points: OperatingPoints | None, temperature: float
) -> Tensor:
    """Say of detections how likely something is there, whichever class.

    Args:
        found: With confidence.
        points: Of places; None before they were measured.
        temperature: Of the detector's softmax.

    Returns:
        (K,) 0..1, at least the confidence; more than that only for the best of each place.
    """
    rows, places = join_places(found, temperature)
    sure = None if points is None else points.with_confidence(places).confidence
    there = found.sureness.clone()
    sure = (2 * places.scores).sigmoid() if sure is None else sure
    there[rows] = torch.maximum(there[rows], sure.to(there.dtype))
    return there


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


@dataclass(frozen=True)
class Candidate:
    """A photo that is not labelled yet.

    Args:
        photo: Its name.
        uncertainty: From 0 (the model is sure of all that it sees) on.
        vector: (D,) what the photo shows.
        things: How many detections are rather right than wrong.
    """

    photo: str
    uncertainty: float
    vector: Tensor
    things: int = 0

    @classmethod
    def of(cls, photo: str, found: Detections | None, vector: Tensor) -> "Candidate":
        """Describe a photo by what a model found; with None there is no model, all is unsure."""
        if found is None:
            return cls(photo, 1.0, vector)
        return cls(photo, measure_uncertainty(found), vector, count_things(found))


@dataclass(frozen=True)
class Doubt:
    """A label that should be looked at again, or a thing that has none.

    Args:
        photo: Its name.
        kind: ``label`` (a model that never saw this photo denies the label) or ``missing`` (it
            finds a thing where none is labelled).
        box: (x1, y1, x2, y2) of the label, or of what was found; None where whole photos are
            named.
        name: Class of the label, or of what was found.
        instead: What the model sees there, if it is another class; empty otherwise.
        probability: That the label is wrong, 0..1; a ranking more than a promise.
    """

    photo: str
    kind: str
    box: tuple[float, float, float, float] | None
    name: str
    instead: str
    probability: float


def measure_uncertainty(found: Detections) -> float:
    """Sum up how unsure a model is of what it found in a photo.

    A detection that is as likely right as wrong counts 1, one that is sure either way counts 0. So
    photos with many open questions come first. The ten most open ones count.

    Args:
        found: With confidence; without it, scores count as log-odds.

    Returns:
        From 0 to 10.

    Example:
        >>> boxes, labels = torch.tensor([[0.0, 0, 9, 9]] * 2), torch.tensor([0, 0])
        >>> measure_uncertainty(Detections(boxes, torch.tensor([0.0, -20.0]), labels))
        1.0
    """
    sure = found.sureness
    open_questions = 4 * sure * (1 - sure)
    return round(float(open_questions.sort(descending=True).values[:10].sum()), 6)


def count_things(found: Detections) -> int:
    """Count the detections that are rather right than wrong.

    Args:
        found: With confidence; without it, scores count as log-odds.

    Example:
        >>> boxes, labels = torch.tensor([[0.0, 0, 9, 9]] * 2), torch.tensor([0, 0])
        >>> count_things(Detections(boxes, torch.tensor([1.0, -1.0]), labels))
        1
    """
    return int((found.sureness >= SURE).sum())


def choose_surest(candidates: Sequence[Candidate], count: int) -> list[str]:
    """Choose the photos on which a model sees things and doubts the least.

    Args:
        candidates: Photos that are not labelled.
        count: At most so many.

    Returns:
        Names, the surest first.

    Example:
        >>> none = torch.zeros(1)
        >>> photos = [Candidate("a", 2.0, none, 3), Candidate("b", 0.1, none, 1)]
        >>> choose_surest([*photos, Candidate("nothing seen", 0.0, none)], 3)
        ['b', 'a']
    """
    seen = [each for each in candidates if each.things]
    return [each.photo for each in sorted(seen, key=lambda each: each.uncertainty)[:count]]


def choose_next(candidates: Sequence[Candidate], seen: Tensor, count: int) -> list[str]:
    """Choose photos that are uncertain and unlike those that are labelled or chosen already.

    Greedy: each time the photo with the largest product of uncertainty and novelty, which is one
    minus the largest cosine with what was seen before.

    Args:
        candidates: Photos that are not labelled.
        seen: (N, D) vectors of the labelled photos.
        count: At most so many.

    Returns:
        Names, the most useful first.

    Example:
        >>> one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> photos = [Candidate("like", 0.9, one), Candidate("new", 0.8, two)]
        >>> choose_next(photos, one[None], 2)
        ['new', 'like']
    """
    if not candidates:
        return []
    vectors = normalize(torch.stack([each.vector for each in candidates]).float(), dim=1)
    # centred on what photos have in common, or all cosines would be near 1
    centre = vectors.mean(0)
    rows = normalize(vectors - centre, dim=1) if len(vectors) > 2 else vectors
    known = normalize(seen.float(), dim=1)
    known = normalize(known - centre, dim=1) if len(vectors) > 2 else known
    nearest = (rows @ known.T).amax(1) if len(known) else torch.full((len(rows),), -1.0)
    unsure = torch.tensor([each.uncertainty for each in candidates])
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        worth = (unsure + 1e-3) * ((1 - nearest) / 2).clamp(min=NOVELTY_FLOOR)
        worth[chosen] = -1.0
        best = int(worth.argmax())
        chosen.append(best)
        nearest = torch.maximum(nearest, rows @ rows[best])
    return [candidates[place].photo for place in chosen]


def find_doubts(
    images: Mapping[str, LabelledImage], found: Mapping[str, Detections], names: Sequence[str]
) -> list[Doubt]:
    """Compare labels with what models found that were fitted without the photo.

    Args:
        images: Labelled photos by name.
        found: What was found in each, with confidence.
        names: Class names.

    Returns:
        The most doubtful first.
    """
    doubts = [
        doubt
        for photo, image in images.items()
        if photo in found
        for doubt in _doubt_photo(photo, image, found[photo], names)
    ]
    return sorted(doubts, key=lambda doubt: -doubt.probability)


def _doubt_photo(
    photo: str, image: LabelledImage, found: Detections, names: Sequence[str]
) -> list[Doubt]:
    """Labels for which there is no detection at their place, and detections without a label.

    A label is denied if it is not found as what it is said to be; the more so if it is found as
    something else, or if a thing of its class is found beside it that no label is at. That thing is
    no doubt of its own then.
    """
    sure = found.sureness
    overlaps = box_iou(image.boxes, found.boxes)
    free = ~(overlaps >= OTHER).any(0)
    doubts, explained = [], torch.zeros_like(free)
    for row, label in enumerate(image.labels.tolist()):
        near, same = overlaps[row] >= SAME, found.labels == label
        beside = free & same & _within_reach(image.boxes[row], found.boxes)
        own, other, moved = (_surest(sure, s) for s in (near & same, near & ~same, beside))
        probability = (1 - own) * (0.5 + 0.5 * max(other, moved))
        best = found.labels[near & ~same][sure[near & ~same].argmax()] if other > own else None
        instead = "" if best is None else names[int(best)]
        box = _corners(image.boxes[row])
        doubts.append(Doubt(photo, "label", box, names[label], instead, probability))
        if own < UNFOUND:
            explained |= beside
    parts = _share_inside(found, image)
    for row in (free & ~explained).nonzero().flatten().tolist():
        box, name = _corners(found.boxes[row]), names[int(found.labels[row])]
        probability = float(sure[row] * (1 - parts[row]))
        doubts.append(Doubt(photo, "missing", box, name, "", probability))
    return doubts


def _surest(sure: Tensor, chosen: Tensor) -> float:
    """The highest confidence of some detections; 0 of none."""
    return float(sure[chosen].max()) if bool(chosen.any()) else 0.0


def _within_reach(box: Tensor, others: Tensor) -> Tensor:
    """(K,) whether the centres of other boxes are no farther from that of a box than its size."""
    centre, centres = (box[:2] + box[2:]) / 2, (others[:, :2] + others[:, 2:]) / 2
    return (centres - centre).norm(dim=1) <= REACH * (box[2:] - box[:2]).norm()


def _share_inside(found: Detections, image: LabelledImage) -> Tensor:
    """(K,) which share of each detection lies in one labelled thing of its class: it is a part."""
    if not len(image.boxes):
        return torch.zeros(len(found.boxes))
    shared = box_intersection(found.boxes, image.boxes) / box_area(found.boxes)[:, None]
    return (shared * (found.labels[:, None] == image.labels)).amax(1)


def _corners(box: Tensor) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
