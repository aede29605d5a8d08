"""How a long function lets its caller show progress, and its default, which shows none."""

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
