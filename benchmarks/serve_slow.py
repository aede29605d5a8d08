r"""How ``sppnet serve`` bears slow clients: id D6 of the reliability bar.

    python benchmarks/serve_slow.py --out slow.json
    python benchmarks/serve_slow.py --again

At a time 250 connections send the head of a request at two bytes a second, 250 a body, 500 send
nothing, and 20 ask for pages and do not read them; meanwhile somebody asks for a photo of 100 kB 20
times a second, each time on a new connection, of a stub that works for 5 ms. What counts: when the
last of the slow connections was closed (those that do not read cannot know; ``all`` is when the
server had none left), what the good client hears and how long its answers take, in comparison with
those before and afterwards, and what 500 idle connections add to the memory of the server. With
``--again`` a slow client comes again a second after it was let go, as long as the good one asks.

The bar: heads have 10 s, bodies 30, all are gone after 35; 99 of 100 answers of the good client
take twice as long as else, none is refused; 64 kB a connection. The server has all cores, the slow
clients are a process of their own. Prints JSON, with those lines of the bar that do not hold in
``beyond``; ends with 1 if there is any. Linux only.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "reliability"))

from bars import tell

import serve
import serve_load

COUNTS = {"heads": 250, "bodies": 250, "idle": 500, "readers": 20}
MOST_SECONDS = {"heads": 10.0, "bodies": 30.0, "idle": 35.0, "all": 35.0}
SLACK = 1.5  # seconds that a busy machine may add to the first two
MOST_KILOBYTES, MOST_TIMES = 64.0, 2.0
PATIENCE = 40.0  # seconds after which a slow client gives up
PAUSE = 0.5  # seconds between two bytes
RATE = 20.0  # requests a second of the good client
STATE_CLOSED = (7, 8)  # of TCP_INFO: closed, and closed by the other side


def has_gone(line: socket.socket) -> bool:
    """Whether the server has closed a connection, without reading from it."""
    return line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in STATE_CLOSED


async def be_slow(kind: str, host: str) -> float:
    """One slow connection; gives for how many seconds it was there, infinite if it still is."""
    name, port = host.split(":")
    loop, begin = asyncio.get_running_loop(), time.monotonic()
    with socket.socket() as line:
        line.setblocking(False)
        if kind == "readers":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await loop.sock_connect(line, (name, int(port)))
            begin = time.monotonic()
            async with asyncio.timeout(PATIENCE):
                sending = asyncio.create_task(send_slowly(line, kind, host))
                try:
                    await wait_until_gone(line, kind)
                finally:
                    sending.cancel()
        except TimeoutError:
            return math.inf
        except OSError:  # it was reset
            pass
    return time.monotonic() - begin


async def send_slowly(line: socket.socket, kind: str, host: str) -> None:
    """Send what such a client has to say, and then a byte now and then, until it is cancelled."""
    first = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
    said = {
        "heads": first + "X: ",
        "bodies": first + "Content-Length: 1000000\r\n\r\n",
        "readers": f"GET /docs HTTP/1.1\r\nHost: {host}\r\n\r\n" * 1000,
        "idle": "",
    }[kind]
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # whoever waits for the end sees it, too
        await loop.sock_sendall(line, said.encode())
        while kind in ("heads", "bodies"):
            await asyncio.sleep(PAUSE)
            await loop.sock_sendall(line, b"x")


async def wait_until_gone(line: socket.socket, kind: str) -> None:
    """Wait until the server has closed a connection; readers look only, the others are told."""
    if kind == "readers":
        while not has_gone(line):
            await asyncio.sleep(PAUSE)
        return
    while await asyncio.get_running_loop().sock_recv(line, 65_536):
        pass


async def attack(host: str, counts: dict[str, int], until: float) -> dict[str, list[float]]:
    """All slow connections at a time; seconds of each, by kind.

    Args:
        host: To attack.
        counts: Of each kind.
        until: When (monotonic clock) a client that was let go comes no more.
    """

    async def stay(kind: str) -> list[float]:
        times = [await be_slow(kind, host)]
        while time.monotonic() < until:
            await asyncio.sleep(1.0)
            times.append(await be_slow(kind, host))
        return times

    tasks = {kind: [asyncio.create_task(stay(kind)) for _ in range(count)]
             for kind, count in counts.items()}  # fmt: skip
    return {
        kind: [seconds for times in await asyncio.gather(*each) for seconds in times]
        for kind, each in tasks.items()
    }


def kilobytes_of_idle(server: serve.Server, count: int) -> float:
    """What an idle connection adds to the memory of the server, in kB."""

    def kilobytes() -> int:
        text = Path(f"/proc/{server.process.pid}/status").read_text("utf-8")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0])

    name, port = server.host.split(":")
    before = kilobytes()
    lines = [socket.create_connection((name, int(port))) for _ in range(count)]
    time.sleep(2.0)
    after = kilobytes()
    for line in lines:
        line.close()
    time.sleep(1.0)
    return (after - before) * 1.024 / count


def open_files(process: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(os.scandir(f"/proc/{process}/fd")))


async def seconds_until_gone(server: serve.Server, seconds: float) -> float:
    """How long the server had more connections than those of this process; infinite if longer."""

    def excess() -> int:
        return open_files(server.process.pid) - open_files(os.getpid())

    few, begin = excess() + 5, math.inf
    last, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end:
        if excess() > few:
            begin, last = min(begin, time.monotonic()), math.inf
        elif begin < math.inf:
            last = min(last, time.monotonic())
        await asyncio.sleep(0.25)
    return last - begin if last < math.inf else math.inf


async def measure(server: serve.Server, words: Sequence[str], seconds: float) -> dict[str, Any]:
    """Answers to the good client before, while and after others are slow, and how these fared."""
    photo, host = serve_load.jpeg(), server.host
    await serve_load.at_a_pace(host, photo, RATE, seconds / 4)  # everything is loaded then
    quiet = await serve_load.at_a_pace(host, photo, RATE, seconds / 2)
    slow = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert slow.stdin is not None
    assert slow.stdout is not None
    await slow.stdout.readline()  # it is loaded: that is no part of an attack
    slow.stdin.write(b"\n")
    watching = asyncio.create_task(seconds_until_gone(server, seconds))
    meanwhile = await serve_load.at_a_pace(host, photo, RATE, seconds)
    said, _ = await slow.communicate()
    all_gone = await watching
    quiet += await serve_load.at_a_pace(host, photo, RATE, seconds / 2)
    return {"quiet": quiet, "meanwhile": meanwhile, "gone": json.loads(said),
            "all_gone": all_gone}  # fmt: skip


def judge(seen: dict[str, Any], kilobytes: float, *, is_again: bool) -> dict[str, Any]:
    """The figures, and which lines of the bar they break.

    Args:
        seen: What :func:`measure` gave.
        kilobytes: Of an idle connection.
        is_again: Whether slow clients came again, so that when the last went says nothing.
    """
    good = {name: [each.seconds for each in seen[name] if each.status == 200]
            for name in ("quiet", "meanwhile")}  # fmt: skip
    quiet, meanwhile = (serve_load.milliseconds(good[name], (0.5, 0.99)) for name in good)
    refused = sum(each.status != 200 for each in seen["meanwhile"])
    last = {kind: round(max(times), 1) for kind, times in seen["gone"].items() if kind != "readers"}
    if not is_again:
        last["all"] = round(seen["all_gone"], 1)
    times = meanwhile["p99"] / quiet["p99"]
    bars = {f"{kind} over {MOST_SECONDS[kind]:g} s": not seconds <= MOST_SECONDS[kind] + SLACK
            for kind, seconds in last.items()}  # fmt: skip
    bars["good clients refused"] = refused > 0
    bars["p99 over twice the quiet one"] = not times <= MOST_TIMES
    bars["over 64 kB a connection"] = kilobytes > MOST_KILOBYTES
    return {
        "slow_connections": sum(len(times) for times in seen["gone"].values()),
        "gone_after_seconds": last,
        "requests_meanwhile": len(seen["meanwhile"]),
        "statuses": dict(Counter(str(each.status) for each in seen["meanwhile"])),
        "refused_meanwhile": refused,
        "quiet_milliseconds": quiet,
        "meanwhile_milliseconds": meanwhile,
        "p99_times": round(times, 2),
        "kilobytes_of_an_idle_connection": round(kilobytes, 1),
        "came_again": is_again,
        "beyond": [name for name, is_beyond in bars.items() if is_beyond],
    }


def allow_files(count: int) -> None:
    """Let this process have so many files open, as far as the system allows."""
    low, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if low < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, most), most))


def main() -> None:
    """Measure, print, and leave with 1 if a line of the bar does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--again", action="store_true", help="Slow clients come again.")
    parser.add_argument("--seconds", type=float, default=40.0, help="Of the good client.")
    parser.add_argument("--milliseconds", type=float, default=5.0, help="That the stub works.")
    parser.add_argument("--share", type=float, default=1.0, help="Of the slow connections.")
    parser.add_argument("--attack", metavar="HOST", help="Be slow there; for the program itself.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    options = parser.parse_args()
    allow_files(4096)
    counts = {kind: math.ceil(options.share * count) for kind, count in COUNTS.items()}
    if options.attack:
        print("ready", flush=True)
        sys.stdin.readline()
        until = time.monotonic() + (options.seconds - 5 if options.again else -1)
        print(json.dumps(asyncio.run(attack(options.attack, counts, until))))
        return
    found = bench(options, counts)
    tell(found, options.out)
    sys.exit(1 if found["beyond"] else 0)


def bench(options: argparse.Namespace, counts: dict[str, int]) -> dict[str, Any]:
    """Serve a stub, and be slow."""
    cores = os.sched_getaffinity(0)
    words = ["--share", str(options.share), "--seconds", str(options.seconds)]
    stub = (serve_load.__file__, "stub", "--milliseconds", str(options.milliseconds))
    with serve.serving(*stub) as server:
        os.sched_setaffinity(0, {max(cores)})
        try:
            asyncio.run(serve_load.at_a_pace(server.host, serve_load.jpeg(), RATE, 1.0))
            kilobytes = kilobytes_of_idle(server, counts["idle"])
            words += ["--attack", server.host, *["--again"] * options.again]
            seen = asyncio.run(measure(server, words, options.seconds))
        finally:
            os.sched_setaffinity(0, cores)
    return judge(seen, kilobytes, is_again=options.again)


if __name__ == "__main__":
    main()
