"""The requests of ``sppnet label`` and their answers; what they do is in ``desk.py``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from sppnet.errors import SppnetError, UsageError
from sppnet.server.answers import (
    NotFoundError,
    PreconditionError,
    error_response,
    has_controls,
    json_response,
    problem_response,
)
from sppnet.server.desk import MOST_AUTHOR, LabelDesk
from sppnet.server.files import Downloads, Jobs, Picture
from sppnet.server.local import Guard
from sppnet.storage.files import parse_json
from sppnet.storage.labels import ConflictError

PAGE = Path(__file__).parent / "page"
NO_PAGE = (
    "The page of sppnet label is not in this installation: it is built from web/ of the "
    "repository by `npm ci && npm run build`. The interface under /api/ works without it.\n"
)
MOST_LISTED = 5000  # photos in one answer
REVALIDATE = "private, no-cache"  # a browser may keep pictures, and asks whether they changed


async def read_body(request: Request) -> Any:
    """The JSON of a request's body; an empty one is an empty object."""
    data = await request.body()
    if not data:
        return {}
    try:
        return parse_json(data, "body")
    except SppnetError as error:
        raise UsageError(error.message, code="E_JSON") from error


def read_author(x_author: Annotated[str, Header()] = "") -> str:
    """Who sends the request, if they said."""
    name = unquote(x_author)
    if len(name) > MOST_AUTHOR or has_controls(name):
        raise UsageError(f"X-Author must be a text of at most {MOST_AUTHOR} letters")
    return name


def read_revision(if_match: Annotated[str, Header()] = "") -> int:
    """The revision that an edit was made on."""
    text = if_match.removeprefix("W/").strip('"')
    if not if_match:
        raise PreconditionError('an edit needs the header If-Match: "REVISION"')
    if not text.isdecimal() or len(text) > 15 or not text.isascii():
        raise UsageError(f"If-Match must be a revision, got {if_match[:40]!r}")
    return int(text)


Body = Annotated[Any, Depends(read_body)]
Author = Annotated[str, Depends(read_author)]
Revision = Annotated[int, Depends(read_revision)]


def build_label_app(
    desk: LabelDesk, port: Callable[[], int], jobs: Jobs, page: Path = PAGE
) -> ASGIApp:
    """Make the application of the label page.

    Args:
        desk: Does the work.
        port: Gives the port that we listen on.
        jobs: Runs over the other photos.
        page: Folder of the built page.

    Returns:
        An ASGI application for 127.0.0.1.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_errors(app, desk)
    _add_lists(app, desk)
    _add_photo(app, desk)
    _add_pictures(app, desk)
    _add_model(app, desk)
    _add_results(app, desk, jobs)
    _add_page(app, page)
    return Guard(app, port)


def _add_errors(app: FastAPI, desk: LabelDesk) -> None:
    """Every error becomes one line of JSON."""
    hidden = [desk.folder, desk.store.folder]

    @app.exception_handler(ConflictError)
    def conflict(_: Request, error: ConflictError) -> Response:
        return error_response(error, hidden, **desk.conflict(error.current.photo, error.offered))

    @app.exception_handler(SppnetError)
    @app.exception_handler(ValueError)
    @app.exception_handler(TypeError)
    @app.exception_handler(Exception)
    def other(_: Request, error: Exception) -> Response:
        return error_response(error, hidden)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:]))
        return problem_response(400, "E_VALUE", f"{place}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def unknown(_: Request, error: HTTPException) -> Response:
        code = {404: "E_NOT_FOUND", 405: "E_METHOD"}.get(error.status_code, "E_HTTP")
        return problem_response(error.status_code, code, str(error.detail))


def _add_lists(app: FastAPI, desk: LabelDesk) -> None:
    """What the page shows around the photo."""

    @app.get("/api/session")
    def session() -> Response:
        return json_response(desk.describe())

    @app.get("/api/photos")
    def photos(offset: int = 0, limit: int = 500) -> Response:
        return json_response(desk.list_photos(offset, min(limit, MOST_LISTED)))

    @app.post("/api/presence")
    def presence(body: Body, author: Author) -> Response:
        desk.presence(body, author)
        return Response(status_code=204)

    @app.post("/api/classes/{kind}")
    def classes(kind: str, body: Body, author: Author) -> Response:
        if kind not in ("rename", "merge"):
            raise NotFoundError("there is no such request")
        return json_response(desk.change_class(kind, body, author))

    @app.get("/api/events")
    async def events() -> Response:
        first = await run_in_threadpool(desk.first_events)  # it may wait for the store
        stream = desk.hub.listen(first)
        return StreamingResponse(stream, media_type="text/event-stream")


def _add_photo(app: FastAPI, desk: LabelDesk) -> None:
    """One photo and its labels; the first route that fits a path is taken."""

    @app.get("/api/photo/{photo:path}/suggestions")
    def suggestions(photo: str) -> Response:
        return json_response(desk.suggestions(photo))

    @app.post("/api/photo/{photo:path}/{kind}")
    def step(photo: str, kind: str, revision: Revision, author: Author) -> Response:
        if kind not in ("undo", "redo"):
            raise NotFoundError("there is no such request")
        try:
            return _labels_response(desk.step(photo, kind, revision, author))
        except UsageError as error:
            if isinstance(error, ConflictError | NotFoundError):
                raise
            return problem_response(409, error.code, error.message, **desk.conflict(photo, None))

    @app.get("/api/photo/{photo:path}")
    def photo(photo: str) -> Response:
        return _labels_response(desk.photo(photo))

    @app.put("/api/photo/{photo:path}")
    def edit(photo: str, body: Body, revision: Revision, author: Author) -> Response:
        return _labels_response(desk.edit(photo, body, revision, author))


def _labels_response(labels: dict[str, Any]) -> Response:
    return json_response(labels, ETag=f'"{labels["revision"]}"')


def _add_pictures(app: FastAPI, desk: LabelDesk) -> None:
    """Photos as pictures."""

    @app.get("/image/{photo:path}")
    def image(photo: str, request: Request, side: int = 2048) -> Response:
        name = desk.board.known(photo)
        known = request.headers.get("if-none-match", "")
        return _picture(known, desk.pictures.tag(name, side),
                        lambda: desk.pictures.picture(name, side))  # fmt: skip

    @app.get("/thumb/{photo:path}")
    def thumb(photo: str, request: Request) -> Response:
        name = desk.board.known(photo)
        known = request.headers.get("if-none-match", "")
        return _picture(known, desk.pictures.thumb_tag(name), lambda: desk.pictures.thumb(name))


def _picture(known: str, etag: str, make: Callable[[], Picture]) -> Response:
    """A picture, or word that the browser has it already."""
    headers = {"ETag": f'"{etag}"', "Cache-Control": REVALIDATE}
    if f'"{etag}"' in known:
        return Response(status_code=304, headers=headers)
    return Response(make().data, media_type="image/jpeg", headers=headers)


def _add_model(app: FastAPI, desk: LabelDesk) -> None:
    """What the learner is asked."""

    @app.get("/api/next")
    def following(count: int = 10) -> Response:
        return json_response(desk.next(count))

    @app.get("/api/surest")
    def surest(count: int = 12) -> Response:
        return json_response(desk.surest(count))

    @app.get("/api/doubtful")
    def doubtful(count: int = 40) -> Response:
        return json_response(desk.doubtful(count))

    @app.post("/api/refit")
    def refit(body: Body) -> Response:
        return json_response(desk.refit(body), 202)


def _add_results(app: FastAPI, desk: LabelDesk, jobs: Jobs) -> None:
    """What is taken home."""
    downloads = Downloads(desk)

    @app.get("/api/export")
    def export(layout: str, photos: bool = False) -> Response:
        return _download(downloads.export(layout, with_photos=photos))

    @app.get("/api/model")
    def model(format: str = "folder") -> Response:  # noqa: A002 (a name of the interface)
        return _download(downloads.model(format))

    @app.post("/api/run")
    def run() -> Response:
        return json_response({"job": jobs.start()}, 202)

    @app.get("/report/{job}/{file:path}")
    def report(job: str, file: str) -> Response:
        return FileResponse(jobs.file(job, file))


def _download(made: tuple[Path, str, Callable[[], None]]) -> Response:
    """A file that is removed once it was sent."""
    path, name, remove = made
    return FileResponse(path, filename=name, background=BackgroundTask(remove))


def _add_page(app: FastAPI, page: Path) -> None:
    """The built page; nothing else of the disk is in reach."""

    @app.get("/")
    def index() -> Response:
        path = page / "index.html"
        return FileResponse(path) if path.is_file() else PlainTextResponse(NO_PAGE)

    if page.is_dir():
        app.mount("/", StaticFiles(directory=page), "page")
