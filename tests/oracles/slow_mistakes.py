"""Kinds of mistakes and the confusion matrix as loops that can be read."""

from oracles.slow_average_precision import Thing, overlap_plus_one, voc10


def voc_hits(truth: list[Thing], found: list[Thing], threshold: float) -> tuple[dict, set]:
    """Detection -> object of every hit, and the detections that lie on a difficult object."""
    hits, ignored = {}, set()
    for d in best_first_places(found):
        best, most = None, -1.0
        for g, thing in enumerate(truth):
            if (thing.image, thing.label) == (found[d].image, found[d].label):
                overlap = overlap_plus_one(found[d].box, thing.box)
                if overlap > most:
                    best, most = g, overlap
        if best is None or most < threshold:
            continue
        if truth[best].difficult:
            ignored.add(d)
        elif best not in hits.values():
            hits[d] = best
    return hits, ignored


def best_first_places(found: list[Thing]) -> list[int]:
    """Places from the best score down; equal scores by image, then as given."""
    return sorted(range(len(found)), key=lambda d: (-found[d].score, found[d].image, d))


def kinds_of(truth: list[Thing], found: list[Thing], threshold: float = 0.5) -> tuple[dict, dict]:
    """Detection -> kind of mistake, and detection -> object that it should have found."""
    hits, ignored = voc_hits(truth, found, threshold)
    kinds, meant = {}, {}
    for d, detection in enumerate(found):
        if d in hits or d in ignored:
            continue
        own, other = (-1.0, None), (-1.0, None)
        for g, thing in enumerate(truth):
            if thing.image != detection.image or thing.difficult:
                continue
            overlap = overlap_plus_one(detection.box, thing.box)
            if thing.label == detection.label and overlap > own[0]:
                own = (overlap, g)
            if thing.label != detection.label and overlap > other[0]:
                other = (overlap, g)
        if 0.1 <= own[0] < threshold:
            kinds[d], meant[d] = "localisation", own[1]
        elif other[0] >= threshold:
            kinds[d], meant[d] = "classification", other[1]
        elif own[0] >= threshold:
            kinds[d] = "duplicate"
        elif max(own[0], other[0]) < 0.1:
            kinds[d] = "background"
        else:
            kinds[d] = "both"
    return kinds, meant


def missed_objects(truth: list[Thing], hits: dict, meant: dict) -> set[int]:
    """Objects that no hit and no mistake of class or place is about."""
    asked = {g for g, thing in enumerate(truth) if not thing.difficult}
    return asked - set(hits.values()) - set(meant.values())


def mean_precision(ranked: list[tuple[int, bool]], counts: dict, asked: dict) -> float:
    """Mean AP of (class, is a hit) from the best score down."""
    values = []
    for label in asked:
        recall, precision, hits, seen = [], [], 0, 0
        for found_label, is_hit in ranked:
            if found_label == label:
                hits, seen = hits + is_hit, seen + 1
                recall.append(hits / counts[label] if counts[label] else 0.0)
                precision.append(hits / seen)
        values.append(voc10(recall, precision) if counts[label] else 1.0)
    return sum(values) / len(values)


def ap_cost(truth: list[Thing], found: list[Thing], mended_kind: str) -> float:
    """Rise of the mean AP if one kind of mistake is mended."""
    hits, ignored = voc_hits(truth, found, 0.5)
    kinds, meant = kinds_of(truth, found)
    asked = {}
    for thing in truth:
        if not thing.difficult:
            asked[thing.label] = asked.get(thing.label, 0) + 1
    counts, before, after, mended = dict(asked), [], [], set()
    for d in best_first_places(found):
        if d in ignored:
            continue
        before.append((found[d].label, d in hits))
        if kinds.get(d) != mended_kind:
            after.append((found[d].label, d in hits))
        elif d in meant and meant[d] not in {*hits.values(), *mended}:
            mended.add(meant[d])
            after.append((truth[meant[d]].label, True))
    if mended_kind == "missed":
        for g in missed_objects(truth, hits, meant):
            counts[truth[g].label] -= 1
    return mean_precision(after, counts, asked) - mean_precision(before, asked, asked)


def confusion(truth: list[Thing], found: list[Thing], classes: int) -> list[list[int]]:
    """Truth by row, detection by column, the background last."""
    hits, ignored = voc_hits(truth, found, 0.5)
    pairs = dict(hits)
    left = []
    for d, detection in enumerate(found):
        for g, thing in enumerate(truth):
            usable = d not in hits and d not in ignored and not thing.difficult
            if usable and thing.image == detection.image and thing.label != detection.label:
                left.append((overlap_plus_one(detection.box, thing.box), d, g))
    for overlap, d, g in sorted(left, key=lambda entry: (-entry[0], *entry[1:])):
        if overlap >= 0.5 and d not in pairs and g not in pairs.values():
            pairs[d] = g
    table = [[0] * (classes + 1) for _ in range(classes + 1)]
    for d, detection in enumerate(found):
        if d not in ignored:
            table[truth[pairs[d]].label if d in pairs else classes][detection.label] += 1
    for g, thing in enumerate(truth):
        if not thing.difficult and g not in pairs.values():
            table[thing.label][classes] += 1
    return table
