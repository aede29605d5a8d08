r"""How ``sppnet serve`` bears load: ids D3, D4, D5 and D8 of the reliability bar.

    python benchmarks/serve_load.py own --out own.json
    python benchmarks/serve_load.py half --minutes 10
    python benchmarks/serve_load.py overload --minutes 3
    python benchmarks/serve_load.py drain --rounds 50

``own``: a model that does nothing is asked 2,000 times, on one connection, for a JPEG of 100 kB;
what a request takes is the time of the server, of the way to the worker and back, and of the
client. ``half``: a small detector (or ``--model``) is first asked by 8 clients at a time: what it
answers a second is its most load. Then half as many requests come, at even distances whatever
becomes of them; the time of each counts from when it was to be sent, so that no stall is hidden.
``overload``: a stub that works for ``--milliseconds`` on a photo, or ``--model``, first as above,
then five times as many requests: how many are answered in comparison, what the others hear and how
soon, memory, and how long afterwards answers take as long as before. ``drain``: the same stub and 8
clients; SIGTERM comes at a random moment, so many times. Every request that was whole on its way
when the signal came must be answered, and the server must end within 10 seconds.

The server has all cores, the clients the last one. Prints JSON, with those lines of the bar that do
not hold in ``beyond``; ends with 1 if there is any.
"""

import argparse
import asyncio
import contextlib
import http.client
import io
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parent / "reliability"))

from bars import tell

import serve

PHOTO_BYTES = 100_000
SIDES = (500, 375)
TIMES_TOO_MANY = 5
WORKERS = 2
QUEUE_SECONDS = 2.0  # that a photo may wait
PATIENCE = 30.0  # seconds after which a request counts as lost
BUSY = (429, 503)


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Args:
        status: Of HTTP; 0 if there is no answer.
        begin: When it was to be sent (monotonic clock).
        sent: When it was whole on its way; infinite if it never was.
        end: When the answer was here.
        tells_when: Whether a refusal says when to ask again.
    """

    status: int
    begin: float
    sent: float
    end: float
    tells_when: bool = False

    @property
    def seconds(self) -> float:
        """From when it was to be sent to the end of its answer."""
        return self.end - self.begin


class Sleeper(serve.Decoder):
    """A stub that works for so long on every photo, whatever is in it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(decodes=False)
        self.seconds = seconds

    def answer(self, name: str, photo: bytes) -> dict[str, Any]:
        """Wait, and say how many bytes the photo has."""
        time.sleep(self.seconds)
        return {"file": name, "width": len(photo), "height": 1, "labels": [], "names": [],
                "scores": []}  # fmt: skip


def open_sleeper(seconds: float) -> Sleeper:
    """Read no model."""
    return Sleeper(seconds)


def jpeg() -> bytes:
    """A photo of about 100 kB: noise over a few soft things."""
    draw = np.random.default_rng(0)
    soft = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(soft).resize(SIDES, Image.Resampling.BICUBIC)
    noise = draw.integers(-20, 21, (*reversed(SIDES), 3))
    picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    best = b""
    for quality in range(95, 20, -1):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        best = file.getvalue()
        if len(best) <= PHOTO_BYTES:
            break
    return best


async def post(host: str, photo: bytes, begin: float) -> Answer:
    """Send a photo on a connection of its own and hear the answer."""
    name, port = host.split(":")
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(photo)}\r\n\r\n"
    )
    status, tells, sent = 0, False, math.inf
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(name, int(port))
            try:
                writer.write(head.encode() + photo)
                await writer.drain()
                sent = time.monotonic()
                said = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(said.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                status, tells = int(said.split(None, 2)[1]), b"\r\nretry-after: " in said
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
        status = 0
    return Answer(status, begin, sent, time.monotonic(), tells)


async def at_a_time(host: str, photo: bytes, clients: int, seconds: float) -> list[Answer]:
    """Ask for so long, each client again as soon as it has its answer."""
    end, answers = time.monotonic() + seconds, []

    async def ask() -> None:
        while (begin := time.monotonic()) < end:
            answers.append(await post(host, photo, begin))

    await asyncio.gather(*(ask() for _ in range(clients)))
    return answers


async def at_a_pace(host: str, photo: bytes, rate: float, seconds: float) -> list[Answer]:
    """Ask so many times a second, whatever becomes of the requests before."""
    begin = time.monotonic() + 0.1
    tasks = []
    for number in range(round(rate * seconds)):
        due = begin + number / rate
        if (rest := due - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        tasks.append(asyncio.create_task(post(host, photo, due)))
    return list(await asyncio.gather(*tasks))


def most_load(host: str, photo: bytes, seconds: float) -> float:
    """Answers a second to 8 clients at a time."""
    asyncio.run(at_a_time(host, photo, serve.CLIENTS, seconds / 5))  # everything is loaded then
    begin = time.monotonic()
    answers = asyncio.run(at_a_time(host, photo, serve.CLIENTS, seconds))
    if any(each.status != 200 for each in answers):
        raise SystemExit(f"not answered: {Counter(each.status for each in answers)}")
    return len(answers) / (time.monotonic() - begin)


def milliseconds(seconds: Sequence[float], shares: Sequence[float]) -> dict[str, float]:
    """Quantiles in milliseconds, by their names."""
    values = 1e3 * np.quantile(seconds, shares) if len(seconds) else [math.nan] * len(shares)
    return {
        f"p{100 * share:g}": round(float(value), 2)
        for share, value in zip(shares, values, strict=True)
    }


@contextlib.contextmanager
def serving(options: argparse.Namespace, *, stub: bool) -> Iterator[serve.Server]:
    """Serve the stub or a model; the clients here keep to the last core."""
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None and not stub:
            model = Path(folder) / "model"
            save_detector(model)
        words = [__file__, "stub", "--milliseconds", str(options.milliseconds)]
        if model is not None:
            words = ["-m", "sppnet", "serve", str(model), "--port", "0", "--workers", str(WORKERS)]
        with serve.serving(*words) as server:
            os.sched_setaffinity(0, {max(cores)})
            try:
                yield server
            finally:
                os.sched_setaffinity(0, cores)


def save_detector(folder: Path) -> None:
    """A small detector of random weights, with proposals by segmentation."""
    from laws import plain_detector

    plain_detector("graph", flip=False, side=224).save(folder)


def bench_own(options: argparse.Namespace) -> dict[str, Any]:
    """The time of the server itself: D3."""
    photo, times = jpeg(), []
    with serve.serving(serve.__file__, "decoder", "--sleepy") as server:
        connection = http.client.HTTPConnection(server.host, timeout=PATIENCE)
        for number in range(100 + options.requests):
            begin = time.perf_counter()
            connection.request("POST", "/v1/predict", photo, serve.JPEG)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"not answered: {answer.status}")
            if number >= 100:
                times.append(time.perf_counter() - begin)
        connection.close()
    found = milliseconds(times, (0.5, 0.99))
    beyond = [f"p{q} over {most} ms" for q, most in ((50, 3), (99, 10)) if found[f"p{q}"] > most]
    return {"requests": len(times), "photo_bytes": len(photo), "milliseconds": found,
            "beyond": beyond}  # fmt: skip


def bench_half(options: argparse.Namespace) -> dict[str, Any]:
    """Times of answers at half of the most load: D4."""
    photo = jpeg()
    with serving(options, stub=False) as server:
        most = most_load(server.host, photo, options.saturate)
        answers = asyncio.run(at_a_pace(server.host, photo, most / 2, 60 * options.minutes))
    good = [each.seconds for each in answers if each.status == 200]
    times = milliseconds(good, (0.5, 0.99, 0.999))
    beyond = [
        f"{name} over {most} p50"
        for name, most in (("p99", 3), ("p99.9", 6))
        if not times[name] <= most * times["p50"]
    ]
    errors = len(answers) - len(good)
    return {
        "most_a_second": round(most, 1),
        "asked_a_second": round(most / 2, 1),
        "requests": len(answers),
        "errors": errors,
        "milliseconds": times,
        "beyond": [*beyond, *["errors"] * bool(errors)],
    }


async def overload(
    server: serve.Server, photo: bytes, rate: float, seconds: float
) -> tuple[list[Answer], float]:
    """Ask too often; the answers, and the most memory meanwhile in MB."""
    task = asyncio.create_task(at_a_pace(server.host, photo, rate, seconds))
    most = 0.0
    while not task.done():
        most = max(most, server.megabytes())
        await asyncio.wait((task,), timeout=1.0)
    return task.result(), most


async def seconds_until_normal(host: str, photo: bytes, usual: float, begin: float) -> float:
    """How long it takes until ten answers in a row are good and take less than 3 times the usual.

    Args:
        host: To ask.
        photo: To ask for.
        usual: Seconds that an answer takes when nobody else asks.
        begin: When the last of too many requests was sent.
    """
    since, count = begin, 0
    while count < 10 and since - begin < PATIENCE:
        answer = await post(host, photo, time.monotonic())
        is_normal = answer.status == 200 and answer.seconds <= 3 * usual
        count = count + 1 if is_normal else 0
        since = answer.end if count <= 1 else since
    return since - begin


@dataclass(frozen=True)
class Load:
    """What was seen beside the answers.

    Args:
        most: Answers a second, to 8 clients at a time.
        usual: Seconds of an answer when nobody else asks.
        before: MB of all processes of the server before the overload.
        peak: The most meanwhile.
        after: Those afterwards.
        normal: Seconds until answers took as long as before.
    """

    most: float
    usual: float
    before: float
    peak: float
    after: float
    normal: float


def bench_overload(options: argparse.Namespace) -> dict[str, Any]:
    """Five times more requests than can be answered: D5."""
    photo, seconds = jpeg(), 60 * options.minutes
    with serving(options, stub=True) as server:
        most = most_load(server.host, photo, options.saturate)
        alone = asyncio.run(at_a_time(server.host, photo, 1, options.saturate / 3))
        usual = float(np.median([each.seconds for each in alone]))
        before = server.megabytes()
        answers, peak = asyncio.run(overload(server, photo, TIMES_TOO_MANY * most, seconds))
        last = answers[-1].begin
        normal = asyncio.run(seconds_until_normal(server.host, photo, usual, last))
        load = Load(most, usual, before, peak, server.megabytes(), normal)
        deaths = server.figure("sppnet_workers_lost")
    return {**judge_overload(load, answers), "workers_lost": deaths}


def judge_overload(load: Load, answers: Sequence[Answer]) -> dict[str, Any]:
    """The figures of an overload, and which lines of the bar they break."""
    good = [each for each in answers if each.status == 200]
    refused = [each for each in answers if each.status in BUSY]
    seconds = max(each.end for each in answers) - min(each.begin for each in answers)
    share = len(good) / seconds / load.most
    accepted = milliseconds([each.seconds for each in good], (0.5, 0.99))
    soon = milliseconds([each.seconds for each in refused], (0.5, 0.99))
    longest = 1e3 * (QUEUE_SECONDS + 3 * load.usual)
    bars = {
        "goodput under 90 %": share < 0.9,
        "other statuses": len(good) + len(refused) < len(answers),
        "no Retry-After": not all(each.tells_when for each in refused),
        "refusals over 50 ms": not soon["p99"] <= 50,
        "answers over the queue's 2 s and 3 p50": not accepted["p99"] <= longest,
        "memory over 100 MB": load.peak - load.before > 100,
        "not normal in 5 s": load.normal > 5,
    }
    return {
        "most_a_second": round(load.most, 1),
        "requests": len(answers),
        "answered_of_most_percent": round(100 * share, 1),
        "statuses_of_requests": dict(Counter(str(each.status) for each in answers)),
        "refused_milliseconds": soon,
        "answered_milliseconds": accepted,
        "megabytes": f"{load.before:.0f}, {load.peak:.0f}, {load.after:.0f}",
        "normal_after_seconds": round(load.normal, 2),
        "beyond": [name for name, is_beyond in bars.items() if is_beyond],
    }


async def drained(server: serve.Server, photo: bytes, seconds: float) -> tuple[list[Answer], float]:
    """Ask, send SIGTERM after so long, ask on until nobody listens; answers and when it came."""
    signalled = math.inf
    answers: list[Answer] = []

    async def ask() -> None:
        while (begin := time.monotonic()) < signalled + 1:
            answer = await post(server.host, photo, begin)
            answers.append(answer)
            if answer.status == 0:
                return

    tasks = [asyncio.create_task(ask()) for _ in range(serve.CLIENTS)]
    await asyncio.sleep(seconds)
    signalled = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*tasks)
    return answers, signalled


def bench_drain(options: argparse.Namespace) -> dict[str, Any]:
    """SIGTERM under load: D8."""
    photo, draw = jpeg(), random.Random(options.seed)
    statuses: Counter[str] = Counter()
    lost = cut = slow = codes = 0
    ends = []
    for number in range(options.rounds):
        with serving(options, stub=True) as server:
            answers, signalled = asyncio.run(drained(server, photo, draw.uniform(0.2, 1.2)))
            with contextlib.suppress(Exception):
                server.process.wait(20)
            ends.append(time.monotonic() - signalled)
        codes += server.process.returncode not in (0, 143)
        slow += ends[-1] > 10
        for each in answers:
            when = "before" if each.sent < signalled else "after"
            statuses[f"{when} {each.status}"] += 1
            lost += when == "before" and each.status != 200
            cut += when == "after" and each.status == 0 and each.sent < math.inf
        print(f"{number + 1}: {lost} lost, {cut} cut off, {ends[-1]:.1f} s", file=sys.stderr)
    bars = {"requests that were lost": lost, "requests that were cut off": cut,
            "ends over 10 s": slow, "exit codes": codes}  # fmt: skip
    return {
        "signals": options.rounds,
        "requests": sum(statuses.values()),
        "lost_that_were_sent_before": lost,
        "cut_off_that_were_sent_after": cut,
        "seconds_to_the_end": milliseconds([each / 1e3 for each in ends], (0.5, 1)),
        "statuses": dict(sorted(statuses.items())),
        "beyond": [name for name, count in bars.items() if count],
    }


BENCHES = {"own": bench_own, "half": bench_half, "overload": bench_overload, "drain": bench_drain}


def main() -> None:
    """Measure, print, and leave with 1 if a line of the bar does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=[*BENCHES, "stub"])
    parser.add_argument("--model", type=Path, help="Folder of a model; a small one if not given.")
    parser.add_argument("--milliseconds", type=float, default=20.0, help="That the stub works.")
    parser.add_argument("--minutes", type=float, default=3.0, help="Of half and overload.")
    parser.add_argument("--saturate", type=float, default=15.0, help="Seconds for the most load.")
    parser.add_argument("--requests", type=int, default=2000, help="Of own.")
    parser.add_argument("--rounds", type=int, default=50, help="Of drain.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    options = parser.parse_args()
    if options.what == "stub":
        serve.serve_model(open_sleeper, (options.milliseconds / 1e3,), WORKERS)
        return
    found = BENCHES[options.what](options)
    tell(found, options.out)
    sys.exit(1 if found["beyond"] else 0)


if __name__ == "__main__":
    main()
