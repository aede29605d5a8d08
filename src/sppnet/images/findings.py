"""What readers find wrong, and the errors that they share."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sppnet.errors import Problem, UsageError

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
