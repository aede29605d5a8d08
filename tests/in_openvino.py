"""Files of ``sppnet export`` in a second runtime."""

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any


@functools.cache
def _core() -> Any:
    """The runtime, once for the process, which keeps it.

    It sets the stack of signal handlers and gives back at its end what it found. Of two of them
    the one that goes first leaves the other its own stack, which no longer exists: the next signal
    would end the process.
    """
    import openvino

    return openvino.Core()


def open_in_openvino(data: bytes) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Open a file in OpenVINO, in single precision on every processor; names to outputs."""
    core = _core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", exact)
    return lambda feed: list(model(feed).values())
