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
    draw_detection_set(folder / "set", 3, seed=0)
    detector = Detector.fit(folder / "set", **TINY, track=no_tracking)
    detector.save(folder / "two")
    count, right = len(detector.names), [False, True] * 20
    calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, right, count)
    points = ((-0.5,) * count, calibration, "val", 9, (9,) * count)
    detector.operating_points = OperatingPoints(*points)
    detector.save(folder / "one")
    return folder


@pytest.fixture(scope="module")
def served(detectors: Path) -> Iterator[SimpleNamespace]:
    """A server with little memory for a photo."""
    with running(detectors / "one", "--workers", 2, "--memory", 100) as server:
        yield server


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


def test_a_detectors_answers_are_those_of_the_command_to_the_letter(
    served, detectors: Path, photos: Path, tmp_path: Path
) -> None:
    paths = sorted(photos.iterdir())
    found = compare(served, paths, tmp_path / "out", [detectors / "one", photos])
    sizes = {image["file"]: (image["width"], image["height"]) for image in found}
    assert sizes["turned.jpg"] == (90, 60)
    assert "confidence" in found[0]["detections"][0]
    for _ in range(3):  # whichever worker looks, and in whatever company
        alone = json.loads(predict(served, paths[0])[1])["images"][0]["detections"]
        boxes = [(each["bbox"], each["score"]) for each in alone]
        assert boxes == [(each["bbox"], each["score"]) for each in found[0]["detections"]]


def test_several_detectors_and_flags_of_testing(
    detectors: Path, photos: Path, tmp_path: Path
) -> None:
    more = ["--combine", detectors / "two", "--nms", "hard"]
    with running(detectors / "one", *more, "--workers", 1) as server:
        paths = sorted(photos.iterdir())
        compare(server, paths, tmp_path / "out", [detectors / "one", photos, *more])


def compare(server, paths: list[Path], out: Path, words: list[object]) -> list[dict]:
    """Compare an answer about photos with the file that the command writes; gives its images."""
    expected = entries_of_command(out, [str(word) for word in words])
    status, text = send_all(server, paths)
    assert status == 200
    images = json.loads(text)["images"]
    assert [image["file"] for image in images] == [path.name for path in paths]
    entries = [json.dumps(each) for image in images for each in image["detections"]]
    assert len(entries) > 20
    assert sorted(entries) == sorted(expected)
    assert all(entry in text for entry in expected)  # as they stand in the file
    return images


def test_a_classifiers_answers_are_those_of_the_command(
    classifier: Path, photos: Path, tmp_path: Path
) -> None:
    more = ["--top", "2"]
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


def test_photos_of_strangers(served, photos: Path, tmp_path: Path) -> None:
    Image.new("1", (50_000, 600)).save(tmp_path / "bomb.png")
    whole = sorted(photos.glob("*.jpg"))[0]
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:3000])
    Image.new("RGB", (4000, 4000)).save(tmp_path / "greedy.png")
    # the memory that a greedy one may have ends in the decoder or behind it
    wanted = {"bomb.png": (413, {"E_TOO_LARGE"}), "cut.jpg": (422, {"E_TRUNCATED"}),
              "greedy.png": (413, {"E_MEMORY", "E_TOO_LARGE"})}  # fmt: skip
    for name, (code, words) in wanted.items():
        status, text = predict(served, tmp_path / name)
        assert status == code
        assert json.loads(text)["error"]["code"] in words
        assert str(tmp_path) not in text
        assert predict(served, whole)[0] == 200


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
        connection.close()
        _, said = server.process.communicate(timeout=SOON)
        assert server.process.returncode == 143
        assert "every request that was let in was answered" in said
        assert "Traceback" not in said


def test_a_killed_server_leaves_no_worker(detectors: Path) -> None:
    with running(detectors / "one", "--workers", 1) as server:
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


def test_only_this_machine_reaches_it_unless_told(served, detectors: Path) -> None:
    port = int(served.host.rpartition(":")[2])
    rows = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    (place,) = re.findall(rf"\d: (\w+):{port:04X} \w+:\w+ 0A", rows)
    assert place == "0100007F"
    done = subprocess.run(words_of(detectors / "one", "--workers", 1, "--port", port),
                          capture_output=True, text=True, timeout=SOON, check=False)  # fmt: skip
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


def test_what_cannot_be_served_is_one_line_and_a_code(
    detectors: Path, classifier: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "SPPNET_MAX_PIXELS"):
        monkeypatch.setenv(name, "1")  # the command changes them
    monkeypatch.delenv("SPPNET_TOKEN", raising=False)
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").mkdir()
    model = detectors / "one"
    lines: list[tuple[int, str, list[object]]] = [
        (2, "needs a token", [model, "--host", "0.0.0.0"]),
        (2, "must be an address", [model, "--host", "example.org"]),
        (2, "16 letters", [model, "--host", "0.0.0.0", "--token-file", tmp_path / "short"]),
        (5, "no-token", [model, "--token-file", tmp_path / "no-token"]),
        (2, "must be a method here", [model, "--proposals", tmp_path / "boxes.npz"]),
        (2, "--view and --imgsz are for classifiers", [model, "--view", "10"]),
        (2, "are for detectors", [classifier, "--nms", "hard"]),
        (5, "empty", [tmp_path / "empty"]),
    ]
    for code, words, given in lines:
        assert main(["serve", *map(str, given), "--port", "0", "--workers", "1"]) == code
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1, said
        assert words in said
    monkeypatch.setenv("SPPNET_TOKEN", "two words of a token")
    assert main(["serve", str(model)]) == 2
    assert "without spaces" in capsys.readouterr().err


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


def test_python_of_the_page_runs(served, photos: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "one.jpg").write_bytes(sorted(photos.glob("*.jpg"))[0].read_bytes())
    assert 'found["above_threshold"]' in code
    code = code.replace('found["above_threshold"]', "True")  # this detector is sure of nothing
    done = subprocess.run(
        [sys.executable, "-c", code.replace("127.0.0.1:8000", served.host)], cwd=tmp_path,
        capture_output=True, text=True, timeout=SOON, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(r"\w+ -?\d+\.\d+ \[", done.stdout)
