"""Serves the model of ``serve_models.py`` as the command does, until a signal comes.

A request with the header ``X-Bug`` meets a bug of the server itself.
"""

from typing import Any

from serve_models import open_obedient
from sppnet.app.console import warn
from sppnet.app.serve import _serve
from sppnet.server import serve_app
from sppnet.server.serve_gate import Access, UploadLimits
from sppnet.server.workers import PoolLimits, WorkerPool


async def _photos_or_fail(request: Any) -> list[tuple[str, bytes]]:
    if "x-bug" in request.headers:
        raise KeyError(request.headers["x-bug"])
    return await photos_of(request)


if __name__ == "__main__":
    photos_of = serve_app._photos
    serve_app._photos = _photos_or_fail
    pool = WorkerPool(open_obedient, (), PoolLimits(workers=1, seconds=60, megabytes=500), warn)
    _serve(pool, Access(), UploadLimits(4, 5_000_000), "127.0.0.1", 0)
