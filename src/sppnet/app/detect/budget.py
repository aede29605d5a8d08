"""Settings that suit the photos, chosen on photos that are held out, within a given time."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch

from sppnet.backbones.efficientnet_lite import LITE_NETWORKS
from sppnet.backbones.weights import locate_package
from sppnet.config.detection import DetectionConfig
from sppnet.detection import (
    ExternalProposals,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.detection.assign import ITSELF, STEP, Views, choose_views
from sppnet.evaluation import summarise_detections
from sppnet.evaluation.error_analysis import find_error_types
from sppnet.geometry import Detections
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache

FOLDS = 3
FEWEST_PHOTOS = 2 * FOLDS  # with objects; fewer say nothing of other photos
# Of two settings the one that was tried later must be better by this: all photos together say no
# more than that.
MARGIN = 0.005
LARGER_TRUNKS = ("efficientnet_lite1", "efficientnet_lite2")
SMALLEST_SIDE, LARGEST_SIDE = 224, 1200
# The part of a trial that grows with the pixels that are convolved; the rest is learning.
CONVOLUTION_SHARE = 0.5
Images = Sequence[LabelledImage]
Changes = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """How good a detector with some settings is on photos that it did not learn from.

    Args:
        changes: What differs from the settings that were given.
        ap50: Mean average precision at an IoU of 0.5, over all photos, each held out once.
        ap75: The same at 0.75.
        seconds: What the trial took.
    """

    changes: Changes
    ap50: float
    ap75: float
    seconds: float

    @property
    def score(self) -> float:
        """What trials are compared by: things must be found, and boxes must fit."""
        return (self.ap50 + self.ap75) / 2

    def describe(self) -> str:
        """What was tried and how good it is, in a line."""
        words = ", ".join(f"{name} {_text(value)}" for name, value in self.changes.items())
        return f"{words or 'as given'}: AP50 {self.ap50:.3f}, AP75 {self.ap75:.3f}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> "Trial":
        """Make a trial of what `to_json` gave and a file kept, where tuples are lists."""
        changes = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["changes"].items()
        }
        return cls(changes, *(values[name] or 0.0 for name in ("ap50", "ap75", "seconds")))


def candidates(
    config: DetectionConfig, short_sides: Sequence[int], views: Views = ITSELF
) -> list[Changes]:
    """List changes to try, in the order in which they usually pay; what the user named stays.

    Args:
        config: The settings that were given.
        short_sides: The scales that they lead to.
        views: What they lead to learning from each photo.

    Returns:
        Changes of settings, each to be tried on top of those that helped before it.

    Example:
        >>> tried = candidates(DetectionConfig(levels=(1, 2)), [400])
        >>> tried[:2], any("levels" in each for each in tried)
        ([{'crops': 'on'}, {'imgsz': (608,)}], False)
    """
    larger, smaller = (_scaled(short_sides, factor) for factor in (1.5, 0.7))
    pyramid = tuple(sorted({*short_sides, *_scaled(short_sides[-1:], 2.0)}))
    wanted: list[Changes] = [
        *([] if views.crops else [{"crops": "on"}]),
        {"imgsz": larger},
        {"imgsz": pyramid},
        {"imgsz": smaller},
        {"levels": (1, 2, 3, 6)},
        {"max_proposals": 2000, "max_anchors": 800},
        {"box_strength": 4 * config.box_strength},
        {"negative_below": 0.5},
        *({"backbone": name} for name in LARGER_TRUNKS if _has(name)),
    ]
    usual = DetectionConfig(recipe=config.recipe)
    named = {
        field.name
        for field in fields(config)
        if getattr(config, field.name) != getattr(usual, field.name)
    }
    return [each for each in wanted if not named & set(each) and each != {"imgsz": short_sides}]


def _scaled(short_sides: Sequence[int], factor: float) -> tuple[int, ...]:
    """Short sides times a factor, within what a trunk and a laptop can take."""
    sides = (min(max(side * factor, SMALLEST_SIDE), LARGEST_SIDE) for side in short_sides)
    return tuple(round(side / STEP) * STEP for side in sides)


def _has(backbone: str) -> bool:
    """Whether the package with a trunk's weights is installed."""
    return locate_package(LITE_NETWORKS[backbone].weights) is not None


@dataclass
class Budget:
    """Tries settings on held-out photos while there is time, and keeps the best.

    Photos are dealt into three parts; each part is scored by a detector that learnt everything,
    anchors and boxes too, from the others. The settings that were given are the first trial, so
    that more time never gives settings that scored less.

    Args:
        images: Labelled photos; what is held out is of these.
        names: Class names in the order of the labels.
        config: The settings that were given.
        cache: Keeps maps and proposals, for the training that follows, too.
        seconds: Time for everything, the training at the end included.
        training_seconds: How long a training with the given settings is likely to take.
        external: Proposals from a file, used instead of those from the pixels.
        device: Where to compute.
        track: Shows progress.
        tell: Called after each trial with all trials so far and the best of them.
        clock: Gives the time in seconds.
    """

    images: Images
    names: Sequence[str]
    config: DetectionConfig
    cache: FeatureCache
    seconds: float
    training_seconds: float
    external: ExternalProposals | None = None
    device: torch.device | str = "cpu"
    track: Track = no_tracking
    tell: Callable[[Sequence[Trial], Trial], object] | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def has_enough_photos(self) -> bool:
        """Whether so many photos have objects that some of them say something of others."""
        return sum(len(image.boxes) > 0 for image in self.images) >= FEWEST_PHOTOS

    def choose(self, known: Iterable[Trial] = ()) -> tuple[DetectionConfig, list[Trial]]:
        """Try changes in turn while a trial and the training after it fit into the time.

        Args:
            known: Trials of an earlier run with the same photos and settings; they are not made
                again, and their time counts.

        Returns:
            The settings of the best trial, and all trials in the order in which they were made.
        """
        if not self.has_enough_photos:
            return self.config, []
        earlier = {_key(trial.changes): trial for trial in known}
        end = self.clock() + self.seconds - sum(trial.seconds for trial in earlier.values())
        trials: list[Trial] = []
        best: Trial | None = None
        for step in [{}, *candidates(self.config, self._short_sides, self._views({}))]:
            changes = {**(best.changes if best else {}), **step}
            trial = earlier.get(_key(changes))
            if trial is None:
                wanted = self._expected(changes, trials) + self._training(changes)
                if self.clock() + wanted > end:
                    if not trials:
                        break  # there must be something to compare with
                    continue
                trial = self.attempt(changes)
            trials.append(trial)
            if best is None or trial.score > best.score + MARGIN:
                best = trial
            if self.tell is not None:
                self.tell(trials, best)
        return self._with(best.changes if best else {}), trials

    def attempt(self, changes: Changes) -> Trial:
        """Score the settings with some changes on photos held out in turn."""
        begin = self.clock()
        draw = torch.Generator().manual_seed(self.config.seed)
        mixed = [self.images[i] for i in torch.randperm(len(self.images), generator=draw).tolist()]
        mixed.sort(key=lambda image: not len(image.boxes))  # so that every part has objects
        # scales and views are those of the training, not of a part
        config = self._views(changes).fix(self._with({"imgsz": self._short_sides, **changes}))
        config = replace(config, operating_point=False)
        scores = cross_validate(
            hold_out_in_turn(mixed, FOLDS),
            self.names,
            config,
            self.cache,
            external=self.external,
            device=self.device,
            track=self.track,
        )
        return Trial(changes, scores["ap50"], scores["ap75"], self.clock() - begin)

    def _with(self, changes: Changes) -> DetectionConfig:
        return replace(self.config, **changes)

    def _views(self, changes: Changes) -> Views:
        """What settings with some changes learn from each photo."""
        return choose_views(self.images, len(self.names), self._with(changes))

    @cached_property
    def _short_sides(self) -> tuple[int, ...]:
        """The scales that the given settings lead to."""
        return build_encoder(self.config, self.images).short_sides

    def _training(self, changes: Changes) -> float:
        """Seconds that a training with some changes is likely to take."""
        return self.training_seconds * self._cost(changes)

    def _expected(self, changes: Changes, trials: Sequence[Trial]) -> float:
        """Seconds that a trial is likely to take: as the last one, or twice a training."""
        if not trials:
            return 2 * self._training(changes)
        last = trials[-1]
        return last.seconds * self._cost(changes) / self._cost(last.changes)

    def _cost(self, changes: Changes) -> float:
        """Time relative to that of the given settings."""
        sides = changes.get("imgsz", self._short_sides)
        pixels = sum(side**2 for side in sides) / sum(side**2 for side in self._short_sides)
        views = self._views(changes).each / self._views({}).each
        return views * (1 - CONVOLUTION_SHARE + CONVOLUTION_SHARE * pixels)


def hold_out_in_turn(
    images: Images, folds: int
) -> list[tuple[list[LabelledImage], list[LabelledImage]]]:
    """Deal photos into parts, as cards are dealt, and hold each part out once.

    Args:
        images: In a random order.
        folds: The number of parts.

    Returns:
        For each part, the photos of the others and its own.

    Example:
        >>> hold_out_in_turn([1, 2, 3, 4, 5], 2)
        [([2, 4], [1, 3, 5]), ([1, 3, 5], [2, 4])]
    """
    parts = [list(images[number::folds]) for number in range(folds)]
    return [
        ([each for other in parts if other is not part for each in other], part) for part in parts
    ]


def cross_validate(
    pairs: Sequence[tuple[Images, Images]],
    names: Sequence[str],
    config: DetectionConfig,
    cache: FeatureCache,
    *,
    testing: Mapping[str, Any] | None = None,
    external: ExternalProposals | None = None,
    device: torch.device | str = "cpu",
    track: Track = no_tracking,
) -> dict[str, Any]:
    """Train and score a detector for each pair; average precision over all that was scored.

    Args:
        pairs: Photos to learn from, and photos to score.
        names: Class names in the order of the labels.
        config: The settings.
        cache: Keeps maps and proposals.
        testing: Constants of `InferenceConfig` that are not as the training leaves them.
        external: Proposals from a file, used instead of those from the pixels.
        device: Where to compute.
        track: Shows progress.

    Returns:
        What `summarise_detections` says of all scored photos together, by "ap_cost" what each kind
        of mistake costs of AP50, and the "seconds" of training.
    """
    found: dict[str | int, Detections] = {}
    scored: list[LabelledImage] = []
    seconds = 0.0
    for learnt, held in pairs:
        begin = time.perf_counter()
        with torch.random.fork_rng(devices=[]):  # random weights are the same for all
            torch.manual_seed(config.seed)
            encoder = build_encoder(config, learnt)
        encoder.backbone.to(device)
        cached = build_cached_features(config, learnt, encoder, cache, external=external)
        detector = train_detector(cached, names, config, track=track)
        detector.inference = detector.inference.changed(testing or {})
        seconds += time.perf_counter() - begin
        test = build_cached_features(
            config, held, detector.encoder, cache, anchors=detector.anchors, external=external
        )
        test.propose_all(track=track)
        for image, encoded, proposals in test.samples("detecting", track):
            number = len(scored)  # a photo that several pairs score counts each time
            found[number] = detector.detect(encoded, proposals)
            scored.append(replace(image, image_id=number))
    costs = find_error_types(scored, found, names).ap_cost
    return {**summarise_detections(scored, found, names), "ap_cost": costs, "seconds": seconds}


def _key(changes: Changes) -> str:
    return repr(sorted(changes.items()))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
