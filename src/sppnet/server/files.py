"""What is sent as a file: pictures of photos, labels and models to take home, reports.

Photos are decoded by our own decoder, upright; thumbnails are made once. Downloads are made in a
temporary folder and removed once sent. The report of a run over the other photos stays.
"""

import hashlib
import re
import shutil
import tempfile
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sppnet.errors import InputError, OutputError, UnusableFileError, UsageError, failure_text
from sppnet.labelling.base import StoppedError
from sppnet.progress import Track
from sppnet.server.answers import NotFoundError, hide_folders
from sppnet.storage.files import read_capped, write_bytes

if TYPE_CHECKING:
    from sppnet.pooling.onnx.export import ExportRecipe
    from sppnet.server.desk import LabelDesk

THUMB_SIDE, LARGEST_SIDE = 160, 16_384
QUALITY, FULL_QUALITY = 88, 95
KEPT_BYTES = 48_000_000  # of pictures that were sent lately
MANY_PIXELS = 6_000_000  # of such photos one is decoded at a time: 16 bytes a pixel at the peak
PICTURE_VERSION = 1  # raise it when the same photo would give other bytes
MOST_THUMB_BYTES = 1_000_000


@dataclass(frozen=True)
class Picture:
    """A JPEG and what it is known by.

    Args:
        data: The file.
        etag: Differs whenever the photo's file or the size does.
    """

    data: bytes
    etag: str


class PhotoDesk:
    """Gives pictures of the photos of a folder; originals are only read.

    Args:
        folder: The photos.
        cache: Folder for the thumbnails.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._large, self._any = threading.Lock(), threading.BoundedSemaphore(2)

    def tag(self, photo: str, side: int) -> str:
        """What a picture is known by, without decoding.

        Args:
            photo: Name of the photo.
            side: Its longest side in pixels at most.

        Raises:
            InputError: If the file is gone.
        """
        try:
            status = (self.folder / photo).stat()
        except OSError:
            raise InputError("the file does not exist", path=photo, code="E_UNREADABLE") from None
        about = (PICTURE_VERSION, photo, status.st_size, status.st_mtime_ns, side)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:32]

    def picture(self, photo: str, side: int = 0) -> Picture:
        """Give an upright JPEG.

        Args:
            photo: Name of the photo.
            side: Its longest side in pixels at most; 0 leaves its size.

        Raises:
            InputError: If the photo cannot be decoded.
            ValueError: If the side is out of range.
        """
        if not 0 <= side <= LARGEST_SIDE:
            raise ValueError(f"side must be in 0..{LARGEST_SIDE}, got {side}")
        etag = self.tag(photo, side)
        with self._lock:
            data = self._kept.get(etag)
            if data is not None:
                self._kept.move_to_end(etag)
        if data is None:
            data = self._decode(photo, side or LARGEST_SIDE * 8, QUALITY if side else FULL_QUALITY)
            self._keep(etag, data)
        return Picture(data, etag)

    def thumb_tag(self, photo: str) -> str:
        """What a thumbnail is known by; raises ``InputError`` if the file is gone."""
        return self.tag(photo, THUMB_SIDE)

    def thumb(self, photo: str) -> Picture:
        """Give a small JPEG, from the disk if it was made before.

        Raises:
            InputError: If the photo cannot be decoded.
        """
        etag = self.thumb_tag(photo)
        path = self.cache / etag[:2] / f"{etag}.jpg"
        try:
            return Picture(read_capped(path, MOST_THUMB_BYTES), etag)
        except InputError:
            data = self._decode(photo, THUMB_SIDE, QUALITY)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
        except (OSError, OutputError):
            return Picture(data, etag)  # the disk is full: the page is shown nevertheless
        return Picture(data, etag)

    def size_of(self, photo: str) -> tuple[int, int]:
        """Width and height of the upright photo, from its header.

        Raises:
            InputError: If it is no image.
        """
        from sppnet.images.decode import read_image_size  # here, so that the page is there at once

        height, width = read_image_size(self.folder / photo)
        return width, height

    def _decode(self, photo: str, side: int, quality: int) -> bytes:
        from sppnet.evaluation.visualize import to_jpeg_bytes
        from sppnet.images.decode import load_compact

        width, height = self.size_of(photo)
        limit = self._large if width * height > MANY_PIXELS else self._any
        with limit:
            return to_jpeg_bytes(load_compact(self.folder / photo), side, quality)

    def _keep(self, etag: str, data: bytes) -> None:
        with self._lock:
            self._kept[etag] = data
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)


ENDINGS = {"voc": ".zip", "yolo": ".zip", "coco": ".json", "label-studio": ".json", "csv": ".csv"}
CLASS_ENDINGS = {"csv": ".csv", "folders": ".zip"}
Download = tuple[Path, str, Callable[[], None]]


class Downloads:
    """Makes files of what a session knows.

    Args:
        desk: Has the session.
    """

    def __init__(self, desk: "LabelDesk") -> None:
        self.desk = desk

    def export(self, layout: str, *, with_photos: bool = False) -> Download:
        """Write the labels.

        Args:
            layout: One of the endings' names.
            with_photos: Whether layouts that keep photos and labels together hold copies of them.

        Returns:
            The file, its name for the browser, and what removes it.

        Raises:
            UsageError: If there is no such layout.
            NothingUsableError: If nothing is labelled.
        """
        endings = ENDINGS if self.desk.task == "detect" else CLASS_ENDINGS
        if layout not in endings:
            raise UsageError(f"layout must be one of {', '.join(endings)}, got {layout[:40]!r}")
        ending = endings[layout]

        def write(folder: Path) -> Path:
            out = folder / ("labels" if ending == ".zip" else f"labels{ending}")
            session = cast(Any, self.desk.work.session)
            session.export(layout, out, copy_photos=with_photos)
            return out

        return _make(write, f"{self._stem()}-{layout}{ending}")

    def model(self, kind: str) -> Download:
        """Write the model as it is: ``folder`` (zipped) or ``onnx``.

        Raises:
            UsageError: If there is no such kind, or a package is missing.
            NothingUsableError: If nothing was learnt yet.
            OutputError: If onnxruntime computes something else than torch.
        """
        if kind not in ("folder", "onnx"):
            raise UsageError(f"format must be folder or onnx, got {kind[:40]!r}")
        name = f"{self._stem()}-model"

        def write(folder: Path) -> Path:
            saved = self.desk.work.session.save_model(folder / name)
            return saved if kind == "folder" else write_onnx(saved, folder / f"{name}.onnx")

        return _make(write, f"{name}{'.zip' if kind == 'folder' else '.onnx'}")

    def _stem(self) -> str:
        return self.desk.folder.absolute().name or "photos"


def write_onnx(model: Path, out: Path) -> Path:
    """Write a saved model as ONNX, after comparing onnxruntime with torch.

    Raises:
        UnusableFileError: If this kind of model has no ONNX.
        OutputError: If the two differ.
    """
    from sppnet.pooling.onnx.export import check_packages, export_onnx

    check_packages()
    recipe = recipe_of(model)
    data, comparisons = export_onnx(recipe)
    if not all(each.matches(recipe.tolerance) for each in comparisons):
        raise OutputError("onnxruntime and torch differ on this model", code="E_MISMATCH")
    write_bytes(out, data)
    return out


def recipe_of(model: Path) -> "ExportRecipe":
    """Read a saved model of either kind and describe its export as ONNX.

    Raises:
        UnusableFileError: If it cannot be read, or this kind of model has no ONNX.
    """
    from sppnet.storage import read_kind

    kind = read_kind(model)
    if kind == "detector":
        from sppnet.detection import Detector
        from sppnet.detection.onnx import detector_recipe

        return detector_recipe(Detector.load(model))
    if kind == "classifier":
        from sppnet.classification import Classifier
        from sppnet.classification.onnx import classifier_recipe

        return classifier_recipe(Classifier.load(model))
    raise UnusableFileError(
        f"the model is a {kind!r}; a 'classifier' or a 'detector' is needed",
        path=model / "manifest.json",
        code="E_WEIGHTS_ARCH",
    )


def _make(write: Callable[[Path], Path], name: str) -> Download:
    """Write into a temporary folder; a folder that was written becomes a zip file."""
    folder = Path(tempfile.mkdtemp(prefix="sppnet-label-"))

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    try:
        path = write(folder)
        if path.is_dir():
            path = zip_folder(path, folder / "whole.zip")
    except BaseException:
        remove()
        raise
    return path, name, remove


def zip_folder(folder: Path, out: Path) -> Path:
    """Pack a folder; photos are packed as they are.

    Args:
        folder: What is packed, under its own name.
        out: The file.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent).as_posix())
    return out


Predict = Callable[[Path, Sequence[Path], Path, Track], None]
TELL_EVERY = 0.5  # seconds between words on the progress
_JOB = re.compile(r"\d{1,6}")
T = TypeVar("T")


class Jobs:
    """Runs the model over the other photos, one job at a time.

    Args:
        desk: Has the session.
        predict: Takes the model's folder, the photos, the folder for the report, and what shows
            progress; writes ``index.html``.
    """

    def __init__(self, desk: "LabelDesk", predict: Predict) -> None:
        self.desk, self._predict = desk, predict
        self.folder = desk.store.folder / "reports"
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._job = ""

    def start(self) -> str:
        """Begin; a job that is under way goes on.

        Returns:
            Its name.

        Raises:
            NothingUsableError: If nothing was learnt yet.
            UsageError: If no photo is left.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return self._job
            photos = [self.desk.folder / photo for photo in self.desk.board.unlabelled()]
            if not photos:
                raise UsageError("every photo is labelled: there is nothing to run over")
            self._job = self._free_name()
            out = self.folder / self._job
            model = self.desk.work.session.save_model(out / "model")
            work = (self._job, model, photos, out)
            self._thread = threading.Thread(target=self._run, args=work, daemon=True)
            self._thread.start()
            return self._job

    def join(self) -> None:
        """Wait for the job that is under way; once the desk is closed, it ends soon."""
        if self._thread is not None:
            self._thread.join()

    def file(self, job: str, name: str) -> Path:
        """The file of a report.

        Raises:
            NotFoundError: If there is none; nothing outside the report is in reach.
        """
        if not _JOB.fullmatch(job) or "\0" in name:
            raise NotFoundError("there is no such report")
        top = (self.folder / job).resolve()
        path = (top / (name or "index.html")).resolve()
        is_inside = path.is_relative_to(top) and (top / "model") not in path.parents
        if not is_inside or not path.is_file():
            raise NotFoundError("there is no such report")
        return path

    def _free_name(self) -> str:
        """The next number."""
        known = [int(path.name) for path in self.folder.glob("*") if _JOB.fullmatch(path.name)]
        return str(max(known, default=0) + 1)

    def _run(self, job: str, model: Path, photos: Sequence[Path], out: Path) -> None:
        self.tell(job, 0, len(photos))
        try:
            self._predict(model, photos, out, _JobTrack(self, job))
        except StoppedError:
            return
        except Exception as error:  # the page shows it
            text = hide_folders(failure_text(error), (self.desk.folder, self.desk.store.folder))
            self.tell(job, 0, len(photos), error=text)
        else:
            self.tell(job, len(photos), len(photos), url=f"/report/{job}/index.html")

    @property
    def is_stopping(self) -> bool:
        """Whether the server ends."""
        return self.desk.work.is_stopping

    def tell(self, job: str, done: int, total: int, **more: Any) -> None:
        """Tell the pages how far a job is."""
        known = {"job": job, "done": done, "total": total, "seconds_left": None}
        self.desk.tell_job({**known, "url": None, "error": None, **more})


class _JobTrack:
    """Tells the pages how far a job's loop is, and ends it with the server."""

    def __init__(self, jobs: Jobs, job: str) -> None:
        self._jobs, self._job = jobs, job

    def __call__(
        self,
        iterable: Iterable[T],
        description: str,  # noqa: ARG002 (of every `Track`)
        total: int | None = None,
    ) -> Iterable[T]:
        begin, told, count = time.monotonic(), 0.0, total or 1
        for done, item in enumerate(iterable):
            now = time.monotonic()
            if now - told > TELL_EVERY:
                told = now
                left = (now - begin) / done * (count - done) if done else None
                self._jobs.tell(self._job, done, count, seconds_left=left)
            if self._jobs.is_stopping:
                raise StoppedError
            yield item
