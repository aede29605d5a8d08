"""``LabelSession``: label photos, and have a detector that learns from each label in seconds."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from sppnet.config.detection import DetectionConfig
from sppnet.errors import NothingUsableError, Problem
from sppnet.geometry import Detections
from sppnet.images import read_image_size
from sppnet.labelling.base import (
    Improver,
    PhotoSession,
    check_number,
    fill_up,
    list_photos,
    open_store,
)
from sppnet.labelling.drawn import Suggestions, cut_boxes, keep_extras
from sppnet.labelling.exchange import export_labels
from sppnet.labelling.folds import (
    Doubt,
    Expectation,
    choose_next,
    choose_surest,
    find_doubts,
    measure_presence,
    summarise,
)
from sppnet.labelling.kept import KeptLearning
from sppnet.labelling.loop import DOUBT_FOLDS, LearningLoop
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import LABELLED, UNLABELLED, PhotoLabels
from sppnet.storage.tensors import trim_heap


@dataclass(frozen=True)
class SessionState:
    """What a session is doing.

    Args:
        phase: ``idle``, ``queued`` (edits wait to be learnt), ``fitting`` or ``failed``.
        seconds_left: Of the fit that is under way, about; 0 otherwise.
        message: Why it failed; empty otherwise.
        waiting: Labelled photos of which something is still to be learnt.
        labelled: Photos that have labels, or of which it is known that they are empty.
        photos: All photos.
        model: Version of the model that suggests; empty before there is one.
    """

    phase: str
    seconds_left: float
    message: str
    waiting: int
    labelled: int
    photos: int
    model: str


class LabelSession(PhotoSession):
    """Labels of a folder of photos, and a detector that is kept warm on them.

    Features are computed once per photo and kept on disk. An edit is on the disk before its call
    returns; :meth:`refit` then learns it from the last solution on: rows of the edited photo are
    replaced, the rest stays. With one box there is a model already: an SVM with that box (and the
    proposals that nearly coincide with it) against the rest of its photo, regions that look much
    like it left out (an exemplar SVM; Malisiewicz et al. 2011).

    Use :meth:`open`. The session is a context; leaving it stops the background work.

    Args:
        folder: Of the photos; nothing is written there but the store.
        store: Labels.
        config: The constants of ``detect train``.
        background: Whether a thread convolves photos and improves the model meanwhile.
        author: Recorded with each edit.
        learns_edits: Whether that thread learns edits, too; without, they wait for :meth:`refit`.
        photos: Names of the photos, where they were listed before.

    Example:
        >>> import tempfile
        >>> from sppnet.images import draw_detection_set
        >>> config = DetectionConfig(
        ...     backbone="small5", weights="none", imgsz=(96,), proposals="grid"
        ... )
        >>> with tempfile.TemporaryDirectory() as name:
        ...     photos = draw_detection_set(name, 3, seed=0) / "JPEGImages"
        ...     with LabelSession.open(photos, config=config, background=False) as session:
        ...         first, second = session.photos[:2]
        ...         done = session.set_boxes(first, [[9, 9, 60, 60]], ["thing"])
        ...         learnt = session.refit()
        ...         found = session.suggest(second)
        ...         print(done.state, learnt.labelled, set(found.names) <= {"thing"})
        labelled 1 True

    Source:
        Our own; how the parts are learnt is SPP-net, section 4, with what docs/detection.md names.
    """

    def __init__(
        self,
        folder: Path,
        store: LabelStore,
        config: DetectionConfig,
        *,
        background: bool = True,
        author: str = "",
        learns_edits: bool = True,
        photos: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, store, photos or list_photos(folder), author)
        self.config, self._deadline = config, 0.0
        self._loop = LearningLoop(folder, store, config, self.photos)
        self._loop.learns_edits = learns_edits
        self._lock = self._loop.lock
        self._kept = KeptLearning(self._loop)
        self._kept.recall()
        self._improver = Improver(self._improve_once, self._fail)
        if background:
            self._improver.start()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        store: str | Path | None = None,
        *,
        config: DetectionConfig | None = None,
        background: bool = True,
        author: str = "",
        learns_edits: bool = True,
    ) -> "LabelSession":
        """Open a folder of photos, with the labels that it has.

        Args:
            folder: The photos, in this folder and below; they are never changed.
            store: Folder of labels and features; ``folder``/.sppnet if None.
            config: The constants of ``detect train``, without fine-tuning; the usual ones if None.
            background: Whether a thread convolves photos and improves the model meanwhile.
            author: Recorded with each edit.
            learns_edits: Whether that thread learns edits, too, or leaves them to :meth:`refit`.

        Raises:
            NothingUsableError: If there is no photo.
            UsageError: If the store is of other photos, or the trunk's weights are not there.
            UnusableFileError: If the store is damaged.
            OutputError: If the store cannot be made.
        """
        photos = list_photos(folder)
        with ExitStack() as undone:  # a store that nobody can reach is closed
            kept = undone.enter_context(open_store(folder, store, "detect", photos))
            session = cls(
                Path(folder),
                kept,
                config or DetectionConfig(),
                background=background,
                author=author,
                learns_edits=learns_edits,
                photos=photos,
            )
            undone.pop_all()
        return session

    @property
    def state(self) -> SessionState:
        """What the session is doing, for a page to show."""
        left = max(0.0, self._deadline - time.monotonic())
        phase = "queued" if self._loop.pending or self._loop.is_behind else "idle"
        phase = "failed" if self._failure else "fitting" if self._is_fitting else phase
        model = self._loop.model.version if self._loop.model else ""
        counts = (len(self._loop.pending), self.store.count_labelled(), len(self.photos))
        return SessionState(phase, left, self._failure, *counts, model)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Photos and boxes that could not be used, each once."""
        return tuple(dict.fromkeys([*self._loop.problems, *self._loop.learner.cached.problems]))

    def set_boxes(
        self,
        photo: str,
        boxes: Tensor | Sequence[Sequence[float]],
        labels: Sequence[str],
        *,
        expected: int | None = None,
        author: str | None = None,
    ) -> PhotoLabels:
        """Say which things a photo shows; on the disk when this returns.

        It does not wait for a fit that is under way.

        What an import said of a box beyond its corners stays with it, also if it is moved a little;
        what it said of its shape goes then.

        Args:
            photo: Path from the folder, with ``/``.
            boxes: (K, 4) xyxy in pixels of the upright photo; what reaches beyond it is cut off.
                With no box at all the photo is unlabelled again; :meth:`set_empty` says that no
                things are there.
            labels: (K,) class names; new ones become classes.
            expected: Revision that the edit was made on; None writes whatever is there.
            author: Who makes the edit; None takes the session's.

        Returns:
            The new revision.

        Raises:
            ConflictError: If the photo is at another revision than ``expected``; nothing is
                written, and the error carries both versions.
            InputError: If the photo cannot be read.
            ValueError: If there is no such photo, a box has no area inside the photo, or the
                numbers of boxes and labels differ.
            OutputError: If it cannot be written.
        """
        size_hw = read_image_size(self.folder / self._known(photo))
        made = cut_boxes(boxes, labels, size_hw)
        kept = keep_extras(made, self.store.labels(photo).boxes)
        return self._put(photo, kept, LABELLED if kept else UNLABELLED, expected, author)

    def rename_class(self, name: str, new: str, *, author: str | None = None) -> None:
        """Rename a class; nothing is learnt anew.

        Raises:
            UsageError: If there is no such class, or another has the new name.
            ValueError: If the new name is empty.
            OutputError: If it cannot be written.
        """
        with self._loop.lock:
            self.store.rename_class(name, new, self._author(author))
            self._loop.rename(name, new)

    def merge_classes(self, name: str, into: str, *, author: str | None = None) -> None:
        """Let all boxes of a class count as another's; photos that show it are learnt again.

        Raises:
            UsageError: If there is no such class, or both are the same.
            OutputError: If it cannot be written.
        """
        with self._loop.lock:
            self.store.merge_classes(name, into, self._author(author))
            self._loop.show_as(name, into)
        self._edited()

    def refit(self, budget_seconds: float = 5.0, *, full: bool = False) -> SessionState:
        """Learn what was edited since, from the last solution on.

        Args:
            budget_seconds: Photos that could not be learnt in this time wait for the next call, or
                for the background work.
            full: Train from nothing, as ``sppnet detect train`` does on the same labels, to the
                same bytes; takes as long. It suggests until the next warm fit.

        Returns:
            The state after it.

        Raises:
            NothingUsableError: If nothing is labelled.
            SppnetError: If the training fails; :attr:`state` says so, too.
            ValueError: If the budget is no number of at least 0.
        """
        check_number("budget_seconds", budget_seconds)
        with self._fitting():
            self._deadline = time.monotonic() + budget_seconds
            try:
                if full:
                    self._loop.fit_full()
                else:
                    self._loop.fit_warm(budget_seconds)
            finally:
                self._deadline = 0.0
        return self.state

    def improve(self, seconds: float = 60.0) -> float:
        """Do the background's work now: further views, anchors, further negatives, more photos.

        Args:
            seconds: At most about so long.

        Returns:
            Seconds that it took.
        """
        check_number("seconds", seconds)
        begin = time.monotonic()
        while time.monotonic() < begin + seconds and self._improve_once():
            pass
        return time.monotonic() - begin

    def suggest(self, photo: str) -> Suggestions:
        """Find things in a photo with the model as it is; kept apart from the labels.

        Args:
            photo: Path from the folder, with ``/``.

        Returns:
            What was found, down to low scores, best first; nothing before there is a model.

        Raises:
            InputError: If the photo cannot be decoded.
            ValueError: If there is no such photo.
        """
        self._loop.at = self._loop.places[self._known(photo)]
        self._improver.wake()
        model = self._loop.model
        if model is None:
            nothing = Detections.empty()
            return Suggestions.of(nothing, (), "", nothing.sureness)
        with self._improver.paused():
            made, names = self._loop.find(photo, model), model.detector.names
            temperature = model.detector.inference.softmax_temperature
            there = measure_presence(made, self._loop.thing_points, temperature)
            found = Suggestions.of(made, names, model.version, there)
        if self.store.suggestions(photo)[1] != model.version:
            self.store.put_suggestions(photo, found.as_boxes(), model.version)
        return found

    def evaluate(
        self, most_photos: int = 100, *, stop: Callable[[], bool] = lambda: False
    ) -> Expectation:
        """Measure what to expect of the next photo: folds over the labelled photos.

        Each part is searched by SVMs that forgot it. The confidence of suggestions follows from it.

        Args:
            most_photos: At most so many labelled photos are searched.
            stop: Asked again and again; the work is given up once it says so.

        Raises:
            NothingUsableError: If fewer than two photos are labelled.
            StoppedError: If ``stop`` said so.
        """
        check_number("most_photos", most_photos, whole=True)
        with self._improver.paused(), self._loop.lock:
            return summarise(self._loop.hold_out(most_photos, stop))

    def next(self, count: int = 10) -> list[str]:
        """Choose the photos that teach most: uncertain, and unlike those that are labelled.

        Args:
            count: At most so many.

        Returns:
            Names, the most useful first. Photos that are not convolved yet come last, in order.
        """
        check_number("count", count, whole=True)
        with self._improver.paused(), self._loop.lock:
            done = self._done()
            candidates, seen = self._loop.candidates(done)
            chosen = choose_next(candidates, seen, count)
            return fill_up(chosen, self.photos, done, count)

    def surest(self, count: int = 12, without: Collection[str] = ()) -> list[str]:
        """Choose the photos whose suggestions are least in doubt, to look through many at once.

        Args:
            count: At most so many.
            without: Photos that are not wanted.

        Returns:
            Names, the surest first; none before there is a model, or where it sees nothing.
        """
        check_number("count", count, whole=True)
        with self._improver.paused(), self._loop.lock:
            candidates, _ = self._loop.candidates(self._done() | set(without))
            return choose_surest(candidates, count)

    def doubtful(self, count: int = 40, most_photos: int = 1000) -> list[Doubt]:
        """Name labels that a model fitted without their photo denies, and things without a label.

        Args:
            count: At most so many.
            most_photos: At most so many labelled photos are searched.

        Returns:
            The most doubtful first.

        Raises:
            NothingUsableError: If fewer than two photos are labelled.
        """
        check_number("count", count, whole=True)
        check_number("most_photos", most_photos, whole=True)
        with self._improver.paused(), self._loop.lock:
            held = self._loop.hold_out(most_photos, folds=DOUBT_FOLDS)
            return find_doubts(held.images, held.found, held.names)[:count]

    def export(self, layout: str, out: str | Path, *, copy_photos: bool = True) -> Path:
        """Write the labels for other tools; the photos stay where they are.

        Args:
            layout: ``voc``, ``coco``, ``yolo``, ``label-studio`` or ``csv``.
            out: A folder (voc, yolo) or a file (the others).
            copy_photos: Whether voc and yolo get copies of the photos.

        Returns:
            What was written.

        Raises:
            NothingUsableError: If nothing is labelled.
            ValueError: If there is no such layout.
            OutputError: If it cannot be written.
        """
        return export_labels(self.store, layout, out, copy_photos=copy_photos)

    def save_model(self, path: str | Path) -> Path:
        """Write the detector as it is: a folder for ``detect predict`` and ``Detector.load``.

        Args:
            path: The folder; a model there is replaced as a whole.

        Raises:
            NothingUsableError: If nothing was learnt yet.
            OutputError: If it cannot be written.
        """
        with self._improver.paused(), self._loop.lock:
            if self._loop.full is not None:
                config = asdict(self.config)
                more = {"data": self.store.folder.name, "split": None, "seed": config.pop("seed")}
                self._loop.full.save(path, {**config, **more})
            elif self._loop.learner.is_ready:
                extra = {**asdict(self.config), "data": self.folder.name, "warm": True}
                self._loop.learner.trimmed().save(path, extra)
            else:
                raise NothingUsableError("nothing was learnt yet: label a photo and refit")
        return Path(path)

    def keep(self) -> bool:
        """Write what was learnt to the disk, so that opening again need not learn it again.

        :meth:`close` does it as well. Fits and edits go on meanwhile.

        Returns:
            Whether there was something new.
        """
        return self._kept.keep()

    def _improve_once(self) -> bool:
        """One piece of the background's work; the memory that it took goes back to the system."""
        is_done = self._loop.improve_once()
        trim_heap()
        return is_done

    def _edited(self) -> None:
        """Put what was edited in line; the background may begin to learn it."""
        self._loop.sync(wait=False)
        self._improver.wake()
