"""Files of ``sppnet export`` in a second runtime."""

import io
from collections.abc import Callable, Mapping
from typing import Any


def open_in_openvino(data: bytes) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Open a file in OpenVINO, in single precision on every processor; names to outputs."""
    import openvino

    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", exact)
    return lambda feed: list(model(feed).values())
