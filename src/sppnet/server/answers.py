"""Answers in JSON, errors as one line each, headers of all, events that every open page hears.

Errors have no traceback and no absolute paths; one that is not the client's has a number, which
leads to a line on stderr.
"""

import asyncio
import threading
import unicodedata
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Scope, Send

from sppnet.errors import (
    InputError,
    NothingUsableError,
    OutputError,
    SppnetError,
    UsageError,
    failure_text,
    note_bug,
    printable,
    shorten,
)
from sppnet.storage.files import json_text

_STATUS: tuple[tuple[type[SppnetError], int], ...] = (
    (InputError, 422),
    (NothingUsableError, 422),
    (UsageError, 400),
    (OutputError, 500),
)

# What a client of `sppnet serve` may hear: a code for programs, its status, a sentence for people.
PROBLEMS: dict[str, tuple[int, str]] = {
    "E_VALUE": (400, "each part of the body must be a photo with a file name"),
    "E_NOTHING": (400, "there is no photo in the body"),
    "E_MULTIPART": (400, "the body is not multipart/form-data as its header says"),
    "E_TOKEN": (401, "the header Authorization: Bearer TOKEN is missing or wrong"),
    "E_HOST": (403, "the request is for another host"),
    "E_ORIGIN": (403, "the request is from another site"),
    "E_NOT_FOUND": (404, "there is no such page"),
    "E_METHOD": (405, "this page does not take that method"),
    "E_SLOW": (408, "the body did not arrive in time"),
    "E_TOO_LARGE": (413, "the body or a photo has more bytes, pixels or scans than are taken"),
    "E_PHOTOS": (413, "there are more photos in the body than are taken at once"),
    "E_MEMORY": (413, "the photo needs more memory than it may have"),
    "E_MEDIA": (415, "the body must be image/*, application/octet-stream or multipart/form-data"),
    "E_ENCODING": (415, "the body must not be compressed"),
    "E_FORMAT": (415, "the photo must be JPEG, PNG, WebP, GIF or BMP by its content"),
    "E_EMPTY": (422, "the photo is empty"),
    "E_TRUNCATED": (422, "the photo ends early"),
    "E_UNREADABLE": (422, "the photo is damaged"),
    "E_BUSY": (429, "the queue is full"),
    "E_BUG": (500, "this is a bug of the server"),
    "E_FULL": (503, "too many bodies or connections at once"),
    "E_NOT_READY": (503, "no worker is ready"),
    "E_TIMEOUT": (503, "the photo took longer than it may"),
    "E_WORKER": (503, "the worker that looked at the photo died"),
}


class BodyError(Exception):
    """A body that cannot be taken; its text is one of ``PROBLEMS``."""


class NotFoundError(UsageError):
    """There is no such photo, page or report."""

    default_code = "E_NOT_FOUND"


class BadValueError(UsageError):
    """A request says something that cannot be meant."""

    default_code = "E_VALUE"


class PreconditionError(UsageError):
    """An edit does not say which revision it was made on."""

    default_code = "E_PRECONDITION"


def json_response(content: Any, status: int = 200, **headers: str) -> Response:
    r"""Answer in JSON; what is not finite becomes null.

    Example:
        >>> json_response({"recall": float("nan")}).body
        b'{"recall": null}\n'
    """
    return Response(json_text(content, None), status, headers, "application/json")


def problem_response(
    status: int, code: str, message: str, number: str = "", **more: Any
) -> Response:
    """Answer with an error.

    Args:
        status: Of HTTP.
        code: For programs.
        message: For people, one line.
        number: Of the line of the log that says more; empty if there is none.
        **more: Beside ``error``, such as both versions of a conflict.
    """
    error = {"code": code, "message": printable(shorten(message))}
    return json_response({"error": error | ({"id": number} if number else {}), **more}, status)


def refusal(code: str, seconds: int = 0, number: str = "") -> Response:
    """Answer with one of :data:`PROBLEMS`.

    Args:
        code: Its name; one that is not in the table is a bug.
        seconds: After which it is worth to ask again; 0 says nothing of that.
        number: Of the line of the log that says more; empty if there is none.

    Example:
        >>> refusal("E_BUSY", 3).headers["retry-after"]
        '3'
    """
    code = code if code in PROBLEMS else "E_BUG"
    answer = problem_response(PROBLEMS[code][0], code, PROBLEMS[code][1], number)
    if seconds:
        answer.headers["retry-after"] = str(seconds)
    return answer


def error_response(error: Exception, hidden: Iterable[Path] = (), **more: Any) -> Response:
    """Answer with what went wrong.

    Args:
        error: What a route raised.
        hidden: Folders whose absolute paths are nobody's business.
        **more: Beside ``error``.

    Example:
        >>> error_response(ValueError("boxes must have four corners")).status_code
        400
    """
    if isinstance(error, SppnetError):
        text = hide_folders(error.message, hidden)
        return problem_response(_status_of(error), error.code, text, **more)
    if isinstance(error, ValueError | TypeError):
        return problem_response(400, "E_VALUE", str(error), **more)
    number = note_bug("a request", error)
    if isinstance(error, OSError):  # a full disk
        return problem_response(500, "E_OUTPUT", error.strerror or "the disk fails", number, **more)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return problem_response(status, "E_BUG", failure_text(error), number, **more)


def has_controls(text: str) -> bool:
    r"""Tell whether a text has control characters or halves of surrogate pairs, as no name has.

    Example:
        >>> has_controls("chat\u00a0noir"), has_controls("cat\tdog")
        (False, True)
    """
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def hide_folders(text: str, folders: Iterable[Path]) -> str:
    """Shorten absolute paths in a text to the last names of their folders.

    Example:
        >>> hide_folders("two photos in '/srv/photos/a'", [Path("/srv/photos")])
        "two photos in 'photos/a'"
    """
    for folder in folders:
        for path in (folder.absolute(), folder.resolve()):
            if path.name:  # the root is no secret
                text = text.replace(str(path), path.name)
    return text


def _status_of(error: SppnetError) -> int:
    own = {"E_NOT_FOUND": 404, "E_PRECONDITION": 428, "E_CONFLICT": 409, "E_NOT_READY": 503}
    found = (status for kind, status in _STATUS if isinstance(error, kind))
    return own.get(error.code) or next(found, 500)


OWN_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
# Pages with pictures and styles inside, and no script at all, and what their paths begin with.
REPORT_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGES = ("/report/", "/docs")
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}


def with_headers(scope: Scope, send: Send) -> Send:
    """Let an answer say what a browser may do with it.

    Args:
        scope: Of the request.
        send: Of ASGI.
    """
    policy = REPORT_POLICY if scope["path"].startswith(_PAGES) else OWN_POLICY
    fixed = {"content-security-policy": policy, **SAFE_HEADERS}

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in fixed.items():
                headers[name] = value
            if "cache-control" not in headers:
                headers["cache-control"] = "no-store"
        await send(message)

    return answer


def raw_answer(answer: Response) -> bytes:
    r"""Give an answer as it goes over the wire: the last one there, to what reaches no application.

    Args:
        answer: With its body.

    Example:
        >>> raw_answer(refusal("E_BUSY")).partition(b"\r\n")[0]
        b'HTTP/1.1 429 Too Many Requests'
    """
    first = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()
    fixed = {"connection": "close", "cache-control": "no-store"}
    fixed |= {"content-security-policy": OWN_POLICY, **SAFE_HEADERS}
    own = (name + b": " + value for name, value in answer.raw_headers)
    others = (f"{name}: {value}".encode() for name, value in fixed.items())
    return b"\r\n".join([first, *own, *others, b"", bytes(answer.body)])


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
        'event: state\ndata: {"phase": "idle"}\n\n'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}
        self.is_closed = False

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
        'event: job\ndata: {"done": 1}\n\n'
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
