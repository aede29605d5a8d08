"""How a long function lets its caller show progress (none, or a bar), and shares its work out."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
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


def work_ahead(
    items: Iterable[T], work: Callable[[T], Result], workers: int = 1, *, alone: bool = True
) -> Iterator[tuple[T, Future[Result]]]:
    """Give each item with what becomes of it; other threads work on the next ones meanwhile.

    One worker computes with as many threads as torch has. Of several, each computes with one unless
    told otherwise, which is faster than one item after the other in all threads: none waits for
    another.

    Args:
        items: Taken one after the other.
        work: What is done with each; what it raises, ``result()`` of the future raises.
        workers: Items that are worked on at the same time; 0 for no other threads: each item is
            worked on when it is asked for.
        alone: Whether each of several workers computes with one thread.

    Yields:
        Each item, in order, with the future of its result.

    Example:
        >>> [(item, found.result()) for item, found in work_ahead([1, 2, 3], lambda n: n * n)]
        [(1, 1), (2, 4), (3, 9)]
    """
    if not workers:
        yield from ((item, _done(work, item)) for item in items)
        return
    waiting: deque[tuple[T, Future[Result]]] = deque()
    is_alone = alone and workers > 1
    pool = _threads_of_their_own(workers) if is_alone else ThreadPoolExecutor(workers)
    try:
        for item in items:
            begun = item, pool.submit(work, item)
            if len(waiting) == workers:
                yield waiting.popleft()
            waiting.append(begun)
        while waiting:
            yield waiting.popleft()
    except BaseException:  # Ctrl-C waits for the items in work, not for those behind them
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _done(work: Callable[[T], Result], item: T) -> Future[Result]:
    """The future of what is worked on here and now."""
    future: Future[Result] = Future()
    try:
        future.set_result(work(item))
    except Exception as error:  # raised where the result is asked for, as from other threads
        future.set_exception(error)
    return future


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch compute with a number of threads, then with as many as before.

    Of many small operations one thread is the fastest: several would wait for each other.

    Example:
        >>> import torch
        >>> with using_threads(1):
        ...     torch.get_num_threads()
        1
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _threads_of_their_own(workers: int) -> ThreadPoolExecutor:
    """Threads that compute with one thread each; all others keep as many as they had."""
    import torch

    usual, begun = torch.get_num_threads(), Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # at its first use a thread takes the number that all have
        torch.set_num_threads(1)
        begun.wait()

    pool = ThreadPoolExecutor(workers, initializer=begin)
    try:
        for _ in range(workers):
            pool.submit(int)  # each begins a thread: none is free yet
    except RuntimeError:  # the system allows no more; those that wait would wait for ever
        begun.abort()
        raise
    begun.wait()
    torch.set_num_threads(usual)  # what a thread said was for those that begin later, too
    return pool
