"""What a server lets in: requests that are meant for it, of bounded size, that do not dawdle.

A page on this machine is in reach of every site that the browser visits. Three things keep them
out: the Host must be a name of this machine with our port (a site that lets its own name point to
127.0.0.1 sends its name), the Origin and ``Sec-Fetch-Site``, where a browser sends them, must be
ours, and whatever writes needs a header that a page elsewhere cannot set without being asked.

Whoever sends slowly is let go: heads, bodies and the reading of answers have their seconds, a body
its bytes and its chunks, and all bodies together theirs. Where all connections are taken, the one
that has asked for nothing for the longest time makes room.
"""

import asyncio
import contextlib
import gc
import signal
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sppnet.errors import OutputError
from sppnet.server.answers import (
    BodyError,
    problem_response,
    raw_answer,
    refusal,
    with_headers,
)

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
WRITE_HEADER = "x-sppnet"
MAX_BODY = 8_000_000  # bytes; 500 boxes take 50,000
MAX_BODIES = 256_000_000  # bytes of all bodies that are in memory at once
BODY_SECONDS = 30.0
BODY_GRACE, LEAST_RATE = 5.0, 16_000  # seconds; bytes in each second after those
DISCARD_SECONDS = 2.0  # for the rest of a body that nobody wants, so that the answer is read
MOST_DISCARDED = 20_000_000  # bytes of it


class Blocks:
    """Keeps a body as it comes."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def take(self, block: bytes) -> int:
        """Take what came; gives how many bytes more are kept now.

        Raises:
            BodyError: If nothing of the body is wanted any more.
        """
        self._blocks.append(block)
        return len(block)

    def whole(self) -> bytes:
        """Give the body, once, as far as the application is to read it."""
        blocks, self._blocks = self._blocks, []
        return b"".join(blocks)


class Guard:
    """An ASGI application around another one.

    Args:
        app: What answers the requests that are let in.
        port: Gives the port that we listen on.
        max_body: Bytes of a request's body.
    """

    def __init__(self, app: ASGIApp, port: Callable[[], int], *, max_body: int = MAX_BODY) -> None:
        self.app, self.port, self.max_body = app, port, max_body
        self.held = 0  # bytes of all bodies that are here
        self._letting_go = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no other protocol is spoken here
            return
        headers = Headers(scope=scope)
        body = _Body(receive, headers, self, self.most_bytes(scope), self.blocks(scope))
        answer = with_headers(scope, body.finish_before(send))
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
            self.held -= body.held

    async def wait_for_turn(self) -> None:
        """Let others be heard between two of many that are late at once."""
        async with self._letting_go:
            await asyncio.sleep(0)

    def blocks(self, scope: Scope) -> Blocks:  # noqa: ARG002
        """Give what keeps the body of a request."""
        return Blocks()

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
        hosts = [f"{name}:{self.port()}" for name in LOOPBACK_NAMES]
        origins = [f"http://{host}" for host in hosts]
        if headers.get("host", "").lower() not in hosts:
            return 403, "E_HOST", "the request is for another host"
        asked = scope["method"], scope["path"], headers.get("sec-fetch-mode")
        is_opened = asked == ("GET", "/", "navigate")
        is_own = headers.get("sec-fetch-site", "none") in ("none", "same-origin") or is_opened
        if not is_own or headers.get("origin", origins[0]).lower() not in origins:
            return 403, "E_ORIGIN", "the request is from another site"
        if scope["method"] in {"GET", "HEAD"}:
            return None
        if headers.get(WRITE_HEADER) != "1":
            return 403, "E_ORIGIN", "whatever writes needs the header X-Sppnet: 1"
        kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "E_MEDIA", "bodies must be application/json"
        return None


class _Body:
    """The body of a request: read whole, within limits, or refused and thrown away."""

    def __init__(
        self, receive: Receive, headers: Headers, guard: Guard, most: int, blocks: Blocks
    ) -> None:
        self._receive, self._headers, self._guard, self._most = receive, headers, guard, most
        self._blocks = blocks
        said = headers.get("content-length", "0")
        self._said = int(said[:20]) if said.isascii() and said.isdecimal() else -1
        self.is_over = self._said == 0 and "transfer-encoding" not in headers
        self.is_broken, self.size, self.held = False, 0, 0  # bytes that came, that are kept
        self._whole: bytes | None = None

    async def read(self) -> Response | None:
        """Read all of it; gives why it is refused, or None."""
        if not 0 <= self._said <= self._most:
            return refusal("E_TOO_LARGE")
        begin = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(BODY_GRACE, BODY_SECONDS)) as patience:
                while not self.is_over and not self.is_broken:
                    self._keep(await self._next())
                    seconds = min(BODY_SECONDS, BODY_GRACE + self.size / LEAST_RATE)
                    patience.reschedule(begin + seconds)
        except TimeoutError:
            await self._guard.wait_for_turn()
            return refusal("E_SLOW")
        except BodyError as error:
            return refusal(str(error), 5 if str(error) == "E_FULL" else 0)
        self._whole = self._blocks.whole()
        return None

    def _keep(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > self._most:
            raise BodyError("E_TOO_LARGE")
        kept = self._blocks.take(part)
        self.held += kept
        self._guard.held += kept
        if self._guard.held > MAX_BODIES:
            raise BodyError("E_FULL")

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
            is_start = message["type"] == "http.response.start"
            if is_start and not self.is_over:
                MutableHeaders(scope=message)["connection"] = "close"
            if self.is_over or is_start or message.get("more_body", False):
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
        left = min(self._most, MOST_DISCARDED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while left > 0 and not self.is_over and not self.is_broken:
                    left -= len(await self._next())
        await self._guard.wait_for_turn()


HEAD_SECONDS = 10.0  # for the head of a request, from its first byte or the connection's begin
IDLE_SECONDS = 75  # between requests; longer than the 60 after which nginx lets go
READ_SECONDS = 20.0  # for a client to read what was sent
MOST_CONNECTIONS = 512
MOST_WAITING = 2048  # of them, beside, that the system keeps
MOST_ACCEPTED = 64  # of those at a time, so that these are heard before others come
LEAST_REST = 1.0  # seconds after which it was heard what a connection has to say
MOST_UNSENT = 16_384  # bytes of answers that the system keeps beside those on their way
_UNSENT = {"linux": (6, 25)}.get(sys.platform)  # its TCP_NOTSENT_LOWAT
MOST_CHUNKS = 16_000  # of a body: each takes as much time as some kilobytes
_CROWDED = "is_crowded"  # in the state of requests on connections beyond those


class _Wire(h11.Connection):
    """HTTP of which no body may come in crumbs."""

    chunks = 0  # of the body that comes

    def next_event(self) -> Any:
        """Give what came next."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = 0
        elif isinstance(event, h11.Data) and event.chunk_start:
            self.chunks += 1
            if self.chunks > MOST_CHUNKS:
                raise h11.RemoteProtocolError("too many chunks", 413)
        return event


class _Resting:
    """Connections that wait for a request: who never asked, the others; oldest first, never all."""

    def __init__(self) -> None:
        self._new: OrderedDict[PatientProtocol, float] = OrderedDict()  # since when
        self._known: OrderedDict[PatientProtocol, float] = OrderedDict()

    def add(self, one: "PatientProtocol", now: float) -> None:
        """Note one that waits from now on."""
        (self._new if one.cycle is None else self._known)[one] = now

    def discard(self, one: "PatientProtocol") -> None:
        """Forget one that asks, or is closed."""
        self._new.pop(one, None)
        self._known.pop(one, None)

    def spare(self, latest: float, asking: "PatientProtocol") -> "PatientProtocol | None":
        """Give another one that waits since then or longer: at best one that never asked."""
        for each in (self._new, self._known):
            first = next((one for one in each if one is not asking), None)
            if first is not None and each[first] <= latest:
                return first
        return None


class PatientProtocol(H11Protocol):
    """HTTP that waits for so long and no longer: uvicorn's own waits for heads for ever.

    One connection too many takes the place of the one that waits for a request for the longest
    time, if there is one: at best it never asked. Else its requests are for the guard to refuse;
    uvicorn's own limit would refuse those of all connections, in a text of its own.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head of a request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(MOST_UNSENT)
        self.conn = _Wire(h11.SERVER)
        self._resting: _Resting = vars(self.server_state).setdefault("resting", _Resting())
        self._resting.add(self, self.loop.time())
        if len(self.connections) > MOST_CONNECTIONS:
            self.app_state = {**self.app_state, _CROWDED: not self._take_place(LEAST_REST)}
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._wait_for_head()

    def _take_place(self, rest: float = 0.0) -> bool:
        """Close the one that can best be spared of those that rest for so long, if there is one."""
        spare = self._resting.spare(self.loop.time() - rest, self)
        if spare is not None:
            spare.transport.close()
            self.connections.discard(spare)
            self._resting.discard(spare)
        return spare is not None

    @property
    def _rests(self) -> bool:
        """Whether no whole head of a request is here that is not answered."""
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Wait for the next request from now on."""
        super().on_response_complete()
        if self._rests and not self.transport.is_closing():
            self._resting.add(self, self.loop.time())

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that is still not whole has the seconds since its first byte."""
        if self.app_state.get(_CROWDED, False):
            is_crowded = len(self.connections) > MOST_CONNECTIONS and not self._take_place()
            self.app_state = {**self.app_state, _CROWDED: is_crowded}
        super().data_received(data)
        if self._rests:
            self._wait_for_head()
        else:
            self.stop_waiting()

    def stop_waiting(self, seconds: float = 0.0) -> None:
        """Wait for no head any more, but, if any are given, let go after so many seconds."""
        self._resting.discard(self)
        if self._head is not None:
            self._head.cancel()
        self._head = self.loop.call_later(seconds, self.transport.close) if seconds else None

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
        self.stop_waiting()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no HTTP, or comes in crumbs, as every refusal looks."""
        refused = problem_response(400, "E_HTTP", "the request is not HTTP")
        if isinstance(self.conn, _Wire) and self.conn.chunks > MOST_CHUNKS:
            refused = refusal("E_TOO_LARGE")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is under way
            self.transport.write(raw_answer(refused))
        self.conn.send_failed()  # whoever was to answer sends nothing more
        self.transport.close()


ADDRESS = "127.0.0.1"
GRACE = 5  # seconds for answers that are under way when a signal comes
LAST_HEAD_SECONDS = 0.25  # for heads that are under way then


class LocalServer(uvicorn.Server):
    """A server for this machine, unless it is told another address.

    Args:
        app: Answers; what it has as ``protocol`` takes the place of ``PatientProtocol``.
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
                http=getattr(app, "protocol", PatientProtocol),
                log_level="critical",
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=grace,
                timeout_keep_alive=IDLE_SECONDS,
                backlog=MOST_ACCEPTED,
                lifespan="off",
                ws="none",
                proxy_headers=False,
            )
        )
        self.host, self.port, self._ready, self._ending = host, port, ready, ending
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
            gc.collect()
            gc.freeze()  # else all that was imported is looked through again while clients wait
            for listening in self.servers[0].sockets:  # what is set holds for all its connections
                with listening.dup() as line:
                    line.listen(MOST_WAITING)
                    if _UNSENT:
                        line.setsockopt(*_UNSENT, MOST_UNSENT)
            ready = threading.Thread(target=self._ready, args=(self.port,), daemon=True)
            ready.start()  # it may wait for a browser that waits for us

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Let listeners go first: they would be waited for.

        A connection on which nothing has come yet would be closed at once, and its request lost.
        """
        self._ending()
        gc.unfreeze()
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
        try:
            before = {number: signal.signal(number, self.handle_exit)
                      for number in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
