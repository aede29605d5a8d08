"""Which detections of a whole data set are hits, by the rule of COCO."""

from typing import NamedTuple

import numpy as np

from sppnet.evaluation.matching import (
    Floats,
    Found,
    Ints,
    Mask,
    Matches,
    Truth,
    class_overlaps,
    each_image,
)

COCO_MAX_DETECTIONS = 100
EVERY_AREA = (0.0, 1e10)


class CocoRows(NamedTuple):
    """What is matched side by side: R pairs of an overlap and a range of areas."""

    thresholds: Floats  # (R,) overlaps that are enough, 0..1
    areas: Floats  # (R, 2) smallest and largest area that counts, square pixels


def match_coco(truth: Truth, found: Found, iou_thresholds: Floats) -> Matches:
    """Match by the rule of COCO, objects of every size.

    A detection takes the free object of its class that it overlaps most (the last one of equals),
    if that is enough; failing that, one that is ignored: difficult ones once, crowds any number
    of times. The overlap with a crowd is the share of the detection that lies in it.
    Only the best 100 detections per image and class count; the others are ignored.

    Args:
        truth: All objects.
        found: All detections.
        iou_thresholds: (T,) overlaps that are enough, 0..1.

    Source:
        Lin et al. (2014); pycocotools, cocoeval.py.
    """
    rows = CocoRows(iou_thresholds, np.tile(EVERY_AREA, (len(iou_thresholds), 1)))
    return match_coco_rows(truth, found, rows, np.zeros(len(truth.label)))


def match_coco_rows(truth: Truth, found: Found, rows: CocoRows, truth_areas: Floats) -> Matches:
    """Match by the rule of COCO at several overlaps and for several ranges of areas at once.

    An object outside a row's range is ignored in it, and so is a detection outside the range that
    takes no object.

    Args:
        truth: All objects.
        found: All detections.
        rows: Overlaps and ranges.
        truth_areas: (G,) of the objects, square pixels.

    Returns:
        The matches, (R, D).
    """
    shape = (len(rows.thresholds), len(found.scores))
    target, ignored = np.full(shape, -1), np.zeros(shape, np.bool_)
    beyond = rank_in_class(found) >= COCO_MAX_DETECTIONS
    not_asked = truth.ignored | _outside(truth_areas, rows.areas)  # (R, G)
    for detected, objects in each_image(truth, found):
        detected = detected[~beyond[detected]]
        overlaps = class_overlaps(truth, found, detected, objects)
        touching = (overlaps >= rows.thresholds.min()).any(1)
        order = np.argsort(-found.scores[detected], kind="stable")
        taken = np.zeros((len(rows.thresholds), len(objects)), np.bool_)
        for d in order[touching[order]]:
            usable = ~taken | truth.crowd[objects]
            chosen = _choose(overlaps[d], usable, not_asked[:, objects], rows.thresholds)
            hits = np.flatnonzero(chosen >= 0)
            taken[hits, chosen[hits]] = True
            is_ignored = not_asked[hits, objects[chosen[hits]]]
            target[hits, detected[d]] = np.where(is_ignored, -1, objects[chosen[hits]])
            ignored[hits, detected[d]] = is_ignored
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    ignored |= beyond | ((target < 0) & _outside(sides.prod(1), rows.areas))
    return Matches(target >= 0, ignored, target)


def rank_in_class(found: Found) -> Ints:
    """Place of each detection among those of its image and class, from 0, best score first."""
    order = np.lexsort((-found.scores, found.label, found.image))
    group = np.stack([found.image, found.label])[:, order]
    starts = np.flatnonzero(np.r_[True, (group[:, 1:] != group[:, :-1]).any(0)][: len(order)])
    sizes = np.diff(np.r_[starts, len(order)])
    rank = np.zeros(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return rank


def _outside(areas: Floats, ranges: Floats) -> Mask:
    """Whether each area lies outside each range: (R, N)."""
    return (areas < ranges[:, :1]) | (areas > ranges[:, 1:])


def _choose(overlaps: Floats, usable: Mask, not_asked: Mask, thresholds: Floats) -> Ints:
    """Object that one detection takes in each row, -1 for none: (R,)."""
    usable = (overlaps >= thresholds[:, None]) & usable
    first_choice = usable & ~not_asked
    usable = np.where(first_choice.any(1, keepdims=True), first_choice, usable)
    masked = np.where(usable, overlaps, -1.0)[:, ::-1]  # argmax takes the first of equals
    last_best = overlaps.shape[-1] - 1 - masked.argmax(1)
    return np.where(usable.any(1), last_best, -1)
