"""Requests over HTTP: who is let in, how much they bring, what each refusal is called."""

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from label_people import PORT
from serve_models import open_obedient, order
from sppnet.server.answers import PROBLEMS, BodyError
from sppnet.server.serve_app import build_serve_app
from sppnet.server.serve_gate import Access, Form, UploadLimits, plain_name
from sppnet.server.workers import PoolLimits, WorkerPool

TOKEN = "a-token-of-some-letters"
GIF = {"Content-Type": "image/gif"}
WITH_A_LINE = {"E_BUG", "E_WORKER", "E_MEMORY"}
LIMITS = UploadLimits(photos=3, photo_bytes=100_000)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(open_obedient, (), PoolLimits(workers=2, queue=4, seconds=5, megabytes=500))
    try:
        made.start()
        yield made
    finally:
        made.close()


def client_of(pool: WorkerPool, access: Access | None = None, host: str = "127.0.0.1"):
    app = build_serve_app(pool, access or Access(), LIMITS, lambda: PORT)
    return TestClient(app, base_url=f"http://{host}:{PORT}", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(pool: WorkerPool) -> TestClient:
    return client_of(pool)


def post(client: TestClient, photo: bytes = order("fine"), **headers: str):
    return client.post("/v1/predict", content=photo, headers={**GIF, **headers})


def send(client: TestClient, *photos: bytes, names=None):
    names = names or [f"{number}.gif" for number in range(len(photos))]
    files = [("photo", (name, photo)) for name, photo in zip(names, photos, strict=True)]
    return client.post("/v1/predict", files=files)


def code_of(answer) -> tuple[int, str]:
    said = answer.json()["error"]
    number = said.pop("id", "")  # of a line of the log
    assert bool(number) == (said["code"] in WITH_A_LINE)
    assert said == {"code": said["code"], "message": PROBLEMS[said["code"]][1]}
    assert PROBLEMS[said["code"]][0] == answer.status_code
    return answer.status_code, said["code"]


def test_one_photo_as_the_body(client) -> None:
    answer = post(client)
    assert answer.status_code == 200
    (image,) = answer.json()["images"]
    assert image["file"] == "photo"
    assert image["names"] == [hashlib.sha256(order("fine")).hexdigest()]
    assert re.fullmatch(r"queue;dur=[\d.]+, work;dur=[\d.]+", answer.headers["server-timing"])


def test_several_photos_in_their_order_and_one_bad_one_among_them(client) -> None:
    answer = send(client, order("fine", 1), order("damaged"), order("fine", 2))
    assert answer.status_code == 200
    first, bad, last = answer.json()["images"]
    assert [first["file"], bad["file"], last["file"]] == ["0.gif", "1.gif", "2.gif"]
    assert last["names"] == [hashlib.sha256(order("fine", 2)).hexdigest()]
    assert bad["error"] == {"code": "E_UNREADABLE", "message": PROBLEMS["E_UNREADABLE"][1]}
    assert code_of(send(client, order("damaged"), b"")) == (422, "E_UNREADABLE")


@pytest.mark.parametrize(
    ("photo", "wanted"),
    [
        (b"", (422, "E_EMPTY")),
        (b"%!PS-Adobe-3.0 EPSF", (415, "E_FORMAT")),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", (415, "E_FORMAT")),
        (b"II*\x00" + bytes(40), (415, "E_FORMAT")),  # TIFF
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), (415, "E_FORMAT")),
        (b"P6 1 1 255\n...", (415, "E_FORMAT")),
        (order("damaged"), (422, "E_UNREADABLE")),
        (order("bug"), (500, "E_BUG")),
        (order("nan"), (500, "E_BUG")),
        (order("die"), (503, "E_WORKER")),
        (order("greedy"), (413, "E_MEMORY")),
        (order("fine") + bytes(100_000), (413, "E_TOO_LARGE")),
    ],
)
def test_bad_photos_have_a_code_and_nothing_else(client, pool, photo: bytes, wanted) -> None:
    answer = post(client, photo)
    assert code_of(answer) == wanted
    assert not re.search(r"Traceback|/secret|0x7f|\.py|KeyError|words of", answer.text)
    while pool.ready_count < 2:  # the next test finds all children
        threading.Event().wait(0.05)


# what `curl --data-binary` and requests.post(data=...) send, where nobody says what the bytes are
@pytest.mark.parametrize("kind", ["", "application/x-www-form-urlencoded"])
def test_bytes_that_nobody_named_are_a_photo_if_they_are(client, kind: str) -> None:
    assert post(client, **{"Content-Type": kind}).status_code == 200
    assert code_of(post(client, b"a=1&b=2", **{"Content-Type": kind})) == (415, "E_FORMAT")


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "image/", "image/a b"])
def test_other_kinds_of_bodies_are_refused(client, kind: str) -> None:
    assert code_of(post(client, **{"Content-Type": kind})) == (415, "E_MEDIA")
    assert code_of(post(client, **{"Content-Encoding": "gzip"})) == (415, "E_ENCODING")


def form(*lines: str, boundary: str = "x", end: str = "--x--\r\n") -> dict:
    text = "".join(f"{line}\r\n" for line in lines) + end
    kind = f"multipart/form-data; boundary={boundary}"
    return {"content": text.encode(), "headers": {"Content-Type": kind}}


PART = ("--x", 'Content-Disposition: form-data; name="photo"; filename="a.gif"', "", "GIF89afine 1")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (form("--x", 'Content-Disposition: form-data; name="url"', "", "http://e.example/a.jpg"),
         (400, "E_VALUE")),
        (form("--x", 'Content-Disposition: form-data; name="path"', "", "/etc/passwd"),
         (400, "E_VALUE")),
        (form("--x", "Content-Type: image/gif", "", "GIF89a"), (400, "E_VALUE")),
        (form(end=""), (400, "E_MULTIPART")),
        (form(), (400, "E_NOTHING")),
        (form(*PART, end=""), (400, "E_MULTIPART")),
        (form(*PART, end="--x"), (400, "E_MULTIPART")),
        (form(*PART, boundary=""), (400, "E_MULTIPART")),
        (form(*PART, boundary="y"), (400, "E_MULTIPART")),
        (form(*PART, boundary="x" * 300), (400, "E_MULTIPART")),
        (form("--x", *[f"A{n}: b" for n in range(50)], *PART[1:]), (400, "E_MULTIPART")),
        (form("--x", "no header at all", *PART[2:]), (400, "E_MULTIPART")),
        (form("--x", "A: " + "b" * 9000, *PART[1:]), (400, "E_MULTIPART")),
        (form("preamble", *PART), (400, "E_MULTIPART")),
        (form(*PART * 4), (413, "E_PHOTOS")),
    ],
)  # fmt: skip
def test_forms_that_are_none_are_refused(client, body: dict, wanted) -> None:
    assert code_of(client.post("/v1/predict", **body)) == wanted


HEAD = f"{PART[0]}\r\n{PART[1]}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("begin", "wanted", "most"),
    [
        (b"preamble", "E_MULTIPART", 0),
        (b'--x\r\nContent-Disposition: form-data; name="url"\r\n\r\n', "E_VALUE", 0),
        (b"--x\r\nA: ", "E_MULTIPART", 10_000),
        ((HEAD + b"GIF89a\r\n") * 4, "E_PHOTOS", 0),
        (HEAD + b"GIF89a\r\n--x--\r\n", "E_MULTIPART", 66_000),
        (HEAD, "E_TOO_LARGE", 150_000),
        (HEAD[:-2], "E_MULTIPART", 10_000),
    ],
)
def test_what_is_no_form_is_refused_before_the_rest_of_it_came(begin, wanted, most) -> None:
    reader = Form(Headers({"content-type": "multipart/form-data; boundary=x"}), LIMITS)
    taken = kept = 0
    said = ""
    try:
        kept += reader.take(begin)
        for _ in range(10_000):
            kept += reader.take(b"a" * 1000)
            taken += 1000
    except BodyError as error:
        said = str(error)
    assert said == wanted
    assert most / 3 <= taken <= most
    assert kept <= LIMITS.photo_bytes + 1


def test_a_photo_that_is_too_large_is_said_so_in_its_place(client) -> None:
    good, bad = send(client, order("fine"), order("fine") + bytes(130_000)).json()["images"]
    assert good["names"] == [hashlib.sha256(order("fine")).hexdigest()]
    assert bad["error"]["code"] == "E_TOO_LARGE"


def test_names_are_only_said_back(client) -> None:
    names = ["../../etc/passwd", "C:\\Users\\x\\y.gif", "a\r\nb\x1b[31m\u00e9.gif"]
    found = send(client, *[order("fine")] * 3, names=names).json()["images"]
    assert [image["file"] for image in found[:2]] == ["passwd", "y.gif"]
    assert "/" not in found[2]["file"]
    assert plain_name(b"x" * 10_000) == "x" * 255


def test_large_bodies_are_refused_before_they_are_read(client) -> None:
    asked = []

    def endless() -> Iterator[bytes]:
        for number in range(1000):
            asked.append(number)
            yield bytes(10_000)

    assert code_of(post(client, endless())) == (413, "E_TOO_LARGE")
    assert code_of(post(client, **{"Content-Length": "100000000000"})) == (413, "E_TOO_LARGE")
    form_kind = {"Content-Type": "multipart/form-data; boundary=x"}
    length = {"Content-Length": str(LIMITS.body + 1)}
    assert code_of(post(client, **form_kind, **length)) == (413, "E_TOO_LARGE")
    answer = client.post("/v1/elsewhere", content=bytes(100_000))
    assert code_of(answer) == (413, "E_TOO_LARGE")


def test_a_full_queue_is_429_and_says_when_to_come_again(client, pool) -> None:
    futures = pool.submit([("a.gif", order("slow"))] * 4)
    refused = [post(client) for _ in range(2)]
    while not pool.is_full and not all(each.status_code == 200 for each in refused):
        futures += pool.submit([("a.gif", order("slow"))])
        refused = [post(client)]
    codes = {each.status_code for each in refused}
    for each in refused:
        if each.status_code == 429:
            assert code_of(each) == (429, "E_BUSY")
            assert 1 <= int(each.headers["retry-after"]) <= 60
    assert codes <= {200, 429}
    for future in futures:
        future.result(60)


def test_more_photos_than_the_queue_has_room_for_are_refused_whole(pool) -> None:
    small = SimpleNamespace(app=build_serve_app(pool, Access(), UploadLimits(9), lambda: PORT))
    client = TestClient(small.app, base_url=f"http://127.0.0.1:{PORT}")
    assert code_of(send(client, *[order("fine")] * 9)) == (429, "E_BUSY")


def test_pages_for_machines(client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    about = client.get("/v1/model").json()
    assert (about["kind"], about["names"]) == ("classifier", ["yes", "no"])
    assert about["limits"]["photos"] == 3
    post(client)
    figures = client.get("/metrics")
    assert figures.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert re.search(r'^sppnet_photos_total\{code="OK"\} [1-9]', figures.text, re.M)
    assert re.search(
        r'^sppnet_requests_total\{page="/v1/predict",status="200"\}', figures.text, re.M
    )
    assert re.search(r"^sppnet_workers_resident_bytes [1-9]", figures.text, re.M)
    client.get("/a/b/c/d")
    assert 'page="/a' not in client.get("/metrics").text


def test_unknown_pages_and_methods(client) -> None:
    assert code_of(client.get("/nothing")) == (404, "E_NOT_FOUND")
    assert code_of(client.get("/v1/predict")) == (405, "E_METHOD")
    assert code_of(client.post("/health")) == (405, "E_METHOD")
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/x", "//etc/passwd"):
        assert client.get(path).status_code == 404


class Links(HTMLParser):
    """Everything that a page fetches or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag in ("script", "link", "iframe", "object", "form"):
            self.found.append(tag)
        self.found += [value for name, value in attrs if name in ("src", "href", "action")]


def test_the_page_about_the_interface_fetches_nothing(client) -> None:
    answer = client.get("/docs")
    links = Links()
    links.feed(answer.text)
    assert links.found == ["/openapi.json"]
    assert "script" not in answer.headers["content-security-policy"]
    assert "POST /v1/predict" in answer.text
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/v1/predict", "/v1/model", "/health", "/ready", "/metrics"}
    assert client.get("/", follow_redirects=False).headers["location"] == "/docs"


def test_every_answer_has_the_headers_of_a_safe_one(client) -> None:
    answers = [client.get(path) for path in ("/docs", "/health", "/none", "/metrics")]
    answers += [post(client), post(client, b""), client.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "E_HOST"),
        ({"Host": f"evil.example:{PORT}"}, "E_HOST"),
        ({"Host": f"127.0.0.1:{PORT + 1}"}, "E_HOST"),
        ({"Host": f"127.0.0.1:{PORT}@evil.example"}, "E_HOST"),
        ({"Host": f"192.168.1.9:{PORT}"}, "E_HOST"),
        ({"Host": ""}, "E_HOST"),
        ({"Origin": "http://evil.example"}, "E_ORIGIN"),
        ({"Origin": "null"}, "E_ORIGIN"),
        ({"Origin": f"http://127.0.0.1:{PORT + 1}"}, "E_ORIGIN"),
        ({"Sec-Fetch-Site": "cross-site"}, "E_ORIGIN"),
        ({"Sec-Fetch-Site": "same-site"}, "E_ORIGIN"),
    ],
)
def test_other_hosts_and_sites_are_refused(client, headers: dict[str, str], code: str) -> None:
    assert code_of(post(client, **headers)) == (403, code)
    assert code_of(client.get("/health", headers=headers)) == (403, code)


def test_a_token_is_asked_for_everywhere_but_for_health(pool) -> None:
    client = client_of(pool, Access(token=TOKEN))
    right = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/health", "/ready"):
        assert client.get(path).status_code == 200
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/v1/model", "/nothing"):
        answer = client.get(path, follow_redirects=False)
        assert code_of(answer) == (401, "E_TOKEN")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get(path, headers=right, follow_redirects=False).status_code != 401
    for wrong in (
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[1:]}",
    ):
        assert code_of(post(client, Authorization=wrong)) == (401, "E_TOKEN")
    assert post(client, **right).status_code == 200
    described = client.get("/openapi.json", headers=right).json()
    assert described["paths"]["/health"]["get"]["security"] == []
    assert described["paths"]["/v1/predict"]["post"]["security"] == [{"token": []}]


def test_beyond_this_machine_it_is_called_by_number_or_by_a_name_that_was_given(pool) -> None:
    client = client_of(pool, Access(TOKEN, ("photos.example",), is_local=False))
    for host in ("192.168.1.9", "10.0.0.1:80", "[fe80::1]:8000", "photos.example", "localhost:1",
                 "PHOTOS.example:443"):  # fmt: skip
        assert client.get("/health", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "photos.example.evil.example", "[evil]", "1.2.3.4.evil.example"):
        assert code_of(client.get("/health", headers={"Host": host})) == (403, "E_HOST")
    proxied = {"Host": "photos.example", "Origin": "https://photos.example"}
    assert client.get("/health", headers=proxied).status_code == 200


def test_codes_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{3}) \| `(E_\w+)` \| (.+?) \|$", page, re.M)
    assert rows == [(str(status), code, text) for code, (status, text) in PROBLEMS.items()]


def test_answers_fit_their_description(client) -> None:
    import jsonschema

    described = client.get("/openapi.json").json()
    for answer in (post(client), post(client, b""), send(client, order("fine"), b"x")):
        place = described["paths"]["/v1/predict"]["post"]["responses"][str(answer.status_code)]
        schema = {**place["content"]["application/json"]["schema"], "components":
                  described["components"]}  # fmt: skip
        jsonschema.validate(json.loads(answer.content), schema)


def test_a_broken_upload_is_no_photo(client) -> None:
    whole = io.BytesIO()
    whole.write(b"\r\n".join(line.encode() for line in PART) + b"\r\n--x--\r\n")
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    text = whole.getvalue()
    codes = {
        client.post("/v1/predict", content=text[:end], headers=kind).status_code
        for end in (*range(0, len(text) - 4, 7), len(text) - 3)
    }
    assert codes == {400}
    assert client.post("/v1/predict", content=text, headers=kind).status_code == 200
