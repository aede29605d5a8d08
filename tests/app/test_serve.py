"""``sppnet serve`` as a process: its answers are the command's, and it ends as it should."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from image_files import photo
from small_photos import draw_folders
from sppnet import Detector
from sppnet.app.main import load_command, main
from sppnet.evaluation import OperatingPoints, ScoreCalibration
from sppnet.images import draw_detection_set
from sppnet.progress import no_tracking

TINY = {"backbone": "small5", "weights": "none", "imgsz": (96,), "proposals": "grid"}
SOON = 120.0  # seconds on a busy machine
TOKEN = "a-token-of-some-letters"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of several sizes, formats and turns."""
    folder = draw_detection_set(tmp_path_factory.mktemp("drawn"), 3, seed=1) / "JPEGImages"
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(90, 60, 5).save(folder / "turned.jpg", exif=turned)
    photo(41, 200, 6).save(folder / "wide.png")
    photo(7, 5, 7).convert("RGBA").save(folder / "small.webp", lossless=True)
    return folder


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two detectors; the first has an operating point."""
    folder = tmp_path_factory.mktemp("detectors")
    draw_detection_set(folder / "set", 4, seed=0)
    for number, name in enumerate(["one", "two"]):
        detector = Detector.fit(folder / "set", **TINY, seed=number, track=no_tracking)
        if number == 0:
            count, right = len(detector.names), [False, True] * 20
            calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, right, count)
            points = ((-0.5,) * count, calibration, "val", 9, (9,) * count)
            detector.operating_points = OperatingPoints(*points)
        detector.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    draw_folders(folder / "data", 4)
    words = ["classify", "fit", str(folder / "data"), "--out", str(folder / "run")]
    assert main([*words, "--backbone", "small5", "--weights", "none", "--imgsz", "64"]) == 0
    return folder / "run" / "model"


def words_of(*words: object) -> list[str]:
    return [sys.executable, "-m", "sppnet", "serve", *map(str, words)]


@contextmanager
def running(*words: object, **variables: str) -> Iterator[SimpleNamespace]:
    """The command, and a way to ask it."""
    process = subprocess.Popen(
        words_of(*words, "--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **variables},
    )  # fmt: skip
    try:
        host = process.stdout.readline().strip().removeprefix("http://").strip("/")
        assert host, process.communicate()[1]
        yield SimpleNamespace(process=process, host=host)
    finally:
        process.kill()
        process.communicate()


def ask(server, method: str, path: str, body: bytes | None = None, **headers: str):
    """Send one request: status and text."""
    connection = http.client.HTTPConnection(server.host, timeout=SOON)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def predict(server, path: Path):
    return ask(server, "POST", "/v1/predict", path.read_bytes(), **{"Content-Type": "image/jpeg"})


def send_all(server, paths: list[Path]):
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="photo"; filename="%s"\r\n\r\n%s\r\n'
        % (path.name.encode(), path.read_bytes())
        for path in paths
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return ask(server, "POST", "/v1/predict", body + b"--x--\r\n", **kind)


def entries_of_command(out: Path, words: list[str]) -> list[str]:
    """The lines of detections.json, one for each detection."""
    done = subprocess.run(
        [sys.executable, "-m", "sppnet", "detect", "predict", *words, "--out", str(out),
         "--threads", "1"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (out / "detections.json").read_text()
    return text.strip().removeprefix("[").removesuffix("]").split(",\n")


@pytest.mark.parametrize("more", [[], ["--combine", "two"], ["--nms", "hard", "--flip"]], ids=str)
def test_a_detectors_answers_are_those_of_the_command_to_the_letter(
    detectors: Path, photos: Path, tmp_path: Path, more: list[str]
) -> None:
    more = [str(detectors / word) if word == "two" else word for word in more]
    model = str(detectors / "one")
    expected = entries_of_command(tmp_path / "out", [model, str(photos), *more])
    paths = sorted(photos.iterdir())
    with running(model, *more, "--workers", 2) as server:
        status, text = send_all(server, paths)
        assert status == 200
        found = json.loads(text)
        assert [image["file"] for image in found["images"]] == [path.name for path in paths]
        entries = [json.dumps(each) for image in found["images"] for each in image["detections"]]
        assert len(entries) > 20
        assert sorted(entries) == sorted(expected)
        assert all(entry in text for entry in expected)  # as they stand in the file
        assert ("confidence" in entries[0]) == (not more or more[0] != "--combine")
        sizes = {image["file"]: (image["width"], image["height"]) for image in found["images"]}
        assert sizes["turned.jpg"] == (90, 60)
        for _ in range(3):  # whichever worker looks, and in whatever company
            alone = json.loads(predict(server, paths[0])[1])["images"][0]["detections"]
            boxes = [(each["bbox"], each["score"]) for each in alone]
            first = found["images"][0]["detections"]
            assert boxes == [(each["bbox"], each["score"]) for each in first]


@pytest.mark.parametrize("more", [[], ["--top", "2"]], ids=str)
def test_a_classifiers_answers_are_those_of_the_command(
    classifier: Path, photos: Path, tmp_path: Path, more: list[str]
) -> None:
    words = [str(classifier), str(photos), "--out", str(tmp_path / "out"), "--threads", "1", *more]
    done = subprocess.run([sys.executable, "-m", "sppnet", "classify", "predict", *words],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    paths = [Path(each["path"]) for each in expected]
    with running(classifier, *more, "--workers", 1) as server:
        found = json.loads(send_all(server, paths)[1])["images"]
        about = json.loads(ask(server, "GET", "/v1/model")[1])
    for image, record in zip(found, expected, strict=True):
        assert {k: v for k, v in image.items() if k not in ("width", "height")} == {
            k: v for k, v in record.items() if k != "path"
        }
    assert (about["kind"], len(about["names"])) == ("classifier", 4)


def test_photos_of_strangers(detectors: Path, photos: Path, tmp_path: Path) -> None:
    Image.new("1", (50_000, 600)).save(tmp_path / "bomb.png")
    whole = sorted(photos.glob("*.jpg"))[0]
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:3000])
    Image.new("RGB", (4000, 4000)).save(tmp_path / "greedy.png")
    with running(detectors / "one", "--workers", 1, "--memory", 100) as server:
        wanted = {"bomb.png": (413, "E_TOO_LARGE"), "cut.jpg": (422, "E_TRUNCATED"),
                  "greedy.png": (413, "E_MEMORY")}  # fmt: skip
        for name, code in wanted.items():
            status, text = predict(server, tmp_path / name)
            assert (status, json.loads(text)["error"]["code"]) == code
            assert str(tmp_path) not in text
        end = time.monotonic() + SOON
        while ask(server, "GET", "/ready")[0] != 200 and time.monotonic() < end:
            time.sleep(0.1)
        assert predict(server, whole)[0] == 200


def test_it_lets_a_request_end_and_says_so(detectors: Path, photos: Path) -> None:
    whole = sorted(photos.glob("*.jpg"))[0].read_bytes()
    with running(detectors / "one", "--workers", 1) as server:
        connection = http.client.HTTPConnection(server.host, timeout=SOON)
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("Content-Type", "image/jpeg")
        connection.putheader("Content-Length", str(len(whole)))
        connection.endheaders(whole[:100])
        time.sleep(0.5)
        threading.Timer(0.7, lambda: connection.send(whole[100:])).start()
        server.process.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["images"][0]["file"] == "photo"
        _, said = server.process.communicate(timeout=SOON)
        assert server.process.returncode == 143
        assert "every request that was let in was answered" in said
        assert "Traceback" not in said


def test_a_killed_server_leaves_no_worker(detectors: Path) -> None:
    with running(detectors / "one", "--workers", 2) as server:
        number = server.process.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        assert len(children) >= 2
        server.process.kill()
        server.process.wait()
        end = time.monotonic() + SOON
        while any(is_running(child) for child in children) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(is_running(child) for child in children)


def is_running(number: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False


def test_only_this_machine_reaches_it_unless_told(detectors: Path) -> None:
    with running(detectors / "one", "--workers", 1) as server:
        port = int(server.host.rpartition(":")[2])
        rows = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        (place,) = re.findall(rf"\d: (\w+):{port:04X} \w+:\w+ 0A", rows)
        assert place == "0100007F"
        done = run(detectors / "one", "--port", port)
        assert (done.returncode, len(done.stderr.splitlines())) == (6, 1)
        assert f"port {port}" in done.stderr


def test_beyond_this_machine_it_asks_for_the_token(detectors: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    words = (detectors / "one", "--workers", 1, "--host", "0.0.0.0")
    with running(*words, "--token-file", tmp_path / "token") as server:
        assert server.host.startswith("0.0.0.0:")
        assert ask(server, "GET", "/health")[0] == 200
        assert ask(server, "GET", "/v1/model")[0] == 401
        assert ask(server, "GET", "/v1/model", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(server, "GET", "/health", Host="evil.example")[0] == 403


def run(*words: object, **variables: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "SPPNET_TOKEN"}
    return subprocess.run(words_of(*words), capture_output=True, text=True, timeout=SOON,
                          env=environment | variables, check=False)  # fmt: skip


def test_what_cannot_be_served_is_one_line_and_a_code(
    detectors: Path, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").mkdir()
    model = detectors / "one"
    lines: list[tuple[int, str, list[object]]] = [
        (2, "needs a token", [model, "--host", "0.0.0.0"]),
        (2, "must be an address", [model, "--host", "example.org"]),
        (2, "16 letters", [model, "--host", "0.0.0.0", "--token-file", tmp_path / "short"]),
        (2, "--view and --imgsz are for classifiers", [model, "--view", "10"]),
        (2, "are for detectors", [classifier, "--nms", "hard"]),
        (2, "must be a method here", [model, "--proposals", tmp_path / "boxes.npz"]),
        (5, "gone", [tmp_path / "gone"]),
        (5, "empty", [tmp_path / "empty"]),
        (5, "token", [model, "--token-file", tmp_path / "no-token"]),
    ]
    for code, words, given in lines:
        done = run(*given, "--port", 0, "--workers", 1)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert words in done.stderr
    done = run(model, "--port", 0, SPPNET_TOKEN="two words of a token")
    assert (done.returncode, "without spaces" in done.stderr) == (2, True)


def test_commands_and_flags_of_the_page_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = re.findall(r"(?:^|/)sppnet serve (.*)$", page, re.M)
    assert len(commands) == 3
    for words in commands:
        load_command("serve").make_context("sppnet", words.split())
    options = {name for each in load_command("serve").params for name in each.opts}
    flags = re.findall(r"^\| .* \| .* \| (`--.*)\|$", page, re.M)
    assert set(re.findall(r"--[a-z-]+", " ".join(flags))) <= options
    assert len(flags) >= 6


def test_python_of_the_page_runs(
    detectors: Path, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "one.jpg").write_bytes(sorted(photos.glob("*.jpg"))[0].read_bytes())
    with running(detectors / "one", "--workers", 1) as server:
        done = subprocess.run(
            [sys.executable, "-c", code.replace("127.0.0.1:8000", server.host)], cwd=tmp_path,
            capture_output=True, text=True, timeout=SOON, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(r"\w+ -?\d+\.\d+ \[", done.stdout)
