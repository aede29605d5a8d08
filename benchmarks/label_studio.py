r"""A real Label Studio learns through `sppnet serve --label-studio`, and how fast.

    python benchmarks/label_studio.py --data DIR --venv FOLDER

Installs Label Studio from PyPI into FOLDER (half a gigabyte, minutes; once), starts it and our
server, both on 127.0.0.1, and does over Label Studio's interface what a person does: a project,
photos from a folder of this machine and one that is uploaded, the server as its model, boxes photo
by photo (those of DIR, a set in any layout with a split ``train``). Measured: seconds from the 20th
box saved until the next task has suggestions, and until they are of a model that has learnt that
box. Then a box is corrected, an annotation is deleted, training is started by hand, photos are
annotated while our server is down; the store must say the same each time. Leaves
label_studio.json in the folder of ``--out``.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sppnet.geometry import box_iou
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.storage import LabelStore, write_json
from sppnet.storage.runs import environment

VERSION = "1.23.2"
USER, PASSWORD, KEY = (
    "person@example.com",
    "a-Password-1",
    "0" * 40,
)  # of a studio that lives minutes
TOKEN = "benchmark-token-0123456789"
BOXES, LOOKED_AT = 20, 6
START_SECONDS = 1200  # Label Studio's first start writes its database


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def install(venv: Path) -> None:
    """Put Label Studio into an environment of its own, unless it is there."""
    if (venv / "bin" / "label-studio").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    package = f"label-studio=={VERSION}"
    subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", package], check=True)


class Studio:
    """Label Studio's interface, as the page of it asks."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request; what it answers."""
        data = None if body is None else json.dumps(body).encode()
        return self._send(method, path, data, "application/json")

    def upload(self, project: int, photo: Path) -> Any:
        """Upload a photo, as the import page does."""
        edge = uuid.uuid4().hex
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{photo.name}"\r\n'
        )
        data = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + photo.read_bytes()
        kind = f"multipart/form-data; boundary={edge}"
        path = f"/api/projects/{project}/import"
        return self._send("POST", path, data + f"\r\n--{edge}--\r\n".encode(), kind)

    def _send(self, method: str, path: str, data: bytes | None, kind: str) -> Any:
        headers = {"Authorization": f"Token {KEY}", "Content-Type": kind}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read()[:500]!r}") from None
        return json.loads(text) if text else None

    def next_task(self, project: int) -> dict[str, Any]:
        """The task that the labelling page opens next, with what is suggested for it."""
        return dict(self.ask("GET", f"/api/projects/{project}/next"))


@contextlib.contextmanager
def running_studio(venv: Path, data: Path, photos: Path) -> Iterator[Studio]:
    """Run Label Studio meanwhile; its first database is kept beside the environment."""
    made = venv / "first-data"
    if made.exists():
        shutil.copytree(made, data)
    port = free_port()
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(photos.parent),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
    }
    words = ["start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    words += ["--username", USER, "--password", PASSWORD, "--user-token", KEY]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SPPNET"))}
    with (
        (data.parent / "label-studio.log").open("wb") as log,
        running([venv / "bin" / "label-studio", *words], log, {**clean, **settings}),
    ):
        studio = Studio(port)
        wait_for(lambda: answers(f"{studio.address}/health"), START_SECONDS, 1.0)
        if not made.exists():
            time.sleep(2)  # nothing is written to it now
            shutil.copytree(data, made)
        yield studio


@contextlib.contextmanager
def running_ours(photos: Path, port: int, log: Path) -> Iterator[int]:
    """Run our server meanwhile; its process."""
    words = [sys.executable, "-m", "sppnet", "serve", photos, "--label-studio", "--port", port]
    with log.open("ab") as file, running(words, file, {**os.environ, "SPPNET_TOKEN": TOKEN}) as one:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health", (200, 401)), 120)
        yield one.pid


@contextlib.contextmanager
def running(words: list[Any], log: Any, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program meanwhile."""
    process = subprocess.Popen([*map(str, words)], stdout=log, stderr=log, env=env)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(address: str, statuses: tuple[int, ...] = (200,)) -> bool:
    """Whether somebody answers there."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status in statuses
    except urllib.error.HTTPError as error:
        return error.code in statuses
    except OSError:
        return False


def wait_for(fact: Any, seconds: float, rest: float = 0.05) -> Any:
    """Wait until something is true, looking now and then."""
    end = time.perf_counter() + seconds
    while not (value := fact()):
        if time.perf_counter() > end:
            raise SystemExit("it did not get there in time")
        time.sleep(rest)
    return value


class Person:
    """Labels tasks with the boxes that a set has."""

    def __init__(self, studio: Studio, dataset: DetectionDataset, names: list[str]) -> None:
        self.studio, self.dataset = studio, dataset
        self.images = {Path(image.path).name: image for image in dataset.images}
        labels = "".join(f'<Label value="{name}"/>' for name in names)
        config = '<View><Image name="image" value="$image"/><RectangleLabels name="label" '
        config += f'toName="image">{labels}</RectangleLabels></View>'
        made = studio.ask("POST", "/api/projects", {"title": "cards", "label_config": config})
        self.project = int(made["id"])

    def image_of(self, task: dict[str, Any]) -> LabelledImage:
        """What the set says of the photo of a task."""
        name = task["data"]["image"].rpartition("/")[2]
        return self.images[name if name in self.images else name[9:]]  # of an upload

    def results(self, task: dict[str, Any], shift: float = 0.0) -> list[dict[str, Any]]:
        """The boxes of a task's photo, as the page of Label Studio sends them."""
        image = self.image_of(task)
        height, width = image.size_hw
        rows = zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
        return [
            {
                "id": uuid.uuid4().hex[:10], "type": "rectanglelabels", "from_name": "label",
                "to_name": "image", "original_width": width, "original_height": height,
                "image_rotation": 0, "origin": "manual",
                "value": {"x": 100 * x1 / width + shift, "y": 100 * y1 / height, "rotation": 0,
                          "width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height,
                          "rectanglelabels": [self.dataset.names[label]]},
            }
            for (x1, y1, x2, y2), label in rows
        ]  # fmt: skip

    def annotate(self, task: dict[str, Any]) -> dict[str, Any]:
        """Submit the boxes of a task; the annotation."""
        body = {"result": self.results(task), "lead_time": 5.0}
        return dict(self.studio.ask("POST", f"/api/tasks/{task['id']}/annotations", body))

    def recall(self, task: dict[str, Any], prediction: dict[str, Any]) -> tuple[int, int]:
        """How many of the boxes of a task are suggested, and how many there are."""
        image = self.image_of(task)
        found = list(map(pixels, prediction["result"]))
        if not found:
            return 0, len(image.boxes)
        overlaps = box_iou(image.boxes.float(), image.boxes.new_tensor(found).float())
        names = [self.dataset.names[label] for label in image.labels.tolist()]
        said = [each["value"]["rectanglelabels"][0] for each in prediction["result"]]
        hits = [
            any(overlaps[row, column] >= 0.5 and name == other for column, other in enumerate(said))
            for row, name in enumerate(names)
        ]
        return sum(hits), len(hits)


def pixels(result: dict[str, Any]) -> list[float]:
    """Corners of a box of Label Studio."""
    value, width, height = result["value"], result["original_width"], result["original_height"]
    x, y = value["x"] * width / 100, value["y"] * height / 100
    return [x, y, x + value["width"] * width / 100, y + value["height"] * height / 100]


def edit_of(version: str) -> int:
    """The number of the last edit of the store that a model has learnt."""
    match = re.match(r"\w+ (\d+)\.", version)
    return int(match[1]) if match else 0


def newest(task: dict[str, Any]) -> dict[str, Any]:
    """The prediction that came last; empty if there is none."""
    return max(task["predictions"], key=lambda each: each["id"], default={"result": []})


def check(fact: bool, text: str) -> None:
    """End with what is wrong."""
    if not fact:
        raise SystemExit(f"not as it must be: {text}")


def label_and_measure(
    person: Person, store: Path, process: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Label until there are 20 boxes, then see how long suggestions take."""
    saved, boxes, photos = [], 0, 0
    while boxes < BOXES:
        task = person.studio.next_task(person.project)
        time.sleep(options.pace)  # a person draws
        begin = time.perf_counter()
        made = person.annotate(task)
        saved.append(time.perf_counter() - begin)
        boxes, photos = boxes + len(made["result"]), photos + 1
    last, used = time.perf_counter(), processor(process)
    with LabelStore(store) as kept:
        edit = kept.changed_since(0)[1]
        labelled = kept.count_labelled()
    check(labelled == photos, f"{labelled} of {photos} photos reached the store")
    first = seconds = 0.0
    while not seconds:
        task = person.studio.next_task(person.project)
        prediction = newest(task)
        first = first or (time.perf_counter() - last if prediction["result"] else 0.0)
        if prediction["result"] and edit_of(prediction["model_version"]) >= edit:
            seconds, used = time.perf_counter() - last, processor(process) - used
        check(time.perf_counter() - last < 300, "no suggestions for the next task")
        time.sleep(0.1)
    return {
        "boxes": boxes,
        "photos_labelled": photos,
        "annotation_answered_seconds": round(max(saved), 2),
        "suggestions_after_seconds": round(first, 2),
        "suggestions_that_know_the_box_after_seconds": round(seconds, 2),
        "processor_seconds_of_ours_until_then": round(used, 2),
        "model_version": prediction["model_version"],
        "score": prediction["score"],
    }


def look_at_others(person: Person) -> dict[str, Any]:
    """Ask for predictions for the next tasks, as the page "Retrieve Predictions" does."""
    begin = time.perf_counter()
    path = f"/api/tasks?project={person.project}&fields=all&page_size=500"
    tasks = [task for task in person.studio.ask("GET", path)["tasks"] if not task["is_labeled"]]
    tasks = tasks[:LOOKED_AT]
    chosen = {"all": False, "included": [task["id"] for task in tasks]}
    action = f"/api/dm/actions?id=retrieve_tasks_predictions&project={person.project}"
    person.studio.ask("POST", action, {"selectedItems": chosen})
    hits = total = 0
    for task in tasks:
        whole = person.studio.ask("GET", f"/api/tasks/{task['id']}")
        one, all_ = person.recall(whole, newest(whole))
        hits, total = hits + one, total + all_
    check(hits > 0, "none of the boxes of the next tasks is suggested")
    seconds = round(time.perf_counter() - begin, 2)
    return {"next_tasks": len(tasks), "their_boxes": total, "suggested": hits,
            "seconds_for_all": seconds}  # fmt: skip


def correct_and_delete(person: Person, store: Path) -> int:
    """Move a box, delete an annotation, annotate the upload; the store follows. Photos labelled."""
    studio = person.studio
    path = f"/api/tasks?project={person.project}&fields=all&page_size=500"
    tasks = studio.ask("GET", path)["tasks"]
    first, second = [task for task in tasks if task["is_labeled"]][:2]
    number = first["annotations"][0]["id"]
    moved = person.results(first, shift=1.0)
    studio.ask("PATCH", f"/api/annotations/{number}", {"result": moved})
    studio.ask("DELETE", f"/api/annotations/{second['annotations'][0]['id']}")
    upload = next(task for task in tasks if "/upload/" in task["data"]["image"])
    person.annotate(upload)
    with LabelStore(store) as kept:
        labels = kept.labels(person.image_of(first).path.name)
        width = person.image_of(first).size_hw[1]
        check(abs(labels.boxes[0].corners[0] - moved[0]["value"]["x"] * width / 100) < 0.01,
              "a corrected box")  # fmt: skip
        gone = kept.labels(person.image_of(second).path.name)
        check(gone.state == "unlabelled", "a deleted annotation")
        check(kept.labels(person.image_of(upload).path.name).state == "labelled", "an upload")
        return kept.count_labelled()


def annotate_while_down(person: Person) -> dict[str, Any]:
    """Annotate a photo that nobody hears of; its task."""
    path = f"/api/tasks?project={person.project}&fields=all&page_size=500"
    tasks = person.studio.ask("GET", path)["tasks"]
    task = next(task for task in tasks if not task["is_labeled"])
    person.annotate(task)
    return dict(task)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    install(options.venv)
    dataset = open_detection_dataset(options.data, "train")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        photos = folder / "set" / "photos"
        photos.mkdir(parents=True)
        images = dataset.images[: options.photos]
        for image in images:
            shutil.copyfile(image.path, photos / image.path.name)
        store, log = photos / ".sppnet", folder / "sppnet.log"
        with running_studio(options.venv, folder / "data", photos) as studio:
            person = Person(studio, dataset, list(dataset.names))
            with running_ours(photos, port, log) as process:
                address = f"http://studio:{TOKEN}@127.0.0.1:{port}"
                about = {"url": address, "title": "sppnet", "project": person.project}
                model = studio.ask("POST", "/api/ml", about)
                storage = {"project": person.project, "path": str(photos), "use_blob_urls": True,
                           "regex_filter": r".*(jpe?g|JPE?G|png)"}  # fmt: skip
                made = studio.ask("POST", "/api/storages/localfiles", storage)
                studio.ask("POST", f"/api/storages/localfiles/{made['id']}/sync", {})
                found = label_and_measure(person, store, process, options)
                found |= look_at_others(person)
                studio.upload(person.project, images[-1].path)
                labelled = correct_and_delete(person, store)
                studio.ask("POST", f"/api/ml/{model['id']}/train", {})
                found["memory_megabytes"] = megabytes(process)
            missed = annotate_while_down(person)
            with running_ours(photos, port, log):
                chosen = {"all": True, "excluded": []}
                action = f"/api/dm/actions?id=retrieve_tasks_predictions&project={person.project}"
                studio.ask("POST", action, {"selectedItems": chosen})
                with LabelStore(store) as kept:
                    check(kept.count_labelled() == labelled + 1, "what was annotated meanwhile")
                    label = kept.labels(person.image_of(missed).path.name)
                    check(label.state == "labelled", "a photo that was annotated meanwhile")
        said = [line for line in log.read_text(encoding="utf-8").splitlines() if "left out" in line]
        check(not said, str(said[:3]))
        return {
            "label_studio": VERSION,
            "photos": len(images),
            "pace_seconds": options.pace,
            **found,
        }


def megabytes(process: int) -> float:
    """Memory of a process (resident)."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1000


def processor(process: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Parse, run, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a set with boxes")
    parser.add_argument("--venv", type=Path, required=True, help="environment of Label Studio")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--pace", type=float, default=5.0, help="seconds of a person for a photo")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    figures = run(options)
    print(json.dumps(figures, indent=1))
    write_json(options.out / "label_studio.json", {**figures, "environment": environment()})


if __name__ == "__main__":
    main()
