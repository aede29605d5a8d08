"""Requests that our own page does not send are refused before a route sees them."""

import asyncio
import random
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from label_people import PORT
from sppnet.server import local
from sppnet.server.local import Guard

ALLOWED = {"host": f"127.0.0.1:{PORT}"}


async def echo(scope, receive, send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = Guard(echo, lambda: PORT, max_body=1000)
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}")


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}"])
def test_names_of_this_machine_are_let_in(client, host: str) -> None:
    assert client.get("/", headers={"Host": host}).text == "0 bytes"


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "",
             f"127.0.0.1.evil.example:{PORT}", f"127.0.0.1:{PORT}@evil.example"]
)  # fmt: skip
def test_other_hosts_are_refused(client, host: str) -> None:
    answer = client.get("/", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "E_HOST")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Origin": f"http://127.0.0.1:{PORT + 1}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_other_sites_are_refused(client, headers: dict[str, str]) -> None:
    for method in ("GET", "PUT"):
        answer = client.request(method, "/image/a.jpg", headers={**headers, "X-Sppnet": "1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "E_ORIGIN")


def test_a_link_to_the_page_itself_may_be_followed(client) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.get("/api/export", headers=headers).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_writing_needs_a_header_that_no_form_can_send(client, method: str) -> None:
    assert client.request(method, "/").status_code == 403
    assert client.request(method, "/", headers={"X-Sppnet": "1"}).status_code == 200


def test_forms_and_plain_texts_are_refused(client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"X-Sppnet": "1", "Content-Type": kind}
        assert client.put("/", content=b"{}", headers=headers).status_code == 415


def test_large_bodies_are_refused_announced_or_not(client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    headers = {"X-Sppnet": "1"}
    assert client.put("/", content=b"x" * 1000, headers=headers).text == "1000 bytes"
    for content in (b"x" * 1001, parts()):
        answer = client.put("/", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "E_TOO_LARGE")


def test_all_bodies_together_have_a_most(monkeypatch) -> None:
    monkeypatch.setattr(local, "MAX_BODIES", 1500)
    app = Guard(echo, lambda: PORT, max_body=1000)
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
    app.held = 600  # of others
    answer = client.put("/", content=b"x" * 1000, headers={"X-Sppnet": "1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "E_FULL")
    assert answer.headers["retry-after"] == "5"
    app.held -= 600
    assert app.held == 0
    assert client.put("/", content=b"x" * 1000, headers={"X-Sppnet": "1"}).text == "1000 bytes"


def test_half_a_body_reaches_no_route() -> None:
    reached = []

    async def note(*_: object) -> None:
        reached.append(True)

    messages = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive():
        return messages.pop(0)

    headers = [(b"host", ALLOWED["host"].encode()), (b"x-sppnet", b"1"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "PUT", "path": "/", "headers": headers}
    asyncio.run(Guard(note, lambda: PORT)(scope, receive, note))
    assert reached == []


def test_a_length_that_is_no_number_is_refused(client) -> None:
    for length in ("-1", "1e3", "9" * 5000):
        headers = {"X-Sppnet": "1", "Content-Length": length}
        assert client.put("/", content=b"", headers=headers).status_code == 413


def test_every_answer_tells_the_browser_what_it_may_do(client) -> None:
    for path, headers in (("/", {}), ("/", {"Host": "evil.example"}), ("/report/1/x", {})):
        found = client.get(path, headers=headers).headers
        assert found["x-content-type-options"] == "nosniff"
        assert found["cross-origin-resource-policy"] == "same-origin"
        assert found["cache-control"] == "no-store"
        assert "script-src" not in found["content-security-policy"]
    assert client.get("/").headers["content-security-policy"].startswith("default-src 'self';")
    report = client.get("/report/1/x").headers["content-security-policy"]
    assert report.startswith("default-src 'none';")


class Connection(SimpleNamespace):
    """What is asked of one that waits for a request."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def test_the_one_to_be_spared_is_the_oldest_that_never_asked_else_the_oldest() -> None:
    draw, resting, here = random.Random(0), local._Resting(), {}
    seen = set()
    for now in range(3000):
        if here and draw.random() < 0.45:
            gone = draw.choice(list(here))
            del here[gone]
            resting.discard(gone)
        else:
            one = Connection(cycle=draw.choice([None, 1]))
            here[one] = now
            resting.add(one, now)
        asking = draw.choice([*here, None])
        latest = now - draw.choice([0, 5, 50])
        wanted = min(
            (each for each in here if here[each] <= latest and each is not asking),
            key=lambda each: (each.cycle is not None, here[each]), default=None,
        )  # fmt: skip
        # whoever never asked is newer: then one that did is old enough, and goes
        assert resting.spare(latest, asking) is wanted
        seen.add((wanted is None, wanted and wanted.cycle))
    assert seen == {(True, None), (False, None), (False, 1)}


def test_nobody_looks_at_all_connections_that_rest() -> None:
    resting = local._Resting()
    for now in range(30_000):
        resting.add(Connection(cycle=None), now)
    end, count = time.monotonic() + 3, 0  # 0.03 do; a look at all of them each time takes minutes
    while time.monotonic() < end and (one := resting.spare(30_000, None)) is not None:
        resting.discard(one)
        count += 1
    assert count == 30_000


def test_others_are_heard_between_two_of_many_that_are_late_at_once() -> None:
    events = []

    async def be_late(guard: Guard) -> None:
        await guard.wait_for_turn()
        events.append("late")

    async def be_heard() -> None:
        while events.count("late") < 50:
            events.append("heard")
            await asyncio.sleep(0)

    async def main() -> None:
        guard = Guard(echo, lambda: PORT)
        await asyncio.gather(be_heard(), *(be_late(guard) for _ in range(50)))

    asyncio.run(main())
    assert events.count("late") == 50
    assert "late late" not in " ".join(events)
