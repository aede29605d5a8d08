"""Trains a detector, stage by stage."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sppnet.backbones import build_backbone
from sppnet.config.detection import DetectionConfig, InferenceConfig
from sppnet.detection.detector import Detector
from sppnet.detection.encoder import Encoder, choose_short_sides
from sppnet.detection.feature_set import CachedFeatures
from sppnet.detection.finetune.head import HeadTuningConfig, tune_head
from sppnet.detection.finetune.network import NetworkTuningConfig, tune_network
from sppnet.detection.finetune.region_network import BoxHead
from sppnet.detection.heads.box_regression import BoxCascade, CascadeConfig
from sppnet.detection.heads.box_regressor import BoxRegressor
from sppnet.detection.heads.classifiers import (
    RegionClassifier,
    SoftmaxRegionClassifier,
    TwoStageRegionClassifier,
)
from sppnet.detection.heads.region_head import RegionFeatures, RegionHead
from sppnet.detection.heads.svm_trainer import FeatureScales, SvmTrainer
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.errors import NothingUsableError
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.optimizers import OptimizerConfig

# With fewer objects per class than this, mirror images are worth the time.
FEW_OBJECTS = 400
Stage = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class TunedParts:
    """Parts of a network that were fine-tuned; None where nothing was.

    Args:
        head: fc6, fc7 and the logits.
        encoder: With a tuned trunk.
        boxes: Box regression behind fc7.
    """

    head: RegionHead | None = None
    encoder: Encoder | None = None
    boxes: BoxHead | None = None

    def features(self, settings: DetectionConfig) -> RegionFeatures:
        """What the SVMs are to see of a window."""
        layer = settings.layer_of_features
        return RegionFeatures(layer, None if layer == "pooled" else self.head)


def tune(
    cached: CachedFeatures,
    num_classes: int,
    settings: DetectionConfig,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> TunedParts:
    """Fine-tune the head, or the whole network, as the settings say.

    Args:
        cached: Images with windows and maps in the cache.
        num_classes: K.
        settings: The constants.
        checkpoints: Where the state is kept and taken up again; None keeps none.
        track: Shows progress.

    Returns:
        The tuned parts.
    """
    shared: dict[str, Any] = {
        "updates": settings.tune_updates,
        "optimizer": OptimizerConfig(rate=settings.tune_rate),
        "use_difficult": settings.use_difficult,
        "widths": settings.widths,
        "ranks": settings.ranks,
        "seed": settings.seed,
    }
    if settings.tune == "head":
        head = tune_head(
            cached, num_classes, HeadTuningConfig(**shared), checkpoints=checkpoints, track=track
        ).head
        return TunedParts(head)
    tuned = tune_network(
        cached.usable,
        cached.encoder,
        num_classes,
        NetworkTuningConfig(**shared, trainable_from=settings.tune_from),
        cached.all_windows,
        checkpoints=checkpoints,
        track=track,
    )
    return TunedParts(tuned.head, tuned.encoder, tuned.boxes)


def build_encoder(
    settings: DetectionConfig,
    images: Sequence[LabelledImage] = (),
    *,
    download: bool = False,
) -> Encoder:
    """Build the trunk and the encoder that the settings describe.

    Args:
        settings: Names the trunk, its weights, the scales and the levels.
        images: Their objects choose the scales, where the settings leave them open.
        download: Whether missing weights may be downloaded.

    Returns:
        The encoder.
    """
    backbone = build_backbone(
        settings.backbone, settings.weights, layer=settings.layer or None, download=download
    )
    return Encoder(
        backbone,
        settings.imgsz or choose_short_sides(images, settings.target_side),
        settings.levels,
        settings.projection,
        settings.max_long_side or None,
        settings.target_side,
    )


def train_detector(
    cached: CachedFeatures,
    names: Sequence[str],
    settings: DetectionConfig,
    *,
    workers: int = 2,
    track: Track = no_tracking,
    stage: Stage = nullcontext,
    checkpoints: Checkpoints | None = None,
) -> Detector:
    """Learn a detector: windows, maps, fine-tuning if asked for, SVMs, box regression.

    Windows and maps are kept in the cache, so that a second call after a kill goes on where the
    first one stopped.

    Args:
        cached: The images, with the encoder and the cache.
        names: Class names in the order of the labels.
        settings: The constants; the same seed gives the same detector.
        workers: Threads that look for windows.
        track: Shows progress.
        stage: ``stage(name)`` is a context that times a stage.
        checkpoints: Where the state of a fine-tuning is kept; None keeps none.

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
    return _Training(cached, tuple(names), settings, track, stage).run(checkpoints)


def wants_mirror(
    images: Sequence[LabelledImage], num_classes: int, settings: DetectionConfig
) -> bool:
    """Say whether mirror images teach, too; if it is left open, where labels are few.

    Args:
        images: What is learnt from; crowds do not count.
        num_classes: K.
        settings: The constants.

    Returns:
        Whether they do.

    Example:
        >>> wants_mirror([], 3, DetectionConfig(mirror="auto"))
        True
    """
    if settings.mirror != "auto":
        return settings.mirror == "on"
    return sum(int((~image.crowd).sum()) for image in images) < FEW_OBJECTS * num_classes


@dataclass
class _Training:
    """A training under way: what every step asks for."""

    cached: CachedFeatures
    names: tuple[str, ...]
    settings: DetectionConfig
    track: Track
    stage: Stage

    @property
    def mirror(self) -> bool:
        """Whether mirror images teach, too."""
        return wants_mirror(self.cached.images, len(self.names), self.settings)

    def run(self, checkpoints: Checkpoints | None) -> Detector:
        """Take one step after the other."""
        self._look(mirror=self.mirror and self.settings.tune != "network")
        tuned = TunedParts()
        if self.settings.tune != "none":
            with self.stage("tuning"):
                tuned = self._tune(checkpoints)
        if tuned.encoder is not None:  # other maps, and so other windows
            images = self.cached.usable
            self.cached = replace(self.cached, images=images, encoder=tuned.encoder, anchors=None)
            self._look(mirror=self.mirror)
        classifier, box_regressor = self._learn_scores(tuned), self._learn_boxes(tuned)
        return Detector(
            self.cached.encoder,
            classifier,
            box_regressor,
            self.names,
            self._rule(),
            self.cached.anchors,
        )

    def _tune(self, checkpoints: Checkpoints | None) -> TunedParts:
        """Fine-tune the head or the network."""
        num_classes = len(self.names)
        return tune(self.cached, num_classes, self.settings, checkpoints, self.track)

    def _rule(self) -> InferenceConfig:
        """How windows are found in new images: as in those of the training."""
        settings = self.settings
        return InferenceConfig(
            settings.proposals,
            settings.max_proposals,
            settings.seed,
            max_anchors=settings.max_anchors,
        )

    def _look(self, *, mirror: bool) -> None:
        """Convolve the images, and learn to propose windows from their maps."""
        with self.stage("features"):
            self.cached.encode_all(self.track, mirror=mirror)
        if not self.cached.usable:
            raise NothingUsableError("no image of the data set can be used")
        if self.settings.anchors:
            with self.stage("anchors"):
                proposer = AnchorProposer.of(self.cached.encoder, seed=self.settings.seed)
                maps = self.cached.maps("learning to propose", self.track)
                self.cached.use_anchors(proposer.fit(maps))
                self.cached.propose_learnt(self.track)

    def _learn_scores(self, tuned: TunedParts) -> RegionClassifier:
        """Learn to judge windows; a tuned softmax knows already."""
        kind, keep = self.settings.classifier, self.settings.prefilter
        softmax = (
            SoftmaxRegionClassifier(tuned.head)
            if kind == "softmax" and tuned.head is not None
            else None
        )
        if softmax is not None and not keep:
            return softmax
        features = tuned.features(self.settings)
        with self.stage("objects"):
            trainer = SvmTrainer(
                self.cached,
                len(self.names),
                self.settings,
                features,
                scale=self._scales.of(features),
                mirror=self.mirror,
            )
            trainer.collect_positives(self.track)
        with self.stage("svm"):
            linear = trainer.mine(self.track)
        if kind == "svm":
            return linear
        if softmax is not None:
            return TwoStageRegionClassifier(linear, softmax, keep)
        with self.stage("kernel"):
            kernel = trainer.mine_kernel(self.track)
        return TwoStageRegionClassifier(linear, kernel, keep) if keep else kernel

    def _learn_boxes(self, tuned: TunedParts) -> BoxRegressor | None:
        """Learn to move boxes; a box regression that was tuned with the softmax goes with it."""
        settings = self.settings
        if not settings.box_regression:
            return None
        if settings.classifier == "softmax" and tuned.boxes is not None:
            return tuned.boxes
        rule = CascadeConfig(
            stages=settings.box_stages,
            strength=settings.box_strength,
            overlap=settings.box_overlap,
            class_agnostic=settings.box_agnostic,
            most_samples=settings.max_box_samples,
            use_difficult=settings.use_difficult,
        )
        with self.stage("boxes"):
            scale = self._scales.of(RegionFeatures())
            cascade = BoxCascade(len(self.names), rule, settings.seed)
            samples = self.cached.tracked("fitting boxes", self.track, mirror=self.mirror)
            return cascade.fit(samples, self.cached.encoder, scale)

    @cached_property
    def _scales(self) -> FeatureScales:
        """Factors for the features; first asked for after the fine-tuning."""
        settings = self.settings
        return FeatureScales(self.cached, settings.feature_norm, settings.seed, self.track)
