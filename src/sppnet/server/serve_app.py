"""The requests of ``sppnet serve`` and their answers: photos come in, what a model says goes out.

A request passes the guard of ``serve_gate.py``, which also finds the photos in it; they go into
the queue of ``workers.py``, and the texts that the children wrote are the answer. Nothing here
decodes a photo. Every refusal is a code of ``PROBLEMS`` in ``answers.py`` with its own sentence: no
text of an error and no path gets out. The page about the interface is written from its OpenAPI,
without a script.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from jinja2 import Environment
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from sppnet.errors import note_bug
from sppnet.server.answers import PROBLEMS, BodyError, json_response, refusal
from sppnet.server.serve_gate import (
    FORM,
    MULTIPART,
    OPEN_PATHS,
    PREDICT,
    Access,
    Photo,
    ServeGuard,
    UploadLimits,
    photo_fault,
)
from sppnet.server.workers import BusyError, NotReadyError, Reply, WorkerPool


class Problem(BaseModel):
    """A refusal: a code for programs and a sentence for people."""

    code: Literal[tuple(PROBLEMS)]  # type: ignore[valid-type]
    message: str
    id: str | None = Field(None, description="Of the line of the server's log that says more.")


class Refused(BaseModel):
    """The body of every answer that is none."""

    error: Problem


class RefusedPhoto(Refused):
    """A photo of several that could not be answered."""

    file: str


class Detection(BaseModel):
    """A thing that was found, as in detections.json of `sppnet detect predict`."""

    file: str
    image_id: str
    category_id: int
    category_name: str
    bbox: list[float] = Field(min_length=4, max_length=4, description="x, y, width, height; pixels")
    score: float
    confidence: float | None = Field(None, ge=0, le=1)
    above_threshold: bool = Field(description="Whether it counts by the model's operating point.")


class FoundPhoto(BaseModel):
    """A photo with what was found in it, best first."""

    file: str
    width: int
    height: int
    detections: list[Detection]


class NamedPhoto(BaseModel):
    """A photo with its best classes, as in predictions.json of `sppnet classify predict`."""

    file: str
    width: int
    height: int
    labels: list[int]
    names: list[str]
    scores: list[float]
    confidence: float | None = Field(None, ge=0, le=1)


class FoundAnswer(BaseModel):
    """What a detector says of all photos, in the order in which they came."""

    kind: Literal["detector"]
    model: str = Field(description="SHA-256 of the model")
    images: list[FoundPhoto | RefusedPhoto]


class NamedAnswer(BaseModel):
    """What a classifier says of all photos, in the order in which they came."""

    kind: Literal["classifier"]
    model: str = Field(description="SHA-256 of the model")
    images: list[NamedPhoto | RefusedPhoto]


class ModelFacts(BaseModel):
    """What is served, and how much it takes."""

    kind: Literal["detector", "classifier"]
    model: str = Field(description="SHA-256 of the model")
    names: list[str] = Field(description="Classes, in the order of the labels.")
    version: str = Field(description="Of sppnet.")
    limits: dict[str, float]


class Status(BaseModel):
    """Whether it runs."""

    status: Literal["ok", "ready"]


def build_serve_app(
    pool: WorkerPool, access: Access, limits: UploadLimits, port: Callable[[], int]
) -> ASGIApp:
    """Make the application of a model that answers over HTTP.

    Args:
        pool: Children that have read the model.
        access: Who may ask.
        limits: Of what they bring.
        port: Gives the port that we listen on.

    Returns:
        An ASGI application.
    """
    app = FastAPI(
        title="sppnet serve",
        version=version("sppnet"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(pool, lambda: guard.held)
    _add_errors(app)
    _add_predict(app, pool, limits, metrics)
    _add_facts(app, pool, limits, metrics)
    _add_pages(app, pool.about, bool(access.token))
    guard = ServeGuard(app, port, access, limits, pool, metrics.count_request)
    return guard


def _add_errors(app: FastAPI) -> None:
    """Every error becomes a code."""

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        answer = refusal({404: "E_NOT_FOUND", 405: "E_METHOD"}.get(error.status_code, "E_BUG"))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return refusal("E_BUG", number=note_bug("a request", error))


def _problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """What the interface says of refusals: those that any request may hear, and some more."""
    words: dict[int, list[str]] = {}
    for code in ("E_HOST", "E_ORIGIN", "E_TOKEN", "E_TOO_LARGE", "E_BUG", *codes):
        words.setdefault(PROBLEMS[code][0], []).append(f"{code}: {PROBLEMS[code][1]}")
    return {status: {"model": Refused, "description": "; ".join(each)}
            for status, each in sorted(words.items())}  # fmt: skip


def _add_predict(app: FastAPI, pool: WorkerPool, limits: UploadLimits, metrics: "Metrics") -> None:
    """The one request that costs something."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    part = {"type": "array", "items": binary["schema"], "minItems": 1, "maxItems": limits.photos}
    form = {"type": "object", "properties": {"photo": part}, "required": ["photo"]}
    kinds = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
    content = {MULTIPART: {"schema": form}, **dict.fromkeys(kinds, binary)}
    codes = (code for code in PROBLEMS if code not in ("E_NOT_FOUND", "E_METHOD"))
    answers = {"detector": FoundAnswer, "classifier": NamedAnswer}

    @app.post(
        PREDICT,
        summary="What the model says of photos",
        response_model=answers[pool.about["kind"]],
        responses=_problems(*codes),
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def predict(request: Request) -> Response:
        """One photo as the body, or several as the files of a form.

        Of several, those that cannot be answered have an `error` in their place; the status is 200
        if any was answered. A photo's entries are those that `predict` of the command line writes.
        """
        try:
            photos = await _photos(request)
            replies = await _ask(request, pool, photos, limits)
        except BodyError as error:
            return refusal(str(error))
        except BusyError as error:
            return refusal("E_BUSY", error.seconds)
        except NotReadyError:
            return refusal("E_NOT_READY", 5)
        for reply in replies:
            metrics.count_photo(reply)
        return _write(pool, photos, replies)


async def _photos(request: Request) -> list[Photo]:
    """The photos of a request: those of its form, or its body."""
    body = await request.body()  # empty for a form, and read, so that next is that the client goes
    form = request.scope.get(FORM)
    return [("photo", body)] if form is None else form.photos()


async def _ask(
    request: Request, pool: WorkerPool, photos: Sequence[Photo], limits: UploadLimits
) -> list[Reply]:
    """The replies to all photos; those that need no look are refused at once."""
    faults = [photo_fault(photo, limits) for _, photo in photos]
    futures = pool.submit([each for each, fault in zip(photos, faults, strict=True) if not fault])
    most = 2 * pool.limits.seconds + 1  # in the queue and looked at
    asked = iter(await _wait(request, futures, most))
    return [Reply(fault) if fault else next(asked) for fault in faults]


async def _wait(request: Request, futures: "Sequence[Future[Reply]]", most: float) -> list[Reply]:
    """Wait for the children, unless the client goes: then nobody need look at its photos."""
    replies = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone = asyncio.ensure_future(request.receive())
    await asyncio.wait((replies, gone), timeout=most, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if replies.done():
        return replies.result()
    replies.cancel()
    with suppress(asyncio.CancelledError):
        await replies
    return [Reply("E_TIMEOUT")] * len(futures)  # which nobody hears, if the client went


def _write(pool: WorkerPool, photos: Sequence[Photo], replies: Sequence[Reply]) -> Response:
    """Put the texts of the children together, as they are."""
    codes = [reply.code for reply in replies]
    if all(codes):
        worst = max(replies, key=lambda reply: PROBLEMS.get(reply.code, (500, ""))[0])
        return refusal(worst.code, 5 if worst.code == "E_NOT_READY" else 0, worst.number)
    texts = [
        _refused_photo(name, reply) if reply.code else reply.text
        for (name, _), reply in zip(photos, replies, strict=True)
    ]
    head = json.dumps({key: pool.about[key] for key in ("kind", "model")})
    answer = Response(f'{head[:-1]}, "images": [{", ".join(texts)}]}}\n')
    answer.headers["content-type"] = "application/json"
    waited, worked = (max(times) for times in zip(*(each[2:4] for each in replies), strict=True))
    answer.headers["server-timing"] = f"queue;dur={1e3 * waited:.1f}, work;dur={1e3 * worked:.1f}"
    return answer


def _refused_photo(name: str, reply: Reply) -> str:
    error = json.loads(bytes(refusal(reply.code, number=reply.number).body))
    return json.dumps({"file": name, **error})


def _add_facts(app: FastAPI, pool: WorkerPool, limits: UploadLimits, metrics: "Metrics") -> None:
    """What machines ask: whether it runs, what it is, how it does."""

    @app.get("/v1/model", summary="What is served", response_model=ModelFacts,
             responses=_problems())  # fmt: skip
    async def model() -> Response:
        """Kind, digest and classes of the model, and the limits."""
        most = {"photos": limits.photos, "photo_bytes": limits.photo_bytes,
                "pixels": limits.pixels, "seconds": pool.limits.seconds}  # fmt: skip
        return json_response({**pool.about, "version": version("sppnet"), "limits": most})

    @app.get("/health", summary="Whether the server runs", response_model=Status,
             responses=_problems())  # fmt: skip
    async def health() -> Response:
        """200 as long as the server answers at all."""
        return json_response({"status": "ok"})

    @app.get("/ready", summary="Whether photos are welcome", response_model=Status,
             responses=_problems("E_NOT_READY"))  # fmt: skip
    async def ready() -> Response:
        """200 if a worker is ready and no end was announced, else 503."""
        return json_response({"status": "ready"}) if pool.is_ready else refusal("E_NOT_READY", 5)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response,
             responses=_problems() | {200: {"content": {"text/plain": {}}}})  # fmt: skip
    def figures() -> Response:
        """Requests, photos, seconds, queue, workers, memory."""
        text = generate_latest(metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ info.title }}</title>
<style>
:root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
margin: 2rem auto; padding: 0 1rem; } code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: 6px; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
h2 { margin-top: 2.5rem; }
</style>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ model.kind }} of {{ model.names | length }} classes: {{ model.names[:40] | join(", ") }}
{{- ", ..." if model.names | length > 40 }}. In full for programs: <a href="/openapi.json">
openapi.json</a>.</p>
<pre>curl {{ token }}-F photo=@one.jpg -F photo=@two.jpg http://HOST/v1/predict
curl {{ token }}-H 'Content-Type: image/jpeg' --data-binary @one.jpg http://HOST/v1/predict</pre>
{% for path, methods in paths.items() %}{% for method, about in methods.items() %}
<h2><code>{{ method | upper }} {{ path }}</code></h2>
<p>{{ about.summary }}. {{ about.description }}</p>
<table><tr><th>status<th>what it means</tr>
{% for status, answer in about.responses.items() %}<tr><td>{{ status }}<td>
{% for line in answer.description.split("; ") %}{{ line }}<br>{% endfor %}</tr>
{% endfor %}</table>
{% if about.requestBody %}<p>Takes {{ about.requestBody.content | join(", ") }}.</p>{% endif %}
{% endfor %}{% endfor %}
<h2>The parts of answers</h2>
<pre>{{ components.schemas | tojson(indent=2) }}</pre>
</html>
"""


def _add_pages(app: FastAPI, model: dict[str, Any], has_token: bool) -> None:
    """The interface, for programs and for people; nothing is fetched from elsewhere."""

    def describe() -> dict[str, Any]:
        found = app.openapi()
        if has_token and "securitySchemes" not in found["components"]:
            found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in found["paths"].items():
                for about in methods.values():
                    about["security"] = [] if path in OPEN_PATHS else [{"token": []}]
        return found

    @cache
    def write() -> str:
        template = Environment(autoescape=True).from_string(PAGE)
        token = "-H 'Authorization: Bearer TOKEN' " if has_token else ""
        return template.render(describe(), model=model, token=token)

    @app.get("/openapi.json", include_in_schema=False)
    async def interface() -> Response:
        return json_response(describe())

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(write())

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return RedirectResponse("/docs")


class Metrics:
    """What ``/metrics`` shows.

    Args:
        pool: Whose queue and children are counted.
        held: Gives the bytes of all bodies that are here.
    """

    def __init__(self, pool: WorkerPool, held: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        words: dict[str, Any] = {"namespace": "sppnet", "registry": self.registry}
        seconds = {**words, "buckets": (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 10, 30)}
        self.requests = Counter(
            "requests", "Answers by page and status.", ["page", "status"], **words
        )
        self.request_seconds = Histogram(
            "request_seconds", "From the head of a request to its answer.", ["page"], **seconds
        )
        self.photos = Counter("photos", "Photos by code; OK are answered.", ["code"], **words)
        self.waited = Histogram("photo_waited_seconds", "In the queue.", **seconds)
        self.worked = Histogram("photo_seconds", "That a worker took for a photo.", **seconds)
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "queue_photos": ("Photos that wait.", lambda: pool.waiting_count),
            "workers_ready": ("Workers that can answer.", lambda: pool.ready_count),
            "workers_lost": ("Workers that died or were killed.", lambda: pool.deaths.total()),
            "workers_resident_bytes": ("Memory of the workers.", lambda: _resident(pool)),
            "body_bytes": ("Bytes of bodies in memory.", held),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, **words).set_function(value)

    def count_request(self, page: str, status: int, seconds: float) -> None:
        """Count the answer to a request."""
        self.requests.labels(page, str(status)).inc()
        self.request_seconds.labels(page).observe(seconds)

    def count_photo(self, reply: Reply) -> None:
        """Count one photo."""
        self.photos.labels(reply.code or "OK").inc()
        if not reply.code:
            self.waited.observe(reply.waited)
            self.worked.observe(reply.seconds)


def _resident(pool: WorkerPool) -> float:
    """Bytes of memory that the children have, where the system tells."""
    pages = 0
    for number in pool.processes():
        try:
            pages += int(Path(f"/proc/{number}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError):
            continue
    return 4096.0 * pages
