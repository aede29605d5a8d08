"""Photos and labels as the page lists them, without a model and without torch.

Who sees suggestions tends to agree with them. On one photo in twenty nothing is shown; what would
have been suggested is kept, and compared with what was then labelled by hand.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sppnet.server.answers import NotFoundError
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import UNLABELLED, PhotoLabels

EXPECTED, CURVE, LAST_PHOTO = "expected", "curve", "last photo"  # facts of the store


@dataclass(frozen=True)
class Brief:
    """What a list shows of a photo.

    Args:
        state: One of the states of a photo.
        revision: The latest.
        counts: Boxes of each class, or 1 for each class of a whole photo.
    """

    state: str = UNLABELLED
    revision: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


class Board:
    """Lists of photos and classes, kept up to date from the store, whoever edits it.

    Args:
        store: The labels.
        photos: Names of all photos, in order.

    Example:
        >>> import tempfile
        >>> from sppnet.storage import LabelBox
        >>> with tempfile.TemporaryDirectory() as name:
        ...     store = LabelStore(f"{name}/.sppnet", name)
        ...     done = store.put("b.jpg", [LabelBox((1, 2, 30, 40), "cat")])
        ...     board = Board(store, ("a.jpg", "b.jpg"))
        ...     print(board.classes(), board.items(1, 1))
        ...     store.close()
        [{'name': 'cat', 'count': 1}] [{'photo': 'b.jpg', 'state': 'labelled', 'boxes': 1,
          'revision': 1}]
    """

    def __init__(self, store: LabelStore, photos: Sequence[str]) -> None:
        self.store, self.photos = store, tuple(photos)
        self.places = {photo: place for place, photo in enumerate(self.photos)}
        self._briefs: dict[str, Brief] = {}
        self._edit, self._class_edit = 0, -1
        self._lock = threading.RLock()

    def known(self, photo: str) -> str:
        """Give a name back if there is such a photo.

        Raises:
            NotFoundError: If not.
        """
        if photo not in self.places:
            raise NotFoundError("there is no such photo", path=photo[:200])
        return photo

    def refresh(self) -> list[str]:
        """See what was edited, here or by another process; names of the photos."""
        with self._lock:
            if (classes := self.store.class_edit()) != self._class_edit:
                self._class_edit, self._edit = classes, 0
            if self._edit == 0:
                self._edit = self.store.changed_since(0)[1]  # first: what comes now comes again
                changed = self.store.every()
            else:
                names, self._edit = self.store.changed_since(self._edit)
                changed = [self.store.labels(photo) for photo in names]
            for labels in changed:
                self._briefs[labels.photo] = brief_of(labels)
            return [labels.photo for labels in changed]

    def items(self, offset: int, limit: int) -> list[dict[str, Any]]:
        """Describe some photos, in the folder's order.

        Raises:
            ValueError: If a number is negative.
        """
        if offset < 0 or limit < 0:
            raise ValueError(f"offset and limit must be at least 0, got {offset} and {limit}")
        self.refresh()
        return [self.item(photo) for photo in self.photos[offset : offset + limit]]

    def item(self, photo: str) -> dict[str, Any]:
        """Describe a photo as a list shows it."""
        brief = self._briefs.get(photo, Brief())
        boxes = sum(brief.counts.values())
        return {"photo": photo, "state": brief.state, "boxes": boxes, "revision": brief.revision}

    def classes(self) -> list[dict[str, Any]]:
        """Name the classes in the order in which they came, with the numbers of their boxes."""
        with self._lock:
            self.refresh()
            counts: Counter[str] = Counter()
            for brief in self._briefs.values():
                counts.update(brief.counts)
            return [{"name": name, "count": counts[name]} for name in self.store.names()]

    def is_labelled(self, photo: str) -> bool:
        """Whether something is said of a photo, as of the last :meth:`refresh`."""
        return self._briefs.get(photo, Brief()).state != UNLABELLED

    def unlabelled(self) -> Iterator[str]:
        """Names of the photos of which nothing is said."""
        self.refresh()
        return (photo for photo in self.photos if not self.is_labelled(photo))

    def recall_fact(self, name: str) -> Any:
        """Give a value that :meth:`keep_fact` kept; None if there is none."""
        text = self.store.fact(name)
        return json.loads(text) if text else None

    def keep_fact(self, name: str, value: Any) -> None:
        """Keep a JSON value in the store; OutputError."""
        self.store.put_fact(name, json.dumps(value))


def brief_of(labels: PhotoLabels) -> Brief:
    """Sum up what is said about a photo."""
    counts = Counter([*(box.name for box in labels.boxes), *labels.names])
    return Brief(labels.state, labels.revision, counts)


ONE_IN = 20
PREFIX = "withheld "  # of the store's facts
SURE = 0.5  # confidence from which on a suggestion counts
SAME = 0.5  # overlap from which on boxes show the same thing
Box = Sequence[float]


def is_withheld(photo: str) -> bool:
    """Whether a photo is one of those on which nothing is suggested; its name alone decides.

    Example:
        >>> sum(is_withheld(f"{number}.jpg") for number in range(2000))
        102
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

    def rename(self, name: str, new: str) -> None:
        """Give a class another name in what is kept; OutputError."""
        facts = {}
        for photo in self._photos:
            kept = self.board.recall_fact(PREFIX + photo)
            if kept is None or all(item["name"] != name for item in kept["items"]):
                continue
            for item in kept["items"]:
                item["name"] = new if item["name"] == name else item["name"]
            facts[PREFIX + photo] = json.dumps(kept)
        self.board.store.put_facts(facts)

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
