"""What is said about a photo: its boxes, its state, and what a model suggests. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sppnet.errors import UsageError

UNLABELLED, LABELLED, EMPTY = "unlabelled", "labelled", "empty"
STATES = (UNLABELLED, LABELLED, EMPTY)


@dataclass(frozen=True)
class LabelBox:
    """A box that a person drew.

    Args:
        corners: (x1, y1, x2, y2) in pixels of the upright photo, half-open.
        name: Its class.
        extra: Whatever else is known of it, such as VOC's ``difficult``; JSON values.
    """

    corners: tuple[float, float, float, float]
    name: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhotoLabels:
    """What is said about a photo at one revision.

    Args:
        photo: Path from the folder of the photos, with ``/``.
        revision: 0 for a photo that nobody has touched; every edit, undo and redo adds one.
        state: ``unlabelled``, ``labelled``, or ``empty`` (somebody said that no things are here).
        boxes: The boxes.
        extra: Whatever else is known of the photo; JSON values.
        author: Who made this revision, if they said.
        kind: ``edit``, ``undo``, ``redo``, or how an import calls itself.
        names: Classes of the whole photo, where photos are named and no boxes are drawn.
    """

    photo: str
    revision: int = 0
    state: str = UNLABELLED
    boxes: tuple[LabelBox, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    author: str = ""
    kind: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuggestedBox:
    """A box that a model found; it is no label.

    Args:
        corners: (x1, y1, x2, y2) in pixels.
        name: Its class.
        score: As the detector gives it.
        confidence: Probability that it is right, 0..1; None if that is not known.
    """

    corners: tuple[float, float, float, float]
    name: str
    score: float
    confidence: float | None = None


class ConflictError(UsageError):
    """Somebody else edited the photo meanwhile; nothing was written.

    Args:
        current: What the store holds now.
        offered: What was to be written, with the revision that it was based on.
    """

    default_code = "E_CONFLICT"

    def __init__(self, current: PhotoLabels, offered: PhotoLabels) -> None:
        rule = f"is at revision {current.revision}, the edit was made on {offered.revision}"
        super().__init__(rule, path=current.photo)
        self.current, self.offered = current, offered


def check_name(name: str) -> None:
    """Refuse a name that no class can have; ValueError."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"names of classes must not be empty, got {name!r}")


def check_edit(edit: PhotoLabels) -> None:
    """Refuse an edit that says nothing sensible; ValueError."""
    parts = edit.photo.split("/")
    if not all(parts) or ".." in parts or "\\" in edit.photo or Path(edit.photo).is_absolute():
        raise ValueError(f"photo must be a path below the photos' folder, got {edit.photo!r}")
    if edit.state not in STATES:
        raise ValueError(f"state must be one of {', '.join(STATES)}, got {edit.state!r}")
    if (edit.state == LABELLED) != bool(edit.boxes or edit.names):
        raise ValueError(f"photos are labelled if they have boxes, got {edit.state!r} with "
                         f"{len(edit.boxes)} boxes")  # fmt: skip
    for name in edit.names:
        check_name(name)
    for number, box in enumerate(edit.boxes):
        x1, y1, x2, y2 = box.corners
        if not (-1e9 < x1 < x2 < 1e9 and -1e9 < y1 < y2 < 1e9):
            raise ValueError(f"boxes must have x1 < x2 and y1 < y2, got {box.corners} in row "
                             f"{number}")  # fmt: skip
        check_name(box.name)
