r"""Both servers for hours, with faults: every answer, every edit, memory, open files, threads.

    python benchmarks/reliability/soak.py --data DIR --model RUN/model --hours 2 --out runs/soak

DIR is a detection set in any layout, RUN/model a detector; photos are made 240 pixels long. At most
a few requests a second go to ``sppnet serve`` (photos, slow ones, uploads that break off, damaged
ones, bombs, photos that take too much memory; a worker is killed now and then) and to ``sppnet
label`` (edits, undo, redo, lists, pictures, suggestions, refits, exports; killed by SIGKILL now and
then while it writes). Clients and faults are those of benchmarks/serve.py and label_server.py.

Every answer of a photo must be, to the letter, that of the model called here; no answer may be a
500; every edit that was acknowledged must be there after every kill. Every minute a line goes to
soak_minutes.jsonl: memory (resident), open files and threads of both servers and of their
children, files in their folder for temporaries. From the middle on the label server is not killed.

Growth is what the second half of the minutes holds more than the first (of the label server: of
its last life), each without the first tenth, seen while nothing is under way: medians of memory,
the least of files and threads. It may be 10 MB or 5 %, whichever is more, 2 files and 2 threads; no
file may be left among the temporaries. Leaves soak.json, and ends with 1 if anything is wrong.
``--judge`` judges what is in ``--out`` again.
"""

import argparse
import http.client
import io
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))

import label_server
import serve
from sppnet.images import DetectionDataset, open_detection_dataset
from sppnet.storage import write_json
from sppnet.storage.runs import environment

SIDE = 240  # of the photos, in pixels
LABEL_PHOTOS = 40
TINY = ("--backbone", "small5", "--weights", "none", "--imgsz", "120", "--threads", "1")
SLOW_MACHINE = ("--workers", "2", "--timeout", "300")
SHARES = (60, 8, 8, 8, 8, 6, 2)  # of the ways of serve.WAYS
ACTIONS = {"list": 6, "photo": 8, "suggestions": 6, "picture": 6, "next": 2, "session": 6,
           "edit": 5, "empty": 1, "undo": 2, "redo": 1, "doubtful": 0.2, "refit": 0.3,
           "export": 0.3, "conflict": 1, "nonsense": 1}  # fmt: skip
WARM = 0.1  # of the minutes, at the beginning of a half
MOST_MEGABYTES, MOST_SHARE, MOST_MORE = 10.0, 0.05, 2.0
MOST_WAIT = 300.0  # seconds until a look, whatever is under way
LOST_LINE = (OSError, http.client.HTTPException)
Row = dict[str, float]


def small(path: Path) -> tuple[bytes, float]:
    """A photo as a JPEG of the size used here, and by what it was shrunk."""
    with Image.open(path) as image:
        share = SIDE / max(image.size)
        size = tuple(max(1, round(side * share)) for side in image.size)
        content = io.BytesIO()
        image.convert("RGB").resize(size).save(content, "JPEG", quality=90)
    return content.getvalue(), share


def weigh(number: int) -> Row:
    """Memory in MB, open files and threads of a process; of nothing if it is gone."""
    with suppress(OSError, KeyError):  # one that ended has no memory
        status = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{number}/status").read_text("utf-8").splitlines()
        )
        return {
            "megabytes": int(status["VmRSS"].split()[0]) / 1000,
            "files": sum(1 for _ in Path(f"/proc/{number}/fd").iterdir()),
            "threads": int(status["Threads"]),
        }
    return dict.fromkeys(("megabytes", "files", "threads"), 0)


def look_at(number: int) -> dict[str, Row]:
    """What a server takes, and what its children take."""
    parent, *children = serve.family_of(number)
    rows = [weigh(child) for child in children]
    own = weigh(parent)
    return {"own": own, "children": {key: sum(row[key] for row in rows) for key in own}}


def growth_of(rows: Sequence[Row]) -> dict[str, list[float]]:
    """What the two halves of some minutes hold, without the beginning of each."""
    middle = len(rows) // 2
    halves = [part[round(WARM * len(part)) :] for part in (rows[:middle], rows[middle:])]
    ways = {"megabytes": np.median, "files": np.min, "threads": np.min}
    return {
        key: [round(float(way([row[key] for row in half])), 1) for half in halves]
        for key, way in ways.items()
    }


def grown(what: str, rows: Sequence[Row]) -> tuple[dict[str, list[float]], list[str]]:
    """Growth, and what of it is too much, in words."""
    if len(rows) < 4:
        return {}, [f"{what}: only {len(rows)} looks"]
    found, wrong = growth_of(rows), []
    for key, (before, after) in found.items():
        most = max(MOST_MEGABYTES, MOST_SHARE * before) if key == "megabytes" else MOST_MORE
        if after - before > most:
            wrong.append(f"{what}: {key} {before} then {after}")
    return found, wrong


def judge(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Growth of each server in the lines of soak_minutes.jsonl, and what of it is too much."""
    life = rows[-1]["life"]
    series: dict[str, list[Row]] = {
        "serve": [row["serve"]["own"] for row in rows],
        "workers": [row["serve"]["children"] for row in rows],
        "label": [row["label"]["own"] for row in rows if row["life"] == life],
    }
    found, wrong = {}, []
    for name, looks in series.items():
        found[name], more = grown(name, looks)
        wrong += more
    if rows[-1]["temporaries"] > rows[0]["temporaries"]:
        wrong.append(f"temporaries: {[row['temporaries'] for row in rows]}")
    return found, wrong


class Rests:
    """Lets one who works in a thread rest while another looks: nothing is under way then."""

    def __init__(self) -> None:
        self._wanted, self._begun = threading.Event(), threading.Event()

    def rest(self, under_way: list[Any]) -> None:
        """Finish what is under way, and rest, if that is wanted."""
        if not self._wanted.is_set():
            return
        while under_way:
            under_way.pop().result()
        self._begun.set()
        while self._wanted.is_set():
            time.sleep(0.02)
        self._begun.clear()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let it rest meanwhile; one that has ended does."""
        self._wanted.set()
        self._begun.wait(MOST_WAIT)
        try:
            yield
        finally:
            self._wanted.clear()


class Served(Rests):
    """Requests to ``sppnet serve``, one by one in their own time.

    Args:
        options: Of the command.
        photos: Good ones.
        draw: Draws all of it.
    """

    def __init__(
        self, options: argparse.Namespace, photos: Sequence[bytes], draw: random.Random
    ) -> None:
        super().__init__()
        self.photos, self.draw = photos, draw
        self.seconds, self.kill_seconds = 1 / options.rate, options.kill_seconds
        self.wanted = dict(zip(photos, serve.expected_texts(options, photos), strict=True))
        self.bombs = [serve.png_of(50_000, 50_000), serve.png_of(13_000, 13_000)]
        self.greedy = serve.png_of(5000, 4990)
        self.server = serve.Server(*serve.command(options, *SLOW_MACHINE, "--memory", "300"))
        self.tally: Counter[str] = Counter()
        self.wrong = self.lost = self.kills = 0
        self.healed: list[float] = []  # seconds until all workers were there again

    def draw_job(self) -> tuple[str, bytes]:
        """What a client does next, and with which bytes."""
        way, photo = self.draw.choices(list(serve.WAYS), SHARES)[0], self.draw.choice(self.photos)
        if way == "damaged":
            photo = photo[: self.draw.randrange(10, len(photo) - 100)]
        return way, {"bomb": self.draw.choice(self.bombs), "greedy": self.greedy}.get(way, photo)

    def do(self, job: tuple[str, bytes]) -> None:
        """Send it, and judge the answer."""
        try:
            answer = serve.WAYS[job[0]](self.server.host, job[1])
        except LOST_LINE as error:
            self.tally[f"{job[0]} {type(error).__name__}"] += 1
            self.lost += 1
            return
        tally, wrong, lost = serve.judge([job], [answer], self.wanted)
        self.tally.update({f"{way} {status}": count for (way, status), count in tally.items()})
        self.wrong += wrong
        self.lost += lost

    def kill(self) -> None:
        """Kill a worker, and see how long it takes until there are as many as before."""
        workers = self.server.workers
        lost, count = self.server.figure("sppnet_workers_lost"), len(workers)
        begin = time.monotonic()
        os.kill(self.draw.choice(workers), signal.SIGKILL)
        self.kills += 1
        while (
            self.server.figure("sppnet_workers_lost") == lost
            or self.server.figure("sppnet_workers_ready") < count
        ) and time.monotonic() < begin + 120:
            time.sleep(0.1)
        self.healed.append(time.monotonic() - begin)

    def run(self, end: float, stop: threading.Event) -> None:
        """Ask until it is time."""
        due = time.monotonic() + self.draw.uniform(0.2, 0.8) * self.kill_seconds
        with ThreadPoolExecutor(4) as clients:
            at_once: list[Any] = []
            while time.monotonic() < end and not stop.is_set():
                self.rest(at_once)
                time.sleep(self.draw.expovariate(1 / self.seconds))
                if self.server.process.poll() is not None:
                    raise SystemExit("sppnet serve ended by itself")
                if time.monotonic() > due:
                    at_once.append(clients.submit(self.kill))
                    due += self.kill_seconds
                at_once.append(clients.submit(self.do, self.draw_job()))
                for each in [each for each in at_once if each.done()]:
                    at_once.remove(each)
                    each.result()  # what failed is told
                while len(at_once) > 3:  # a machine that is busy elsewhere
                    time.sleep(0.05)
                    at_once = [each for each in at_once if not each.done() or each.result()]

    def figures(self) -> dict[str, Any]:
        """What was asked, and what came."""
        return {
            "requests": self.tally.total(),
            "answers": dict(sorted(self.tally.items())),
            "killed": self.kills,
            "seconds_to_heal": [round(seconds, 1) for seconds in self.healed],
            "answers_wrong": self.wrong,
            "answers_lost_beyond_kills": max(0, self.lost - self.kills),
            "answers_500": sum(n for way, n in self.tally.items() if way.endswith("500")),
        }


class Labelled(Rests):
    """A person who labels, whose server is killed.

    Args:
        options: Of the command.
        folder: Gets photos and store.
        data: Boxes to draw.
        draw: Draws all of it.
    """

    def __init__(
        self, options: argparse.Namespace, folder: Path, data: DetectionDataset, draw: random.Random
    ) -> None:
        super().__init__()
        self.folder, self.draw, self.seconds = folder / "photos", draw, options.label_seconds
        self.kill_seconds = options.kill_seconds
        self.folder.mkdir()
        self.boxes: dict[str, list[dict[str, Any]]] = {}
        self.corners: dict[str, list[int]] = {}
        for number, image in enumerate(list(data)[:LABEL_PHOTOS]):
            content, share = small(image.path)
            name = f"{number:03}.jpg"
            (self.folder / name).write_bytes(content)
            width, height = Image.open(io.BytesIO(content)).size
            self.corners[name] = [width, height, width, height]
            self.boxes[name] = [
                {"box": self.within(name, (share * box).tolist()), "name": data.names[label]}
                for box, label in zip(image.boxes, image.labels.tolist(), strict=True)
            ]
        self.known: dict[str, Any] = {name: (0, []) for name in self.boxes}  # as acknowledged
        self.past: dict[str, list[Any]] = {name: [] for name in self.boxes}
        self.future: dict[str, list[Any]] = {name: [] for name in self.boxes}
        self.found: dict[tuple[str, str], Any] = {}  # suggestions by photo and model
        self.tally: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lost = self.kills = self.models = 0
        self.opening: list[float] = []  # seconds from a kill to the first answers
        self.server = self.open()

    def open(self) -> label_server.Server:
        """Start the server, and hear what it learns."""
        server = label_server.Server(self.folder, *TINY)
        server.listen()
        return server

    def expect(self, is_right: bool, words: str) -> None:
        """Note what is not as it should be."""
        if not is_right:
            self.faults.append(words[:300])

    def ask(self, what: str, *words: Any, right: int = 200) -> Any:
        """Ask, and judge the status."""
        status, said = self.server.send(*words)
        self.tally[f"{what} {status}"] += 1
        self.expect(status == right, f"{what} {words[:2]}: {status} {str(said)[:200]}")
        return said

    def check(self, photo: str, said: Any, revision: int, boxes: list[Any]) -> None:
        """What is said of a photo must be what was acknowledged last."""
        if (said.get("revision"), said.get("boxes")) != (revision, boxes):
            self.lost += 1
            self.expect(False, f"{photo}: {revision} {boxes} became {str(said)[:300]}")
        self.known[photo] = said["revision"], said["boxes"]

    def edit(self, photo: str, boxes: list[Any]) -> None:
        """Draw boxes, or say that there are none."""
        revision, before = self.known[photo]
        body = {"boxes": boxes, "empty": not boxes}
        said = self.ask("edit", "PUT", f"/api/photo/{photo}", body, revision)
        self.past[photo].append(before)
        self.future[photo].clear()
        self.check(photo, said, revision + 1, boxes)

    def step(self, photo: str, kind: str) -> None:
        """Undo or redo; where there is nothing to, it must be said so."""
        revision, before = self.known[photo]
        come, go = self.past[photo], self.future[photo]
        come, go = (come, go) if kind == "undo" else (go, come)
        words = "POST", f"/api/photo/{photo}/{kind}", {}, revision
        if not come:
            self.ask(f"no {kind}", *words, right=409)
            return
        said = self.ask(kind, *words)
        go.append(before)
        self.check(photo, said, revision + 1, come.pop())

    def moved(self, photo: str) -> list[Any]:
        """The boxes of a photo, each moved a little."""
        return [
            {**each, "box": self.within(photo, [x + self.draw.uniform(-3, 3) for x in each["box"]])}
            for each in self.boxes[photo]
        ]

    def within(self, photo: str, box: Sequence[float]) -> list[float]:
        """A box as it may be drawn: not beyond the photo, which the server would clip."""
        most = self.corners[photo]
        return [min(max(0.0, round(x, 2)), float(m)) for x, m in zip(box, most, strict=True)]

    def act(self, what: str) -> None:
        """Do one thing that a page does."""
        photo = self.draw.choice(list(self.boxes))
        revision, boxes = self.known[photo]
        if what == "list":
            items = self.ask(what, "GET", "/api/photos?limit=500")["items"]
            said = {each["photo"]: each["revision"] for each in items}
            self.expect(said == {name: known[0] for name, known in self.known.items()}, "list")
        elif what == "photo":
            self.check(photo, self.ask(what, "GET", f"/api/photo/{photo}"), revision, boxes)
        elif what == "suggestions":
            said = self.ask(what, "GET", f"/api/photo/{photo}/suggestions")
            if not said["withheld"] and said["model"]:
                first = self.found.setdefault((photo, said["model"]), said["items"])
                self.expect(first == said["items"], f"{photo}: one model suggests two things")
        elif what == "picture":
            data = self.ask(what, "GET", f"/{self.draw.choice(['image', 'thumb'])}/{photo}")
            self.expect(data[:2] == b"\xff\xd8", "no JPEG")
        elif what == "edit":
            self.edit(photo, self.moved(photo))
        elif what == "empty":
            self.edit(photo, [])
        elif what in ("undo", "redo"):
            self.step(photo, what)
        elif what == "refit":
            self.ask(what, "POST", "/api/refit", {}, right=202)
        elif what == "export":
            layout = self.draw.choice(["voc", "coco", "yolo", "csv"])
            self.ask(what, "GET", f"/api/export?layout={layout}")
        elif what == "conflict":
            body = {"boxes": [], "empty": True}
            self.ask(what, "PUT", f"/api/photo/{photo}", body, revision + 7, right=409)
        elif what == "nonsense":
            body = {"boxes": [{"box": [1, 2, 3], "name": ""}]}
            self.ask(what, "PUT", f"/api/photo/{photo}", body, revision, right=400)
        else:
            self.ask(what, "GET", f"/api/{what}")

    def kill(self) -> None:
        """Kill the server while it writes an edit; nothing that was acknowledged may be gone."""
        photo = self.draw.choice(list(self.boxes))
        revision, before = self.known[photo]
        boxes = self.moved(photo)
        killer = threading.Timer(self.draw.uniform(0, 0.03), self.server.process.kill)
        killer.start()
        with suppress(*LOST_LINE):
            self.edit(photo, boxes)
        killer.join()
        self.server.process.wait(60)
        self.kills += 1
        self.models += len(self.server.models)
        begin = time.monotonic()
        self.server = self.open()
        said = self.ask("photo", "GET", f"/api/photo/{photo}")
        self.opening.append(time.monotonic() - begin)
        if self.known[photo] == (revision, before) and said["revision"] == revision + 1:
            self.known[photo] = revision + 1, boxes  # written, but there was no time to say so
            self.past[photo].append(before)
            self.future[photo].clear()
        for name, (number, held) in self.known.items():
            self.check(name, self.ask("photo", "GET", f"/api/photo/{name}"), number, held)

    def run(self, end: float, stop: threading.Event) -> None:
        """Label until it is time; the last half without being killed."""
        begin = time.monotonic()
        due = begin + self.draw.uniform(0.2, 0.8) * self.kill_seconds
        for photo in list(self.boxes)[: LABEL_PHOTOS // 2]:
            self.edit(photo, self.boxes[photo])
        while time.monotonic() < end and not stop.is_set():
            self.rest([])
            time.sleep(self.draw.expovariate(1 / self.seconds))
            if self.server.process.poll() is not None:
                raise SystemExit("sppnet label ended by itself")
            if due < time.monotonic() < begin + (end - begin) / 2:
                self.kill()
                due += self.kill_seconds
            what = self.draw.choices(list(ACTIONS), ACTIONS.values())[0]
            try:
                self.act(what)
            except LOST_LINE as error:
                self.expect(False, f"{what}: {type(error).__name__}")
        state = self.ask("session", "GET", "/api/session")["state"]
        self.expect(state["phase"] != "failed", f"the session failed: {state['message']}")
        self.models += len(self.server.models)
        self.expect(self.models > 0, "no model was ever told")

    def figures(self) -> dict[str, Any]:
        """What was done, and what came."""
        return {
            "requests": self.tally.total(),
            "answers": dict(sorted(self.tally.items())),
            "killed": self.kills,
            "seconds_to_open": [round(seconds, 1) for seconds in self.opening],
            "models": self.models,
            "edits_lost": self.lost,
            "faults": self.faults[:20],
        }


class Soak:
    """Both at once, looked at every minute.

    Args:
        served: One server and its clients.
        labelled: The other.
        place: Where lines go.
        seconds: Between two looks.
    """

    def __init__(self, served: Served, labelled: Labelled, place: Path, seconds: float) -> None:
        self.served, self.labelled, self.place, self.seconds = served, labelled, place, seconds
        self.rows: list[dict[str, Any]] = []

    def look(self, begin: float) -> None:
        """Write one line."""
        row = {
            "seconds": round(time.monotonic() - begin, 1),
            "serve": look_at(self.served.server.process.pid),
            "label": look_at(self.labelled.server.process.pid),
            "life": self.labelled.kills,
            "requests": [self.served.tally.total(), self.labelled.tally.total()],
            "temporaries": sum(1 for _ in Path(tempfile.gettempdir()).rglob("*")),
        }
        self.rows.append(row)
        with (self.place / "soak_minutes.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")

    def run(self, end: float) -> None:
        """Let both run."""
        begin, stop = time.monotonic(), threading.Event()
        with ThreadPoolExecutor(2) as threads:
            both = [threads.submit(each.run, end, stop) for each in (self.served, self.labelled)]
            try:
                while not all(each.done() for each in both):
                    wait(both, self.seconds, FIRST_EXCEPTION)
                    if any(each.done() for each in both):
                        break
                    with self.served.resting(), self.labelled.resting():
                        time.sleep(0.5)  # connections end
                        self.look(begin)
            finally:
                stop.set()  # whatever ended one, the other need not go on
            for each in both:
                each.result()


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run both servers; what was found."""
    data = open_detection_dataset(options.data, "train")
    photos = [small(image.path)[0] for image in list(data)[:100]]
    temporaries = folder / "temporaries"
    temporaries.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporaries)
    served = Served(options, photos, random.Random(f"serve {options.seed}"))
    labelled = Labelled(options, folder, data, random.Random(f"label {options.seed}"))
    both = Soak(served, labelled, options.out, options.every)
    begin = time.monotonic()
    try:
        both.run(begin + 3600 * options.hours)
    finally:
        for process in (served.server.process, labelled.server.process):
            process.terminate()
        codes = [p.wait(120) for p in (served.server.process, labelled.server.process)]
    ended = [] if codes == [143, 143] else [f"ended with {codes}"]
    seconds = time.monotonic() - begin
    return tell(served.figures(), labelled.figures(), ended, both.rows, seconds)


def tell(
    requests: dict[str, Any],
    label: dict[str, Any],
    ended: list[str],
    rows: Sequence[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """All figures."""
    growth, grew = judge(rows)
    wrong = [*ended, *grew, *label["faults"]]
    return {
        "hours": round(seconds / 3600, 2),
        "requests": [requests["requests"], label["requests"]],
        "killed": [requests["killed"], label["killed"]],
        "answers_wrong": requests["answers_wrong"],
        "answers_lost_beyond_kills": requests["answers_lost_beyond_kills"],
        "answers_500": requests["answers_500"],
        "edits_lost": label["edits_lost"],
        "wrong": len(wrong),
        "megabytes": {name: each.get("megabytes") for name, each in growth.items()},
        "seconds": round(seconds, 1),
        "each": {"serve": requests, "label": label, "growth": growth, "wrong": wrong},
    }


def judge_again(folder: Path) -> dict[str, Any]:
    """Judge what an earlier run left."""
    found = json.loads((folder / "soak.json").read_text())
    lines = (folder / "soak_minutes.jsonl").read_text().splitlines()
    each = found["each"]
    ended = [words for words in each["wrong"] if words.startswith("ended with")]
    rows = [json.loads(line) for line in lines]
    return tell(each["serve"], each["label"], ended, rows, found["seconds"])


def main() -> None:
    """Soak, print, keep; leave with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("DIR"), help="A detection set.")
    parser.add_argument("--model", type=Path, default=Path("RUN/model"), help="A detector.")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=1.0, help="Requests a second, of serve.")
    parser.add_argument("--label-seconds", type=float, default=3.0, help="Between two, of label.")
    parser.add_argument("--kill-seconds", type=float, default=420.0, help="Between two kills.")
    parser.add_argument("--every", type=float, default=60.0, help="Seconds between two looks.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", action="store_true", help="What is in --out, again.")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.judge:
        found = judge_again(options.out)
    else:
        (options.out / "soak_minutes.jsonl").unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as name:
            found = soak(options, Path(name))
    print(json.dumps(found, indent=2))
    write_json(options.out / "soak.json", {**found, "environment": environment()})
    faults = ("answers_wrong", "answers_lost_beyond_kills", "answers_500", "edits_lost", "wrong")
    sys.exit(1 if any(found[name] for name in faults) else 0)


if __name__ == "__main__":
    main()
