"""``sppnet label`` as a process on loopback: labels survive a kill, nothing leaves the machine."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from image_files import write_image
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.storage.label_store import LabelStore

TINY = ["--backbone", "small5", "--weights", "none", "--imgsz", "96", "--proposals", "grid"]
WRITES = {"X-Sppnet": "1", "Content-Type": "application/json"}


@contextmanager
def running(photos: Path, *words: str) -> Iterator[SimpleNamespace]:
    """The command, and a way to ask it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sppnet", "label", str(photos), "--no-browser", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        address = process.stdout.readline().strip()
        host = address.removeprefix("http://").strip("/")
        yield SimpleNamespace(process=process, host=host, ask=lambda *a, **k: ask(host, *a, **k))
    finally:
        process.kill()
        process.communicate()


def ask(host: str, method: str, path: str, body=None, revision=None, **headers: str):
    """Send one request; status and JSON."""
    connection = http.client.HTTPConnection(host, timeout=120)
    if method != "GET":
        headers = {**WRITES, **headers}
    if revision is not None:
        headers["If-Match"] = f'"{revision}"'
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    kind = answer.headers.get_content_type()
    return answer.status, json.loads(text) if text and kind == "application/json" else text


def hear(host: str, wanted: str, seconds: float = 120.0):
    """The data of the first event of a name."""
    connection = http.client.HTTPConnection(host, timeout=seconds)
    connection.request("GET", "/api/events")
    answer = connection.getresponse()
    event = ""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        line = answer.readline().decode().strip()
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: ") and event == wanted:
            connection.close()
            return json.loads(line[6:])
    raise AssertionError(f"no event {wanted}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_detection_set(tmp_path / "drawn", 4, seed=0) / "JPEGImages"


def test_a_killed_server_has_lost_nothing(photos: Path) -> None:
    with running(photos, *TINY, "--author", "Ann") as first:
        assert first.host.startswith("127.0.0.1:")
        _, listed = first.ask("GET", "/api/photos")
        names = [item["photo"] for item in listed["items"]]
        body = {"boxes": [{"box": [9, 9, 60, 60], "name": "thing"}]}
        status, made = first.ask("PUT", f"/api/photo/{quote(names[0])}", body, revision=0)
        assert (status, made["revision"]) == (200, 1)
        model = hear(first.host, "model")
        assert model["labelled"] == 1
        status, _ = first.ask(
            "PUT", f"/api/photo/{names[1]}", {"boxes": [], "empty": True}, revision=0
        )
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with LabelStore(photos / ".sppnet") as store:
        assert [each.author for each in store.every()] == ["Ann", "Ann"]
    with running(photos, *TINY) as second:
        status, found = second.ask("GET", f"/api/photo/{names[0]}")
        assert found["boxes"] == [{"box": [9.0, 9.0, 60.0, 60.0], "name": "thing"}]
        assert found["can_undo"]
        assert second.ask("GET", "/api/session")[1]["state"]["labelled"] == 2
        assert second.ask("GET", "/api/session", Host="evil.example")[0] == 403
        second.process.send_signal(signal.SIGTERM)
        _, said = second.process.communicate(timeout=120)
        assert second.process.returncode == 143
        assert "stopped; every edit is on the disk" in said
        assert "Traceback" not in said


def test_labels_of_another_program_are_taken_over_once(photos: Path) -> None:
    root = photos.parent
    with running(root, *TINY) as plain:
        assert plain.ask("GET", "/api/session")[1]["state"]["labelled"] == 0
        plain.process.send_signal(signal.SIGTERM)
        _, said = plain.process.communicate(timeout=120)
        assert f"--labels {str(root)!r} begins with them" in said
    with running(root, *TINY, "--labels", str(root)) as first:
        assert first.ask("GET", "/api/session")[1]["state"]["labelled"] == 4
        name = first.ask("GET", "/api/photos")[1]["items"][0]["photo"]
        status, found = first.ask("GET", f"/api/photo/{quote(name)}")
        truth = {image.path.name: image for image in open_detection_dataset(root)}
        image = truth[Path(name).name]
        assert [each["box"] for each in found["boxes"]] == image.boxes.tolist()
        body = {"boxes": [], "empty": True}
        status, _ = first.ask("PUT", f"/api/photo/{quote(name)}", body, revision=1)
        assert status == 200
    with running(root, *TINY, "--labels", str(root)) as again:  # the same command goes on
        assert again.ask("GET", f"/api/photo/{quote(name)}")[1]["boxes"] == []


def test_labels_that_do_not_fit_are_one_line(photos: Path, tmp_path: Path) -> None:
    other = draw_detection_set(tmp_path / "other", 2, seed=1)
    for path in (other / "JPEGImages").iterdir():
        path.rename(path.with_stem("other_" + path.stem))
    for words in (
        ["--labels", str(tmp_path / "nowhere")],
        ["--labels", str(other)],
        ["--labels", str(photos.parent), "--task", "classify"],
    ):
        with running(photos, *TINY, *words) as failed:
            _, said = failed.process.communicate(timeout=120)
        assert failed.process.returncode in (2, 4), said
        assert said.count("error:") == 1, said


def test_a_taken_port_and_folders_without_photos_are_one_line(tmp_path: Path, photos: Path) -> None:
    write_image(tmp_path / "one" / "a.jpg") if (tmp_path / "one").mkdir() is None else None
    with running(tmp_path / "one", *TINY) as first:
        port = first.host.rpartition(":")[2]
        done = run(photos, "--port", port)
        assert (done.returncode, len(done.stderr.splitlines())) == (6, 1)
        assert f"port {port}" in done.stderr
    (tmp_path / "none").mkdir()
    for folder, code in ((tmp_path / "none", 4), (tmp_path / "gone", 2)):
        done = run(folder)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
        assert not (folder / ".sppnet").exists()
    done = run(photos, "--task", "dance")
    assert "detect or classify" in done.stderr


def run(photos: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sppnet", "label", str(photos), "--no-browser", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_whole_photos_are_named_and_the_model_is_one_of_classify(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        write_image(tmp_path / "photos" / f"{number}.jpg", seed=number)
    small = ["--task", "classify", "--backbone", "small5", "--weights", "none", "--imgsz", "48"]
    with running(tmp_path / "photos", *small) as server:
        for number, name in enumerate(["cat", "dog"]):
            body = {"names": [name], "empty": False}
            assert server.ask("PUT", f"/api/photo/{number}.jpg", body, revision=0)[0] == 200
        end = time.monotonic() + 60
        items = []
        while not items and time.monotonic() < end:
            _, found = server.ask("GET", "/api/photo/3.jpg/suggestions")
            items = found["items"]
            time.sleep(0.2)
        assert {item["name"] for item in items} == {"cat", "dog"}
        assert sum(item["confidence"] for item in items) == pytest.approx(1.0)
        server.ask("POST", "/api/run", {})
        job = {"url": None}
        while not job["url"]:
            job = hear(server.host, "job")
            assert not job["error"]
        assert server.ask("GET", job["url"])[0] == 200
        assert server.ask("GET", "/report/1/predictions.csv")[0] == 200
