r"""How ``sppnet serve`` does: photos a second, time of an answer, faults, memory, hostile uploads.

    python benchmarks/serve.py speed --model RUN/model --photos DIR
    python benchmarks/serve.py faults --model RUN/model --photos DIR
    python benchmarks/serve.py memory --model RUN/model --photos DIR --requests 10000
    python benchmarks/serve.py hostile --requests 10000 --seed 0

``speed``: the model is called in a loop in this process with as many threads as there are cores,
and asked over HTTP by 8 clients at a time, in turns; times of answers are those of the clients. The
overhead is the time of a request less that of the same call in a loop, measured with a model that
only says how long a photo is. ``faults``: 200 requests, 8 at a time: photos, photos that come
slowly, uploads that break off, damaged photos, bombs, a photo that takes more memory than it may;
two workers are killed meanwhile. Every answer is compared with that of the model called here.
``memory``: resident bytes of the server and its workers after 100 requests and after all.
``hostile``: requests of which photo, form, headers or the bytes themselves were spoilt, to a model
that decodes the photo; what counts are 500s, answers that tell a path, an address or a version,
dead workers, and the server itself. Leaves
serve_WHAT.json in the folder of ``--out``.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))

# as the command line does, before torch is loaded: threads that wait must not hold the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
CLIENTS = 8
JPEG = {"Content-Type": "image/jpeg"}
# what no answer may say: where something lies, on a disk or in memory, and what it was made with
LEAKS = re.compile(
    rb"Traceback|0x[0-9a-f]{6}|\.py\b|site-packages|[ '\"]/(?:usr|home|root|tmp|proc|var|etc)/"
    rb"|(?:Pillow|torch|uvicorn|starlette|h11|Python)[ /-]?\d"
)
LEAK = -1
TEXT_OF_ANSWER = re.compile(r'"images": \[(.*)\]\}\s*', re.S)


class Decoder:
    """A model that decodes a photo and says how large it is, or only how many bytes it has."""

    def __init__(self, *, decodes: bool) -> None:
        self.decodes = decodes

    def describe(self) -> dict[str, Any]:
        """A classifier without classes."""
        return {"kind": "classifier", "model": "0" * 64, "names": []}

    def answer(self, name: str, photo: bytes) -> dict[str, Any]:
        """Say how large the photo is."""
        height, width = 1, len(photo)
        if self.decodes:
            from sppnet.images.decode import decode_content

            _, height, width = decode_content(photo, name).shape
        return {"file": name, "width": width, "height": height, "labels": [], "names": [],
                "scores": []}  # fmt: skip


def open_decoder(decodes: bool) -> Decoder:
    """Read no model."""
    if decodes:
        import torch

        import sppnet.images.decode  # noqa: F401 (before the memory is limited)

        torch.set_num_threads(1)
    return Decoder(decodes=decodes)


def serve_model(
    open_model: Callable[..., Any], arguments: Sequence[Any], workers: int = 2, queue: int = 32
) -> None:
    """Serve a model that is opened so in each worker, until a signal comes."""
    from sppnet.app.console import say
    from sppnet.server.local import LocalServer
    from sppnet.server.serve_app import build_serve_app
    from sppnet.server.serve_gate import Access, UploadLimits
    from sppnet.server.workers import PoolLimits, WorkerPool

    os.environ["SPPNET_MAX_PIXELS"] = "25000000"
    pool = WorkerPool(open_model, arguments, PoolLimits(workers, queue, megabytes=1000))
    pool.start()
    app = build_serve_app(pool, Access(), UploadLimits(), lambda: server.port)
    server = LocalServer(app, 0, lambda port: say(f"http://127.0.0.1:{port}/"), pool.drain)
    server.listen()
    pool.close()


def family_of(number: int) -> list[int]:
    """A process and all under it, whichever of its threads started them."""
    found = [number]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*"):
            with contextlib.suppress(OSError):  # it ended
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


class Server:
    """A server in a process of its own."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = self.process.stdout.readline() if self.process.stdout else ""
        self.host = line.strip().removeprefix("http://").strip("/")
        if not self.host:
            raise SystemExit("the server did not start")

    @property
    def family(self) -> list[int]:
        """Numbers of its process and of all under it."""
        return family_of(self.process.pid)

    @property
    def workers(self) -> list[int]:
        """Numbers of the processes that hold the model."""
        return [
            n for n in self.family[1:] if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()
        ]

    def megabytes(self) -> float:
        """Memory of all of them (resident) in MB."""
        found = (Path(f"/proc/{number}/status").read_text("utf-8") for number in self.family)
        return sum(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) for text in found) / 1000

    def figure(self, name: str) -> float:
        """A number of its own metrics."""
        _, _, text = ask(self.host, b"", "GET", "/metrics")
        return float(re.findall(rf"^{name} (\S+)$", text.decode(), re.M)[0])


@contextlib.contextmanager
def serving(*words: str) -> Iterator[Server]:
    """Run a server meanwhile."""
    server = Server(*words)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(120)
        if server.process.stdout:
            server.process.stdout.close()


def ask(
    host: str, photo: bytes, method: str = "POST", path: str = "/v1/predict", **headers: str
) -> tuple[int, float, bytes]:
    """Send one request on a connection of its own: status, seconds, body."""
    connection = http.client.HTTPConnection(host, timeout=120)
    begin = time.perf_counter()
    try:
        connection.request(method, path, photo or None, headers or JPEG)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, time.perf_counter() - begin, body
    finally:
        connection.close()


def ask_all(
    host: str, photos: Sequence[bytes], clients: int
) -> tuple[float, list[float], list[bytes]]:
    """Ask for photos, so many at a time: seconds in all, of each, and the bodies."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        answers = list(threads.map(lambda photo: ask(host, photo), photos))
    if any(status != 200 for status, _, _ in answers):
        raise SystemExit(f"not answered: {Counter(status for status, _, _ in answers)}")
    return time.perf_counter() - begin, [each[1] for each in answers], [each[2] for each in answers]


def read_photos(folder: Path, count: int) -> list[bytes]:
    """So many photos, over and over if there are fewer."""
    paths = sorted(folder.glob("*.jp*g"))
    return [path.read_bytes() for path in islice(cycle(paths), count)]


def command(options: argparse.Namespace, *words: str) -> list[str]:
    """Words of the command that serves a model."""
    return ["-m", "sppnet", "serve", str(options.model), "--port", "0", *words]


def open_here(options: argparse.Namespace, threads: int) -> Any:
    """The model in this process, with so many threads."""
    import torch

    from sppnet.app.serve import open_served

    torch.set_num_threads(threads)
    return open_served([options.model], {}, "cpu", None, None, 5)


def expected_texts(options: argparse.Namespace, photos: Sequence[bytes]) -> list[str]:
    """What the answer to each photo must be, to the letter."""
    model = open_here(options, 1)
    known: dict[bytes, str] = {}
    for photo in photos:
        if photo not in known:
            known[photo] = json.dumps(model.answer("photo", photo))
    return [known[photo] for photo in photos]


def text_of(body: bytes) -> str:
    """The part of an answer that the model wrote."""
    found = TEXT_OF_ANSWER.search(body.decode())
    return found[1] if found else ""


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile in milliseconds."""
    low, high, most = 1e3 * np.quantile(seconds, [0.5, 0.95, 0.99])
    return {"p50": float(low), "p95": float(high), "p99": float(most), "times": len(seconds)}


def bench_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Photos a second, times of answers, overhead of HTTP."""
    photos = read_photos(options.photos, options.requests or 64)
    cores = len(os.sched_getaffinity(0))
    model, loops, served, alone, times = open_here(options, cores), [], [], [], []
    with serving(*command(options)) as server:
        ask_all(server.host, photos[:4], 4)
        for _ in range(options.rounds):
            begin = time.perf_counter()
            for photo in photos:
                model.answer("photo", photo)
            loops.append(len(photos) / (time.perf_counter() - begin))
            seconds, each, bodies = ask_all(server.host, photos, CLIENTS)
            served.append(len(photos) / seconds)
            print(f"{loops[-1]:.2f} and {served[-1]:.2f} photos a second", flush=True)
            times += each
            alone += ask_all(server.host, photos[:16], 1)[1]
        wrong = sum(
            a != text_of(b) for a, b in zip(expected_texts(options, photos), bodies, strict=True)
        )
    return {
        "photos_a_second_loop": max(loops),
        "photos_a_second_served": max(served),
        "ratio": max(served) / max(loops),
        "ratios": [b / a for a, b in zip(loops, served, strict=True)],
        "milliseconds_8_clients": spread(times),
        "milliseconds_1_client": spread(alone),
        "answers_that_differ": wrong,
        "overhead_milliseconds": bench_overhead(photos[0]),
        "photo_bytes": len(photos[0]),
    }


def bench_overhead(photo: bytes) -> dict[str, float]:
    """Time of a request of one photo to a model that does nothing."""
    with serving(__file__, "decoder", "--sleepy") as server:
        ask_all(server.host, [photo] * 50, 1)
        return spread(ask_all(server.host, [photo] * 400, 1)[1])


def png_of(width: int, height: int) -> bytes:
    """A PNG of black pixels, 1 bit each, packed as far as it goes."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def send_slowly(host: str, photo: bytes) -> tuple[int, float, bytes]:
    """Send a photo in 20 pieces over two seconds."""
    connection = http.client.HTTPConnection(host, timeout=120)
    step = len(photo) // 20 + 1

    def pieces() -> Iterator[bytes]:
        for begin in range(0, len(photo), step):
            time.sleep(0.1)
            yield photo[begin : begin + step]

    connection.request("POST", "/v1/predict", pieces(), {**JPEG, "Content-Length": str(len(photo))})
    answer = connection.getresponse()
    with contextlib.closing(connection):
        return answer.status, 0.0, answer.read()


def break_off(host: str, photo: bytes) -> tuple[int, float, bytes]:
    """Send half of a photo and hang up."""
    name, port = host.split(":")
    with socket.create_connection((name, int(port))) as line:
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: " + host.encode()
                     + b"\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(photo)
                     + photo[: len(photo) // 2])  # fmt: skip
        time.sleep(0.2)
    return 0, 0.0, b""


def hang_up(host: str, photo: bytes) -> tuple[int, float, bytes]:
    """Send a photo whole and do not wait for the answer."""
    name, port = host.split(":")
    with socket.create_connection((name, int(port))) as line:
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: " + host.encode()
                     + b"\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(photo)
                     + photo)  # fmt: skip
    return 0, 0.0, b""


WAYS = {"photo": ask, "slow": send_slowly, "broken off": break_off, "hung up": hang_up,
        "damaged": ask, "bomb": ask, "greedy": ask}  # fmt: skip


def bench_faults(options: argparse.Namespace) -> dict[str, Any]:
    """Faults among photos: whose answers are lost, wrong or of another."""
    draw = random.Random(options.seed)
    photos = read_photos(options.photos, 40)
    wanted = dict(zip(photos, expected_texts(options, photos), strict=True))
    bombs, greedy = [png_of(50_000, 50_000), png_of(13_000, 13_000)], png_of(5000, 4990)
    jobs: list[tuple[str, bytes]] = []
    for number in range(options.requests or 200):
        photo = draw.choice(photos)
        way = draw.choices(list(WAYS), (60, 10, 8, 8, 8, 6, 0))[0]
        way = "greedy" if number in (60, 130) else way
        if way == "damaged":
            photo = photo[: draw.randrange(10, len(photo) - 100)]
        jobs.append((way, {"bomb": draw.choice(bombs), "greedy": greedy}.get(way, photo)))
    killed, healed_after = [], []
    with serving(*command(options, "--memory", str(options.memory))) as server:
        done: list[int] = []  # numbers of the jobs that are over
        count = server.figure("sppnet_workers_ready")

        def kill() -> None:
            for share in (3, 2):
                while len(done) < len(jobs) // share:
                    time.sleep(0.02)
                killed.append(draw.choice(server.workers))
                os.kill(killed[-1], signal.SIGKILL)
                begin = time.monotonic()
                while time.monotonic() < begin + 60 and (
                    server.figure("sppnet_workers_lost") < len(killed)
                    or server.figure("sppnet_workers_ready") < count
                ):
                    time.sleep(0.05)
                healed_after.append(round(time.monotonic() - begin, 2))

        def do(number: int) -> tuple[int, float, bytes]:
            way, photo = jobs[number]
            try:
                return WAYS[way](server.host, photo)
            finally:
                done.append(number)

        killer = threading.Thread(target=kill)
        killer.start()
        with ThreadPoolExecutor(CLIENTS) as threads:
            answers = list(threads.map(do, range(len(jobs))))
        killer.join()
        tally, wrong, lost = judge(jobs, answers, wanted)
        last = [ask(server.host, photo) for photo in photos[:8]]
        healed = sum(text_of(body) == wanted[photo]
                     for (_, _, body), photo in zip(last, photos, strict=False))  # fmt: skip
        deaths = server.figure("sppnet_workers_lost")
    return {
        "requests": len(jobs),
        "answers": {f"{way} {status}": count for (way, status), count in sorted(tally.items())},
        "killed": len(killed),
        "seconds_until_all_workers": max(healed_after),
        "workers_lost": deaths,
        "answers_wrong": wrong,
        "answers_lost": lost,
        "answers_lost_beyond_kills": max(0, lost - len(killed)),
        "right_afterwards_of_8": healed,
    }


def judge(
    jobs: Sequence[tuple[str, bytes]],
    answers: Sequence[tuple[int, float, bytes]],
    wanted: dict[bytes, str],
) -> tuple[Counter[tuple[str, int]], int, int]:
    """Count by kind and status; how many answers are wrong, and how many good photos have none."""
    tally: Counter[tuple[str, int]] = Counter()
    wrong = lost = 0
    legal = {"damaged": {415, 422}, "bomb": {413}, "greedy": {413}}
    for (way, photo), (status, _, body) in zip(jobs, answers, strict=True):
        tally[way, status] += 1
        if way in ("photo", "slow"):
            lost += status != 200
            wrong += status == 200 and text_of(body) != wanted[photo]
        elif way in legal:
            wrong += status not in {*legal[way], 503}
    return tally, wrong, lost


def bench_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Memory over many requests."""
    photos = read_photos(options.photos, 100)
    bad = [photo[:500] for photo in photos[::5]]
    mixed = [*photos, *bad]
    points: dict[int, float] = {}
    draw = random.Random(options.seed)
    count = options.requests or 10_000
    with serving(*command(options)) as server:
        done = 0
        while done < count:
            batch = [draw.choice(mixed) for _ in range(100)]
            with ThreadPoolExecutor(CLIENTS) as threads:
                list(threads.map(lambda photo: ask(server.host, photo), batch))
            done += len(batch)
            if done in (100, 1000, count) or done % 1000 == 0:
                points[done] = server.megabytes()
                print(f"{done} requests: {points[done]:.1f} MB", flush=True)
        lost = server.figure("sppnet_workers_lost")
    growth = 100 * (points[count] / points[100] - 1)
    megabytes = {str(done): each for done, each in points.items()}
    return {"megabytes": megabytes, "growth_percent": growth, "workers_lost": lost}


def hostile_request(draw: random.Random, host: str, images: Sequence[bytes]) -> bytes:
    """A request as bytes, of which something is spoilt."""
    from fuzz_mutations import spoil_bytes

    photos = [draw.choice(images) for _ in range(draw.choice((1, 1, 1, 2, 5, 20)))]
    way = draw.randrange(4)
    if way in (0, 1):
        photos = [spoil_bytes(draw, photo, images) for photo in photos]
    kind, body = "image/png", photos[0]
    if len(photos) > 1 or draw.random() < 0.3:
        kind, body = "multipart/form-data; boundary=xyz", b"".join(
            b'--xyz\r\nContent-Disposition: form-data; name="p"; filename="%d.jpg"\r\n\r\n%s\r\n'
            % (number, photo) for number, photo in enumerate(photos)) + b"--xyz--\r\n"  # fmt: skip
    if way == 2:
        body = spoil_bytes(draw, body, images)
    head = (f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode()  # fmt: skip
    if way == 3:
        head = spoil_bytes(draw, head, [head])
    return head + body


def send_bytes(host: str, data: bytes) -> int:
    """Send bytes and read the status of what comes back; 0 if nothing does, `LEAK` if it tells."""
    name, port = host.split(":")
    with contextlib.suppress(OSError), socket.create_connection((name, int(port)), 60) as line:
        line.settimeout(5)  # a length may be spoilt, then it waits for more
        with contextlib.suppress(OSError):  # it may be refused before all is sent
            line.sendall(data)
        said = b""
        with contextlib.suppress(OSError):
            while block := line.recv(65_536):
                said += block
        if LEAKS.search(said):
            return LEAK
        found = re.match(rb"HTTP/1\.1 (\d{3})", said)
        return int(found[1]) if found else 0
    return 0


def bench_hostile(options: argparse.Namespace) -> dict[str, Any]:
    """Spoilt requests."""
    from fuzz_samples import built_images, pillow_images

    images = [*pillow_images(), *built_images()]
    draws = [
        random.Random(f"{options.seed} {number}") for number in range(options.requests or 10_000)
    ]
    with serving(__file__, "decoder") as server:
        begin = time.perf_counter()
        host = server.host
        with ThreadPoolExecutor(CLIENTS) as threads:
            send = threads.map(
                lambda draw: send_bytes(host, hostile_request(draw, host, images)), draws
            )
            statuses = Counter(send)
        seconds = time.perf_counter() - begin
        is_alive = server.process.poll() is None and ask(server.host, images[0])[0] == 200
        lost = server.figure("sppnet_workers_lost")
    return {
        "requests": len(draws),
        "seconds": seconds,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "answers_500": statuses[500],
        "answers_that_tell": statuses[LEAK],
        "workers_lost": lost,
        "server_crashes": int(not is_alive),
    }


BENCHES = {
    "speed": bench_speed,
    "faults": bench_faults,
    "memory": bench_memory,
    "hostile": bench_hostile,
}


def main() -> None:
    """Measure, print, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*BENCHES, "decoder"])
    parser.add_argument("--model", type=Path, default=Path("RUN/model"))
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="Folder of JPEGs.")
    parser.add_argument("--requests", type=int, default=0, help="0 for the usual number.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=300, help="MB of a worker, for faults.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sleepy", action="store_true", help="Of decoder: decode nothing.")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    if options.what == "decoder":
        serve_model(open_decoder, (not options.sleepy,))
        return
    from sppnet.storage import write_json
    from sppnet.storage.runs import environment

    options.out.mkdir(parents=True, exist_ok=True)  # before the work
    found = BENCHES[options.what](options)
    print(json.dumps(found, indent=2))
    write_json(options.out / f"serve_{options.what}.json", {**found, "environment": environment()})


if __name__ == "__main__":
    main()
