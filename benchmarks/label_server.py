r"""How fast the label server answers: new suggestions after an edit, the page of a large folder.

    python benchmarks/label_server.py edits --data DIR --photos 200 --rounds 30
    python benchmarks/label_server.py folder --photos 20000

Both start ``sppnet label`` as a person does and ask it over HTTP. ``edits``: DIR is a set in any
layout with a split ``train``; its photos are copied, its labels are in the store before the server
starts. One box of the open photo is moved, again and again: seconds until the answer to the edit,
and until the photo has suggestions of a newer model (told by an event, then asked for).
``--features`` keeps the maps for other runs; ``--folder`` keeps photos and store, and a run with a
folder that is there tells how long the start takes that finds what was learnt. ``folder``: small
drawn photos; seconds from the start of the command until page, session and first photos are
answered, until the first photo is there, and the memory of the server then and after a scroll
through all lists. Leaves
label_server_WHAT.json in the folder of ``--out``.
"""

import argparse
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labelling import MOVE, open_session
from sppnet.images import open_detection_dataset
from sppnet.labelling.base import list_photos
from sppnet.storage import write_json
from sppnet.storage.runs import environment

WRITES = {"X-Sppnet": "1", "Content-Type": "application/json"}
FIRST_FIT = 3600.0  # seconds that learning all photos may take


class Server:
    """The command, and what it says."""

    def __init__(self, photos: Path, *words: str) -> None:
        self.begin = time.perf_counter()
        command = [sys.executable, "-m", "sppnet", "label", str(photos), "--no-browser", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        self.host = line.strip().removeprefix("http://").strip("/")
        self.models: list[tuple[float, str]] = []  # when a model was told, and which

    def ask(self, method: str, path: str, body: Any = None, revision: int | None = None) -> Any:
        """Send one request; what it answers."""
        status, said = self.send(method, path, body, revision)
        if status >= 400:
            raise SystemExit(f"{method} {path}: {status} {str(said)[:300]}")
        return said

    def send(
        self, method: str, path: str, body: Any = None, revision: int | None = None
    ) -> tuple[int, Any]:
        """Send one request; status and what it answers, whatever that is."""
        connection = http.client.HTTPConnection(self.host, timeout=600)
        headers = dict(WRITES) if method != "GET" else {}
        if revision is not None:
            headers["If-Match"] = f'"{revision}"'
        content = None if body is None else json.dumps(body)
        with closing(connection):
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(text) if is_json else text

    def listen(self) -> None:
        """Note every model that is told, in a thread, until the server ends."""

        def run() -> None:
            connection = http.client.HTTPConnection(self.host)
            with closing(connection), suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/api/events")
                answer, event = connection.getresponse(), b""
                while line := answer.readline():
                    if line.startswith(b"event: "):
                        event = line[7:].strip()
                    elif line.startswith(b"data: ") and event == b"model":
                        self.models.append((time.perf_counter(), json.loads(line[6:])["model"]))

        threading.Thread(target=run, daemon=True).start()

    def megabytes(self) -> float:
        """Memory of the process (resident) in MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1000

    def processor(self) -> float:
        """Seconds of the processor so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(photos: Path, *words: str) -> Iterator[Server]:
    """Run the command meanwhile."""
    server = Server(photos, *words)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(120)


def wait_for(fact: Any, seconds: float, rest: float = 0.01) -> Any:
    """Wait until something is true, looking now and then."""
    end = time.perf_counter() + seconds
    while not (value := fact()):
        if time.perf_counter() > end:
            raise SystemExit("the server did not get there")
        time.sleep(rest)
    return value


def bench_edits(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Move one box of the open photo, again and again."""
    photos = list_photos(folder / "photos") if (folder / "photos").exists() else ()
    if not photos:
        dataset = open_detection_dataset(options.data, "train")
        person = open_session(dataset, options.photos, folder, options.features)
        photos = person.session.photos
        for photo in photos:
            person.label(photo)
        person.session.close()
    draw, answered, renewed, processor = random.Random(0), [], [], []
    with serving(folder / "photos") as server:
        server.listen()
        wait_for(lambda: server.ask("GET", "/api/session")["state"]["waiting"] == 0
                 and server.models, FIRST_FIT, 2.0)  # fmt: skip
        learnt = time.perf_counter() - server.begin
        print(f"all learnt after {learnt:.1f} s, {server.megabytes():.0f} MB", flush=True)
        time.sleep(options.rest)
        for _ in range(options.rounds):
            photo = draw.choice(photos)
            known = server.ask("GET", f"/api/photo/{photo}")
            server.ask("GET", f"/api/photo/{photo}/suggestions")
            time.sleep(draw.uniform(1.0, 3.0))  # a person looks at it
            x1, y1, x2, y2 = known["boxes"][0]["box"]
            step = MOVE * (x2 - x1) * draw.choice([-1, 1])
            known["boxes"][0]["box"] = [max(0, x1 + step), y1, x2 + step, y2]
            begin, before = time.perf_counter(), server.processor()
            body = {"boxes": known["boxes"], "empty": False}
            server.ask("PUT", f"/api/photo/{photo}", body, known["revision"])
            answered.append(time.perf_counter() - begin)
            edit = server.models[-1][1]
            wait_for(lambda edit=edit: is_newer(server.models[-1][1], edit), 600)
            server.ask("GET", f"/api/photo/{photo}/suggestions")
            renewed.append(time.perf_counter() - begin)
            processor.append(server.processor() - before)
            words = f"{answered[-1]:.3f} s, {renewed[-1]:.2f} s, {processor[-1]:.2f} s"
            print(f"{words}, {server.megabytes():.0f} MB", flush=True)
        return {
            "photos": len(photos),
            "first_fit": learnt,
            "answered": spread(answered),
            "renewed": spread(renewed),
            "processor": spread(processor),
            "megabytes": server.megabytes(),
        }


def is_newer(model: str, before: str) -> bool:
    """Whether a model knows a later edit: its version has the number of the edit first."""
    return edit_of(model) > edit_of(before)


def edit_of(model: str) -> int:
    """Number of the last edit that a model learnt."""
    return int(re.findall(r"\d+", model)[0])


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    low, high = np.quantile(seconds, [0.5, 0.95])
    return {"p50": float(low), "p95": float(high), "times": len(seconds)}


def bench_folder(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Open a large folder."""
    photos = folder / "photos"
    draw = np.random.default_rng(0)
    for number in range(options.photos):
        place = photos / f"{number // 1000:03}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((320, 240))
        image.save(place / f"{number:06}.jpg", quality=70)
    made: dict[str, Any] = {"photos": options.photos}
    with serving(photos) as server:
        for path in ("/", "/api/session", "/api/photos?limit=500"):
            server.ask("GET", path)
        made["page"] = time.perf_counter() - server.begin
        made["page_processor"] = server.processor()
        first = server.ask("GET", "/api/photos?limit=1")["items"][0]["photo"]
        server.ask("GET", f"/image/{first}?side=2048")
        made["picture"] = time.perf_counter() - server.begin
        made["picture_processor"] = server.processor()
        server.ask("GET", f"/api/photo/{first}")
        made["photo"] = time.perf_counter() - server.begin
        made["megabytes_open"] = server.megabytes()
        for offset in range(0, options.photos, 500):
            items = server.ask("GET", f"/api/photos?offset={offset}&limit=500")["items"]
            server.ask("GET", f"/thumb/{items[0]['photo']}")
        body = {"boxes": [{"box": [20, 20, 120, 120], "name": "thing"}], "empty": False}
        server.ask("PUT", f"/api/photo/{first}", body, 0)
        server.listen()
        wait_for(lambda: server.models, 600)
        begin = time.perf_counter()
        server.ask("GET", "/api/next?count=10")
        made["next"] = time.perf_counter() - begin
        time.sleep(options.rest)
        made["megabytes_used"] = server.megabytes()
    return made


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["edits", "folder"])
    parser.add_argument("--data", type=Path, help="a set to copy photos and labels from")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rest", type=float, default=60.0, help="seconds for the background")
    parser.add_argument("--features", type=Path, help="folder for the maps; a temporary one")
    parser.add_argument("--folder", type=Path, help="keeps photos and store; a temporary one")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)  # before half an hour of work, not after it
    bench = bench_edits if options.what == "edits" else bench_folder
    with tempfile.TemporaryDirectory() as name:
        place = options.folder or Path(name)
        place.mkdir(parents=True, exist_ok=True)
        made = bench(options, place)
    print(json.dumps(made, indent=2))
    path = options.out / f"label_server_{options.what}.json"
    write_json(path, {**made, **environment()})


if __name__ == "__main__":
    main()
