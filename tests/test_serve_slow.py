"""The slow clients of ``benchmarks/serve_slow.py``: a few, and that it sees what is wrong."""

import asyncio
import math
import socket
import sys
from argparse import Namespace

import pytest

import serve_load
import serve_slow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a server takes")


def answers(seconds: float, status: int = 200) -> list[serve_load.Answer]:
    return [serve_load.Answer(status, 0.0, 0.0, seconds)] * 100


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, []),
        ({"heads": 12.0}, ["heads over 10 s"]),
        ({"bodies": 32.0}, ["bodies over 30 s"]),
        ({"idle": math.inf}, ["idle over 35 s"]),
        ({"all": math.inf}, ["all over 35 s"]),
        ({"meanwhile": answers(0.05)}, ["p99 over twice the quiet one"]),
        ({"meanwhile": answers(0.02) + answers(0.02, 503)[:1]}, ["good clients refused"]),
        ({"kilobytes": 65.0}, ["over 64 kB a connection"]),
    ],
)
def test_each_line_of_the_bar_is_seen_to_be_broken(change: dict, wanted: list[str]) -> None:
    held = {"heads": 9.0, "bodies": 5.0, "idle": 10.0, "all": 31.0, "meanwhile": answers(0.02),
            "kilobytes": 5.0} | change  # fmt: skip
    gone = {kind: [1.0, held[kind]] for kind in ("heads", "bodies", "idle")}
    seen = {"quiet": answers(0.02), "meanwhile": held["meanwhile"], "all_gone": held["all"],
            "gone": {**gone, "readers": [math.inf]}}  # fmt: skip
    assert serve_slow.judge(seen, held["kilobytes"], is_again=False)["beyond"] == wanted


@pytest.mark.slow
def test_a_few_slow_clients_are_let_go() -> None:
    options = Namespace(share=0.02, seconds=16.0, milliseconds=5.0, again=False)
    counts = {"heads": 5, "bodies": 5, "idle": 10, "readers": 0}
    found = serve_slow.bench(options, counts)
    assert found["slow_connections"] == 21  # the program itself counts readers, too
    assert found["refused_meanwhile"] == 0
    assert all(found["gone_after_seconds"][kind] < 16 for kind in ("heads", "bodies", "idle"))


def test_it_is_seen_when_a_server_lets_go() -> None:
    async def let_go(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.transport.abort()

    async def main() -> list[float]:
        server = await asyncio.start_server(let_go, "127.0.0.1")
        name, port = server.sockets[0].getsockname()
        times = (serve_slow.be_slow(kind, f"{name}:{port}") for kind in serve_slow.COUNTS)
        try:
            return await asyncio.gather(*times)
        finally:
            server.close()

    assert all(0.4 < seconds < 5 for seconds in asyncio.run(main()))


def test_a_server_that_waits_for_ever_is_seen(monkeypatch) -> None:
    monkeypatch.setattr(serve_slow, "PATIENCE", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        for kind in ("heads", "bodies", "idle"):
            assert asyncio.run(serve_slow.be_slow(kind, host)) == math.inf
