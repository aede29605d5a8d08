"""The job that detects in all photos that are not labelled, with its progress, and its report."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sppnet.errors import SppnetError, UsageError
from sppnet.labelling.opening import StoppedError
from sppnet.progress import Track
from sppnet.server.answers import NotFoundError

if TYPE_CHECKING:
    from sppnet.server.desk import LabelDesk

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
        top = (self.folder / job).resolve()
        path = (top / (name or "index.html")).resolve()
        is_inside = _JOB.fullmatch(job) and path.is_relative_to(top) and "\0" not in name
        if not is_inside or not path.is_file() or (top / "model") in path.parents:
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
        except SppnetError as error:
            self.tell(job, 0, len(photos), error=error.message)
        except Exception as error:
            self.tell(job, 0, len(photos), error=f"a bug: {type(error).__name__}")
        else:
            self.tell(job, len(photos), len(photos), url=f"/report/{job}/index.html")

    @property
    def is_stopping(self) -> bool:
        """Whether the server ends."""
        return self.desk.work.is_stopping

    def tell(self, job: str, done: int, total: int, **more: Any) -> None:
        """Tell the pages how far a job is."""
        known = {"job": job, "done": done, "total": total, "seconds_left": None}
        self.desk.hub.publish("job", {**known, "url": None, "error": None, **more})


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
