"""Progress with the time left, on stderr: bars on a terminal, a line now and then elsewhere.

`track` wraps a loop, as `sppnet.progress.Track` says; commands pass it down to the rooms.
`announce` says before the long part begins which stages there are and how long each is likely to
take.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sppnet.app.console import human_seconds, note
from sppnet.errors import printable

T = TypeVar("T")

FIRST_LINE_AFTER = 5.0  # seconds; a loop that is over sooner says nothing off a terminal
LONGEST_SILENCE = 60.0
LONG_PLAN = 10.0  # seconds; of a shorter run nobody asks what is left


@dataclass(frozen=True)
class Stage:
    """One long stage of a command: its name, the seconds it may take, whether it is done."""

    name: str
    seconds: float | None = None
    done: bool = False


def announce(stages: Sequence[Stage]) -> str:
    """Say before the long part which stages come and how long they are likely to take.

    Args:
        stages: In the order in which they run.

    Returns:
        The line that was printed.

    Example:
        >>> announce([Stage("proposals", 180), Stage("features", done=True), Stage("SVMs", 20)])
        'plan: proposals 3 min 0 s, features (done already), SVMs 20 s; about 3 min 20 s in all'
    """
    known = [stage.seconds for stage in stages if stage.seconds is not None and not stage.done]
    whole = f"; about {human_seconds(sum(known))} in all" if known else ""
    line = f"plan: {', '.join(map(_stage_words, stages))}{whole}"
    note(line)
    return line


def _stage_words(stage: Stage) -> str:
    if stage.done:
        return f"{stage.name} (done already)"
    return stage.name if stage.seconds is None else f"{stage.name} {human_seconds(stage.seconds)}"


class Plan:
    """Times the stages of a run and says after each how long the others are likely to take.

    What the stages before took, beside what they were said to take, is the scale for the rest.

    Args:
        stages: All stages in their order, with the seconds that they may take.
        timer: ``timer(name)`` is a context that keeps the time of a stage.

    Example:
        >>> from contextlib import nullcontext
        >>> plan = Plan([Stage("features", 90.0), Stage("SVMs", 30.0)], nullcontext)
        >>> plan.seconds_left
        120.0
    """

    def __init__(
        self, stages: Sequence[Stage], timer: Callable[[str], AbstractContextManager[object]]
    ) -> None:
        self._waiting = {each.name: each.seconds or 0.0 for each in stages if not each.done}
        self._is_long = sum(self._waiting.values()) >= LONG_PLAN
        self._timer = timer
        self._planned = self._taken = 0.0

    @property
    def seconds_left(self) -> float:
        """What the stages that have not ended are likely to take."""
        scale = self._taken / self._planned if self._planned else 1.0
        return scale * sum(self._waiting.values())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say what is left after it."""
        begin = time.monotonic()
        with self._timer(name):
            yield
        seconds = time.monotonic() - begin
        self._planned += self._waiting.pop(name, 0.0)
        self._taken += seconds
        if self._waiting and self._is_long:
            rest = ", ".join(self._waiting)
            left = human_seconds(self.seconds_left)
            note(f"{name} done in {human_seconds(seconds)}; about {left} left for {rest}")


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Give the items of a loop and show how far it is and how long it will take.

    Args:
        iterable: What the loop runs over.
        description: What is done, such as ``"convolving images"``.
        total: Number of items, if ``iterable`` has no length.

    Returns:
        An iterator over the same items.

    Example:
        >>> sum(track([1, 2, 3], "adding"))
        6
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr is not None and sys.stderr.isatty():
        return _BARS.run(iterable, description, total)
    return _lines(iterable, description, total)


class _Bars:
    """The bars on a terminal; loops inside loops share one display."""

    def __init__(self) -> None:
        self._display: Any = None
        self._depth = 0

    def run(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        """Give the items while a bar shows how far the loop is."""
        display = self._open()
        task = display.add_task(printable(description), total=total)
        try:
            for item in iterable:
                yield item
                display.advance(task)
        finally:
            self._close(task)

    def _open(self) -> Any:
        if self._display is None:
            self._display = _rich_display()
            self._display.start()
        self._depth += 1
        return self._display

    def _close(self, task: Any) -> None:
        """Take an inner bar away; after the outermost, leave its last state on the screen."""
        self._depth -= 1
        if self._depth:
            self._display.remove_task(task)
            return
        self._display.stop()
        self._display = None


_BARS = _Bars()


def _rich_display() -> Any:
    """Build the display; rich is imported here so that ``--help`` does not pay for it."""
    from rich import progress as rich_progress
    from rich.console import Console

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _lines(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Give the items; say a line after 5 s, then ever less often, and one at the end."""
    start = time.monotonic()
    due, wait, count, spoken = start + FIRST_LINE_AFTER, FIRST_LINE_AFTER, 0, False
    for item in iterable:
        yield item
        count += 1
        now = time.monotonic()
        if now >= due and count != total:
            note(progress_line(description, count, total, now - start))
            wait = min(wait * 2, LONGEST_SILENCE)
            due, spoken = now + wait, True
    if spoken or time.monotonic() >= due:
        note(f"{description}: {count} in {human_seconds(time.monotonic() - start)}")


def progress_line(description: str, count: int, total: int | None, seconds: float) -> str:
    """Say how far a loop is and how long it will take.

    Args:
        description: What is done.
        count: Items done.
        total: Items in all, or None if nobody knows.
        seconds: Time since the loop began.

    Example:
        >>> progress_line("proposals", 40, 160, 10.0)
        'proposals: 40 of 160, 30 s left'
        >>> progress_line("proposals", 40, None, 10.0)
        'proposals: 40 in 10 s'
    """
    if not total:
        return f"{description}: {count} in {human_seconds(seconds)}"
    left = seconds / max(count, 1) * max(total - count, 0)
    return f"{description}: {count} of {total}, {human_seconds(left)} left"
