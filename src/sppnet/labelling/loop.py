"""The loop between labels and model: what is still to be learnt, fits, and what a model finds."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock

import torch
from torch import Tensor

from sppnet.config.detection import DetectionConfig
from sppnet.detection import (
    CachedFeatures,
    Detector,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.detection.assign import Views
from sppnet.errors import Findings, InputError, NothingUsableError, Problem
from sppnet.evaluation.operating_point import OperatingPoints
from sppnet.geometry import Detections
from sppnet.images import LabelledImage, read_labels
from sppnet.images.readers.labels import label_image
from sppnet.labelling.base import MOST_AHEAD, MOST_FEATURES, name_start
from sppnet.labelling.drawn import said_of
from sppnet.labelling.folds import Candidate, HeldOut, detect_held_out
from sppnet.labelling.learner import Model, WarmLearner, Work
from sppnet.storage import FeatureCache
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import EMPTY, UNLABELLED, PhotoLabels

# Between them most objects find a scale that suits them, before there is a label to choose by.
SHORT_SIDES = (480, 720)
FOLDS, DOUBT_FOLDS = 5, 10
AHEAD = 3  # photos after the one looked at that are convolved before anything else is improved
LOOKED_AT = 40  # photos whose uncertainty is measured for the order, at most
FEW_PHOTOS = 10  # with more, the background looks through changed photos once more
SHARE_TO_LEARN = 0.7  # of the seconds of a fit; the rest is for the solution


class LearningLoop:
    """Keeps a warm learner at what a store says.

    Args:
        folder: Of the photos.
        store: Labels; features are kept beside them.
        config: The constants of ``detect train``.
        photos: Names of the photos, in the order in which they will be looked at.

    Attributes:
        model: What suggests now; None before the first fit.
        points: From held-out photos; None before :meth:`hold_out`.
        thing_points: The same of places, whichever class is there.
        problems: Photos that could not be used.
        at: Place of the photo that is looked at.
        learns_edits: Whether :meth:`improve_once` learns what waits.
        is_behind: Whether there are edits that were not put in line yet.
    """

    def __init__(
        self, folder: Path, store: LabelStore, config: DetectionConfig, photos: Sequence[str]
    ) -> None:
        self.folder, self.store, self.config, self.photos = folder, store, config, photos
        self.places = {photo: place for place, photo in enumerate(photos)}
        self.model: Model | None = None
        self.points: OperatingPoints | None = None
        self.thing_points: OperatingPoints | None = None
        self.full: Detector | None = None
        self.problems: list[Problem] = []
        self.at = 0
        self.learns_edits, self.is_behind = True, False
        self.lock = RLock()  # guards what is learnt
        self.pending: dict[str, None] = {}  # photos with something to learn, the latest last
        self.learner = WarmLearner(self._begin(), config)
        self._blank: dict[str, LabelledImage] = {}  # as if nothing was said of them
        self._edit, self._class_edit, self._fits, self._start = 0, 0, 0, name_start()
        self.unfinished = ""  # the photo that got its first boxes last
        self.mined: set[str] = set()  # photos looked through since the last label changed
        self.is_polished = True  # whether the fit is as exact as it gets
        self._found: dict[str, tuple[str, Detections]] = {}  # by photo: version, what was found
        self._vectors: dict[str, Tensor] = {}
        self._convolved: set[str] = set()  # photos that were looked for in the cache, and are there
        self.sync()

    def sync(self, *, every: bool = False, wait: bool = True) -> None:
        """See what was edited, here or by another process.

        Args:
            every: Whether all photos are compared, as after a class was merged.
            wait: Whether to wait for a fit that is under way; else it is left to the next one.
        """
        self.is_behind = True
        if not self.lock.acquire(blocking=wait):
            return
        try:
            self.is_behind = False  # before looking: an edit that comes now says so again
            classes = self.store.class_edit()  # by another process, too
            every, self._class_edit = every or classes != self._class_edit, classes
            changed, self._edit = self.store.changed_since(0 if every else self._edit)
            for photo in changed:
                self._note(self.store.labels(photo))
        finally:
            self.lock.release()

    def begin_anew(self) -> None:
        """Forget all that was learnt."""
        with self.lock:
            self.learner, self.model = WarmLearner(self._begin(), self.config), None
            self.pending.clear()
            self.sync(every=True)

    def rename(self, name: str, new: str) -> None:
        """Give a class another name; nothing is learnt anew.

        A merged class may still hold the new name; it gets one that no photo can name.
        """
        own = self.learner.names
        if new != name:
            own = tuple(f"{n}\0{at}" if n == new else n for at, n in enumerate(own))
        self.learner.grow(tuple(new if each == name else each for each in own))
        self.show_as(name, new)
        self.sync()

    def show_as(self, name: str, new: str) -> None:
        """Let the model call a class by another name; two may have the same until the next fit."""
        if self.model is not None:
            own = self.model.detector
            own.names = tuple(new if each == name else each for each in own.names)

    def _note(self, labels: PhotoLabels) -> None:
        """Put a photo in line if what is said differs from what is learnt."""
        self.pending.pop(labels.photo, None)
        known = self.learner.learnt.get(self.folder / labels.photo)
        said = None if labels.state == UNLABELLED else said_of(labels)
        if said == (None if known is None else self.learnt_of(known.image)):
            return
        if labels.photo in self.places:
            self.pending[labels.photo] = None
            if known is None and labels.boxes:
                self._finish(labels.photo)

    def _finish(self, photo: str) -> None:
        """Take a photo for unfinished; the one that was so is finished then."""
        before, self.unfinished = self.unfinished, photo
        path = self.folder / before
        if before != photo and path in self.learner.learnt:
            self.pending = {before: None, **self.pending}

    def learnt_of(self, image: LabelledImage) -> tuple[object, ...]:
        """Boxes and names of an image, to be compared with :func:`said_of`."""
        names = [self.learner.names[label] for label in image.labels.tolist()]
        return tuple(image.boxes.tolist()), tuple(names)

    def fit_warm(self, budget: float) -> None:
        """Learn what is in line, from the last solution on, within some seconds.

        Raises:
            NothingUsableError: If nothing is labelled, or no labelled photo can be used.
        """
        self.sync()
        end = time.monotonic() + SHARE_TO_LEARN * budget
        changed = []
        while self.pending:
            changed.append(self.pending.popitem()[0])  # the latest first
            self._learn(changed[-1])
            if time.monotonic() > end:
                break
        if not self._has_box():
            self.model = None
            raise NothingUsableError("no photo with a box to learn from", path=self.store.path)
        if self.learner.wants_anchors and len(self.learner.learnt) <= AHEAD:
            self.learner.anchors_anew()()()
        if self.learner.wants_landmarks and len(self.learner.learnt) <= AHEAD:
            self.learner.landmarks_anew()()()
        self.learner.fit(local=len(self.learner.learnt) > FEW_PHOTOS * len(changed))
        if len(self.learner.learnt) <= FEW_PHOTOS:  # what the new solution takes for things there
            for photo in changed:
                if self.folder / photo in self.learner.learnt:
                    self.learner.mine(self.folder / photo)
            self.learner.fit()
        self.publish()
        if changed:
            self.mined.clear()
            self.is_polished = False

    def _has_box(self) -> bool:
        return any(len(each.image.boxes) for each in self.learner.learnt.values())

    def _learn_all(self) -> bool:
        """Learn all that waits; whether there was something."""
        self.sync()
        is_new = bool(self.pending)
        while self.pending:
            self._learn(self.pending.popitem()[0])
        return is_new

    def publish(self, *, over_full: bool = True) -> None:
        """Let the learner as it is suggest from now on, unless a full model is to stay."""
        if self.full is not None and not over_full:
            return
        self._fits += 1
        self.full = None
        detector = self.learner.detector()
        detector.names = tuple(name.partition("\0")[0] for name in detector.names)
        self.model = Model(detector, f"warm {self._edit}.{self._fits} {self._start}")

    def fit_full(self) -> None:
        """Train from nothing on the store's labels, as ``detect train`` does.

        Raises:
            NothingUsableError: If nothing is labelled.
        """
        is_new = self._learn_all()  # before reading: an edit that comes now waits for a warm fit
        dataset = read_labels(self.store.folder)
        if not dataset.box_count:
            raise NothingUsableError("no photo with a box to learn from", path=self.store.path)
        if is_new and self._has_box():
            self.learner.fit()
            self.publish()  # suggests if the training fails
        torch.manual_seed(self.config.seed)
        encoder = build_encoder(self.config, dataset.images)
        cached = build_cached_features(
            self.config, dataset.images, encoder, self.learner.cached.cache
        )
        self.full = train_detector(cached, dataset.names, self.config)
        self._fits += 1
        self.model = Model(self.full, f"full {self._edit}.{self._fits} {self._start}")

    def _learn(self, photo: str, *, parts: bool = False) -> None:
        """Learn one photo as the store has it; other views of it only if they are convolved."""
        labels = self.store.labels(photo)
        path = self.folder / photo
        if labels.state == UNLABELLED:
            self.learner.forget(path)
            return
        names = list(self.learner.names)
        names += [box.name for box in labels.boxes if box.name not in names]
        self.learner.grow(list(dict.fromkeys(names)))
        image = self.image(labels)
        if image is None:
            self.learner.forget(path)
            return
        mirror, crops = self.learner.views
        _, *beside = Views(mirror, crops and parts).of(image)
        views = [image, *filter(self.is_convolved, beside)]
        try:
            self.learner.learn(views, unfinished=photo == self.unfinished)
        except InputError as error:
            self.learner.forget(path)
            self.problems.append(Problem.of(error, "photo left out"))

    def improve_once(self) -> bool:
        """Do one piece of work that makes the model better or the next photo faster.

        Returns:
            Whether there was one.
        """
        long = None
        with self.lock:
            if self.is_behind:
                self.sync()
            ahead = next(self._not_convolved(AHEAD), None)
            if ahead is None:
                long = self._long_work()
                if long is None and self._improve_model():
                    return True
        if long is not None:
            use = long()  # edits and fits go on meanwhile
            with self.lock:
                use()
            return True
        ahead = ahead or next(self._not_convolved(MOST_AHEAD), None)
        if ahead is not None:
            self._convolve(ahead)
        return ahead is not None or self._look_ahead()

    def _long_work(self) -> Work | None:
        """Work of many seconds, if there is some: anchors, landmarks, maps of further views."""
        learner = self.learner
        if self.pending or not learner.is_ready:
            return None
        if learner.wants_anchors:
            return self._published(learner.anchors_anew())
        if learner.wants_landmarks:
            return self._published(learner.landmarks_anew())
        wanted = learner.views
        labelled = [each for each in learner.learnt.values() if len(each.image.boxes)]
        lone = next((each for each in labelled if len(each.views) < wanted.each), None)
        if lone is None:
            return None

        def convolve() -> Callable[[], None]:
            for view in wanted.of(lone.image):
                learner.cached.attempt(learner.cached.encoded)(view)
            return lambda: self._learn_views(self.name_of(lone.image))

        return convolve

    def _published(self, work: Work) -> Work:
        """The same work; what is put to use is published, too."""

        def whole() -> Callable[[], None]:
            use = work()

            def publish() -> None:
                use()
                self.publish(over_full=False)
                self.is_polished = False

            return publish

        return whole

    def _learn_views(self, photo: str) -> None:
        """Learn from all views, unless the photo was edited or forgotten meanwhile."""
        if self.folder / photo in self.learner.learnt and photo not in self.pending:
            self._learn(photo, parts=True)
            self.is_polished = False

    def _improve_model(self) -> bool:
        """One short piece of work on the model: what waits, negatives, a more exact fit."""
        learner = self.learner
        if self.pending and not self.learns_edits:
            return False
        if self.pending:
            self._learn(self.pending.popitem()[0])
            if not self.pending and learner.is_ready:
                learner.fit()
                self.publish()
            return True
        if not learner.is_ready:
            return False
        names = map(self.name_of, (each.image for each in learner.learnt.values()))
        old = next((name for name in names if name not in self.mined), None)
        if old is not None:  # it was not looked through since the last label changed
            learner.mine(self.folder / old)
            self.mined.add(old)
            self.is_polished = False
        elif not self.is_polished:
            self.is_polished = not learner.polish()
            if self.is_polished:
                learner.fit(early=False)
                self.publish(over_full=False)
        else:
            return False
        return True

    def _look_ahead(self) -> bool:
        """Find things on one of the photos that come next, so that they are there at once."""
        model = self.model
        for step in range(min(AHEAD, len(self.photos)) if model else 0):
            photo = self.photos[(self.at + step) % len(self.photos)]
            known = self._found.get(photo)
            if model and (known is None or known[0] != model.version) and self._is_usable(photo):
                self.find(photo, model)
                return True
        return False

    def _not_convolved(self, count: int) -> Iterator[str]:
        """Photos without maps, from the one that is looked at on."""
        for step in range(min(count, len(self.photos))):
            photo = self.photos[(self.at + step) % len(self.photos)]
            if photo not in self._convolved:
                blank = self.blank(photo)
                if blank is not None and not self.is_convolved(blank):
                    yield photo
                else:
                    self._convolved.add(photo)

    def _convolve(self, photo: str) -> None:
        """Compute and keep maps and proposals of a photo."""
        blank = self.blank(photo)
        if blank is not None:
            self.learner.cached.attempt(self.learner.cached.encoded)(blank)
            self.learner.cached.attempt(self.learner.cached.propose_from_pixels)(blank)
        self._convolved.add(photo)

    def is_convolved(self, image: LabelledImage) -> bool:
        """Whether the maps of a photo are kept; one that cannot be decoded has nothing to keep."""
        return self.learner.cached.is_encoded(image)

    def find(self, photo: str, model: Model) -> Detections:
        """Find things in a photo; what this version found before is remembered.

        Raises:
            InputError: If the photo cannot be decoded.
        """
        known = self._found.get(photo)
        if known is not None and known[0] == model.version:
            return known[1]
        blank = self.image(PhotoLabels(photo, state=EMPTY))
        if blank is None:
            raise InputError("the photo cannot be used", path=self.folder / photo)
        if model.detector is self.full:
            pixels = blank.load(compact=True)
            encoded = self.full.encode(pixels)
            found = self.full.detect(encoded, self.full.propose(pixels, encoded))
        else:
            encoded = self.learner.encoded(blank)
            found = model.detector.detect(encoded, self.learner.cached.propose(blank))
        points = self.full.operating_points if model.detector is self.full else self._own_points()
        if points is None:
            sure = (2 * found.scores).sigmoid()  # until it was measured
            found = Detections(found.boxes, found.scores, found.labels, sure)
        else:
            found = points.with_confidence(found)
        self._found[photo] = (model.version, found)
        return found

    def _own_points(self) -> OperatingPoints | None:
        """What was measured, as long as there are no more classes than then."""
        points = self.points
        return points if points and len(points.thresholds) == len(self.learner.names) else None

    def hold_out(
        self, most_photos: int, stop: Callable[[], bool] = lambda: False, folds: int = FOLDS
    ) -> HeldOut:
        """Find things on labelled photos by models that forgot them; gives confidence, too.

        Raises:
            NothingUsableError: If fewer than two photos are labelled.
            StoppedError: If ``stop`` says so meanwhile.
        """
        is_new = self._learn_all()
        known = [each.image for each in self.learner.learnt.values()]
        if len(known) < 2 or not self._has_box():
            raise NothingUsableError("two photos or more must be labelled", path=self.store.path)
        self.learner.fit()
        seed = self.config.seed
        some = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
        images = {self.name_of(known[at]): known[at] for at in some[:most_photos].tolist()}
        held = detect_held_out(self.learner, images, folds, seed, stop)
        self.points, self.thing_points = held.points, held.thing_points
        self.publish(over_full=is_new)
        return held

    def candidates(self, done: set[str]) -> tuple[list[Candidate], Tensor]:
        """Describe the photos that may come next, and the (N, D) vectors of those that are done."""
        known = [photo for photo in self.photos if photo in self._convolved]
        known = [photo for photo in known if self._is_usable(photo)]
        rest = [photo for photo in known if photo not in done]
        some = rest[:: max(1, len(rest) // LOOKED_AT)][:LOOKED_AT]
        model = self.model
        found = [None if model is None else self.find(photo, model) for photo in some]
        pairs = zip(some, found, strict=True)
        made = [Candidate.of(photo, each, self._vector(photo)) for photo, each in pairs]
        seen = [self._vector(photo) for photo in known if photo in done]
        return made, torch.stack(seen) if seen else torch.zeros(0, self.learner.channels)

    def _is_usable(self, photo: str) -> bool:
        """Whether a photo can be decoded, as far as that is known."""
        blank = self.blank(photo)
        return blank is not None and self.learner.cached.is_usable(blank)

    def _vector(self, photo: str) -> Tensor:
        """(C,) mean of the map of a photo at the first scale."""
        blank = self.blank(photo)
        if photo not in self._vectors and blank is not None:
            self._vectors[photo] = self.learner.encoded(blank).maps[0][0].mean((1, 2)).cpu()
        return self._vectors[photo]

    def image(self, labels: PhotoLabels) -> LabelledImage | None:
        """Make the labelled image of a photo, or None and a problem."""
        findings = Findings()
        names = self.learner.names
        image = label_image(self.folder, labels, names, self.store.path, findings)
        self.problems += findings.problems
        return image and replace(image, image_id=labels.photo)

    def blank(self, photo: str) -> LabelledImage | None:
        """Give a photo as if nothing was said of it; None if it cannot be used."""
        if photo not in self._blank:
            image = self.image(PhotoLabels(photo, state=EMPTY))
            if image is None:
                return None
            self._blank[photo] = image
        return self._blank[photo]

    def name_of(self, image: LabelledImage) -> str:
        """Name of the photo of an image of this loop."""
        return str(image.image_id)

    def _begin(self) -> CachedFeatures:
        """Set up the features, at the scales that this store began with."""
        kept = self.store.fact("short_sides")
        sides = self.config.imgsz or tuple(map(int, kept.split())) or SHORT_SIDES
        if not kept:
            self.store.put_fact("short_sides", " ".join(map(str, sides)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            encoder = build_encoder(replace(self.config, imgsz=sides))
        cache = FeatureCache(self.store.folder / "features", MOST_FEATURES)
        return build_cached_features(self.config, [], encoder, cache)
