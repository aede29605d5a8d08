"""The thread that improves a session while nobody waits for it.

A file of its own: what it does is said by a function, and only the thread is here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REST = 0.2  # seconds between looks at whether there is something to do


class Improver:
    """Calls a function again and again in the background, as long as it finds something to do.

    Args:
        work: Does one short piece of work; tells whether there was any.
        failed: Hears the error of a piece of work; the thread rests until :meth:`wake`.

    Example:
        >>> todo, done = [1, 2, 3], []
        >>> improver = Improver(lambda: bool(todo) and done.append(todo.pop()) is None, print)
        >>> improver.start()
        >>> while todo:
        ...     improver.wake()
        >>> improver.stop()
        >>> done
        [3, 2, 1]
    """

    def __init__(self, work: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        self._work, self._failed = work, failed
        self._thread: threading.Thread | None = None
        self._wake, self._stop = threading.Event(), threading.Event()
        self._waiting = 0  # callers in the foreground, who go first
        self._count = threading.Lock()

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="sppnet-improver", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the piece of work that is under way."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Say that there may be something to do."""
        self._wake.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let somebody in the foreground go first: no piece of work begins meanwhile."""
        with self._count:
            self._waiting += 1
        try:
            yield
        finally:
            with self._count:
                self._waiting -= 1
            self.wake()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            if self._waiting or not self._attempt():
                self._wake.wait(REST if self._waiting else None)

    def _attempt(self) -> bool:
        try:
            return self._work()
        except Exception as error:  # whatever it is, the thread must live
            self._failed(error)
            return False
