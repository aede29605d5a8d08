"""``sppnet doctor``: whether this installation computes what it should, and models are whole.

Every line that it prints is a check: of this installation (``installation.py``), of a model, of a
server that answers with it (here). A check is a function that returns nothing, or raises `Wrong`
with what it found.
"""

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sppnet.app.console import DONE, report_problems, say
from sppnet.app.options import Debug, Device, JsonFile, Threads, command_app
from sppnet.errors import (
    MissingPackageError,
    Problem,
    UnusableFileError,
    count_of,
    failure_text,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from torch import Tensor

    from sppnet.classification import ImageClassifier
    from sppnet.detection import Detector

    AnyModel = Detector | ImageClassifier

app = command_app("Check this installation, and that models are whole and answer as they did.")
SAME = 1e-5  # of float32, whose sums another processor may add up in another order
CLOSE = 1e-3  # another engine of the trunk, another device
OK, NOT_HERE = "ok", "not here: "
# sides of photos that a model must answer for, (height, width)
SHAPES = ((1, 1), (1, 50), (50, 1), (2, 3), (7, 64), (33, 31), (300, 12), (90, 120))
HOST = "127.0.0.1:8000"  # by which the application is called; nothing listens there
SERVER_SECONDS = 120.0  # for an answer on a machine that is busy

Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="Folders of trained models.")
]


@app.command()
def doctor(
    models: Models,
    device: Device = "cpu",
    json_file: JsonFile = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Check this installation, every byte of models, and what they answer; a line for each check.

    Pooling, regions and boxes are compared with their definitions, compiled kernels and exported
    programs with plain code; spoilt photos, models and caches must be noticed. A model must be
    whole, answer as where it was saved, for every size of photo, the same bits alone and among
    others, and over HTTP. Anything that is wrong is an error: exit code 5.
    """
    general = check_installation()
    show_checks("this installation", general)
    problems = problems_of("", general)
    findings = []
    for folder in models:
        try:
            model, finding = examine(folder, device)
        except UnusableFileError as error:
            problems.append(Problem.of(error))
            continue
        say(f"{folder}: {in_words(finding)}")
        checks = run_checks(MODEL, model) | check_served(folder, model)
        show_checks(str(folder), checks)
        problems += problems_of(str(folder), checks)
        findings.append({**finding, "checks": general | checks})
    if json_file is not None:
        from sppnet.storage import write_json

        write_json(json_file, findings)
    report_problems(problems)
    raise typer.Exit(UnusableFileError.exit_code if problems else DONE)


def check_installation() -> dict[str, str]:
    """Name -> result of each check that needs no model."""
    from sppnet.app.doctor.installation import checks_of

    with tempfile.TemporaryDirectory() as folder:
        return run_checks(checks_of(Path(folder)))


def run_checks(checks: Mapping[str, Callable[..., None]], *words: Any) -> dict[str, str]:
    """Do checks one after the other, whatever becomes of those before.

    Args:
        checks: Name -> function; it raises what is wrong.
        *words: What each is given.

    Returns:
        Name -> ``ok``, ``not here: ...`` where an optional package is missing, or what is wrong.

    Example:
        >>> run_checks({"a sum": lambda: None, "a share": lambda: 1 / 0})
        {'a sum': 'ok', 'a share': 'it ended with a bug: ZeroDivisionError'}
    """
    return {name: _result_of(check, *words) for name, check in checks.items()}


def _result_of(check: Callable[..., None], *words: Any) -> str:
    from sppnet.app.doctor.installation import Wrong

    try:
        check(*words)
    except Wrong as found:
        return str(found)
    except MissingPackageError as error:
        return f"{NOT_HERE}{failure_text(error)}"
    except Exception as error:  # whatever it is, the checks after it are done
        return f"it ended with {failure_text(error)}"
    return OK


def show_checks(title: str, checks: Mapping[str, str]) -> None:
    """Print a line for each check, and how many are right."""
    right = sum(result == OK for result in checks.values())
    absent = sum(result.startswith(NOT_HERE) for result in checks.values())
    rest = f", {absent} not here" if absent else ""
    say(f"{title}: {right} of {count_of(len(checks), 'check')} {OK}{rest}")
    for name, result in checks.items():
        say(f"  {OK if result == OK else '--':<4}{name}{'' if result == OK else f': {result}'}")


def problems_of(path: str, checks: Mapping[str, str]) -> list[Problem]:
    """The checks that found something wrong, as errors.

    Example:
        >>> [str(each) for each in problems_of("", {"a": "ok", "b": "not here: x", "c": "differs"})]
        ['c: differs (E_ANSWERS)']
    """
    return [
        Problem(path, f"{name}: {result}", "E_ANSWERS")
        for name, result in checks.items()
        if result != OK and not result.startswith(NOT_HERE)
    ]


def examine(folder: Path, device: str = "cpu") -> "tuple[AnyModel, dict[str, Any]]":
    """Load a model, every byte checked, and compare its answers with those that it keeps.

    Args:
        folder: Of a detector or a classifier of any kind.
        device: Where to ask it.

    Returns:
        The model; and of it ``model``, ``kind``, ``classes``, ``saved_on`` and
        ``largest_difference``, relative to the numbers, of which the last two are None for a model
        that keeps no answers.

    Raises:
        UnusableFileError: If a file is missing or damaged, the parts do not fit together, or the
            answers differ by more than 0.001.
    """
    from sppnet.images.canary import largest_difference
    from sppnet.storage import read_answers

    kind, model = _load(folder, device)
    kept = read_answers(folder)
    difference = None if kept is None else largest_difference(model.answers(), kept)
    if kept is not None and difference is not None and not difference <= CLOSE:
        raise UnusableFileError(
            f"its answers differ by {difference:.2g} from those it gave where it was saved "
            f"({kept.get('machine')})",
            path=folder,
            code="E_ANSWERS",
        )
    return model, {
        "model": str(folder),
        "kind": kind,
        "classes": len(model.names),
        "saved_on": None if kept is None else kept.get("machine"),
        "largest_difference": difference,
    }


def in_words(finding: dict[str, Any]) -> str:
    """Say in a line what was found.

    Example:
        >>> one = {"kind": "detector", "classes": 2, "saved_on": "x86_64", "largest_difference": 0}
        >>> in_words(one)
        'detector of 2 classes, every byte as saved, the same numbers as on x86_64'
    """
    classes = count_of(finding["classes"], "class")
    whole = f"{finding['kind']} of {classes}, every byte as saved"
    difference, where = finding["largest_difference"], finding["saved_on"]
    if difference is None:
        return f"{whole}; it was saved by an earlier version and keeps no answers to compare"
    if difference <= SAME:
        return f"{whole}, the same numbers as on {where}"
    return f"{whole}, numbers within {difference:.1g} of those on {where}"


def _load(folder: Path, device: str) -> "tuple[str, AnyModel]":
    """Read a model of any kind; one that wants a file of proposals gets a grid."""
    from sppnet.app.options import choose_device
    from sppnet.storage import read_kind

    kind = read_kind(folder)
    if kind == "detector":
        from sppnet.detection import Detector

        detector = Detector.load(folder, choose_device(device))
        detector.inference = replace(detector.inference, **_own_proposals(detector))
        return kind, detector
    from sppnet.classification import load_classifier

    return kind, load_classifier(folder, choose_device(device))


def _own_proposals(model: "AnyModel") -> dict[str, Any]:
    """What to change in the settings of a detector whose proposals lie in a file."""
    from sppnet.config.detection import proposals_file
    from sppnet.detection import Detector

    if isinstance(model, Detector) and proposals_file(model.inference.proposals) is not None:
        return {"proposals": "grid"}
    return {}


def _photos(sizes_hw: Sequence[tuple[int, int]]) -> "list[Tensor]":
    """Photos of these sizes, out of the picture that every installation draws alike."""
    from torch.nn.functional import interpolate

    from sppnet.images.canary import canary_image

    drawn = canary_image()[None]
    return [interpolate(drawn, size, mode="bilinear")[0].clamp(0, 1) for size in sizes_hw]


def _ask(model: "AnyModel", images: "Sequence[Tensor]") -> "list[list[Tensor]]":
    """All numbers that a model says of each of some photos, which are given together."""
    from sppnet.detection import Detector
    from sppnet.progress import no_tracking

    if isinstance(model, Detector):
        found = model.predict(list(images), track=no_tracking)
        return [[each.boxes, each.scores, each.labels] for each in found]
    return [[row] for row in model.scores(list(images))]


def _require_alike(
    one: "Sequence[Tensor]", other: "Sequence[Tensor]", model: "AnyModel", words: str
) -> None:
    """Raise unless two answers have the same bits, or nearly where an accelerator adds up."""
    from sppnet.app.doctor.installation import require, same
    from sppnet.detection import Detector

    device = model.encoder.device if isinstance(model, Detector) else model.device
    for a, b in zip(one, other, strict=True):
        is_close = same(a, b) or (
            device.type != "cpu"
            and a.shape == b.shape
            and bool(((a - b).abs() <= CLOSE * b.abs().clamp_min(1)).all())
        )
        require(is_close, words)


def check_shapes(model: "AnyModel") -> None:
    """Finite numbers for photos of any size, boxes inside them."""
    from sppnet.app.doctor.installation import require

    for (height, width), image in zip(SHAPES, _photos(SHAPES), strict=True):
        (found,) = _ask(model, [image])
        words = f"of a photo of {width} x {height} pixels"
        require(all(bool(each.isfinite().all()) for each in found), f"no finite number {words}")
        if len(found) > 1 and len(found[0]):
            inside = found[0].amax(0)[2:] <= found[0].new_tensor([width, height])
            require(bool(inside.all() and found[0].amin() >= 0), f"boxes that lie outside {words}")


def check_company(model: "AnyModel", order: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
    """The same bits alone and among others."""
    images = _photos([(90, 120), (64, 64), (120, 80), (1, 7), (64, 64)])
    together = _ask(model, [images[number] for number in order])
    for number, found in zip(order, together, strict=True):
        _require_alike(found, _ask(model, [images[number]])[0], model, "another answer than alone")


def check_order(model: "AnyModel") -> None:
    """The same bits in another order."""
    check_company(model, (3, 1, 4, 0, 2))


def check_threads(model: "AnyModel") -> None:
    """Four threads at a time get the answers of one."""
    images = _photos([(64, 64), (90, 40), (33, 70), (64, 50)])
    found: dict[int, list[Tensor]] = {}

    def ask(number: int) -> None:
        found[number] = _ask(model, [images[number]])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, image in enumerate(images):
        alone = _ask(model, [image])[0]
        _require_alike(found.get(number, []), alone, model, "another answer than to one thread")


def check_stored(model: "AnyModel") -> None:
    """A PNG and a BMP of the same pixels have the same answer."""
    from sppnet.app.doctor.installation import picture, stored
    from sppnet.images import decode_image

    images = [decode_image(stored(picture(), kind)) for kind in ("PNG", "BMP")]
    one, other = (_ask(model, [image])[0] for image in images)
    _require_alike(one, other, model, "another answer for a BMP than for a PNG")


MODEL: dict[str, Callable[..., None]] = {
    "finite answers for photos of 1 x 1 pixel to long strips": check_shapes,
    "the same answers alone and among others": check_company,
    "the same answers in another order": check_order,
    "the same answers to threads at a time": check_threads,
    "the same answers for a PNG and a BMP": check_stored,
}


class Served(NamedTuple):
    """The application of ``sppnet serve`` over a model, asked as its HTTP server asks it.

    Args:
        app: Of ASGI; no port is opened.
        answer: What the model says here of the bytes of a photo.
    """

    app: "ASGIApp"
    answer: Callable[[str, bytes], dict[str, Any]]

    def ask(self, photo: bytes, path: str = "/v1/predict", **headers: str) -> tuple[int, Any]:
        """Status and content of its answer to a photo."""
        said = {"host": HOST, "content-type": "image/png", "content-length": str(len(photo))}
        lines = {**said, **headers}.items()
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in lines],
        }
        messages: list[Any] = []
        body = [{"type": "http.request", "body": photo}]

        async def receive() -> Any:
            return body.pop() if body else await asyncio.Event().wait()  # it does not hang up

        async def send(message: Any) -> None:
            messages.append(message)

        async def answer() -> None:
            await self.app(scope, receive, send)

        asyncio.run(answer())
        begin, *parts = messages
        return begin["status"], json.loads(b"".join(part["body"] for part in parts))


def check_served(folder: Path, model: "AnyModel") -> dict[str, str]:
    """Serve a model with one worker, and ask it."""
    results: dict[str, str] = {}

    def serve() -> None:
        with _serving(folder, _own_proposals(model)) as served:
            results.update(run_checks(SERVED, served))

    return run_checks({"a server starts, and ends": serve}) | results


@contextmanager
def _serving(folder: Path, changed: Mapping[str, Any]) -> Iterator[Served]:
    import torch

    from sppnet.app.serve import open_served
    from sppnet.server.serve_app import build_serve_app
    from sppnet.server.serve_gate import Access, UploadLimits
    from sppnet.server.workers import PoolLimits, WorkerPool

    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # of the worker: the same sums
    words = ([folder], changed, "cpu", None, None, 5)
    pool = WorkerPool(open_served, words, PoolLimits(seconds=SERVER_SECONDS))
    try:
        pool.start()
        port = int(HOST.partition(":")[2])
        app = build_serve_app(pool, Access(), UploadLimits(), lambda: port)
        yield Served(app, open_served(*words).answer)
    finally:
        pool.close()


def check_answer(served: Served) -> None:
    """It answers over HTTP what the model answers here."""
    from sppnet.app.doctor.installation import picture, require, stored

    for kind in ("PNG", "JPEG"):
        photo = stored(picture(), kind)
        status, said = served.ask(photo)
        require(status == 200, f"answered with {status}")
        here = json.loads(json.dumps(served.answer("photo", photo)))
        require(said["images"] == [here], f"another answer for a {kind}")


def check_refusals(served: Served) -> None:
    """Photos that are none are refused, and the next one is answered."""
    from sppnet.app.doctor.installation import picture, require, stored

    photo = stored(picture(), "PNG")
    for spoilt in (b"", b"%PDF-1.7 of no use", photo[: len(photo) // 2]):
        status, said = served.ask(spoilt)
        require(400 <= status < 500, f"a photo that is none is answered with {status}")
        require(set(said["error"]) >= {"code", "message"}, "a refusal without a code")
    require(served.ask(photo)[0] == 200, "the next photo is not answered")


def check_strangers(served: Served) -> None:
    """Other hosts, other sites and paths are refused."""
    from sppnet.app.doctor.installation import require

    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        require(served.ask(b"", **headers)[0] == 403, f"let in with {headers}")
    for path in ("/../../etc/passwd", "/v1/../etc/passwd"):
        require(served.ask(b"", path)[0] == 404, f"there is a page {path}")


SERVED: dict[str, Callable[..., None]] = {
    "a server answers as the model": check_answer,
    "a server refuses photos that are none": check_refusals,
    "a server refuses other hosts, sites and paths": check_strangers,
}
