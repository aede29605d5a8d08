"""Photos on which nothing is suggested, so that people and model can be compared.

Who sees suggestions tends to agree with them. On one photo in twenty nothing is shown; what would
have been suggested is kept, and compared with what was then labelled by hand.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sppnet.server.board import Board
from sppnet.storage.labels import UNLABELLED, PhotoLabels

ONE_IN = 20
PREFIX = "withheld "  # of the store's facts
SURE = 0.5  # confidence from which on a suggestion counts
SAME = 0.5  # overlap from which on boxes show the same thing
Box = Sequence[float]


def is_withheld(photo: str) -> bool:
    """Whether a photo is one of those on which nothing is suggested; its name alone decides.

    Example:
        >>> sum(is_withheld(f"{number}.jpg") for number in range(2000))
        98
    """
    digest = hashlib.sha256(photo.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") % ONE_IN == 0


@dataclass(frozen=True)
class Agreement:
    """How far labels made without suggestions agree with what would have been suggested.

    Args:
        share: 2 x (both) / (labels + suggestions), 0..1; None where there is neither.
        photos: On so many photos.
    """

    share: float | None
    photos: int


class Withheld:
    """Keeps what is not shown, and counts.

    Args:
        board: Photos and labels.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self._photos = [photo for photo in board.photos if is_withheld(photo)]
        self._being_drawn = ""

    def hides(self, labels: PhotoLabels) -> bool:
        """Whether suggestions for a photo are hidden: until it is labelled and another was, too."""
        if not is_withheld(labels.photo):
            return False
        return labels.state == UNLABELLED or labels.photo == self._being_drawn

    def edited(self, photo: str) -> None:
        """Hear of an edit: the photo edited last is still being drawn on."""
        self._being_drawn = photo

    def keep(self, photo: str, model: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Keep what would have been suggested, as long as the photo is not labelled."""
        if not model or not is_withheld(photo):
            return
        if self.board.store.labels(photo).state == UNLABELLED:
            kept = [dict(item) for item in items if item["confidence"] >= SURE]
            self.board.keep_fact(PREFIX + photo, {"model": model, "items": kept})

    def agreement(self) -> Agreement:
        """Compare, over all withheld photos that are labelled now."""
        both = total = photos = 0
        self.board.refresh()
        for photo in filter(self.board.is_labelled, self._photos):
            labels = self.board.store.labels(photo)
            kept = self.board.recall_fact(PREFIX + photo)
            if kept is None or photo == self._being_drawn:
                continue
            both += count_same(labels, kept["items"])
            total += len(labels.boxes) + len(labels.names) + len(kept["items"])
            photos += 1
        return Agreement(2 * both / total if total else None, photos)


def count_same(labels: PhotoLabels, items: Sequence[Mapping[str, Any]]) -> int:
    """Count the labels that were found, each by one suggestion of its class.

    Example:
        >>> from sppnet.storage import LabelBox
        >>> labels = PhotoLabels("a.jpg", boxes=(LabelBox((0, 0, 10, 10), "cat"),))
        >>> count_same(labels, [{"box": [0, 0, 10, 9], "name": "cat"}])
        1
    """
    free = [(box.corners, box.name) for box in labels.boxes]
    names = list(labels.names)
    count = 0
    for item in items:
        if "box" not in item:
            count += item["name"] in names
            continue
        fits = [pair for pair in free if pair[1] == item["name"]]
        best = max(fits, key=lambda pair: overlap(pair[0], item["box"]), default=None)
        if best is not None and overlap(best[0], item["box"]) >= SAME:
            free.remove(best)
            count += 1
    return count


def overlap(one: Box, two: Box) -> float:
    """Intersection over union of two boxes, xyxy.

    Example:
        >>> overlap((0, 0, 10, 10), (5, 0, 15, 10))
        0.3333333333333333
    """
    sides = [min(one[2 + n], two[2 + n]) - max(one[n], two[n]) for n in (0, 1)]
    if min(sides) <= 0:
        return 0.0
    shared = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return shared / (sum(areas) - shared)
