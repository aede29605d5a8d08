"""Ctrl-C and SIGTERM: the first lets the command end in order, the second ends it at once.

The first signal raises KeyboardInterrupt in the main thread, so that ``with`` and ``finally``
blocks save what is finished; the exit code is 128 + the signal (130, 143).
"""

import os
import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Remembers which signal came; installed once, by the command line only.

    Example:
        >>> StopSignals().exit_code
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._process = 0

    def install(self) -> None:
        """Listen to SIGINT and SIGTERM, unless the caller had them ignored (``nohup``)."""
        self._process = os.getpid()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    @property
    def exit_code(self) -> int | None:
        """Give 128 + the signal, or None if none came."""
        return None if self.received is None else 128 + self.received

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._process:  # a forked worker: its parent decides, it just goes
            os._exit(128 + number)
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
        raise KeyboardInterrupt
