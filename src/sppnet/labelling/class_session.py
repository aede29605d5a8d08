"""``ClassSession``: name whole photos, and have a classifier that learns from each name at once."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from threading import RLock

import torch
from torch import Tensor

from sppnet.classification import LinearSvm
from sppnet.config.classification import FitConfig
from sppnet.errors import InputError, NothingUsableError, Problem
from sppnet.evaluation.result_formats import write_table
from sppnet.labelling.base import (
    MOST_FEATURES,
    Improver,
    PhotoSession,
    StoppedError,
    check_number,
    fill_up,
    list_photos,
    name_start,
    open_store,
)
from sppnet.labelling.class_learner import (
    ClassLearner,
    ClassModel,
    ClassSuggestions,
    FrozenRows,
    choose_steepness,
    doubt_classes,
    summarise_classes,
)
from sppnet.labelling.exchange import copy_photo
from sppnet.labelling.folds import Candidate, Doubt, Expectation, choose_next
from sppnet.labelling.session import SessionState
from sppnet.storage import FeatureCache, ensure_output_folder
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import LABELLED, UNLABELLED, PhotoLabels

LOOKED_AT = 200  # photos among which the next one is chosen, at most


class ClassSession(PhotoSession):
    """Names of the photos of a folder, and a classifier that is fitted anew in milliseconds.

    The features are those of a frozen trunk, computed once per photo. Use :meth:`open`. The session
    is a context; leaving it stops the background work.

    Args:
        folder: Of the photos; nothing is written there but the store.
        store: Labels.
        config: Trunk and recipe, as of ``classify fit``.
        background: Whether a thread computes features meanwhile.
        author: Recorded with each edit.
        photos: Names of the photos, where they were listed before.

    Example:
        >>> import tempfile
        >>> from sppnet.images import draw_class_folders
        >>> config = FitConfig(backbone="small5", weights="none", imgsz=48)
        >>> with tempfile.TemporaryDirectory() as name:
        ...     photos = draw_class_folders(name, 3, seed=0)
        ...     with ClassSession.open(photos, config=config, background=False) as session:
        ...         for photo in session.photos[:-1]:
        ...             named = session.set_names(photo, [photo.split("/")[0]])
        ...         learnt = session.refit()
        ...         found = session.suggest(session.photos[-1])
        ...         print(named.state, learnt.waiting, len(found.names) == len(session.names))
        labelled 0 True
    """

    def __init__(
        self,
        folder: Path,
        store: LabelStore,
        config: FitConfig,
        *,
        background: bool = True,
        author: str = "",
        photos: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, store, photos or list_photos(folder), author)
        self.config = config
        cache = FeatureCache(store.folder / "features", MOST_FEATURES)
        self._learner = ClassLearner(FrozenRows(folder, config, cache))
        self._lock = RLock()
        self._model: ClassModel | None = None
        self._edit = self._fits = self._at = 0
        self._start = name_start()
        self._problems: dict[str, Problem] = {}
        self._seen: set[str] = set()  # photos whose rows are on the disk
        self._improver = Improver(self._look_ahead, self._fail)
        if background:
            self._improver.start()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        store: str | Path | None = None,
        *,
        config: FitConfig | None = None,
        background: bool = True,
        author: str = "",
    ) -> "ClassSession":
        """Open a folder of photos, with the names that it has.

        Args:
            folder: The photos, in this folder and below; they are never changed.
            store: Folder of labels and features; ``folder``/.sppnet if None.
            config: Trunk and recipe, as of ``classify fit``; the usual ones if None.
            background: Whether a thread computes features meanwhile.
            author: Recorded with each edit.

        Raises:
            NothingUsableError: If there is no photo.
            UsageError: If the store is of other photos or has boxes, or weights are not there.
            UnusableFileError: If the store is damaged.
            OutputError: If the store cannot be made.
        """
        photos = list_photos(folder)
        with ExitStack() as undone:  # a store that nobody can reach is closed
            kept = undone.enter_context(open_store(folder, store, "classify", photos))
            config, folder = config or FitConfig(), Path(folder)
            session = cls(folder, kept, config, background=background, author=author, photos=photos)
            undone.pop_all()
        return session

    @property
    def state(self) -> SessionState:
        """What the session is doing, for a page to show."""
        waiting = len(self.store.changed_since(self._edit)[0])
        phase = "queued" if waiting else "idle"
        phase = "failed" if self._failure else "fitting" if self._is_fitting else phase
        counts = (waiting, self.store.count_labelled(), len(self.photos))
        return SessionState(phase, 0.0, self._failure, *counts,
                            self._model.version if self._model else "")  # fmt: skip

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Photos that could not be used, each once."""
        return tuple(self._problems.values())

    def set_names(
        self,
        photo: str,
        names: Sequence[str],
        *,
        expected: int | None = None,
        author: str | None = None,
    ) -> PhotoLabels:
        """Say which classes a photo shows, usually one; on the disk when this returns.

        Args:
            photo: Path from the folder, with ``/``.
            names: Class names; new ones become classes. With none the photo is unlabelled again;
                :meth:`set_empty` says that it shows none of the classes.
            expected: Revision that the edit was made on; None writes whatever is there.
            author: Who makes the edit; None takes the session's.

        Returns:
            The new revision.

        Raises:
            ConflictError: If the photo is at another revision than ``expected``.
            ValueError: If there is no such photo, or a name is empty.
            OutputError: If it cannot be written.
        """
        kept = tuple(dict.fromkeys(names))
        state = LABELLED if kept else UNLABELLED
        return self._put(photo, (), state, expected, author, kept)

    def rename_class(self, name: str, new: str, *, author: str | None = None) -> None:
        """Rename a class; nothing is learnt anew; raises as that of ``LabelSession``."""
        with self._lock:
            self.store.rename_class(name, new, self._author(author))
            self._show_as(name, new)

    def merge_classes(self, name: str, into: str, *, author: str | None = None) -> None:
        """Let all photos of a class count as another's; raises as that of ``LabelSession``."""
        with self._lock:
            self.store.merge_classes(name, into, self._author(author))
            self._show_as(name, into)

    def refit(self, budget_seconds: float = 5.0, *, full: bool = False) -> SessionState:  # noqa: ARG002
        """Fit the classifier to what is named now.

        Args:
            budget_seconds: Not needed: what is named is fitted as a whole.
            full: The same either way: nothing is approximated.

        Returns:
            The state after it.

        Raises:
            NothingUsableError: If no photo is named.
            ValueError: If the budget is no number of at least 0.
        """
        check_number("budget_seconds", budget_seconds)
        with self._fitting():
            self._fit()
        return self.state

    def suggest(self, photo: str) -> ClassSuggestions:
        """Give the classes of a photo by the model as it is.

        Args:
            photo: Path from the folder, with ``/``.

        Returns:
            All classes that the model knows, the likeliest first; none before there is a model.

        Raises:
            InputError: If the photo cannot be decoded.
            ValueError: If there is no such photo.
        """
        self._at = self._places[self._known(photo)]
        self._improver.wake()
        model = self._model
        if model is None:
            return ClassSuggestions((), torch.zeros(0), torch.zeros(0), "")
        with self._improver.paused():
            scores = self._scores(photo, model)
        sure = model.probabilities(scores[None])[0]
        order = sure.sort(descending=True, stable=True).indices
        names = tuple(model.names[place] for place in order.tolist())
        return ClassSuggestions(names, scores[order], sure[order], model.version)

    def evaluate(
        self, most_photos: int = 100, *, stop: Callable[[], bool] = lambda: False
    ) -> Expectation:
        """Measure what to expect of the next photo: each named photo by a model fitted without it.

        Args:
            most_photos: Not needed: the fit gives all of them at once.
            stop: Asked before it begins.

        Returns:
            ``recall``: share of the names that were found with a probability of one half or more;
            ``precision``: share of such findings that are right; ``ap50``: share of the photos of
            which the likeliest class is right; ``ap_per_class``: the same by class.

        Raises:
            NothingUsableError: If fewer than two photos are named.
            StoppedError: If ``stop`` said so.
        """
        check_number("most_photos", most_photos, whole=True)
        if stop():
            raise StoppedError
        with self._improver.paused(), self._lock:
            self._fit()
            model = self._model
        if model is None or len(model.photos) < 2:
            raise NothingUsableError("two photos or more must be named", path=self.store.path)
        return summarise_classes(model)

    def next(self, count: int = 10) -> list[str]:
        """Choose the photos that teach most: uncertain, and unlike those that are named.

        Args:
            count: At most so many.

        Returns:
            Names, the most useful first. Photos without features come last, in order.
        """
        check_number("count", count, whole=True)
        with self._improver.paused(), self._lock:
            done = self._done()
            ready = [p for p in self.photos if p in self._seen and p not in done]
            some = ready[:: max(1, len(ready) // LOOKED_AT)][:LOOKED_AT]
            candidates = [Candidate(p, self._uncertainty(p), self._row(p)) for p in some]
            seen = [self._row(photo) for photo in done if self._learner.knows(photo)]
            chosen = choose_next(candidates, torch.stack(seen), count) if seen else some[:count]
            return fill_up(chosen, self.photos, done, count)

    def doubtful(self, count: int = 40, most_photos: int = 1000) -> list[Doubt]:
        """Name labels that a model fitted without their photo denies.

        Args:
            count: At most so many.
            most_photos: Not needed: the fit gives all of them at once.

        Returns:
            The most doubtful first; ``box`` is None.

        Raises:
            NothingUsableError: If no photo is named.
        """
        check_number("count", count, whole=True)
        check_number("most_photos", most_photos, whole=True)
        with self._improver.paused(), self._lock:
            self._fit()
            model = self._model
        return [] if model is None else doubt_classes(model)[:count]

    def export(self, layout: str, out: str | Path, *, copy_photos: bool = True) -> Path:
        """Write the names for other tools; the photos stay where they are.

        Args:
            layout: ``csv`` (a line for each name of a photo) or ``folders`` (class folders, as
                ``classify fit`` reads them).
            out: A file (csv) or a folder (folders).
            copy_photos: Whether class folders hold copies of the photos; else a list only.

        Returns:
            What was written.

        Raises:
            NothingUsableError: If nothing is named.
            ValueError: If there is no such layout.
            OutputError: If it cannot be written.
        """
        if layout not in ("csv", "folders"):
            raise ValueError(f"layout must be csv or folders, got {layout!r}")
        said = [each for each in self.store.every() if each.state != UNLABELLED]
        if not said:
            raise NothingUsableError("nothing is named", path=self.store.path)
        pairs = [(each.photo, name) for each in said for name in each.names or ("",)]
        out = Path(out)
        if layout == "csv":
            write_table(out, ["photo", "class"], pairs)
            return out
        ensure_output_folder(out)
        write_table(out / "photos.csv", ["photo", "class"], pairs)
        if copy_photos:
            self._copy(out, [(photo, name) for photo, name in pairs if name])
        return out

    def save_model(self, path: str | Path) -> Path:
        """Write the classifier as it is: a folder for ``classify predict``.

        Args:
            path: The folder; a model there is replaced as a whole.

        Raises:
            NothingUsableError: If nothing was learnt yet.
            OutputError: If it cannot be written.
        """
        with self._improver.paused(), self._lock:
            model = self._model
            if model is None:
                raise NothingUsableError("nothing was learnt yet: name a photo and refit")
            svm = LinearSvm()
            svm.weights_, svm.bias_ = model.weights, model.bias
            about = {"data": self.folder.name, "images": len(model.photos)}
            self._learner.assemble(svm, model.names, **about).save(path)
        return Path(path)

    def _fit(self) -> None:
        """Fit what the store says now."""
        edit = self.store.changed_since(0)[1]
        said = [each for each in self.store.every() if each.state != UNLABELLED]
        said = [each for each in said if self._take_in(each.photo)]
        names = [name for name in self.store.names() if any(name in each.names for each in said)]
        if not names:
            self._model = None
            self._edit = edit
            raise NothingUsableError("no photo with a class to learn from", path=self.store.path)
        targets = torch.full((len(said), len(names)), -1.0, dtype=torch.float64)
        for row, each in enumerate(said):
            targets[row, [names.index(name) for name in each.names]] = 1.0
        photos = [each.photo for each in said]
        fitted = self._learner.fit(photos, targets, self.config.costs[0])
        svm = self._learner.svm(photos, fitted)
        one_each = all(len(each.names) == 1 for each in said)
        steepness = choose_steepness(fitted.held_out, targets, one_each=one_each)
        self._fits += self._model is None or edit != self._edit
        self._model = ClassModel(
            *(tuple(names), tuple(photos), targets, fitted.held_out, svm.weights_, svm.bias_),
            *(steepness, one_each, f"warm {edit}.{self._fits} {self._start}"),
        )
        self._edit = edit

    def _take_in(self, photo: str) -> bool:
        """Learn the row of a photo; one that cannot be used is left out and named."""
        try:
            self._known(photo)
            self._learner.learn(photo)
        except InputError as error:
            self._problems[photo] = Problem.of(error, "photo left out")
            return False
        except ValueError:
            return False  # the photo is gone
        self._seen.add(photo)
        return True

    def _look_ahead(self) -> bool:
        """Compute the features of one photo that comes soon; whether there was one."""
        for step in range(len(self.photos)):
            photo = self.photos[(self._at + step) % len(self.photos)]
            if photo in self._seen or photo in self._problems:
                continue
            try:
                self._row(photo)
            except InputError as error:
                self._problems[photo] = Problem.of(error, "photo left out")
            return True
        return False

    def _row(self, photo: str) -> Tensor:
        row = self._learner.rows.row(photo)
        self._seen.add(photo)
        return row

    def _scores(self, photo: str, model: ClassModel) -> Tensor:
        return self._row(photo) @ model.weights + model.bias

    def _uncertainty(self, photo: str) -> float:
        """From 0 (one class is sure) to 1 (the first two are as likely)."""
        model = self._model
        if model is None:
            return 1.0
        sure = model.probabilities(self._scores(photo, model)[None])[0].sort(descending=True).values
        if not model.one_each or len(sure) < 2:
            return float((4 * sure * (1 - sure)).max())
        return float(1 - (sure[0] - sure[1]))

    def _show_as(self, name: str, new: str) -> None:
        """Let the model call a class by another name until it is fitted again."""
        if self._model is not None:
            names = tuple(new if each == name else each for each in self._model.names)
            self._model = replace(self._model, names=names)

    def _copy(self, out: Path, pairs: Iterable[tuple[str, str]]) -> None:
        """Copy photos into class folders; two of one name in two folders stay two."""
        for photo, name in pairs:
            folder = ensure_output_folder(out / _folder_name(name))
            copy_photo(self.folder, photo, folder)


def _folder_name(name: str) -> str:
    """A class as the name of a folder; nothing in it leads elsewhere."""
    safe = "".join("_" if letter in '/\\:*?"<>|' else letter for letter in name).strip(" .")
    return PurePosixPath(safe or "_").name
