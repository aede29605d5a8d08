"""How a long function lets its caller show progress, and two ways: none, and a bar."""

import sys
from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Wraps a loop to show its progress; the command line passes one that tells the time left."""

    def __call__(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterable[T]:
        """Return an iterable of the same items."""
        ...


def no_tracking(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:  # noqa: ARG001
    """Show nothing: the default of every long function.

    Example:
        >>> list(no_tracking([1, 2], "counting"))
        [1, 2]
    """
    return iterable


def show_progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Show a bar with the time left on a terminal, and nothing elsewhere.

    What people call from Python with a list of images shows it unless told otherwise; a single
    item shows nothing.

    Example:
        >>> list(show_progress([1, 2], "counting"))
        [1, 2]
    """
    if total == 1 or sys.stderr is None or not sys.stderr.isatty():
        return iterable
    from rich.console import Console
    from rich.progress import track

    return track(iterable, description, total=total, console=Console(stderr=True), transient=True)
