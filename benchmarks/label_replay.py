"""A person who knows the labels goes through photos as the page works, and what they do is counted.

On a photo the person sees suggestions where something is, whichever class, as surely as the slider
says, best first; of two that nearly coincide, the surer one. Each is good (IoU of at least 0.5 with
a thing of its class that has no box yet), of the wrong class, displaced (IoU of 0.3 to 0.5) or
wrong; things that none is for are drawn. On photos that come without suggestions, one in twenty,
all is drawn. What is kept is where the thing is.

``keys`` are keys, clicks and drags. A box is a drag, and a key if its class is another than the one
that the page gives it: that of the surest suggestion that overlaps it by half, however unsure, or
else that of the last box. Suggestions are gone through one by one (Enter or a class key, Tab to
pass a wrong one, a drag for a displaced one), or accepted at once by A, after which a wrong class
takes a click and a key, a wrong box Delete with the pointer on it, a displaced one a drag; or they
are left alone. The person takes on each photo what is least; the next photo does not count.

``actions`` are those of the same way, each thing that is done counted once, whatever it takes: a
box drawn, a suggestion accepted, or all of them at once, corrected, moved or rejected.

A sheet shows many photos at once, after a key. Those that are right as they are are accepted
together by one key; each of the others is clicked, and labelled as above. Where fewer than half are
right, one key closes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sppnet.server.board import overlap

SAME, MOVABLE, COINCIDE = 0.5, 0.3, 0.7  # overlaps
KINDS = ("draw", "accept", "correct", "move", "reject")
AFTER_ALL = {"accept": 0, "correct": 2, "move": 1, "reject": 1}  # keys once all were accepted
Box = Sequence[float]


@dataclass(frozen=True)
class Named:
    """A box with its class.

    Args:
        box: xyxy.
        name: The class.
        sure: Confidence of a suggestion.
        there: How likely something is there, whichever class.
    """

    box: Box
    name: str
    sure: float = 1.0
    there: float = 1.0


Photo = tuple[Sequence[Named], Sequence[Named]]  # what is there, and what was found


@dataclass(frozen=True)
class Cost:
    """What a way to label a photo takes.

    Args:
        keys: Keys, clicks and drags.
        actions: Things that are done.
        last: Class of the box that was labelled last.
    """

    keys: int
    actions: int
    last: str


@dataclass
class Hand:
    """Counts what a person does.

    Args:
        threshold: Confidence from which on suggestions are shown.
        guesses: Whether the page names drawn boxes by what the detector sees there.
        keys: With suggestions.
        actions: With suggestions.
        plain_keys: Those that drawing every box takes.
        boxes: So many actions drawing every box takes.
        right: Photos whose suggestions were right as they were.
        kinds: Suggestions and boxes by what is to be done with them.
    """

    threshold: float
    guesses: bool = True
    keys: int = 0
    actions: int = 0
    plain_keys: int = 0
    boxes: int = 0
    right: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    last: tuple[str, str] = ("", "")  # class of the last box, with suggestions and without

    def label(self, things: Sequence[Named], found: Sequence[Named]) -> None:
        """Label one photo, the one after the last; nothing is found on one without suggestions."""
        kinds, missing = self.judge(things, found)
        last = self.last[0]
        drawn = self.draw(missing, found, last)
        useful = [place for place, kind in enumerate(kinds) if kind != "reject"]
        passed = useful[-1] + 1 if useful else 0
        wrong = sum(kind != "accept" for kind in kinds)
        ways = [
            self.draw(things, found, last),
            Cost(drawn.keys + passed + kinds.count("move"), len(missing) + passed, drawn.last),
            Cost(
                drawn.keys + 1 + sum(AFTER_ALL[kind] for kind in kinds),
                len(missing) + 1 + wrong,
                drawn.last,
            ),
        ]
        self._add(min(ways, key=lambda way: (way.keys, way.actions)), things, kinds, missing)

    def look_through(self, photos: Sequence[Photo]) -> bool:
        """Open a sheet, and close it if fewer than half of the photos are right, by a key each."""
        is_used = 2 * sum(self._is_right(*photo) for photo in photos) >= len(photos)
        self.keys, self.actions = self.keys + 1 + (not is_used), self.actions + (not is_used)
        return is_used

    def label_sheet(self, photos: Sequence[Photo]) -> None:
        """Accept the photos of a sheet that are right, and label the others."""
        self.keys, self.actions = self.keys + 1, self.actions + 1
        for things, found in photos:
            if self._is_right(things, found):
                self._add(Cost(0, 0, self.last[0]), things, ["accept"] * len(things), [])
            else:
                self.keys, self.actions = self.keys + 1, self.actions + 1
                self.label(things, found)

    def _is_right(self, things: Sequence[Named], found: Sequence[Named]) -> bool:
        kinds, missing = self.judge(things, found)
        return not missing and set(kinds) == {"accept"}

    def judge(
        self, things: Sequence[Named], found: Sequence[Named]
    ) -> tuple[list[str], list[Named]]:
        """What is to be done with each suggestion that is shown, and the things none is for."""
        shown: list[Named] = []
        for one in sorted(found, key=lambda one: -one.sure):
            if one.there >= self.threshold and not any(is_covered(one, other) for other in shown):
                shown.append(one)
        missing, kinds = list(things), []
        for one in shown:
            best = max(missing, key=lambda thing: overlap(thing.box, one.box), default=None)
            shared = overlap(best.box, one.box) if best else 0.0
            if best is None or shared < MOVABLE:
                kinds.append("reject")
                continue
            missing.remove(best)
            is_good = "accept" if shared >= SAME else "move"
            kinds.append(is_good if best.name == one.name else "correct")
        return kinds, missing

    def draw(self, things: Sequence[Named], found: Sequence[Named], last: str) -> Cost:
        """Draw some boxes."""
        keys = 0
        for thing in things:
            near = [one for one in found if overlap(one.box, thing.box) >= SAME]
            seen = max(near, key=lambda one: one.sure).name if near and self.guesses else last
            keys += 1 + (seen != thing.name)
            last = thing.name
        return Cost(keys, len(things), last)

    def _add(
        self, way: Cost, things: Sequence[Named], kinds: Sequence[str], missing: Sequence[Named]
    ) -> None:
        plain = self.draw(things, (), self.last[1])
        self.keys, self.plain_keys = self.keys + way.keys, self.plain_keys + plain.keys
        self.actions, self.boxes = self.actions + way.actions, self.boxes + len(things)
        self.last = (way.last, plain.last)
        self.right += not missing and set(kinds) == {"accept"}
        for kind in (*kinds, *["draw"] * len(missing)):
            self.kinds[kind] += 1


def is_covered(one: Named, other: Named) -> bool:
    """Whether the page hides a suggestion once another is a label."""
    return overlap(one.box, other.box) >= (SAME if one.name == other.name else COINCIDE)
