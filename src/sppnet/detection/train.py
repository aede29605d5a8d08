"""Builds and trains a detector, stage by stage, as a :class:`DetectionConfig` describes it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from sppnet.backbones import Backbone, build_backbone
from sppnet.config.detection import DetectionConfig, InferenceConfig
from sppnet.detection.assign import ITSELF, SamplingConfig, Views, choose_short_sides, choose_views
from sppnet.detection.detector import Detector
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.feature_set import CachedFeatures
from sppnet.detection.finetune.head import HeadTuningConfig, tune_head
from sppnet.detection.finetune.network import NetworkTuningConfig, tune_network
from sppnet.detection.heads.box_regression import BoxCascade, BoxRegressor, CascadeConfig
from sppnet.detection.heads.box_sums import classes_share
from sppnet.detection.heads.classifiers import (
    RegionClassifier,
    SoftmaxRegionClassifier,
    TwoStageRegionClassifier,
)
from sppnet.detection.heads.hard_negatives import NEVER, MiningConfig
from sppnet.detection.heads.kernel_svm import KernelSvmConfig
from sppnet.detection.heads.region_head import BoxHead, RegionFeatures, RegionHead
from sppnet.detection.heads.svm_trainer import FeatureScaler, NormConfig, SvmConfig, SvmTrainer
from sppnet.detection.proposals.anchors import AnchorConfig, AnchorProposer
from sppnet.detection.proposals.precomputed import ExternalProposals
from sppnet.errors import NothingUsableError
from sppnet.evaluation.operating_point import OperatingPoints, hold_out
from sppnet.geometry import Detections
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking, using_threads, work_ahead
from sppnet.storage import FeatureCache
from sppnet.storage.tensors import trim_heap
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.distributed import Processes
from sppnet.training.optimizers import OptimizerConfig
from sppnet.training.trainer import ALONE

T = TypeVar("T")
MEGABYTE = 10**6
SHARED = ("use_difficult", "seed")  # settings of several parts
# Percent of the updates after which the rate of a fine-tuning falls to a tenth.
HEAD_DROPS, NETWORK_DROPS = (50, 85), (75,)
FEWEST_BOX_SAMPLES = 50  # for a box regression of a class's own
FEW_PHOTOS = 100
Stage = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class TunedParts:
    """The parts of a network that were fine-tuned; None for those that were not.

    Args:
        head: fc6, fc7 and the logits.
        encoder: The encoder with the tuned trunk.
        boxes: Box regression behind fc7.
    """

    head: RegionHead | None = None
    encoder: Encoder | None = None
    boxes: BoxHead | None = None

    def features(self, layer: str) -> RegionFeatures:
        """Give the features of a layer: ``pooled``, ``fc6`` or ``fc7``."""
        return RegionFeatures(layer, None if layer == "pooled" else self.head)


def build_encoder(
    config: DetectionConfig, images: Sequence[LabelledImage] = (), *, download: bool = False
) -> Encoder:
    """Build the trunk and the encoder that a configuration describes.

    Args:
        config: Names the trunk, its weights, the scales and the levels.
        images: Their objects choose the scales if the configuration does not.
        download: Whether missing weights may be downloaded.

    Returns:
        The encoder.

    Raises:
        ValueError: If the trunk or the layer does not exist, or has cells without a fixed place, or
            the engine cannot run it.
        UsageError: If the weights are not there.
        UnusableFileError: If the file of weights is damaged or for another trunk.
        MissingPackageError: If timm, for a trunk of its, or the engine is not installed.
    """
    backbone = build_backbone(
        config.backbone, config.weights, layer=config.layer_of_trunk, download=download
    )
    return put_to_use(backbone, config, images)


def put_to_use(
    backbone: Backbone, config: DetectionConfig, images: Sequence[LabelledImage] = ()
) -> Encoder:
    """Make an encoder of a trunk that is there, as a configuration describes it.

    Args:
        backbone: The trunk.
        config: Names the engine, the scales and the levels.
        images: Their objects choose the scales if the configuration does not.

    Returns:
        The encoder.

    Raises:
        ValueError: If the engine cannot run the trunk.
        MissingPackageError: If the engine is not installed.
    """
    return Encoder(
        backbone.with_engine(config.engine),
        config.imgsz
        or choose_short_sides(images, config.target_side, use_difficult=config.use_difficult),
        config.levels,
        config.projection,
        config.max_long_side or None,
        config.target_side,
    )


def build_cached_features(
    config: DetectionConfig,
    images: Sequence[LabelledImage],
    encoder: Encoder,
    cache: FeatureCache,
    *,
    anchors: AnchorProposer | None = None,
    external: ExternalProposals | None = None,
) -> CachedFeatures:
    """Put images, encoder and cache together, with the proposals that a configuration asks for.

    Args:
        config: Says how proposals are found, and how many.
        images: The images; nothing is computed yet.
        encoder: Makes the maps.
        cache: Keeps proposals and maps.
        anchors: Learnt anchors; None in training, which learns them.
        external: Proposals from a file, used instead of those from the pixels.

    Returns:
        The features of the images.
    """
    return CachedFeatures(
        images,
        encoder,
        cache,
        config.proposals,
        config.max_proposals,
        config.seed,
        anchors=anchors,
        max_anchors=config.max_anchors,
        external=external,
        search_side=config.search_side,
        least_side=config.least_side,
    )


def train_detector(
    cached: CachedFeatures,
    names: Sequence[str],
    config: DetectionConfig,
    *,
    workers: int = 2,
    track: Track = no_tracking,
    stage: Stage = nullcontext,
    checkpoints: Checkpoints | None = None,
    few_photos: int = FEW_PHOTOS,
    processes: Processes = ALONE,
) -> Detector:
    """Train a detector: proposals, maps, anchors, fine-tuning if asked for, SVMs, box regression.

    At last it finds the scores from which on detections count, unless it is fine-tuned: then no
    photo is left that the network was not fitted to, and ``sppnet detect val`` finds them.

    Proposals and maps are kept in the cache, so that a second call after a kill continues where the
    first one stopped.

    Args:
        cached: The images, with the encoder and the cache.
        names: Class names in the order of the labels.
        config: The constants; the same seed gives the same detector.
        workers: Threads that look for proposals; 0 for none but the caller.
        track: Shows progress.
        stage: ``stage(name)`` is a context that times a stage.
        checkpoints: Where the state of a fine-tuning is kept; None keeps none.
        few_photos: Up to so many, what judges some of them is trained on the others from nothing.
        processes: This is the first of them; the others wait to tune the network with it.

    Returns:
        The fitted detector.

    Raises:
        NothingUsableError: If no image can be used, or none has an object.

    Source:
        SPP-net, sections 4.1 and 4.2; spp_train.m and spp_train_bbox_regressor.m of the authors'
        code. The parts name their own sources.
    """
    with stage("proposals"):
        cached.propose_all(workers, track)
    training = _Training(cached, tuple(names), config, track, stage, few_photos, processes)
    return training.run(checkpoints)


def part_of(config: DetectionConfig, kind: type[T], prefix: str = "", **more: Any) -> T:
    """Make the constants of one part from the settings whose names are its fields' with a prefix.

    Args:
        config: All settings.
        kind: Class of the constants.
        prefix: What the settings are called more than the fields.
        more: Fields with other names.

    Example:
        >>> part_of(DetectionConfig(anchor_shapes=4, use_difficult=True), AnchorConfig, "anchor_")
        ...     # doctest: +ELLIPSIS
        AnchorConfig(shapes=4, bins=3, ... use_difficult=True, ...)
    """
    names = {field.name: prefix + field.name for field in fields(kind)}  # type: ignore[arg-type]
    shared = {name: getattr(config, name) for name in names if name in SHARED}
    own = {name: getattr(config, long) for name, long in names.items() if hasattr(config, long)}
    return kind(**{**shared, **own, **more})


def svm_config(config: DetectionConfig) -> SvmConfig:
    """Take the constants of the classifiers from the settings."""
    mining = part_of(
        config,
        MiningConfig,
        cost=config.svm_cost,
        tolerance=config.svm_tolerance,
        budget_bytes=MEGABYTE * config.svm_memory,
    )
    return part_of(
        config, SvmConfig, mining=mining, kernel=part_of(config, KernelSvmConfig, "kernel_")
    )


def norm_config(config: DetectionConfig) -> NormConfig:
    """Take the constants of the features' norm from the settings."""
    return part_of(config, NormConfig, "norm_", target=config.feature_norm)


def cascade_config(config: DetectionConfig, *, class_agnostic: bool = False) -> CascadeConfig:
    """Take the constants of box regression from the settings."""
    return part_of(
        config,
        CascadeConfig,
        "box_",
        class_agnostic=class_agnostic,
        most_samples=config.max_box_samples,
        total_samples=config.box_total,
    )


def head_tuning_config(config: DetectionConfig) -> HeadTuningConfig:
    """Take the constants of the fine-tuning of a head from the settings."""
    more = _tuning(config, HEAD_DROPS)
    return part_of(config, HeadTuningConfig, "tune_", flip=config.tune_flip == "on", **more)


def network_tuning_config(config: DetectionConfig) -> NetworkTuningConfig:
    """Take the constants of the fine-tuning of a network from the settings."""
    return part_of(
        config,
        NetworkTuningConfig,
        "tune_",
        flip=config.tune_flip != "off",
        trainable_from=config.tune_from,
        images_per_update=config.tune_images,
        **_tuning(config, NETWORK_DROPS),
    )


def _tuning(config: DetectionConfig, drops: Sequence[int]) -> dict[str, Any]:
    """What both ways of fine-tuning take under other names."""
    optimizer = OptimizerConfig(
        rate=config.tune_rate, momentum=config.tune_momentum, weight_decay=config.tune_weight_decay
    )
    return {
        "sampling": part_of(config, SamplingConfig, "tune_"),
        "optimizer": optimizer,
        "drop_at": tuple(percent / 100 for percent in config.tune_drops or drops),
        "validation_fraction": config.tune_validation,
        "check_every": min(config.tune_check_every, max(1, config.tune_updates // 4)),
        "widths": config.widths,
        "ranks": config.ranks,
    }


def inference_config(config: DetectionConfig) -> InferenceConfig:
    """Let new images be searched as those of the training were, with the recipe's testing."""
    return InferenceConfig(
        config.proposals,
        config.max_proposals,
        config.seed,
        max_anchors=config.max_anchors,
        search_side=config.search_side,
        least_side=config.least_side,
        recipe=config.recipe,
    )


@dataclass
class _Training:
    """A training in progress: what every step needs."""

    cached: CachedFeatures
    names: tuple[str, ...]
    config: DetectionConfig
    track: Track
    timed: Stage
    few_photos: int = FEW_PHOTOS
    processes: Processes = ALONE
    shared_scaler: FeatureScaler | None = None
    # photos, and what the SVMs are without them; None where they are few, or there is a kernel
    judges: list[tuple[list[LabelledImage], RegionClassifier]] | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; what it no longer uses goes back to the system."""
        with self.timed(name):
            yield
            trim_heap()

    @property
    def views(self) -> Views:
        """What is learnt from each image."""
        return choose_views(self.cached.images, len(self.names), self.config)

    @property
    def wants_points(self) -> bool:
        """Whether operating points are to be found."""
        return self.config.operating_point and self.config.tune == "none"

    def run(self, checkpoints: Checkpoints | None) -> Detector:
        """Go through all stages; a tuned trunk makes new maps, and anchors are learnt again."""
        self._extract_features(ITSELF if self.config.tune == "network" else self.views)
        tuned = TunedParts()
        if self.config.tune != "none":
            with self.stage("tuning"):
                tuned = self._tune(checkpoints)
        if tuned.encoder is not None:
            images = self.cached.usable
            self.cached = replace(self.cached, images=images, encoder=tuned.encoder, anchors=None)
            self._extract_features(self.views)
        classifier, box_regressor = self._train_classifier(tuned), self._fit_boxes(tuned)
        detector = Detector(
            self.cached.encoder,
            classifier,
            box_regressor,
            self.names,
            inference_config(self.config),
            self.cached.anchors,
            self.cached.content_numbers(),
        )
        if self.wants_points:
            with self.stage("operating point"):
                detector.operating_points = self._find_operating_points(detector)
        return detector

    def _find_operating_points(self, detector: Detector) -> OperatingPoints | None:
        """Find them on photos that are held out in turn; None with too few objects.

        A classifier scores the photos that it was fitted to too well. So each part of the photos is
        scored by one that knows the others alone; proposals and box regression are the detector's.
        """
        found: dict[Any, Detections] = {}
        for held, classifier in self._fit_judges() if self.judges is None else self.judges:
            own = copy(detector)
            own.classifier = classifier
            samples = self.cached.subset(held).samples("scoring held-out photos", self.track)
            detecting = work_ahead(samples, partial(_detect, own), own.workers)
            found |= {image.image_id: ready.result() for (image, *_), ready in detecting}
        scored = [image for image in self.cached.usable if image.image_id in found]
        return OperatingPoints.fit(scored, found, self.names, "training")

    def _parts(self) -> Iterator[tuple[list[LabelledImage], list[LabelledImage]]]:
        """Photos that are held out together, and those that remain to learn from."""
        images = self.cached.usable
        for learnt, judged in hold_out(len(images), self.config.seed):
            rest, held = [images[n] for n in learnt], [images[n] for n in judged]
            if held and any(len(image.boxes) for image in rest):
                yield held, rest

    def _fit_judges(self) -> Iterator[tuple[list[LabelledImage], RegionClassifier]]:
        """Fit a classifier of any kind to some photos, to judge the others."""
        config = replace(self.views.fix(self.config), operating_point=False)
        shared: dict[str, Any] = {"timed": nullcontext, "shared_scaler": self._scaler}
        for held, rest in self._parts():
            training = replace(self, cached=self.cached.subset(rest), config=config, **shared)
            with suppress(NothingUsableError):  # its objects are all difficult
                yield held, training._train_classifier(TunedParts())

    def _extract_features(self, views: Views) -> None:
        """Convolve the images, and learn anchors on their maps."""
        with self.stage("features"):
            self.cached.encode_all(self.track, views=views)
        if not self.cached.usable:
            raise NothingUsableError("no image of the data set can be used")
        if self.config.anchors:
            with self.stage("anchors"), using_threads(1):  # their operations are small
                constants = part_of(self.config, AnchorConfig, "anchor_")
                proposer = AnchorProposer.of(self.cached.encoder, constants, self.config.seed)
                maps = self.cached.maps("learning anchors", self.track)
                self.cached.use_anchors(proposer.fit(maps))
                self.cached.propose_learnt(self.track)

    def _tune(self, checkpoints: Checkpoints | None) -> TunedParts:
        """Fine-tune the head, or the whole network, together with the other processes."""
        config, num_classes = self.config, len(self.names)
        more: dict[str, Any] = {"checkpoints": checkpoints, "track": self.track}
        if config.tune == "head":
            head = tune_head(self.cached, num_classes, head_tuning_config(config), **more).head
            return TunedParts(head)
        self.processes.broadcast_bytes(self.cached.to_bytes())
        tuned = tune_network(
            *(self.cached.usable, self.cached.encoder, num_classes),
            network_tuning_config(config),
            self.cached.propose,
            processes=self.processes,
            **more,
        )
        return TunedParts(tuned.head, tuned.encoder, tuned.boxes)

    def _train_classifier(self, tuned: TunedParts) -> RegionClassifier:
        """Train the SVMs and the kernel that are asked for; a tuned softmax is trained already."""
        kind, keep = self.config.classifier, self.config.prefilter
        head = tuned.head if kind == "softmax" else None
        softmax = None if head is None else SoftmaxRegionClassifier(head)
        if softmax is not None and not keep:
            return softmax
        with self.stage("objects"):
            features = tuned.features(self.config.layer_of_features)
            scale, constants = self._scaler.factor(features), svm_config(self.config)
            parts = (self.cached, len(self.names), features, constants)
            trainer = SvmTrainer(*parts, scale=scale, views=self.views)
            trainer.collect_positives(self.track)
        with self.stage("svm"):
            linear = trainer.mine(self.track, keep_positives=kind == "kernel")
            if kind == "svm" and self.wants_points and len(self.cached.usable) > self.few_photos:
                judges = [(held, trainer.fit_without(held)) for held, _ in self._parts()]
                self.judges = [each for each in judges if bool((each[1].bias > NEVER).any())]
        if kind == "svm":
            return linear
        if softmax is not None:
            return TwoStageRegionClassifier(linear, softmax, keep)
        with self.stage("kernel"):
            kernel = trainer.mine_kernel(self.track)
        return TwoStageRegionClassifier(linear, kernel, keep) if keep else kernel

    def _fit_boxes(self, tuned: TunedParts) -> BoxRegressor | None:
        """Fit the box regression; one that was tuned together with the softmax is kept."""
        config = self.config
        if not config.box_regression:
            return None
        if config.classifier == "softmax" and tuned.boxes is not None:
            return tuned.boxes
        with self.stage("boxes"):
            scale = self._scaler.factor(RegionFeatures())
            constants = cascade_config(config, class_agnostic=self._classes_share(scale))
            cascade = BoxCascade(len(self.names), constants, config.seed)
            samples = self.cached.samples("fitting boxes", self.track, views=self.views)
            return cascade.fit(samples, self.cached.encoder, scale)

    def _classes_share(self, scale: float) -> bool:
        """Decide whether one box regression serves all classes."""
        config, images = self.config, self.cached.usable
        if config.box_agnostic != "auto" or len(self.names) == 1:
            return config.box_agnostic == "on"
        if len(self.names) * FEWEST_BOX_SAMPLES > config.box_total:
            return True
        draw = torch.Generator().manual_seed(config.seed)
        mixed = [images[i] for i in torch.randperm(len(images), generator=draw).tolist()]
        samples = self.cached.subset(mixed).samples("comparing box regressions")
        encoder, constants = self.cached.encoder, cascade_config(config)
        return classes_share(samples, encoder, constants, scale, config.seed)

    @cached_property
    def _scaler(self) -> FeatureScaler:
        """Factors for the features; first asked for after the fine-tuning."""
        return self.shared_scaler or FeatureScaler(
            self.cached, norm_config(self.config), self.track
        )


def _detect(detector: Detector, sample: tuple[LabelledImage, EncodedImage, Tensor]) -> Detections:
    return detector.detect(*sample[1:])
