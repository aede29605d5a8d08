"""What ``sppnet serve`` writes down: a line for each fault of its own, and nothing forged."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import serve
from serve_models import order

SOON = 120.0
SCRIPT = Path(__file__).parents[1] / "serve_to_log.py"
FORGED = "sppnet: error: 'a.jpg': forged \x1b[31m\x00\u202e"
NAMES = [f"a\n{FORGED}", f"a\r{FORGED}", FORGED, FORGED * 20_000, "\x1b]0;title\x07", "\U000e0001"]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A server and its log."""
    log = tmp_path_factory.mktemp("log") / "stderr"
    before = os.environ.pop("SPPNET_DEBUG", None)
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    if before is not None:
        os.environ["SPPNET_DEBUG"] = before
    try:
        assert process.stdout is not None
        host = process.stdout.readline().strip().removeprefix("http://").strip("/")
        yield SimpleNamespace(host=host, log=lambda: log.read_text(encoding="utf-8"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(SOON)
        process.stdout.close()


def ask(server, photo: bytes, path: str = "/v1/predict", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.host, timeout=SOON)
    try:
        connection.request("POST", path, photo, {"Content-Type": "image/gif", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def named(name: str, photo: bytes) -> tuple[bytes, dict[str, str]]:
    head = f'--x\r\nContent-Disposition: form-data; name="p"; filename="{name}"\r\n\r\n'
    body = head.encode("utf-8") + photo + b"\r\n--x--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize("word", ["bug", "nan", "die", "greedy"])
def test_a_fault_of_the_server_has_a_number_that_leads_to_its_line(server, word: str) -> None:
    if word == "greedy" and sys.platform != "linux":
        pytest.skip("elsewhere memory has no limit")
    status, body = ask(server, order(word))
    error = json.loads(body)["error"]
    assert status in (413, 500, 503)
    assert re.fullmatch(r"[0-9a-f]{8}", error["id"])
    (line,) = (each for each in server.log().splitlines() if error["id"] in each)
    wanted = {"bug": "a photo met a bug: KeyError", "nan": "a photo met a bug: ValueError"}
    assert wanted.get(word, f"a worker was lost ({error['code']})") in line
    assert not serve.LEAKS.search(body)


def test_a_bug_of_the_server_itself_has_one_too(server) -> None:
    status, body = ask(server, order("fine"), **{"X-Bug": "/secret 0x7f0000"})
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (500, "E_BUG")
    (line,) = (each for each in server.log().splitlines() if error["id"] in each)
    assert "a request met a bug: KeyError" in line
    assert not serve.LEAKS.search(body)


def test_one_of_several_photos_has_its_own(server) -> None:
    first, kind = named("a.gif", order("fine"))
    second, _ = named("b.gif", order("bug"))
    status, body = ask(server, first.removesuffix(b"--x--\r\n") + second, **kind)
    assert status == 200
    good, bad = json.loads(body)["images"]
    assert "error" not in good
    assert bad["error"]["id"] in server.log()


def test_names_and_headers_forge_no_line_and_are_not_written_down_at_length(server) -> None:
    for name in NAMES:
        for word in ("bug", "fine"):
            body, kind = named(name.replace('"', ""), order(word))
            assert ask(server, body, **kind)[0] in (200, 400, 500)
        plain = re.sub(r"[^\x20-\x7e\x80-\xff]", " ", name)[:50_000]
        assert ask(server, order("bug"), **{"X-Name": plain, "User-Agent": plain})[0] in (400, 500)
    assert ask(server, order("bug"), **{"X-Bug": "x" * 60_000})[0] in (400, 500)
    assert ask(server, b"", "/" + "%0a%1b" * 5000)[0] in (400, 404)
    lines = server.log().split("\n")
    assert lines.pop() == ""
    assert len(lines) >= 6
    for line in lines:
        assert line.startswith("sppnet: ")
        assert line.isprintable()
        assert len(line.encode()) < 4096
        assert "forged" not in line
