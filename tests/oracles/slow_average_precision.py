"""Average precision as slow loops that can be read beside the original.

Boxes are 1-based with inclusive corners here, as in the VOC development kit, so that the tests also
prove that half-open boxes without "+1" give the same.
"""

from typing import NamedTuple


class Thing(NamedTuple):
    """An object, or a detection when it has a score."""

    image: int
    label: int
    box: tuple[float, float, float, float]
    score: float = 0.0
    difficult: bool = False
    crowd: bool = False


def overlap_plus_one(a: tuple, b: tuple, over_first: bool = False) -> float:
    """Overlap of two boxes with inclusive corners; over the first one's area if asked."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    shared = width * height
    return shared / (area_a if over_first else area_a + area_b - shared)


def best_first(found: list[Thing]) -> list[Thing]:
    """From the best score down; equal scores by image, then as given."""
    return sorted(found, key=lambda thing: (-thing.score, thing.image))


def voc_curve(truth: list[Thing], found: list[Thing], label: int, threshold: float) -> tuple:
    """Recall and precision after each detection, as VOCevaldet.m computes them."""
    objects = [thing for thing in truth if thing.label == label]
    taken = [False] * len(objects)
    positives = sum(not thing.difficult for thing in objects)
    hits = alarms = 0
    recall, precision = [], []
    for detection in best_first([thing for thing in found if thing.label == label]):
        best, best_overlap = None, -1.0
        for index, thing in enumerate(objects):
            overlap = overlap_plus_one(detection.box, thing.box)
            if thing.image == detection.image and overlap > best_overlap:
                best, best_overlap = index, overlap
        if best is not None and best_overlap >= threshold:
            if objects[best].difficult:
                continue
            hits += not taken[best]
            alarms += taken[best]
            taken[best] = True
        else:
            alarms += 1
        recall.append(hits / positives if positives else 0.0)
        precision.append(hits / (hits + alarms))
    return recall, precision, positives


def voc07(recall: list[float], precision: list[float]) -> float:
    """VOCap.m of 2007: eleven points."""
    total = 0.0
    for step in range(11):
        reached = [p for r, p in zip(recall, precision, strict=True) if r >= step / 10]
        total += max(reached, default=0.0) / 11
    return total


def voc10(recall: list[float], precision: list[float]) -> float:
    """VOCap.m of 2010: area under the curve made monotone."""
    mrec, mpre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)))


def coco_curve(truth: list[Thing], found: list[Thing], label: int, threshold: float) -> tuple:
    """Recall and precision by COCO's matching; difficult objects are crowds that take one."""
    judged = []
    for image in sorted({thing.image for thing in [*truth, *found]}):
        objects = [t for t in truth if t.label == label and t.image == image]
        objects.sort(key=lambda thing: thing.difficult or thing.crowd)
        free = [True] * len(objects)
        here = best_first([t for t in found if t.label == label and t.image == image])
        for detection in here[:100]:
            best, needed = None, threshold
            for index, thing in enumerate(objects):
                ignored = thing.difficult or thing.crowd
                if not free[index] and not thing.crowd:
                    continue
                if best is not None and ignored and not is_ignored(objects[best]):
                    break
                overlap = overlap_plus_one(detection.box, thing.box, over_first=thing.crowd)
                if overlap >= needed:
                    best, needed = index, overlap
            if best is not None:
                free[best] = False
            outcome = "alarm" if best is None else "hit"
            if best is not None and is_ignored(objects[best]):
                outcome = "ignored"
            judged.append((detection, outcome))
    positives = sum(t.label == label and not is_ignored(t) for t in truth)
    hits = alarms = 0
    recall, precision = [], []
    for _, outcome in sorted(judged, key=lambda pair: (-pair[0].score, pair[0].image)):
        if outcome == "ignored":
            continue
        hits += outcome == "hit"
        alarms += outcome == "alarm"
        recall.append(hits / positives if positives else 0.0)
        precision.append(hits / (hits + alarms))
    return recall, precision, positives


def is_ignored(thing: Thing) -> bool:
    """Whether an object counts neither way."""
    return thing.difficult or thing.crowd


def coco_points(recall: list[float], precision: list[float], points: list[float]) -> float:
    """Mean at given recalls of the best precision at or above each."""
    total = 0.0
    for point in points:
        reached = [p for r, p in zip(recall, precision, strict=True) if r >= point]
        total += max(reached, default=0.0) / len(points)
    return total
