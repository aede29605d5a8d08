"""The wire: clients that dawdle, lie, hang up or speak no HTTP, on a real socket."""

import contextlib
import gc
import json
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest

from serve_models import open_obedient, order
from sppnet.server import local, serve_app
from sppnet.server.local import Guard, LocalServer
from sppnet.server.serve_app import build_serve_app
from sppnet.server.serve_gate import Access, ServeGuard, UploadLimits
from sppnet.server.workers import PoolLimits, WorkerPool

LIMITS = UploadLimits(photos=3, photo_bytes=3_000_000)
SOON = 30.0  # seconds on a busy machine


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(open_obedient, (), PoolLimits(workers=1, queue=4, seconds=5, megabytes=500))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def server(pool: WorkerPool, monkeypatch) -> Iterator[SimpleNamespace]:
    """A server that waits a second where a real one waits ten or thirty."""
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(local, name, 1.0)
    listening = threading.Event()
    app = build_serve_app(pool, Access(), LIMITS, lambda: made.port)
    made = LocalServer(app, 0, lambda _: listening.set())
    thread = threading.Thread(target=made.listen)
    thread.start()
    assert listening.wait(SOON)
    try:
        yield SimpleNamespace(port=made.port, made=made)
    finally:
        made.stop()
        thread.join(SOON)
    assert not thread.is_alive()


def connect(server) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", server.port), SOON)
    line.settimeout(SOON)
    return line


def head(server, *lines: str, method: str = "POST", path: str = "/v1/predict") -> bytes:
    first = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def photo_head(server, length: int, *lines: str) -> bytes:
    return head(server, "Content-Type: image/gif", f"Content-Length: {length}", *lines)


def read_all(line: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionError):
        while block := line.recv(65_536):
            said += block
    return said


def read_answer(line: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer."""
    said = b""
    while b"\r\n\r\n" not in said:
        block = line.recv(65_536)
        assert block, said
        said += block
    top, _, body = said.partition(b"\r\n\r\n")
    lines = top.lower().split(b"\r\n")
    (length,) = (int(each.split(b":")[1]) for each in lines if each.startswith(b"content-length"))
    while len(body) < length:
        body += line.recv(65_536)
    return int(top.split()[1]), body


def is_served(server) -> bool:
    photo = order("fine")
    with connect(server) as line:
        line.sendall(photo_head(server, len(photo)) + photo)
        return read_answer(line)[0] == 200


def seconds_until_closed(line: socket.socket, *pieces: bytes) -> float:
    """How long a connection lasts that drips."""
    begin = time.monotonic()
    with contextlib.suppress(OSError):
        for piece in pieces:
            line.sendall(piece)
            time.sleep(0.1)
        read_all(line)
    return time.monotonic() - begin


def test_a_connection_that_says_nothing_and_a_head_that_drips_are_let_go(server) -> None:
    dripping = [bytes([letter]) for letter in head(server, "X: " + "x" * 500)]
    with connect(server) as silent, connect(server) as slow:
        assert seconds_until_closed(slow, *dripping) < SOON / 2
        assert seconds_until_closed(silent) < SOON / 2
        assert is_served(server)


def test_one_that_asked_before_may_rest_but_not_drip(server) -> None:
    with connect(server) as line:
        for _ in range(2):
            line.sendall(head(server, method="GET", path="/health"))
            assert read_answer(line)[0] == 200
            time.sleep(1.5)  # longer than a head may take
        assert seconds_until_closed(line, *[b"G"] * 60) < SOON / 2


def test_a_body_that_drips_is_refused(server) -> None:
    with connect(server) as line:
        line.sendall(photo_head(server, 1000))
        with contextlib.suppress(OSError):
            for _ in range(15):
                line.sendall(b"x")
                time.sleep(0.1)
        status, body = read_answer(line)
        assert (status, json.loads(body)["error"]["code"]) == (408, "E_SLOW")


def test_a_body_must_come_at_some_rate(server, monkeypatch) -> None:
    monkeypatch.setattr(local, "BODY_SECONDS", SOON)
    monkeypatch.setattr(local, "BODY_GRACE", 1.0)
    monkeypatch.setattr(local, "LEAST_RATE", 1000)
    photo = order("fine", "x" * 3000)
    for step, wanted in ((400, 200), (40, 408)):  # 2,000 and 200 bytes a second
        with connect(server) as line:
            line.sendall(photo_head(server, len(photo)))
            begin = time.monotonic()
            with contextlib.suppress(OSError):
                for start in range(0, len(photo), step):
                    line.sendall(photo[start : start + step])
                    time.sleep(0.2)
            assert read_answer(line)[0] == wanted
            assert time.monotonic() - begin > 1.0


def test_a_body_of_crumbs_is_refused(server, monkeypatch) -> None:
    monkeypatch.setattr(local, "MOST_CHUNKS", 50)
    for count, wanted in ((50, 200), (51, 413)):
        photo = order("fine", "x" * 60)[:count]
        body = b"".join(b"1\r\n%c\r\n" % letter for letter in photo)
        with connect(server) as line:
            line.sendall(head(server, "Content-Type: image/gif", "Transfer-Encoding: chunked"))
            line.sendall(body + b"0\r\n\r\n")
            status, said = read_answer(line)
            assert status == wanted
            assert wanted == 200 or json.loads(said)["error"]["code"] == "E_TOO_LARGE"
    assert is_served(server)


def test_a_client_that_does_not_read_is_let_go(server) -> None:
    ask = head(server, method="GET", path="/docs")
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", server.port))
        line.settimeout(0.5)
        with contextlib.suppress(OSError):
            line.sendall(ask * 800)  # more answers than the system keeps
        end = time.monotonic() + SOON
        while server.made.server_state.connections and time.monotonic() < end:
            time.sleep(0.05)
        assert not server.made.server_state.connections
    assert is_served(server)


def test_little_is_answered_to_a_client_that_does_not_read(server, monkeypatch) -> None:
    monkeypatch.setattr(local, "READ_SECONDS", SOON)
    ask, answered = head(server, method="GET", path="/docs"), server.made.server_state
    with connect(server) as line:
        line.sendall(ask)
        length = len(read_answer(line)[1])
    before = answered.total_requests
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", server.port))
        line.sendall(ask * 500)
        time.sleep(1.5)
        count = answered.total_requests - before
        assert count < 100_000 / length  # without a limit the system takes some megabytes
        for _ in range(3):
            time.sleep(0.1)
            assert answered.total_requests - before == count


def test_the_page_is_made_once_for_all_that_ask_at_once(server, monkeypatch) -> None:
    made, environment = [], serve_app.Environment

    def note(**settings):
        made.append(time.sleep(0.2))
        return environment(**settings)

    monkeypatch.setattr(serve_app, "Environment", note)
    with contextlib.ExitStack() as open_lines:
        lines = [open_lines.enter_context(connect(server)) for _ in range(8)]
        for line in lines:
            line.sendall(head(server, method="GET", path="/docs"))
        assert {read_answer(line)[0] for line in lines} == {200}
    assert len(made) == 1


def test_what_was_there_before_is_not_looked_through_again_while_clients_wait(server) -> None:
    assert gc.get_freeze_count() > 10_000
    server.made.stop()
    end = time.monotonic() + SOON
    while gc.get_freeze_count() and time.monotonic() < end:
        time.sleep(0.05)
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)), 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403),
        (b"hello\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nA: " + b"x" * 1_000_000 + b"\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        (b"POST /v1/predict HTTP/1.1\r\nHost: {}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
         400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: {}\r\nContent-Type: image/gif\r\n"
         b"Transfer-Encoding: chunked\r\n\r\nXYZ\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nHost: {}\r\nContent-Type: image/gif\r\n"
         b"Content-Length: 100000000000\r\n\r\n", 413),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_what_is_no_request_is_refused(server, data: bytes, wanted: int) -> None:
    with connect(server) as line:
        with contextlib.suppress(OSError):
            line.sendall(data.replace(b"{}", f"127.0.0.1:{server.port}".encode()))
        said = read_all(line)
    assert said.startswith(b"HTTP/1.1 %d " % wanted) or (not said and len(data) > 1000)
    if said and wanted == 400:
        assert b"x-content-type-options: nosniff" in said.lower()
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"].startswith("E_")
    assert is_served(server)


def test_a_refusal_is_heard_although_bytes_still_come(server) -> None:
    for length in (3_000_001, 20_000_000):
        with connect(server) as line:
            line.sendall(photo_head(server, length))
            with contextlib.suppress(OSError):
                line.sendall(bytes(2_000_000))
            status, body = read_answer(line)
            assert (status, json.loads(body)["error"]["code"]) == (413, "E_TOO_LARGE")


def test_an_endless_body_ends(server) -> None:
    with connect(server) as line:
        line.sendall(head(server, "Content-Type: image/gif", "Transfer-Encoding: chunked"))
        sent, end = 0, time.monotonic() + SOON
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                line.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                sent += 0x10000
        assert sent < 20_000_000
    assert is_served(server)


def test_a_client_that_waits_to_be_asked_hears_a_refusal_first(server) -> None:
    with connect(server) as line:
        line.sendall(photo_head(server, 3_000_001, "Expect: 100-continue"))
        assert read_answer(line)[0] == 413
    photo = order("fine")
    with connect(server) as line:
        line.sendall(photo_head(server, len(photo), "Expect: 100-continue"))
        assert line.recv(100).startswith(b"HTTP/1.1 100")
        line.sendall(photo)
        assert read_answer(line)[0] == 200


def test_clients_that_hang_up_leave_nothing_behind(server, pool) -> None:
    photo = order("slow")
    for _ in range(20):
        with connect(server) as line:
            line.sendall(photo_head(server, len(photo)) + photo)
        with connect(server) as line:
            line.sendall(photo_head(server, 1000) + photo)
    end = time.monotonic() + SOON
    while pool.waiting_count and time.monotonic() < end:
        time.sleep(0.05)
    assert pool.waiting_count == 0
    while not is_served(server) and time.monotonic() < end:
        time.sleep(0.05)
    assert is_served(server)


def test_a_connection_too_many_is_refused_and_the_others_go_on(server, monkeypatch) -> None:
    monkeypatch.setattr(local, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(local, "BODY_SECONDS", SOON)
    photo = order("fine")
    with connect(server) as first, connect(server) as second:
        for line in (first, second):  # both send a body
            line.sendall(photo_head(server, len(photo)) + photo[:3])
        time.sleep(0.3)
        for request in (photo_head(server, len(photo)) + photo,
                        head(server, method="GET", path="/health")):  # fmt: skip
            with connect(server) as third:
                third.sendall(request)
                said = read_all(third)  # until it is closed
            top, _, body = said.partition(b"\r\n\r\n")
            assert top.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1" in top.lower()
            assert b"x-content-type-options: nosniff" in top.lower()
            assert json.loads(body)["error"]["code"] == "E_FULL"
        for line in (first, second):
            line.sendall(photo[3:])
            assert read_answer(line)[0] == 200
    end = time.monotonic() + SOON
    while not is_served(server) and time.monotonic() < end:
        time.sleep(0.05)
    assert is_served(server)


def test_a_new_connection_takes_the_place_of_who_rests_longest(server, monkeypatch) -> None:
    monkeypatch.setattr(local, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(local, "HEAD_SECONDS", SOON)
    ask = head(server, method="GET", path="/health")
    with contextlib.ExitStack() as open_lines:
        known, dripping, silent = (open_lines.enter_context(connect(server)) for _ in range(3))
        known.sendall(ask)
        assert read_answer(known)[0] == 200
        dripping.sendall(b"GET /hea")
        added = []
        for line in (dripping, silent, known):  # who never asked goes first, the oldest before
            added.append(open_lines.enter_context(connect(server)))
            for each in added:
                each.sendall(ask)
                assert read_answer(each)[0] == 200
            assert read_all(line) == b""


def test_a_burst_of_connections_is_kept_and_comes_in_a_few_at_a_time(server) -> None:
    here, counts = server.made.server_state.connections, []
    with contextlib.ExitStack() as open_lines:
        open_lines.enter_context(connect(server))
        end = time.monotonic() + SOON
        while not here and time.monotonic() < end:
            time.sleep(0.01)
        (loop,) = (each.loop for each in here)

        def look() -> None:
            counts.append(len(here))
            if counts[-1] < 200 and time.monotonic() < end:
                loop.call_soon(look)

        loop.call_soon_threadsafe(time.sleep, 0.7)
        begin = time.monotonic()
        loop.call_soon_threadsafe(look)
        for _ in range(250):  # while it hears nobody; what is not kept comes again after a second
            open_lines.enter_context(connect(server))
        assert time.monotonic() - begin < 0.7
        while counts[-1:] < [200] and time.monotonic() < end:
            time.sleep(0.01)
    assert counts[-1] >= 200
    assert max(after - before for before, after in pairwise(counts)) <= local.MOST_ACCEPTED


def refusal_of(server, request: bytes) -> tuple[bytes, list[bytes], bytes]:
    """First line, headers and body of the one answer on a connection that is closed then."""
    with connect(server) as line:
        line.sendall(request)
        top, _, body = read_all(line).partition(b"\r\n\r\n")
    first, *headers = top.split(b"\r\n")
    return first, sorted(each.lower() for each in headers), body


def test_what_there_is_no_room_for_is_refused_at_its_first_bytes(server, monkeypatch) -> None:
    passed = []

    async def note(self, scope, receive, send) -> None:
        passed.append(scope["path"])
        await call(self, scope, receive, send)

    call = Guard.__call__
    monkeypatch.setattr(Guard, "__call__", note)
    monkeypatch.setattr(WorkerPool, "is_full", property(lambda _: True))
    busy = photo_head(server, 5) + b"GIF89"
    form = head(server, "Content-Type: multipart/form-data; boundary=x", "Content-Length: 2")
    for request in (busy, form + b"--", busy.replace(b"Host: ", b"HOST:   ")):
        first, headers, body = refusal_of(server, request)
        assert first == b"HTTP/1.1 429 Too Many Requests"
        assert json.loads(body)["error"]["code"] == "E_BUSY"
        assert b"retry-after: 1" in headers
    assert passed == []
    early = refusal_of(server, busy)
    with monkeypatch.context() as patch:
        patch.setattr(ServeGuard, "refuse_first", lambda *_: None)
        assert refusal_of(server, busy.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)) == early
    assert passed == ["/v1/predict"]
    with connect(server) as line:
        line.sendall(head(server, method="GET", path="/metrics"))
        said = read_answer(line)[1]
    assert b'sppnet_requests_total{page="/v1/predict",status="429"}' in said


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ((b"127.0.0.1:", b"evil.example:"), b"403 Forbidden"),
        ((b"Host: ", b"Origin: http://evil.example\r\nHost: "), b"403 Forbidden"),
        ((b"image/gif", b"text/html"), b"415 Unsupported Media Type"),
        ((b"POST /v1", b"GET /v1"), b"405 Method Not Allowed"),
        ((b"/v1/predict", b"/v1/other"), b"404 Not Found"),
        ((b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"), b"400 Bad Request"),
        ((b"Content-Length:", b"Content-Length :"), b"400 Bad Request"),
        ((b"Host: ", b"Host: a\r\nHost: "), b"400 Bad Request"),
    ],
)
def test_other_faults_are_told_before_that_there_is_no_room(
    server, monkeypatch, change: tuple[bytes, bytes], wanted: bytes
) -> None:
    monkeypatch.setattr(WorkerPool, "is_full", property(lambda _: True))
    request = photo_head(server, 5, "Connection: close") + b"GIF89"
    assert refusal_of(server, request)[0] == b"HTTP/1.1 429 Too Many Requests"
    assert refusal_of(server, request.replace(*change))[0] == b"HTTP/1.1 " + wanted


def test_a_body_for_which_there_is_no_room_is_thrown_away_for_a_while(server, monkeypatch) -> None:
    monkeypatch.setattr(WorkerPool, "is_full", property(lambda _: True))
    with connect(server) as line:
        line.sendall(photo_head(server, 2_500_000) + bytes(500_000))
        assert read_answer(line)[0] == 429  # before the rest is sent
        line.sendall(bytes(2_000_000))  # nothing is reset
        assert line.recv(10) == b""
    with connect(server) as line:
        line.sendall(photo_head(server, 1000) + b"x")
        assert read_answer(line)[0] == 429
        begin = time.monotonic()
        assert line.recv(10) == b""
        assert 1.0 < time.monotonic() - begin < SOON / 2


def test_a_request_that_was_on_its_way_when_the_end_came_is_answered(server, monkeypatch) -> None:
    monkeypatch.setattr(local, "LAST_HEAD_SECONDS", 3.0)
    photo = order("slow")
    with connect(server) as line:
        time.sleep(0.2)  # it is accepted
        server.made.stop()
        time.sleep(0.5)  # the end has begun
        with pytest.raises(ConnectionRefusedError), connect(server):
            pass
        line.sendall(photo_head(server, len(photo)) + photo)
        assert read_answer(line)[0] == 200


def test_many_requests_on_one_connection(server) -> None:
    with connect(server) as line:
        for number in range(20):
            photo = order("fine", number)
            line.sendall(photo_head(server, len(photo)) + photo)
            status, body = read_answer(line)
            assert status == 200
            assert json.loads(body)["images"][0]["file"] == "photo"
