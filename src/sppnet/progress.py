"""How a long function lets its caller show progress (none, or a bar), and works ahead meanwhile."""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


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


def one_ahead(
    items: Iterable[T], work: Callable[[T], Result]
) -> Iterator[tuple[T, Future[Result]]]:
    """Give each item with what becomes of it; another thread works on the next one meanwhile.

    Args:
        items: Taken one after the other.
        work: What is done with each; what it raises, ``result()`` of the future raises.

    Yields:
        Each item, in order, with the future of its result.

    Example:
        >>> [(item, found.result()) for item, found in one_ahead([1, 2, 3], lambda n: n * n)]
        [(1, 1), (2, 4), (3, 9)]
    """
    waiting: tuple[T, Future[Result]] | None = None
    with ThreadPoolExecutor(1) as thread:
        for item in items:
            begun = item, thread.submit(work, item)
            if waiting is not None:
                yield waiting
            waiting = begun
        if waiting is not None:
            yield waiting
