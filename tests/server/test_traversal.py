"""No spelling of a path leads out of the folder, on any route of both servers."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, unquote_to_bytes

import pytest

from image_files import write_image
from label_people import PORT
from serve_models import open_obedient
from sppnet.server.serve_app import build_serve_app
from sppnet.server.serve_gate import Access, UploadLimits
from sppnet.server.workers import PoolLimits, WorkerPool

UP = ["..", "%2e%2e", ".%2E", "%252e%252e", "..%00", "%c0%ae%c0%ae", "%u002e%u002e", "....", "..;",
      quote("\uff0e\uff0e"), quote("\u2025"), ".%0a.", "%2e%2e%20"]  # fmt: skip
BETWEEN = ["/", "%2f", "%252f", "\\", "%5c", "%255c", "//", "/./", "%c0%af", quote("\u2215")]
TARGETS = ["secret.jpg", "etc/passwd"]
EDIT = b'{"boxes": [], "empty": true}'
OUTSIDE = b"lies outside of the folder"
LABEL_ROUTES = ["/", "/image/", "/thumb/", "/api/photo/", "/report/", "/report/1/", "/assets/",
                "/image/sub/"]  # fmt: skip
SERVE_ROUTES = ["/", "/docs/", "/v1/", "/v1/model/", "/health/", "/openapi.json/"]


def spellings(folder: Path) -> list[str]:
    """More than 500 ways to say something that lies outside."""
    found = [
        between.join([*[up] * depth, target.replace("/", between)])
        for up, between, depth, target in product(UP, BETWEEN, (1, 4), TARGETS)
    ]
    secret = str(folder.parent / "secret.jpg")
    found += [secret, quote(secret, safe=""), f"/{secret}", f"file://{secret}", "link.jpg"]
    found += ["/etc/passwd", "%2fetc%2fpasswd", "C:\\secret.jpg", "a.jpg/../../secret.jpg"]
    found += ["a.jpg%00/../../secret.jpg", "sub/../../secret.jpg", "~/secret.jpg", "//host/secret"]
    return found


async def ask_all(app, requests: Iterable[tuple[str, str]]) -> list[tuple[str, int, bytes]]:
    """Ask as the HTTP server would, which takes percent signs away once."""
    answers = []
    for method, path in requests:
        messages, body = [], [{"type": "http.request", "body": EDIT}]

        async def receive(body: list = body) -> dict:
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message: dict, messages: list = messages) -> None:
            messages.append(message)

        headers = {"host": f"127.0.0.1:{PORT}", "x-sppnet": "1", "x-author": "Ann",
                   "content-type": "application/json", "content-length": str(len(EDIT)),
                   "if-match": '"0"'}  # fmt: skip
        scope = {
            "type": "http", "method": method, "query_string": b"",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        await app(scope, receive, send)
        said = b"".join(each.get("body", b"") for each in messages[1:])
        answers.append((f"{method} {path}", messages[0]["status"], said))
    return answers


@pytest.fixture(scope="module")
def serve_app() -> Iterator:
    pool = WorkerPool(open_obedient, (), PoolLimits(workers=1, megabytes=500))
    try:
        pool.start()
        yield build_serve_app(pool, Access(), UploadLimits(), lambda: PORT)
    finally:
        pool.close()


@pytest.fixture
def served(folder: Path, serve: Callable[..., Iterator[SimpleNamespace]]) -> Iterator:
    """A label server with a built page."""
    page = folder.parent / "page"
    page.mkdir()
    (page / "index.html").write_text("the page")
    yield from serve(folder)


def refuse(answers: list[tuple[str, int, bytes]]) -> None:
    for asked, status, said in answers:
        assert status in (400, 404, 405, 415), (asked, status)
        assert OUTSIDE not in said
        assert b"root:" not in said


def test_no_spelling_leads_out_of_the_label_servers_folder(
    served: SimpleNamespace, folder: Path
) -> None:
    secret = folder.parent / "secret.jpg"
    write_image(secret, seed=7)
    secret.write_bytes(secret.read_bytes() + OUTSIDE)
    (folder / "link.jpg").symlink_to(secret)  # after the folder was listed
    before = {path: path.read_bytes() for path in folder.parent.glob("*.*") if path.is_file()}
    words = spellings(folder)
    assert len(set(words)) >= 500
    app = served.client.app
    for route in LABEL_ROUTES:
        refuse(asyncio.run(ask_all(app, (("GET", route + word) for word in words))))
    refuse(asyncio.run(ask_all(app, (("PUT", f"/api/photo/{word}") for word in words))))
    ends = (f"/api/photo/{word}/suggestions" for word in words)
    refuse(asyncio.run(ask_all(app, (("GET", end) for end in ends))))
    after = {path: path.read_bytes() for path in folder.parent.glob("*.*") if path.is_file()}
    assert after == before


def test_no_spelling_is_a_page_of_serve(serve_app, tmp_path: Path) -> None:
    words = spellings(tmp_path)
    for route, method in product(SERVE_ROUTES, ("GET", "POST")):
        refuse(asyncio.run(ask_all(serve_app, ((method, route + word) for word in words))))


def test_a_spelling_that_leads_out_would_be_seen(served: SimpleNamespace) -> None:
    (answer,) = asyncio.run(ask_all(served.client.app, [("GET", "/image/a.jpg")]))
    with pytest.raises(AssertionError):
        refuse([answer])
    with pytest.raises(AssertionError):
        refuse([("GET /x", 404, b"it " + OUTSIDE)])
