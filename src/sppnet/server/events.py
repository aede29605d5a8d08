"""Server-sent events: what one thread says, every open page hears."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

from sppnet.storage.files import json_text

SILENCE = 15.0  # seconds after which a comment is sent, so that the connection is kept
MOST_WAITING = 500  # events for a page that does not read; it is let go then, and comes again
MOST_LISTENERS = 64
Event = tuple[str, Any]


class EventHub:
    r"""Passes events from any thread to all listeners.

    Example:
        >>> hub = EventHub()
        >>> async def listen() -> str:
        ...     events = hub.listen([("state", {"phase": "idle"})])
        ...     try:
        ...         return await anext(events)
        ...     finally:
        ...         await events.aclose()
        >>> asyncio.run(listen())
        'event: state\\ndata: {"phase": "idle"}\\n\\n'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}
        self.is_closed = False

    @property
    def count(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def publish(self, event: str, data: Any) -> None:
        """Tell all listeners; never waits."""
        text = format_event(event, data)
        with self._lock:
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            with suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(_offer, queue, text)

    def close(self) -> None:
        """Let all listeners go."""
        with self._lock:
            self.is_closed = True
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_offer, queue, None)

    async def listen(self, first: Iterable[Event] = ()) -> AsyncIterator[str]:
        """Give events as text, as they come, until the hub is closed.

        Args:
            first: What the listener hears at once.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(MOST_WAITING)
        with self._lock:
            if self.is_closed or len(self._listeners) >= MOST_LISTENERS:
                return
            self._listeners[queue] = asyncio.get_running_loop()
        try:
            for event, data in first:
                yield format_event(event, data)
            while (text := await _next(queue)) is not None:
                yield text
        finally:
            with self._lock:
                self._listeners.pop(queue, None)


def format_event(event: str, data: Any) -> str:
    r"""Write an event as the wire has it; NaN becomes null.

    Example:
        >>> format_event("job", {"done": 1})
        'event: job\\ndata: {"done": 1}\\n\\n'
    """
    return f"event: {event}\ndata: {json_text(data, None)}\n"


async def _next(queue: "asyncio.Queue[str | None]") -> str | None:
    try:
        return await asyncio.wait_for(queue.get(), SILENCE)
    except TimeoutError:
        return ": still here\n\n"


def _offer(queue: "asyncio.Queue[str | None]", text: str | None) -> None:
    """Put an event into a listener's queue; one that does not read is let go."""
    if text is None or queue.full():
        while not queue.empty():
            queue.get_nowait()
        text = None
    queue.put_nowait(text)
