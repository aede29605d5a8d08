"""``sppnet serve --label-studio`` as a process: annotated, learnt by a real session, predicted."""

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image_files import write_image
from label_people import wait_for
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.storage.label_store import LabelStore

TOKEN = "a-token-of-the-tests"


@contextmanager
def running(*words: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command, and where it answers."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sppnet",
            "serve",
            *map(str, words),
            "--label-studio",
            "--port",
            "0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SPPNET_TOKEN": TOKEN},
    )
    try:
        yield process, process.stdout.readline().strip().removeprefix("http://").strip("/")
    finally:
        process.kill()
        process.communicate()


def ask(host: str, path: str, body: dict | None = None, token: str = TOKEN) -> tuple[int, dict]:
    """Send what Label Studio sends; status and JSON."""
    basic = base64.b64encode(f"sppnet:{token}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(host, timeout=120)
    content = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, content, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def test_what_is_annotated_is_learnt_suggested_and_kept(tmp_path: Path) -> None:
    root = draw_detection_set(tmp_path / "drawn", 4, seed=0)
    dataset = open_detection_dataset(root)
    names = "".join(f'<Label value="{name}"/>' for name in dataset.names)
    config = (f'<View><Image name="i" value="$image"/><RectangleLabels name="r" toName="i">{names}'
              "</RectangleLabels></View>")  # fmt: skip

    def webhook(number: int) -> dict:
        image = dataset.images[number]
        height, width = image.size_hw
        result = [
            {"type": "rectanglelabels", "original_width": width, "original_height": height,
             "value": {"x": 100 * x1 / width, "y": 100 * y1 / height,
                       "width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height,
                       "rectanglelabels": [dataset.names[label]]}}
            for (x1, y1, x2, y2), label in zip(image.boxes.tolist(), image.labels.tolist(),
                                               strict=True)
        ]  # fmt: skip
        task = {"id": number, "data": {"image": f"/data/upload/1/0123abcd-{image.path.name}"}}
        return {"action": "ANNOTATION_CREATED", "project": {"id": 1, "label_config": config},
                "annotation": {"id": number, "result": result}, "task": task}  # fmt: skip

    photos = root / "JPEGImages"
    with running(photos, "--confidence", "0") as (process, host):
        assert ask(host, "/health", token="wrong")[0] == 401
        for number in range(3):
            assert ask(host, "/webhook", webhook(number))[0] == 200
        tasks = {"tasks": [webhook(number)["task"] for number in range(4)], "label_config": config}
        found = wait_for(lambda: all(ask(host, "/predict", tasks)[1]["results"])
                         and ask(host, "/predict", tasks)[1]["results"], 240)  # fmt: skip
        assert {each["model_version"].split()[0] for each in found} == {"warm"}
        assert all(0 <= each["score"] <= 1 and each["result"] for each in found)
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 128 + signal.SIGTERM
    with LabelStore(photos / ".sppnet") as store:
        assert store.count_labelled() == 3
        kept = store.labels(dataset.images[0].path.name)
        for box, truth in zip(kept.boxes, dataset.images[0].boxes.tolist(), strict=True):
            assert box.corners == pytest.approx(truth, abs=1e-3)
    with running(photos / ".sppnet") as (_, host):  # the store itself is named
        assert ask(host, "/health")[1]["labelled"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone"], "must be a folder of photos or of a label store"),
        (["photos", "--task", "paint"], "--task must be detect or classify"),
        (["photos", "--task", "classify"], "these labels are for detect"),
        (["photos", "--host", "0.0.0.0"], "needs a token"),
        (["empty"], "holds no photo"),
    ],
)
def test_what_it_refuses(tmp_path: Path, words: list[str], said: str) -> None:
    write_image(tmp_path / "photos" / "a.jpg")
    (tmp_path / "empty").mkdir()
    with LabelStore(tmp_path / "photos" / ".sppnet", tmp_path / "photos") as store:
        store.put_fact("task", "detect")
    done = subprocess.run(
        [sys.executable, "-m", "sppnet", "serve", *words, "--label-studio", "--port", "0"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "SPPNET_TOKEN"},
    )  # fmt: skip
    assert done.returncode in (2, 4)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
