"""A server for this machine only: on 127.0.0.1, for requests that our own page sends.

A page on this machine is in reach of every site that the browser visits. Three things keep them
out: the Host must be a name of this machine with our port (a site that lets its own name point to
127.0.0.1 sends its name), the Origin and ``Sec-Fetch-Site``, where a browser sends them, must be
ours, and whatever writes needs a header that a page elsewhere cannot set without being asked.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sppnet.errors import OutputError
from sppnet.server.answers import problem_response

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
WRITE_HEADER = "x-sppnet"
MAX_BODY = 8_000_000  # bytes; 500 boxes take 50,000
BODY_SECONDS = 30.0
_READS = {"GET", "HEAD"}
OWN_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
# Our reports: pictures and styles inside the page, no script at all.
REPORT_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Guard:
    """An ASGI application around another one.

    Args:
        app: What answers the requests that are let in.
        port: Gives the port that we listen on.
        max_body: Bytes of a request's body.

    Example:
        >>> Guard(lambda scope, receive, send: None, lambda: 8000).hosts[0]
        '127.0.0.1:8000'
    """

    def __init__(self, app: ASGIApp, port: Callable[[], int], *, max_body: int = MAX_BODY) -> None:
        self.app, self.port, self.max_body = app, port, max_body

    @property
    def hosts(self) -> list[str]:
        """Host headers that mean us."""
        return [f"{name}:{self.port()}" for name in LOOPBACK_NAMES]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no other protocol is spoken here
            return
        answer = _with_headers(scope, send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            body = await _read_body(receive, headers, self.max_body)
            if body is None:  # whoever sent half of a body hears nothing, and nothing is done
                return
            if isinstance(body, bytes):
                await self.app(scope, _replay(body, receive), answer)
                return
            refusal = body
        await problem_response(*refusal)(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """Why a request is refused: status, code and sentence."""
        origins = [f"http://{host}" for host in self.hosts]
        if headers.get("host", "").lower() not in self.hosts:
            return 403, "E_HOST", "the request is for another host"
        if headers.get("origin", origins[0]).lower() not in origins:
            return 403, "E_ORIGIN", "the request is from another site"
        is_opened = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and not (is_opened and scope["path"] == "/"):
            return 403, "E_ORIGIN", "the request is from another site"
        if scope["method"] in _READS:
            return None
        if headers.get(WRITE_HEADER) != "1":
            return 403, "E_ORIGIN", "whatever writes needs the header X-Sppnet: 1"
        kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "E_MEDIA", "bodies must be application/json"
        return None


async def _read_body(
    receive: Receive, headers: Headers, most: int
) -> bytes | tuple[int, str, str] | None:
    """The whole body, why it is refused, or None if it will never be whole."""
    too_large = (413, "E_TOO_LARGE", f"a body must have at most {most:,} bytes")
    said = headers.get("content-length", "0")
    if not said.isdecimal() or int(said[:20]) > most:
        return too_large
    try:
        return await asyncio.wait_for(_collect(receive, most), BODY_SECONDS)
    except TimeoutError:
        return 408, "E_TIMEOUT", "the body did not arrive in time"
    except OverflowError:
        return too_large


async def _collect(receive: Receive, most: int) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise OverflowError
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more; after it, what the connection says."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _with_headers(scope: Scope, send: Send) -> Send:
    """Every answer says what a browser may do with it."""
    policy = REPORT_POLICY if scope["path"].startswith("/report/") else OWN_POLICY
    fixed: dict[str, Any] = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "x-frame-options": "DENY",
    }

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in fixed.items():
                headers[name] = value
            if "cache-control" not in headers:
                headers["cache-control"] = "no-store"
        await send(message)

    return answer


ADDRESS = "127.0.0.1"
GRACE = 5  # seconds for answers that are under way when a signal comes
MOST_CONNECTIONS = 512


class LocalServer(uvicorn.Server):
    """A server for this machine only.

    Args:
        app: Answers.
        port: To listen on; 0 takes a free one.
        ready: Called with the port once it listens.
        ending: Called when a signal came, before connections are waited for.
    """

    def __init__(
        self,
        app: ASGIApp,
        port: int = 0,
        ready: Callable[[int], None] = lambda port: None,  # noqa: ARG005
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=ADDRESS,
                port=port,
                log_level="critical",
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=GRACE,
                timeout_keep_alive=30,
                limit_concurrency=MOST_CONNECTIONS,
                lifespan="off",
                ws="none",
                proxy_headers=False,
            )
        )
        self.port = port
        self._ready, self._ending = ready, ending
        self.signal: signal.Signals | None = None

    def listen(self) -> None:
        """Serve until :meth:`stop` or a signal.

        Raises:
            OutputError: If the port cannot be had.
        """
        try:
            self.run()
        except SystemExit:  # how uvicorn ends where it cannot listen
            raise OutputError(f"port {self.port} of {ADDRESS} cannot be listened on") from None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, and say where."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.servers and not self.should_exit:
            self.port = self.servers[0].sockets[0].getsockname()[1]
            ready = threading.Thread(target=self._ready, args=(self.port,), daemon=True)
            ready.start()  # it may wait for a browser that waits for us

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Let listeners go first: they would be waited for."""
        self._ending()
        await super().shutdown(sockets)  # type: ignore[arg-type]

    def stop(self) -> None:
        """End; from any thread."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A signal ends the server; a second one does not wait for connections."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.signal = signal.Signals(sig)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear signals where that is possible, which is in the main thread only."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
