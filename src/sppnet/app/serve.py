"""``sppnet serve``: a trained model that answers for photos over HTTP.

The command has the flags and says who is let in. :class:`ServedDetector` and
:class:`ServedClassifier` are what each child process holds; they answer with what ``predict``
writes.
"""

import io
import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.app.classify import TestSide, TestView, Top
from sppnet.app.console import note, say, warn
from sppnet.app.detect import Combine, split_inference, with_inference
from sppnet.app.options import Debug, ModelFolder, command_app, number_option
from sppnet.app.options import Device as AnyDevice
from sppnet.config.fields import Within
from sppnet.errors import UsageError, count_of

if TYPE_CHECKING:
    from sppnet.server.serve_gate import Access, UploadLimits
    from sppnet.server.workers import Model, WorkerPool

app = command_app("Answer for photos over HTTP with a trained model.")

TOKEN_VARIABLE = "SPPNET_TOKEN"  # noqa: S105 (its name)
LEAST_TOKEN, MOST_TOKEN = 16, 4096  # letters
MAX_PIXELS = 25_000_000
GRACE = 60  # seconds for what is under way when a signal comes; it is rarely needed
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Host = Annotated[
    str,
    typer.Option(
        "--host", metavar="ADDRESS", help="Address to listen on; beyond this machine with a token."
    ),
]
Port = Annotated[
    int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 finds a free one.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="File of the token; or the variable SPPNET_TOKEN."
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", help="Another name that clients call it by; repeatable."
    ),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, max=256, help="Processes; one per core if not given."
    ),
]
ThreadCount = Annotated[
    int, typer.Option("--threads", metavar="N", min=1, max=1024, help="Threads of each process.")
]
Queue = Annotated[
    int, typer.Option("--queue", metavar="N", min=1, max=10_000, help="Photos that may wait.")
]
Timeout = Annotated[
    float,
    number_option("--timeout", rule=Within(0.1, 3600), text="Seconds that a photo may take."),
]
Memory = Annotated[
    int,
    typer.Option(
        "--memory",
        metavar="MB",
        min=64,
        max=1_000_000,
        help="Memory of a process for a photo, beside what its model takes.",
    ),
]
MaxPhotos = Annotated[
    int, typer.Option("--max-photos", metavar="N", min=1, max=1000, help="Photos of a request.")
]
MaxBytes = Annotated[
    int,
    typer.Option(
        "--max-bytes", metavar="N", min=1000, max=200_000_000, help="Bytes of a photo's file."
    ),
]
MostPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        metavar="N",
        min=1,
        max=178_956_970,
        help="Largest photo, width times height.",
    ),
]
LabelStudio = Annotated[
    bool,
    typer.Option(
        "--label-studio",
        metavar="",
        help="MODEL is a folder of photos or its label store: Label Studio asks, and it learns.",
    ),
]
StudioTask = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="detect|classify",
        help="With --label-studio: what photos are labelled with, if none is yet.",
    ),
]
LeastConfidence = Annotated[
    float,
    number_option(
        "--confidence",
        rule=Within(0, 1),
        text="With --label-studio: from which on something is predicted.",
    ),
]


@app.command()
@with_inference
def serve(
    model: ModelFolder,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    allow_host: AllowHost = None,
    workers: WorkerCount = None,
    threads: ThreadCount = 1,
    queue: Queue = 32,
    timeout: Timeout = 30.0,
    memory: Memory = 2048,
    max_photos: MaxPhotos = 16,
    max_bytes: MaxBytes = 20_000_000,
    max_pixels: MostPixels = MAX_PIXELS,
    device: AnyDevice = "cpu",
    combine: Combine = None,
    view: TestView = None,
    imgsz: TestSide = None,
    top: Top = 5,
    label_studio: LabelStudio = False,
    task: StudioTask = "",
    confidence: LeastConfidence = 0.5,
    debug: Debug = False,
    *,
    inference: Mapping[str, Any],
) -> None:
    """Answer for photos over HTTP with a detector or a classifier, as `predict` would.

    POST photos to /v1/predict; /docs says how. Served to this machine only unless --host names
    another address, which needs a token. Decoding and computing is done in processes of their own
    with limits of memory and time; one that dies is replaced. SIGTERM lets requests end.
    """
    is_local = _is_loopback(host)
    token = _read_token(token_file)
    if not is_local and not token:
        rule = f"--host {host} needs a token: --token-file FILE, or the variable {TOKEN_VARIABLE}"
        raise UsageError(rule)
    if label_studio:
        _serve_label_studio(model, (token, tuple(allow_host or ()), is_local), host, port, task,
                            confidence)  # fmt: skip
        return
    changed, file = split_inference(inference)
    if file is not None:
        raise UsageError("--proposals must be a method here: photos that come have no proposals")
    os.environ.update(dict.fromkeys(_ONE_THREAD, str(threads)))  # read by the children
    os.environ["SPPNET_MAX_PIXELS"] = str(max_pixels)

    from sppnet.server.serve_gate import Access, UploadLimits
    from sppnet.server.workers import PoolLimits, WorkerPool

    count = workers or (_core_count() if device == "cpu" else 1)
    words = ([model, *(combine or [])], changed, device, view, imgsz, top)
    pool = WorkerPool(open_served, words, PoolLimits(count, queue, timeout, memory), warn)
    access = Access(token, tuple(allow_host or ()), is_local)
    _serve(pool, access, UploadLimits(max_photos, max_bytes, max_pixels), host, port)


def _serve_label_studio(
    place: Path, who: tuple[str, tuple[str, ...], bool], host: str, port: int, task: str,
    least: float,
) -> None:  # fmt: skip
    """Learn what is labelled in Label Studio, and suggest there."""
    if task not in ("", "detect", "classify"):
        raise UsageError(f"--task must be detect or classify, got {task!r}")
    from sppnet.app.label import serve_studio
    from sppnet.server.serve_gate import Access

    serve_studio(place, Access(*who), host, port, task, least)


def _serve(
    pool: "WorkerPool", access: "Access", limits: "UploadLimits", host: str, port: int
) -> None:
    """Serve until a signal comes; ends the command with its exit code, and the children with it."""
    from sppnet.server.local import LocalServer
    from sppnet.server.serve_app import build_serve_app

    try:
        pool.start()
        server = LocalServer(
            build_serve_app(pool, access, limits, lambda: server.port),
            port,
            lambda number: _say_ready(pool, host, number),
            pool.drain,
            host=host,
            grace=GRACE,
        )
        server.listen()
    finally:
        pool.close()
    note("stopped; every request that was let in was answered")
    if server.signal is not None:
        raise typer.Exit(128 + server.signal)


def _say_ready(pool: "WorkerPool", host: str, port: int) -> None:
    """Print the address."""
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{port}/")
    kind, names = pool.about["kind"], pool.about["names"]
    classes, processes = count_of(len(names), "class"), count_of(pool.limits.workers, "process")
    note(f"a {kind} of {classes} in {processes}; Ctrl-C stops")


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Raises:
        UsageError: If it is no address; a name may mean one thing today and another tomorrow.
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        raise UsageError(f"--host must be an address such as 0.0.0.0, got {host!r}") from None


def _read_token(path: Path | None) -> str:
    """The token of a file, else of the environment; empty if there is none.

    Raises:
        UsageError: If it is too short, or no header could carry it.
    """
    from sppnet.storage.files import read_bytes

    where = f"the variable {TOKEN_VARIABLE}"
    text = os.environ.get(TOKEN_VARIABLE, "")
    if path is not None:
        where, text = "the file", read_bytes(path, MOST_TOKEN).decode("utf-8", "replace")
    elif TOKEN_VARIABLE not in os.environ:
        return ""
    token = text.strip()
    is_fit = token.isascii() and token.isprintable() and " " not in token
    if not is_fit or not LEAST_TOKEN <= len(token) <= MOST_TOKEN:
        rule = f"{where} must hold a token of {LEAST_TOKEN} letters or more, without spaces"
        raise UsageError(rule, path=path)
    return token


def _core_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_served(
    models: Sequence[Path],
    inference: Mapping[str, Any],
    device: str,
    view: str | None,
    imgsz: int | None,
    top: int,
) -> "Model":
    """Read a model of any kind to answer with; called in each child.

    Args:
        models: Folders; several detectors are combined.
        inference: Fields of the detectors' settings of testing to change.
        device: Where to compute.
        view: Of a classifier: views to score.
        imgsz: Of a classifier: short side of whole images.
        top: Of a classifier: how many classes to answer with.

    Raises:
        UnusableFileError: If a folder is no model.
        UsageError: If a flag is for another kind of model.
    """
    from sppnet.storage.models import read_kind

    if read_kind(models[0]) == "detector":
        if view is not None or imgsz is not None:
            raise UsageError("--view and --imgsz are for classifiers, this is a detector")
        served: Model = ServedDetector(models, device, inference)
    else:
        if inference or len(models) > 1:
            raise UsageError("--combine and flags of testing are for detectors, not classifiers")
        served = ServedClassifier(models[0], device, view, imgsz, top)
    served.answer("first.png", _first_photo())  # what is loaded when it is needed is loaded now
    return served


def _first_photo() -> bytes:
    """A photo of noise."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((96, 64), 60).save(buffer, "PNG")
    return buffer.getvalue()


class ServedDetector:
    """Answers for one photo as ``detections.json`` of ``sppnet detect predict``.

    Args:
        models: Folders; several are combined.
        device: Where to compute.
        inference: Fields of their settings of testing to change.
    """

    def __init__(self, models: Sequence[Path], device: str, inference: Mapping[str, Any]) -> None:
        from sppnet.app.detect.predict import open_detectors
        from sppnet.detection.watch import usual_thresholds

        self.detector = open_detectors(models, device, inference)
        self.thresholds = usual_thresholds(self.detector)

    def describe(self) -> dict[str, Any]:
        """Say what it is: kind, classes, a digest of its numbers."""
        from sppnet.storage.tensors import digest_of

        detector = self.detector
        return {
            "kind": "detector",
            "model": digest_of(detector.config(), detector.tensors()),
            "names": list(detector.names),
            "thresholds": list(self.thresholds),
        }

    def answer(self, name: str, photo: bytes) -> dict[str, Any]:
        """Find things: file, width and height in pixels, and the entries of detections.json."""
        from sppnet.app.detect.outcomes import ReadImage, detect_image
        from sppnet.evaluation.result_formats import coco_entries

        image = ReadImage(Path(name), photo)
        found = detect_image(self.detector, image).detections
        points = self.detector.operating_points
        found = found if points is None else points.with_confidence(found)
        stem = PurePosixPath(name).stem
        entries = coco_entries(
            {stem: found}, self.detector.names, files={stem: name}, thresholds=self.thresholds
        )
        _, height, width = image.pixels.shape
        return {"file": name, "width": width, "height": height, "detections": list(entries)}


class ServedClassifier:
    """Answers for one photo as ``predictions.json`` of ``sppnet classify predict``.

    Args:
        model: Folder.
        device: Where to compute.
        view: Views to score; None for the model's own.
        imgsz: Short side of whole images; None for the model's own.
        top: How many classes to answer with.
    """

    def __init__(
        self, model: Path, device: str, view: str | None, imgsz: int | None, top: int
    ) -> None:
        from sppnet.app.classify.predict import choose_view
        from sppnet.app.options import choose_device
        from sppnet.classification.predict import load_classifier, scores_of

        self.classifier = load_classifier(model, choose_device(device))
        self.function = scores_of(self.classifier, choose_view(self.classifier, view, imgsz))
        self.top = top

    def describe(self) -> dict[str, Any]:
        """Say what it is: kind, classes, kind of its scores, a digest of its numbers."""
        return {
            "kind": "classifier",
            "model": self.classifier.digest(),
            "names": list(self.classifier.names),
            "score_kind": self.classifier.score_kind,
        }

    def answer(self, name: str, photo: bytes) -> dict[str, Any]:
        """Name what it shows: file, width and height in pixels, labels, names and scores."""
        from sppnet.app.classify.predict import name_photo
        from sppnet.images.decode import decode_content

        pixels = decode_content(photo, name)
        row = self.function.compute([self.function.view.apply(pixels)])[0]
        size = {"file": name, "width": pixels.shape[2], "height": pixels.shape[1]}
        return {**size, **name_photo(self.classifier, row, self.top)}
