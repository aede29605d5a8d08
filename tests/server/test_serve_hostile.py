"""Spoilt photos, forms and requests: the server answers each, and no worker dies of one."""

import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

import serve
from fuzz_samples import built_images, pillow_images
from sppnet.server.local import LocalServer
from sppnet.server.serve_app import build_serve_app
from sppnet.server.serve_gate import Access, UploadLimits
from sppnet.server.workers import PoolLimits, WorkerPool

SOON = 60.0


@pytest.fixture
def server() -> Iterator[tuple[str, WorkerPool]]:
    """A server whose children decode photos."""
    listening = threading.Event()
    pool = WorkerPool(serve.open_decoder, (True,), PoolLimits(workers=1, megabytes=1000))
    try:
        pool.start()
        app = build_serve_app(pool, Access(), UploadLimits(), lambda: made.port)
        made = LocalServer(app, 0, lambda _: listening.set())
        thread = threading.Thread(target=made.listen)
        thread.start()
        assert listening.wait(SOON)
        yield f"127.0.0.1:{made.port}", pool
        made.stop()
        thread.join(SOON)
    finally:
        pool.close()


def send_many(server: tuple[str, WorkerPool], count: int) -> Counter[int]:
    host, pool = server
    images = [*pillow_images(), *built_images()]
    draws = (random.Random(f"0 {number}") for number in range(count))
    sent = (serve.hostile_request(draw, host, images) for draw in draws)
    statuses = Counter(serve.send_bytes(host, data) for data in sent)
    assert pool.deaths.total() == 0
    assert statuses[500] == statuses[503] == 0
    assert statuses.keys() <= {0, 200, 400, 403, 404, 405, 408, 413, 415, 422}
    assert serve.send_bytes(host, serve.hostile_request(random.Random("0 1"), host, images[:1])) > 0
    return statuses


def test_spoilt_requests_are_answered(server) -> None:
    statuses = send_many(server, 30)
    assert min(statuses[200], statuses[400], statuses[415], statuses[422]) > 0


@pytest.mark.slow
def test_many_spoilt_requests_are_answered(server) -> None:
    assert send_many(server, 10_000).total() == 10_000
