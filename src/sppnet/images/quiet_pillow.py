"""Pillow and libtiff grumble about odd files in three ways; ours are errors that name the file."""

import ctypes
import logging
import threading
import warnings
from typing import Any

from PIL import Image


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


def silence_libtiff() -> None:
    """Keep libtiff from writing to the process's stderr, once and for all.

    Its messages do not name the file, cannot be caught in Python, and every failure reaches us as
    an exception anyway. Where the library cannot be reached (Windows), they stay.
    """
    try:
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return
    set_handler.argtypes = [ctypes.c_void_p]
    set_handler.restype = ctypes.c_void_p
    set_handler(None)


silence_libtiff()
# With a handler of its own, Pillow's logger no longer falls back to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())
