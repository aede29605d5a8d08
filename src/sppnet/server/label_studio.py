"""Label Studio's machine-learning back end: it asks for predictions, and tells what was annotated.

Label Studio is the client. What it says of itself, its address and its token among it, is not
used: nothing is fetched, and a task's photo is found among those of the folder by its name alone.
An annotation is on the disk before it is answered; a thread learns it, as in ``sppnet label``.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, FastAPI, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from sppnet.errors import SppnetError, failure_text, printable, shorten
from sppnet.images import read_image_size
from sppnet.labelling.drawn import Control, StudioPhotos, keep_extras, read_control, to_percent
from sppnet.labelling.exchange import read_results
from sppnet.server.answers import (
    BadValueError,
    EventHub,
    NotFoundError,
    error_response,
    has_controls,
    hide_folders,
    json_response,
    problem_response,
)
from sppnet.server.board import Board, Withheld
from sppnet.server.desk import MOST_BOXES, MOST_NAME
from sppnet.server.label_app import read_body
from sppnet.server.label_work import LabelWork, Session
from sppnet.server.local import Guard
from sppnet.server.serve_gate import Access, has_token
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import EMPTY, LABELLED, UNLABELLED, PhotoLabels

KIND = "label-studio"  # of the revisions that come from there
MARK = "studio_annotation"  # in what is known of a photo: the annotation that it has its labels of
TIME = "studio_updated"  # and when that was updated last, as Label Studio says it
FACT = "label-studio annotation "  # of the store: the photo of an annotation, empty if it is gone
LEAST = 0.5  # confidence from which on something is predicted
MOST_TASKS, MOST_BYTES = 100_000, 64_000_000  # of one request: all tasks of a project
FIRST_WAIT = (
    8.0  # seconds that a request waits for the first model, once there is something to learn
)
ALL_SECONDS = 60.0  # for the tasks of one request; Label Studio gives up after 100
_SAID = {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED"}
_GONE = {"ANNOTATION_DELETED", "ANNOTATIONS_DELETED"}
Json = dict[str, Any]


class StudioDesk:
    """Everything between Label Studio and a session.

    Args:
        folder: The photos.
        store: Their labels; closed by :meth:`close`.
        photos: Names of the photos.
        task: ``detect`` or ``classify``.
        open_session: Opens the session; called in a thread of its own.
        least: Confidence from which on something is predicted.
        tell: Hears, line by line, what could not be used, each once.
    """

    def __init__(
        self,
        folder: Path,
        store: LabelStore,
        photos: Sequence[str],
        task: str,
        open_session: Callable[[], Session],
        *,
        least: float = LEAST,
        tell: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    ) -> None:
        self.folder, self.store, self.task, self.least = folder, store, task, least
        self.board = Board(store, photos)
        # Label Studio has no place for photos on which suggestions are held back: none is
        self.work = LabelWork(open_session, self.board, Withheld(self.board), EventHub())
        self.work.suggest = lambda photo: self.work.session.suggest(photo)
        self.hidden = (folder, store.folder)
        self._photos, self._tell, self._told = StudioPhotos(photos), tell, set[str]()
        self._lock = threading.Lock()  # one annotation after the other

    def start(self) -> None:
        """Begin to open the session."""
        self.work.start()

    def close(self) -> None:
        """End the work and close the store."""
        self.work.stop()
        self.store.close()

    @property
    def version(self) -> str:
        """Version of the model; empty before there is one."""
        return str(self.work.state()["model"])

    def health(self) -> Json:
        """Say how it is.

        Raises:
            SppnetError: If the session could not be opened.
        """
        if self.work.failure is not None:
            raise self.work.failure
        state = self.work.state()
        about = {key: state[key] for key in ("phase", "labelled", "photos", "waiting")}
        return {"status": "UP", "model_class": f"sppnet {self.task}",
                "model_version": state["model"], **about}  # fmt: skip

    def set_up(self, body: Any) -> Json:
        """Check that a project asks for what is learnt here.

        Raises:
            BadValueError: If its configuration has no control for that.
        """
        read_control(_object(body).get("schema"), self.task)
        return {"model_version": self.version}

    def predict(self, body: Any) -> Json:
        """Predict for tasks.

        Tasks that cannot be used, and those that time does not allow for, get no prediction, so
        that Label Studio asks again; so do all before there is a model.

        Raises:
            SppnetError: If none of the tasks can be used.
        """
        body = _object(body)
        control = read_control(body.get("label_config"), self.task)
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not 0 < len(tasks) <= MOST_TASKS:
            raise BadValueError(f"tasks must be a list of 1 to {MOST_TASKS}")
        met = [self._meet(control, body["label_config"], task) for task in tasks]
        errors = [each for each in met if isinstance(each, Exception)]
        if len(errors) == len(met):
            raise errors[0]
        self._wait_for_a_model()
        end, results = time.monotonic() + ALL_SECONDS, list[Any]()
        for each in met:
            is_left_out = isinstance(each, Exception) or time.monotonic() > end
            results.append([] if is_left_out else self._predict(control, str(each)))
        return {"results": results, "model_version": self.version}

    def hear(self, body: Any) -> Json:
        """Take in what a webhook tells.

        Raises:
            SppnetError: If an annotation cannot be used; nothing of it is kept.
        """
        body = _object(body)
        action = body.get("action")
        if action in _SAID:
            self._take_all(body.get("project"), _pairs(body))
        elif action in _GONE:
            for annotation in _listed(body.get("annotations", body.get("annotation"))):
                with self._lock:
                    self._forget(_annotation_key(body.get("project"), annotation))
        elif action == "START_TRAINING":
            self.work.refit(full=False)
        else:
            return {"status": "ignored"}
        return {"status": "ok", "model_version": self.version}

    def _take_all(self, project: Any, pairs: Iterable[tuple[Json, Json]]) -> None:
        """Take annotations in; if one of them cannot be used, the others are all the same."""
        errors = list[Exception]()
        for annotation, task in pairs:
            try:
                with self._lock:
                    self._annotated(project, annotation, task)
            except (SppnetError, ValueError) as error:
                self._report("annotation left out", error)
                errors.append(error)
        if errors:
            raise errors[0]

    def _catch_up(self, config: Any, task: Json, photo: str) -> None:
        """Take in what was annotated while nobody listened; newer words of others stand."""
        given = task.get("annotations")
        done = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
        done = [each for each in done if not each.get("was_cancelled")]
        if not done:
            return
        project, last = {"id": task.get("project"), "label_config": config}, max(done, key=_time)
        key, now = _annotation_key(project, last), self.store.labels(photo)
        is_new = now.state == UNLABELLED and self.store.fact(FACT + key, "?") == "?"
        is_ours = now.kind == KIND and now.extra.get(MARK) == key
        if is_new or (is_ours and _time(last) > str(now.extra.get(TIME, ""))):
            self._take_all(project, [(last, task)])

    def _report(self, what: str, error: Exception) -> None:
        """Tell the user what could not be used; each line once."""
        text = printable(shorten(hide_folders(failure_text(error), self.hidden)))
        if text not in self._told and len(self._told) < 1000:
            self._told.add(text)
            self._tell(f"{what}: {text}")

    def _wait_for_a_model(self) -> None:
        """Wait a little for the first model, if one is being learnt."""
        end = time.monotonic() + FIRST_WAIT
        while self.board.store.count_labelled() and time.monotonic() < end:
            state = self.work.state()
            if state["model"] or state["phase"] not in ("queued", "fitting"):
                return
            time.sleep(0.05)

    def _meet(self, control: Control, config: Any, task: Any) -> str | Exception:
        """Find the photo of a task, and see whether it was annotated; or why it cannot be used."""
        try:
            photo = self._photo(control, task)
            self._catch_up(config, task, photo)
        except (SppnetError, ValueError) as error:
            self._report("task left out", error)
            return error
        return photo

    def _photo(self, control: Control, task: Any) -> str:
        """Name of the photo of a task.

        Raises:
            NotFoundError: If no photo has that name.
            BadValueError: If several have, or the task has no image.
        """
        data = _object(_object(task).get("data"))
        place = data.get(control.key)
        if not isinstance(place, str) or not place or len(place) > 4096:
            raise BadValueError(f"a task must have its image under {control.key!r}")
        found = self._photos.matches(place)
        name = shorten(printable(place.rpartition("/")[2]))
        if not found:
            raise NotFoundError(f"no photo of the folder is called as the task's {name!r}")
        if len(found) > 1:
            rule = f"{name!r} fits several photos, such as {found[0]!r} and {found[1]!r}"
            raise BadValueError(f"{rule}; give tasks longer paths, or photos other names")
        return found[0]

    def _predict(self, control: Control, photo: str) -> Json | list[Any]:
        """The prediction for a photo; none if there is nothing to suggest, or it cannot be read."""
        try:
            found = self.work.session.suggest(photo)
            size_hw = read_image_size(self.folder / photo)
        except SppnetError as error:
            self._report("photo left out", error)
            return []
        if not found.model:
            return []
        self.work.look_at(photo)
        rows = list(enumerate(zip(found.names, found.sureness.tolist(), strict=True)))
        rows = [row for row in rows if not control.labels or row[1][0] in control.labels]
        shown = rows[:1] if control.takes_one else [r for r in rows if r[1][1] >= self.least]
        if not shown:  # an empty prediction would be kept, and not be asked for again
            return []
        score = round(sum(each for _, (_, each) in shown) / len(shown), 6)
        if self.task == "detect":
            boxes = found.boxes.tolist()
            values = [(_rectangle(boxes[n], name, size_hw), round(each, 6))
                      for n, (name, each) in shown]  # fmt: skip
        else:
            values = [({"choices": [name for _, (name, _) in shown]}, score)]
        about = {"from_name": control.name, "to_name": control.image, "type": control.tag.lower(),
                 "original_width": size_hw[1], "original_height": size_hw[0],
                 "image_rotation": 0}  # fmt: skip
        result = [{"id": uuid4().hex[:10], **about, "value": value, "score": each}
                  for value, each in values]  # fmt: skip
        return {"result": result, "score": score, "model_version": found.model}

    def _annotated(self, project: Any, annotation: Any, task: Any) -> None:
        """Write down what an annotation says, in place of what was said of its photo."""
        project, annotation, task = _object(project), _object(annotation), _object(task)
        key = _annotation_key(project, annotation)
        if annotation.get("was_cancelled"):  # skipped, perhaps after it was annotated
            self._forget(key)
            return
        control = read_control(project.get("label_config"), self.task)
        photo = self._photo(control, task)
        size_hw = read_image_size(self.folder / photo)
        results = annotation.get("result")
        boxes, names, others = read_results(results, size_hw)
        _check_results(results, boxes, names, size_hw)
        self._write(photo, key, annotation, task, (boxes, names, others))

    def _write(
        self, photo: str, key: str, annotation: Json, task: Json, said: tuple[list[Any], ...]
    ) -> None:
        """Put what an annotation says on the disk."""
        (boxes, names, others), before = said, self.store.labels(photo)
        extra = {
            **before.extra,
            "studio": {name: task[name] for name in ("id", "data", "meta") if name in task},
            "studio_results": others,
            MARK: key,
            TIME: _time(annotation),
        }
        if self.task == "detect":
            names = []
            boxes = keep_extras(boxes, before.boxes)
        else:
            boxes, names = [], list(dict.fromkeys(names))
        state = LABELLED if boxes or names else EMPTY
        self.store.put_fact(FACT + key, photo)  # first: a label is never without it
        self.store.put(photo, boxes, state=state, extra=extra, names=names, kind=KIND,
                       author=_author(annotation))  # fmt: skip
        self.work.edited(photo)

    def _forget(self, key: str) -> None:
        """Take back what an annotation said: the one before it holds again, if there is one.

        Whoever edited the photo since, here or there, is not overruled.
        """
        photo = self.store.fact(FACT + key)
        if not photo:
            return
        self.store.put_fact(FACT + key, "")
        now = self.store.labels(photo)
        if now.kind != KIND or now.extra.get(MARK) != key:
            return
        before = next(filter(self._stands, reversed(self.store.history(photo))), None)
        said = before or PhotoLabels(photo, extra={k: v for k, v in now.extra.items() if k != MARK})
        self.store.put(photo, said.boxes, state=said.state, extra=said.extra, names=said.names,
                       kind=KIND, author=said.author)  # fmt: skip
        self.work.edited(photo)

    def _stands(self, labels: PhotoLabels) -> bool:
        """Whether a revision is what an annotation says that is still there."""
        key = labels.extra.get(MARK) if labels.kind == KIND else None
        return labels.state != UNLABELLED and bool(key) and bool(self.store.fact(f"{FACT}{key}"))


def _rectangle(box: Sequence[float], name: str, size_hw: tuple[int, int]) -> Json:
    return {**to_percent(box, size_hw), "rotation": 0, "rectanglelabels": [name]}


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise BadValueError("the body is not as Label Studio sends it: an object is missing")
    return value


def _listed(value: Any) -> list[Json]:
    return [_object(each) for each in (value if isinstance(value, list) else [value])]


def _pairs(body: Json) -> Iterator[tuple[Json, Json]]:
    """Annotations with their tasks; of many, each says the number of its task."""
    tasks = _listed(body.get("task"))
    by_number = {task.get("id"): task for task in tasks}
    for annotation in _listed(body.get("annotation")):
        number = annotation.get("task")
        task = by_number.get(number) if isinstance(number, int) else None
        yield annotation, task or (tasks[0] if len(tasks) == 1 else {})


def _annotation_key(project: Any, annotation: Any) -> str:
    """A text that tells an annotation from all others."""
    numbers = (_object(project).get("id"), _object(annotation).get("id"))
    if not all(isinstance(n, int) and 0 <= n < 10**18 for n in numbers):
        raise BadValueError("an annotation and its project must have numbers")
    return ".".join(map(str, numbers))


def _time(annotation: Json) -> str:
    return str(annotation.get("updated_at", ""))  # times in order are texts in order


def _author(annotation: Json) -> str:
    """Who made an annotation, as far as it is said: a number of theirs."""
    number = annotation.get("completed_by")
    return f"{KIND} {number}" if isinstance(number, int) else KIND


def _check_results(
    results: Sequence[Json], boxes: Sequence[Any], names: Sequence[str], size_hw: tuple[int, int]
) -> None:
    """Refuse names that no class has, and annotations of a photo of another size.

    Raises:
        BadValueError: If one is of that kind.
    """
    if len(boxes) > MOST_BOXES:
        raise BadValueError(f"a photo must have at most {MOST_BOXES} boxes, got {len(boxes)}")
    for name in [*names, *(box.name for box in boxes)]:
        if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or has_controls(name):
            raise BadValueError(f"names must be texts of 1 to {MOST_NAME} letters")
    height, width = size_hw
    for result in results:
        said = result.get("original_width"), result.get("original_height")
        if all(isinstance(side, int) for side in said) and said != (width, height):
            rule = f"the photo of that name has {width} x {height} pixels, Label Studio's {said[0]}"
            raise BadValueError(f"{rule} x {said[1]}: they are not the same")


class StudioGuard(Guard):
    """Lets Label Studio in, which gives the token as the password of its basic authentication.

    Args:
        app: What answers the requests that are let in.
        port: Gives the port that we listen on.
        access: Who may ask.
    """

    def __init__(self, app: ASGIApp, port: Callable[[], int], access: Access) -> None:
        super().__init__(app, port, max_body=MOST_BYTES)
        self._token, self._access = access.token, replace(access, token="")

    def refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """Say why a request is not let in, before its body is read; None if it is."""
        refused = self._access.refuse(headers, scope["path"], self.port())
        if refused is not None:
            return refused
        said = headers.get("authorization", "")
        if self._token and not has_token(said, self._token, ("basic", "bearer", "token")):
            return problem_response(401, "E_TOKEN", "the token is missing or wrong")
        kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if scope["method"] not in ("GET", "HEAD") and kind != "application/json":
            return problem_response(415, "E_MEDIA", "bodies must be application/json")
        return None


Body = Annotated[Any, Depends(read_body)]


def build_label_studio_app(
    desk: StudioDesk, port: Callable[[], int], access: Access | None = None
) -> ASGIApp:
    """Make the application that Label Studio talks to.

    Args:
        desk: Does the work.
        port: Gives the port that we listen on.
        access: Who may ask; this machine if None.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    @app.get("/health")
    def health() -> Response:
        return json_response(desk.health())

    @app.get("/versions")
    def versions() -> Response:
        return json_response({"versions": [desk.version] if desk.version else []})

    asked = {"/setup": desk.set_up, "/predict": desk.predict, "/webhook": desk.hear}
    for path, function in asked.items():
        app.post(path)(_route(function))
    _add_errors(app, desk)
    return StudioGuard(app, port, access or Access())


def _route(function: Callable[[Any], Json]) -> Callable[..., Response]:
    def answer(body: Body) -> Response:
        return json_response(function(body))

    return answer


def _add_errors(app: FastAPI, desk: StudioDesk) -> None:
    """Every error is one line of JSON, and the user hears of it, too."""

    @app.exception_handler(SppnetError)
    @app.exception_handler(ValueError)
    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        desk._report(request.url.path, error)
        return error_response(error, desk.hidden)

    @app.exception_handler(HTTPException)
    def unknown(_: Request, error: HTTPException) -> Response:
        code = {404: "E_NOT_FOUND", 405: "E_METHOD"}.get(error.status_code, "E_HTTP")
        return problem_response(error.status_code, code, str(error.detail))
