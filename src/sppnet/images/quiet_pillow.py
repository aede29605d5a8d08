"""Pillow warns about odd files through Python's warnings; ours are errors that name the file."""

import threading
import warnings
from typing import Any


class _Quiet:
    """Keeps Pillow's warnings from leaking while any thread decodes.

    ``warnings.catch_warnings`` swaps a global list: threads that overlap would restore each
    other's. So the first one in swaps it and the last one out restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catcher.__exit__(None, None, None)


QUIET_PILLOW = _Quiet()
