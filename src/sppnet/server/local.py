"""What a server lets in: requests that are meant for it, of bounded size, that do not dawdle.

A page on this machine is in reach of every site that the browser visits. Three things keep them
out: the Host must be a name of this machine with our port (a site that lets its own name point to
127.0.0.1 sends its name), the Origin and ``Sec-Fetch-Site``, where a browser sends them, must be
ours, and whatever writes needs a header that a page elsewhere cannot set without being asked.

Whoever sends slowly is let go: heads, bodies and the reading of answers have their seconds, a body
its bytes, and all bodies together theirs.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import h11
import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sppnet.errors import OutputError
from sppnet.server.answers import problem_response, refusal

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
WRITE_HEADER = "x-sppnet"
MAX_BODY = 8_000_000  # bytes; 500 boxes take 50,000
MAX_BODIES = 256_000_000  # bytes of all bodies that are in memory at once
BODY_SECONDS = 30.0
DISCARD_SECONDS = 2.0  # for the rest of a body that nobody wants, so that the answer is read
_READS = {"GET", "HEAD"}
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
        self.held = 0  # bytes of all bodies that are here

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
        headers = Headers(scope=scope)
        body = _Body(receive, headers, self, self.most_bytes(scope))
        answer = _with_headers(scope, body.finish_before(send))
        refused = self.refuse(scope, headers)
        if scope.get("state", {}).get(_CROWDED, False):
            refused = refusal("E_FULL", 1)
            refused.headers["connection"] = "close"
        try:
            if refused is None:
                refused = await body.read()
            if body.is_broken:  # whoever sent half of a body hears nothing, and nothing is done
                return
            if refused is None:
                await self.app(scope, body.replay, answer)
            else:
                await refused(scope, body.replay, answer)
        finally:
            self.held -= body.size

    def most_bytes(self, scope: Scope) -> int:  # noqa: ARG002
        """Give the bytes that the body of a request may have."""
        return self.max_body

    def refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """Say why a request is not let in, before its body is read; None if it is.

        Args:
            scope: Of ASGI.
            headers: Of the request.
        """
        refused = self._refusal(scope, headers)
        return None if refused is None else problem_response(*refused)

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


class _Body:
    """The body of a request: read whole, within limits, or refused and thrown away."""

    def __init__(self, receive: Receive, headers: Headers, guard: Guard, most: int) -> None:
        self._receive, self._headers, self._guard, self._most = receive, headers, guard, most
        said = headers.get("content-length", "0")
        self._said = int(said[:20]) if said.isascii() and said.isdecimal() else -1
        self.is_over = self._said == 0 and "transfer-encoding" not in headers
        self.is_broken = False
        self.size = 0  # bytes that are held
        self._whole: bytes | None = None

    async def read(self) -> Response | None:
        """Read all of it; gives why it is refused, or None."""
        if not 0 <= self._said <= self._most:
            return refusal("E_TOO_LARGE")
        try:
            return await asyncio.wait_for(self._collect(), BODY_SECONDS)
        except TimeoutError:
            return refusal("E_SLOW")

    async def _collect(self) -> Response | None:
        parts: list[bytes] = []
        while not self.is_over and not self.is_broken:
            part = await self._next()
            self.size += len(part)
            self._guard.held += len(part)
            if self.size > self._most:
                return refusal("E_TOO_LARGE")
            if self._guard.held > MAX_BODIES:
                return refusal("E_FULL", 5)
            parts.append(part)
        self._whole = b"".join(parts)
        return None

    async def _next(self) -> bytes:
        message = await self._receive()
        self.is_broken = message["type"] == "http.disconnect"
        self.is_over = self.is_over or not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def replay(self) -> Message:
        """Give the body that was read once more; after it, what the connection says."""
        if self._whole is None:
            return await self._receive()
        whole, self._whole = self._whole, None
        return {"type": "http.request", "body": whole, "more_body": False}

    def finish_before(self, send: Send) -> Send:
        """Throw away what is left of the body before an answer ends.

        A connection that is closed while bytes come in takes the answer with it. They are thrown
        away for a while only, and such a connection is not used again.
        """

        async def answer(message: Message) -> None:
            if self.is_over:
                await send(message)
            elif message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
                await send(message)
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await self._discard()
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        return answer

    async def _discard(self) -> None:
        """Read and forget, for a while."""
        if "expect" in self._headers:  # it was never asked to send
            return
        left = self._most
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while left > 0 and not self.is_over and not self.is_broken:
                    left -= len(await self._next())


def _with_headers(scope: Scope, send: Send) -> Send:
    """Every answer says what a browser may do with it."""
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


HEAD_SECONDS = 10.0  # for the head of a request, from its first byte or the connection's begin
IDLE_SECONDS = 75  # between requests; longer than the 60 after which nginx lets go
READ_SECONDS = 30.0  # for a client to read what was sent


MOST_CONNECTIONS = 512
_CROWDED = "is_crowded"  # in the state of requests on connections beyond those


class PatientProtocol(H11Protocol):
    """HTTP that waits for so long and no longer: uvicorn's own waits for heads for ever.

    Requests on a connection that is one too many are for the guard to refuse, as it refuses others;
    uvicorn's own limit would refuse those of all connections then, in a text of its own.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head of a request."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.app_state = {**self.app_state, _CROWDED: True}
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that is still not whole has the seconds since its first byte."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()
        elif self._head is not None:
            self._head.cancel()
            self._head = None

    def _wait_for_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """The client does not read: it has its seconds."""
        super().pause_writing()
        self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all that was waited for."""
        for timer in (self._head, self._reading):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no HTTP, as every refusal looks."""
        refused = problem_response(400, "E_HTTP", "the request is not HTTP")
        fixed = {"connection": "close", "content-security-policy": OWN_POLICY, **SAFE_HEADERS}
        head = [*refused.raw_headers, *((k.encode(), v.encode()) for k, v in fixed.items())]
        parts = [
            h11.Response(status_code=400, headers=head, reason=b"Bad Request"),
            h11.Data(data=bytes(refused.body)),
            h11.EndOfMessage(),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer was under way
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()


ADDRESS = "127.0.0.1"
GRACE = 5  # seconds for answers that are under way when a signal comes
LAST_HEAD_SECONDS = 0.25  # for heads that are under way then


class LocalServer(uvicorn.Server):
    """A server for this machine, unless it is told another address.

    Args:
        app: Answers.
        port: To listen on; 0 takes a free one.
        ready: Called with the port once it listens.
        ending: Called when a signal came, before connections are waited for.
        host: Address to listen on.
        grace: Seconds for answers that are under way when a signal comes.
    """

    def __init__(
        self,
        app: ASGIApp,
        port: int = 0,
        ready: Callable[[int], None] = lambda port: None,  # noqa: ARG005
        ending: Callable[[], None] = lambda: None,
        *,
        host: str = ADDRESS,
        grace: int = GRACE,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=PatientProtocol,
                log_level="critical",
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=grace,
                timeout_keep_alive=IDLE_SECONDS,
                lifespan="off",
                ws="none",
                proxy_headers=False,
            )
        )
        self.host, self.port = host, port
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
            raise OutputError(f"port {self.port} of {self.host} cannot be listened on") from None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, and say where."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.servers and not self.should_exit:
            self.port = self.servers[0].sockets[0].getsockname()[1]
            ready = threading.Thread(target=self._ready, args=(self.port,), daemon=True)
            ready.start()  # it may wait for a browser that waits for us

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Let listeners go first: they would be waited for.

        A connection on which nothing has come yet would be closed at once, and its request lost.
        """
        self._ending()
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_HEAD_SECONDS)
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
