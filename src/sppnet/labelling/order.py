"""Which photo to label next, and which labels to look at again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sppnet.geometry import Detections, box_iou
from sppnet.images import LabelledImage

# Overlaps from which on boxes show the same thing, and below which they do not.
SAME, OTHER = 0.5, 0.3
NOVELTY_FLOOR = 0.1  # a photo like one that is labelled still counts a little


@dataclass(frozen=True)
class Candidate:
    """A photo that is not labelled yet.

    Args:
        photo: Its name.
        uncertainty: From 0 (the model is sure of all that it sees) on.
        vector: (D,) what the photo shows.
    """

    photo: str
    uncertainty: float
    vector: Tensor


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
    sure = _sureness(found)
    open_questions = 4 * sure * (1 - sure)
    return round(float(open_questions.sort(descending=True).values[:10].sum()), 6)


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
        for doubt in (*_denied(photo, image, found[photo], names),
                      *_missing(photo, image, found[photo], names))
    ]  # fmt: skip
    return sorted(doubts, key=lambda doubt: -doubt.probability)


def _denied(
    photo: str, image: LabelledImage, found: Detections, names: Sequence[str]
) -> list[Doubt]:
    """Labels for which there is no detection of their class at their place."""
    sure = _sureness(found)
    overlaps = box_iou(image.boxes, found.boxes)
    doubts = []
    for row, label in enumerate(image.labels.tolist()):
        near = overlaps[row] >= SAME
        mine, others = (near & same for same in (found.labels == label, found.labels != label))
        own, other = (float(sure[rows].max()) if rows.any() else 0.0 for rows in (mine, others))
        # denied: not found as what it is said to be, and the more so if found as something else
        probability = (1 - own) * (0.5 + 0.5 * other)
        best = found.labels[others][sure[others].argmax()] if other > own else None
        instead = "" if best is None else names[int(best)]
        box = _corners(image.boxes[row])
        doubts.append(Doubt(photo, "label", box, names[label], instead, probability))
    return doubts


def _missing(
    photo: str, image: LabelledImage, found: Detections, names: Sequence[str]
) -> list[Doubt]:
    """Detections where nothing is labelled."""
    sure = _sureness(found)
    alone = ~(box_iou(found.boxes, image.boxes) >= OTHER).any(1)
    return [
        Doubt(
            photo,
            "missing",
            _corners(found.boxes[row]),
            names[int(found.labels[row])],
            "",
            float(sure[row]),
        )
        for row in alone.nonzero().flatten().tolist()
    ]


def _sureness(found: Detections) -> Tensor:
    """(K,) confidence; where it was not measured, scores count as log-odds."""
    return found.scores.sigmoid() if found.confidence is None else found.confidence


def _corners(box: Tensor) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
