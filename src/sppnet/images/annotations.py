"""What the readers of every layout share: findings, names, splits, the finished data set."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sppnet.errors import NothingUsableError, Problem, UsageError
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.regular_files import read_lines

BOX_LEFT_OUT = "box left out"
IMAGE_LEFT_OUT = "image left out"


class Findings:
    """Collects what the readers find: problems (left out) and notes (used nevertheless)."""

    def __init__(self, problems: Iterable[Problem] = (), notes: Iterable[Problem] = ()) -> None:
        self.problems: list[Problem] = list(problems)
        self.notes: list[Problem] = list(notes)

    def leave_out(
        self,
        path: str | Path,
        rule: str,
        code: str,
        *,
        line: int | None = None,
        action: str = IMAGE_LEFT_OUT,
    ) -> None:
        """Record something that training and scoring will not see."""
        self.problems.append(Problem(str(path), rule, code, line, action))

    def note(self, path: str | Path, rule: str, *, line: int | None = None, action: str) -> None:
        """Record something that was used although it was not quite right."""
        self.notes.append(Problem(str(path), rule, "W_DATA", line, action))


def make_dataset(
    images: Sequence[LabelledImage],
    names: Sequence[str],
    findings: Findings,
    *,
    root: Path,
    split: str | None,
    layout: str,
    category_ids: Sequence[int] | None = None,
) -> DetectionDataset:
    """Put a data set together; one without a usable image is an error.

    Args:
        images: What could be read.
        names: Class names.
        findings: What was found on the way.
        root: Folder or index file that it was read from.
        split: The split, or None for all.
        layout: "voc", "coco" or "yolo".
        category_ids: Ids of the classes, 1..K if left out.

    Returns:
        The data set.

    Raises:
        NothingUsableError: If there is no image left.
    """
    if not images:
        asked = f" in split {split!r}" if split else ""
        reason = f"; the first problem: {findings.problems[0]}" if findings.problems else ""
        raise NothingUsableError(f"no usable image{asked}{reason}", path=root)
    return DetectionDataset(
        images=tuple(_with_own_ids(images, root)),
        names=tuple(names),
        problems=tuple(findings.problems),
        root=root,
        split=split,
        layout=layout,
        notes=tuple(findings.notes),
        category_ids=tuple(category_ids or range(1, len(names) + 1)),
    )


def _with_own_ids(images: Sequence[LabelledImage], root: Path) -> list[LabelledImage]:
    """Give images whose ids repeat, such as those of two folders, their paths for ids."""
    counts = Counter(image.image_id for image in images)
    return [
        replace(image, image_id=os.path.relpath(image.path.with_suffix(""), root))
        if counts[image.image_id] > 1
        else image
        for image in images
    ]


def read_names(names: Sequence[str] | str | Path | None) -> tuple[str, ...] | None:
    """Take class names from the caller, or from a text file with one name a line.

    Args:
        names: The names, or a file's path, or None.

    Returns:
        The names, or None if None was given.

    Raises:
        ValueError: If there are none or one comes twice.
        InputError: If the file cannot be read.

    Example:
        >>> read_names(["cat", "dog"])
        ('cat', 'dog')
    """
    if names is None:
        return None
    if isinstance(names, str | Path):
        names = [line.strip() for line in read_lines(names, 1_000_000) if line.strip()]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"names must be given once each, got {list(names)}")
    return tuple(names)


def require_folder(root: Path) -> None:
    """Refuse a data-set root that is no readable folder.

    Args:
        root: What the user named.

    Raises:
        UsageError: If it does not exist, is no folder or cannot be read.
    """
    try:
        with os.scandir(root):
            return
    except FileNotFoundError:
        rule = "the data set's folder does not exist"
    except NotADirectoryError:
        rule = "the data set must be a folder"
    except (OSError, ValueError) as error:
        rule = f"the data set's folder cannot be read: {getattr(error, 'strerror', error)}"
    raise UsageError(rule, path=root)


def unknown_split(root: Path, split: str, known: Sequence[str]) -> UsageError:
    """Make the error for a split that does not exist.

    Args:
        root: The data set.
        split: What was asked for.
        known: The splits that exist.

    Returns:
        The error, which lists them.
    """
    choices = ", ".join(known) if known else "none"
    return UsageError(f"no split {split!r}; splits of this set: {choices}", path=root)
