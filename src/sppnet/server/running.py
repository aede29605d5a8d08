"""Runs an application on 127.0.0.1, at a free port, until a signal comes."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from sppnet.errors import OutputError

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
            await asyncio.get_running_loop().run_in_executor(None, self._ready, self.port)

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
