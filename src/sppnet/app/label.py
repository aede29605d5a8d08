"""``sppnet label``: label photos in a page on this machine, while a model learns meanwhile."""

import contextlib
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet import __version__
from sppnet.app.console import note, options_to_blame, say
from sppnet.app.options import Debug, MaxPixels, Threads, command_app, parse_numbers
from sppnet.errors import SppnetError, UsageError, count_of

if TYPE_CHECKING:
    from sppnet.progress import Track
    from sppnet.server.desk import LabelDesk
    from sppnet.server.label_work import Session
    from sppnet.server.serve_gate import Access
    from sppnet.storage.label_store import LabelStore

app = command_app("Label photos in a page on this machine, while a model learns from each label.")

PhotoFolder = Annotated[
    Path, typer.Argument(metavar="PHOTOS", help="Folder of the photos; they are never changed.")
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="Labels and features; PHOTOS/.sppnet if not given."
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="DATA",
        help="Labels to begin with: a VOC, COCO or YOLO set, or JSON of Label Studio.",
    ),
]
Task = Annotated[
    str,
    typer.Option("--task", metavar="detect|classify", help="Draw boxes, or name whole photos."),
]
Port = Annotated[
    int,
    typer.Option("--port", metavar="N", min=0, max=65535, help="Port of 127.0.0.1; 0 finds one."),
]
NoBrowser = Annotated[
    bool, typer.Option("--no-browser", metavar="", help="Only print the address.")
]
Author = Annotated[str, typer.Option("--author", metavar="NAME", help="Recorded with each edit.")]
Backbone = Annotated[
    str, typer.Option("--backbone", metavar="NAME", help="Trunk; the usual one if not given.")
]
Weights = Annotated[
    str, typer.Option("--weights", metavar="DEFAULT|none|FILE", help="Weights of the trunk.")
]
Sides = Annotated[
    str,
    typer.Option(
        "--imgsz", metavar="N,...", help="Short sides that photos are convolved at, in pixels."
    ),
]
Proposals = Annotated[
    str, typer.Option("--proposals", metavar="NAME", help="Proposals, as of `detect train`.")
]


@app.command()
def label(
    photos: PhotoFolder,
    store: StoreFolder = None,
    labels: Labels = None,
    task: Task = "detect",
    port: Port = 0,
    no_browser: NoBrowser = False,
    author: Author = "",
    backbone: Backbone = "",
    weights: Weights = "DEFAULT",
    imgsz: Sides = "",
    proposals: Proposals = "",
    threads: Threads = None,
    max_pixels: MaxPixels = None,
    debug: Debug = False,
) -> None:
    """Open a page in which you label photos; a model suggests, and learns from what you correct.

    Every edit is on the disk at once; stop with Ctrl-C and go on with the same command. Labels that
    another program made are taken over by --labels, once, into a store that is empty. The page is
    served to this machine only (127.0.0.1), and nothing is asked of the network.
    """
    if task not in ("detect", "classify"):
        raise UsageError(f"--task must be detect or classify, got {task!r}")
    if not photos.is_dir():
        raise UsageError("must be a folder of photos", path=photos)
    if labels is not None and task != "detect":
        raise UsageError("--labels are boxes, for --task detect")
    settings = {"backbone": backbone, "weights": weights, "imgsz": imgsz, "proposals": proposals}
    chosen = {name: value for name, value in settings.items() if value}
    _serve(photos, store, labels, task, port, not no_browser, author, chosen)


def _serve(
    photos: Path,
    store: Path | None,
    labels: Path | None,
    task: str,
    port: int,
    opens_browser: bool,
    author: str,
    settings: dict[str, str],
) -> None:
    """Serve until a signal comes; ends the command with its exit code."""
    from sppnet.labelling.base import list_photos, open_store
    from sppnet.server.desk import LabelDesk
    from sppnet.server.files import Jobs
    from sppnet.server.label_app import build_label_app
    from sppnet.server.local import LocalServer

    names = list_photos(photos)
    kept = open_store(photos, store, task, names)
    if task == "detect":
        _take_over(labels, kept, photos)
    opening = _opening(photos, kept.folder, task, settings)
    desk = LabelDesk(photos, kept, names, task, opening, author, __version__)
    jobs = Jobs(desk, _predict_boxes if task == "detect" else _predict_classes)
    server = LocalServer(
        build_label_app(desk, lambda: server.port, jobs),
        port,
        lambda number: _say_ready(number, len(names), opens_browser),
        desk.hub.close,
    )
    desk.work.on_failure = server.stop
    desk.start()
    try:
        server.listen()
    finally:
        _close(desk, jobs)
    if desk.work.failure is not None:
        raise desk.work.failure
    note("stopped; every edit is on the disk, the same command goes on from there")
    if server.signal is not None:
        raise typer.Exit(128 + server.signal)


def _take_over(labels: Path | None, store: "LabelStore", photos: Path) -> None:
    """Begin with labels of another program; say so where there are some that nobody asked for."""
    from sppnet.images import find_layout
    from sppnet.labelling import import_labels

    if store.count_labelled():
        if labels is not None:
            note(f"labels are there already; {str(labels)!r} is not read again")
        return
    if labels is not None:
        count = import_labels(store, labels)
        note(f"labels of {count_of(count, 'photo')} taken over from {str(labels)!r}")
        return
    with contextlib.suppress(SppnetError):  # a set that cannot be read is none to begin with
        layout = find_layout(photos)
        if layout not in (None, "labels"):
            note(f"there are labels in {layout} layout; --labels {str(photos)!r} begins with them")


def _say_ready(port: int, count: int, opens_browser: bool) -> None:
    """Print the address, and show it in the browser."""
    address = f"http://127.0.0.1:{port}/"
    say(address)
    note(f"{count_of(count, 'photo')}; labels are saved at once, Ctrl-C stops")
    if opens_browser and _has_screen():
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(address)


def _has_screen() -> bool:
    """Whether a browser has a window; one in the terminal would take it away from us."""
    is_drawn = sys.platform in ("win32", "darwin")
    return is_drawn or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _close(desk: "LabelDesk", jobs: Any) -> None:
    desk.close()
    jobs.join()


def _opening(
    photos: Path, store: Path, task: str, settings: dict[str, str]
) -> "Callable[[], Session]":
    """What opens the session, in a thread; torch is loaded there."""

    def open_detection() -> "Session":
        from sppnet.labelling import LabelSession

        return LabelSession.open(
            photos, store, config=_detection_config(settings), learns_edits=False
        )

    def open_classification() -> "Session":
        from sppnet.labelling.class_session import ClassSession

        return ClassSession.open(photos, store, config=_fit_config(settings))

    return open_detection if task == "detect" else open_classification


def serve_studio(
    place: Path, access: "Access", host: str, port: int, task: str, least: float
) -> None:
    """Let Label Studio label the photos of a folder, and learn from it until a signal comes.

    Ends the command with its exit code.

    Args:
        place: A folder of photos, or of a label store.
        access: Who may ask.
        host: Address to listen on.
        port: To listen on; 0 takes a free one.
        task: ``detect`` or ``classify``; empty takes what the store is for.
        least: Confidence from which on something is predicted.

    Raises:
        NothingUsableError: If there is no photo.
        UsageError: If the folder or its store is not there or is for another task or photos.
        OutputError: If the port cannot be had.
    """
    from sppnet.labelling.base import list_photos, open_store
    from sppnet.server.label_studio import StudioDesk, build_label_studio_app
    from sppnet.server.local import LocalServer

    photos, own, known = _find_store(place)
    names = list_photos(photos)
    kept = open_store(photos, own, task or known, names)
    task = task or known
    opening = _opening(photos, kept.folder, task, {})
    desk = StudioDesk(photos, kept, names, task, opening, least=least, tell=note)
    server = LocalServer(
        build_label_studio_app(desk, lambda: server.port, access),
        port,
        lambda number: _say_studio(host, number, len(names), task),
        host=host,
    )
    desk.work.on_failure = server.stop
    desk.start()
    try:
        server.listen()
    finally:
        desk.close()
    if desk.work.failure is not None:
        raise desk.work.failure
    note("stopped; every annotation that was answered is on the disk")
    if server.signal is not None:
        raise typer.Exit(128 + server.signal)


def _say_studio(host: str, port: int, count: int, task: str) -> None:
    say(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    photos = count_of(count, "photo")
    note(f"{photos}, {task}; give this address to Label Studio as a model; Ctrl-C stops")


def _find_store(place: Path) -> tuple[Path, Path | None, str]:
    """The photos that a folder means, the store if there is one, and what it is for.

    Raises:
        UsageError: If there is no such folder.
        UnusableFileError: If the store is damaged.
    """
    from sppnet.storage.label_store import STORE_FILE, STORE_FOLDER, LabelStore

    if not place.is_dir():
        raise UsageError("must be a folder of photos or of a label store", path=place)
    folders = (place, place / STORE_FOLDER)
    own = next((folder for folder in folders if (folder / STORE_FILE).is_file()), None)
    if own is None:
        return place, None, "detect"
    with LabelStore(own) as store:
        return store.photos_folder, own, store.fact("task") or "detect"


def _detection_config(settings: dict[str, str]) -> Any:
    from sppnet.config.detection import DetectionConfig

    words: dict[str, Any] = dict(settings)
    if "imgsz" in words:
        words["imgsz"] = parse_numbers("--imgsz", words["imgsz"])
    with options_to_blame():
        return DetectionConfig(**words)


def _fit_config(settings: dict[str, str]) -> Any:
    from sppnet.config.classification import FitConfig

    if "proposals" in settings:
        raise UsageError("--proposals is for --task detect")
    words: dict[str, Any] = dict(settings)
    with options_to_blame():
        return FitConfig(**words)


def _predict_boxes(model: Path, photos: Sequence[Path], out: Path, track: "Track") -> None:
    """Write what ``detect predict`` writes."""
    from sppnet.app.detect.predict import PredictionJob

    with _only_failing_whole():
        PredictionJob([model], [str(photo) for photo in photos], out, track=track).run()


def _predict_classes(model: Path, photos: Sequence[Path], out: Path, track: "Track") -> None:
    """Write what ``classify predict`` writes, and a page."""
    from sppnet.app.classify.predict import run_predict

    with _only_failing_whole():
        run_predict(
            model, [str(photo) for photo in photos], out, view=None, imgsz=None, top=5,
            device="auto", dry_run=False, show=track, with_page=True,
        )  # fmt: skip


@contextlib.contextmanager
def _only_failing_whole() -> Any:
    """A command's exit is no end of the server; photos that could not be read are in its page."""
    try:
        yield
    except typer.Exit:
        return
