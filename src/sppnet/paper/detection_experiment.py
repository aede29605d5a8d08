"""One method of detection, trained once for all rows of tables 9 to 12 that ask for it."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet.detection import (
    BoxCascade,
    CachedFeatures,
    CombinedDetector,
    DetectionConfig,
    Detector,
    Encoder,
    LinearRegionClassifier,
    build_cached_features,
    train_detector,
)
from sppnet.detection.finetune.head import HeadTuningConfig, tune_head
from sppnet.detection.heads.region_head import RegionFeatures, RegionHead
from sppnet.detection.heads.svm_trainer import FeatureScaler, SvmTrainer
from sppnet.detection.train import (
    cascade_config,
    head_tuning_config,
    inference_config,
    norm_config,
    put_to_use,
    svm_config,
)
from sppnet.errors import Problem
from sppnet.evaluation import evaluate_detections
from sppnet.images import LabelledImage
from sppnet.paper.detection_setup import (
    DetectionImages,
    DetectionNetwork,
    Method,
    Row,
    build_method_encoder,
)
from sppnet.paper.resources import NEEDS_HIDDEN, Budget, Resources
from sppnet.progress import Track
from sppnet.storage import FeatureCache, sha256_file
from sppnet.storage.tensors import digest_of
from sppnet.training.checkpoints import Checkpoints

# Trained layers learn on at the rate of the 2014 code; new ones need a higher one.
NEW_RATE = 1e-2
BUDGET_BYTES = 4_000_000_000
BOX_SAMPLES = 5000  # of a class, so that the regressions are solved in minutes
# R-CNN's own constants, where they are not those of SPP-net's code.
RCNN = {"box_strength": 1000.0, "box_overlap": 0.6, "negative_overlap": 1.0}
EXPERIMENT_VERSION = 2


def method_config(method: Method, budget: Budget, seed: int) -> DetectionConfig:
    """Make the settings of a column: the paper's recipe, as much of it as the budget says.

    Example:
        >>> method_config(Method("ZF-5"), Budget(updates=9), 0).box_strength
        1000.0
    """
    own: dict[str, Any] = RCNN if method.is_rcnn else {"imgsz": method.short_sides}
    return budget.settings("paper", seed, max_box_samples=BOX_SAMPLES, **own)


def tuning_of(settings: DetectionConfig, head: RegionHead, *, is_trained: bool) -> HeadTuningConfig:
    """Configure the fine-tuning of a head; new layers learn at a rate of their own.

    Example:
        >>> settings = DetectionConfig(recipe="paper")
        >>> tuning_of(settings, RegionHead(8, 2, (4, 4)), is_trained=True).optimizer.rate
        0.001
    """
    config = head_tuning_config(settings)
    rate = config.optimizer.rate if is_trained else NEW_RATE
    optimizer = replace(config.optimizer, rate=rate)
    return replace(config, widths=head.widths, optimizer=optimizer, budget_bytes=BUDGET_BYTES)


def tune_layers(
    cached: CachedFeatures,
    head: RegionHead,
    config: HeadTuningConfig,
    folder: Path,
    track: Track,
    *,
    is_trained: bool,
) -> RegionHead:
    """Fine-tune fc6 and fc7 on cached maps; a run that was killed goes on.

    Args:
        cached: Images whose maps and proposals are in the cache.
        head: Where to begin.
        config: The constants.
        folder: For the state of the training.
        track: Shows the progress.
        is_trained: Whether the layers of ``head`` were trained; if not, training begins with new
            ones.

    Returns:
        The tuned head, in evaluation mode.

    Source:
        SPP-net, section 4.1.
    """
    tuned = tune_head(
        cached,
        head.num_classes,
        config,
        start=head if is_trained else None,
        checkpoints=Checkpoints(folder),
        track=track,
    )
    return tuned.head


class DetectionExperiment:
    """Proposals, maps, heads and SVMs of one method; each is made when a row first asks for it.

    Maps, proposals, tuned heads and scores are kept below ``resources.out``: a run that was killed
    goes on, and another table finds what this one made.

    Args:
        method: What to measure.
        network: Its trunk and fully connected layers.
        images: What to learn from and to score.
        resources: Budget, seed, device, and the folder for what is kept.
        track: Shows the progress.
        settings: Constants of the detector; those of :func:`method_config` if None.
    """

    def __init__(
        self,
        method: Method,
        network: DetectionNetwork,
        images: DetectionImages,
        resources: Resources,
        track: Track,
        settings: DetectionConfig | None = None,
    ) -> None:
        self.method, self.network, self.images = method, network, images
        self.resources, self.track = resources, method.label(track)
        self.config = settings or method_config(method, resources.budget, resources.seed)
        self.cache = FeatureCache(resources.out / "cache" / ("rcnn" if method.is_rcnn else "spp"))
        self.encoder = self._build_encoder()
        self.train = self._prepare(images.train)
        self.test = self._prepare(images.test)
        self.key = self._make_key()
        self._is_prepared = False
        self._classifiers: dict[tuple[str, bool], LinearRegionClassifier] = {}
        self._scaler = FeatureScaler(self.train, norm_config(self.config), self.track)

    def why_not(self, row: Row) -> str:
        """Say why a row cannot be measured; empty if it can."""
        needs_trained = row.layer != "pooled" and not row.is_tuned
        return NEEDS_HIDDEN if needs_trained and self.network.hidden is None else ""

    def differs(self, row: Row) -> str:
        """Say what is not as in the paper."""
        config, usual = self.config, DetectionConfig(recipe="paper")
        parts = [self.network.differs, self.images.differs, describe_proposals(config)]
        if row.is_tuned:
            widths = "-".join(map(str, config.widths))
            parts.append("" if self.network.hidden else f"new fc layers {widths}")
            is_usual = config.tune_updates == usual.tune_updates
            parts.append("" if is_usual else f"{config.tune_updates:,} updates")
            parts.append("only fc layers tuned" if self.method.is_rcnn else "")
            parts.append(f"{config.tune_validation:.0%} of the images choose the weights")
        if row.moves_boxes:
            most = min(config.max_box_samples, config.box_total // len(self.images.names))
            parts.append(f"box regression on at most {most:,} proposals of a class")
        return "; ".join(filter(None, parts))

    @property
    def problems(self) -> list[Problem]:
        """What was wrong with images."""
        return [*self.train.problems, *self.test.problems]

    def score(self, row: Row) -> Tensor:
        """Average precision of each class by VOC 2007's rule: (K,), 0..1, NaN without objects."""
        key = self.cache.make_key(kind="average precision", experiment=self.key, row=repr(row))
        record = self.cache.get(key)
        if record is None:
            found = score_detector(self.detector(row), [self], self.track)
            record = {"average_precision": found}
            self.cache.put(key, record)
        return record["average_precision"]

    def detector(self, row: Row) -> Detector:
        """Learn what a row needs, and put it together."""
        if not self._is_prepared:
            self._prepare_all()
        box_regressor = self._boxes if row.moves_boxes else None
        classifier = self._classifier(row.layer, row.is_tuned)
        testing = inference_config(self.config)
        return Detector(self.encoder, classifier, box_regressor, self.images.names, testing).to(
            self.resources.device
        )

    def _prepare_all(self) -> None:
        """Propose regions in all images, and compute their maps."""
        for cached in (self.train, self.test):
            cached.propose_all(track=self.track)
            cached.encode_all(self.track)
        self._is_prepared = True

    @cached_property
    def head(self) -> RegionHead:
        """The head with fc6 and fc7 fine-tuned."""
        head, is_trained = self._new_head(), self.network.hidden is not None
        config = tuning_of(self.config, head, is_trained=is_trained)
        folder = self.resources.out / "tuning" / self.key[:16]
        tuned = tune_layers(self.train, head, config, folder, self.track, is_trained=is_trained)
        return tuned.to(self.resources.device)

    @cached_property
    def _boxes(self) -> BoxCascade:
        """Box regression on the pooled vectors: one stage, as in the paper."""
        seed = self.config.seed
        cascade = BoxCascade(len(self.images.names), cascade_config(self.config), seed)
        samples = self.train.samples("fitting boxes", self.track)
        return cascade.fit(samples, self.encoder, self._scaler.factor(RegionFeatures()))

    def _classifier(self, layer: str, is_tuned: bool) -> LinearRegionClassifier:
        """SVMs on a layer."""
        if (layer, is_tuned) not in self._classifiers:
            head = self.head if is_tuned else None if layer == "pooled" else self._new_head()
            features = RegionFeatures(layer, head)
            trainer = SvmTrainer(
                self.train,
                len(self.images.names),
                features,
                svm_config(self.config),
                scale=self._scaler.factor(features),
            )
            trainer.collect_positives(self.track)
            self._classifiers[layer, is_tuned] = trainer.mine(self.track)
        return self._classifiers[layer, is_tuned]

    def _make_key(self) -> str:
        """Key of everything that scores depend on."""
        network = self.network
        return self.cache.make_key(
            version=EXPERIMENT_VERSION,
            settings=repr((self.config, inference_config(self.config))),
            encoder=repr(sorted(self.encoder.config().items())),
            weights=digest_of(None, network.backbone.state_dict()),
            hidden=tuple(digest_of(None, each.state_dict()) for each in network.hidden or ()),
            images=(digest_images(self.images.train), digest_images(self.images.test)),
        )

    def _build_encoder(self) -> Encoder:
        """Put the trunk to use in the method's way."""
        return build_method_encoder(self.method, self.network, self.cache)

    def _new_head(self) -> RegionHead:
        """fc6 and fc7 before fine-tuning."""
        widths, seed = self.config.widths, self.config.seed
        return self.network.build_head(self.encoder.length, len(self.images.names), widths, seed)

    def _prepare(self, images: Sequence[LabelledImage]) -> CachedFeatures:
        """Put images, encoder and cache together."""
        return build_cached_features(self.config, images, self.encoder, self.cache)


class BestExperiment(DetectionExperiment):
    """A detector by our own recipe, on the same trunk and images: a row beside the paper's.

    Example:
        >>> issubclass(BestExperiment, DetectionExperiment)
        True
    """

    def differs(self, row: Row) -> str:  # noqa: ARG002
        """Say what it is."""
        sides = ",".join(map(str, self.encoder.short_sides))
        proposals = f"{self.config.max_proposals} proposals of {self.config.proposals}"
        how = f"sppnet detect train --recipe best, {proposals}, short side {sides}"
        parts = [self.network.differs, self.images.differs, how, "no part of the paper"]
        return "; ".join(filter(None, parts))

    def detector(self, row: Row) -> Detector:  # noqa: ARG002
        """Train as ``sppnet detect train`` does; test images get the learnt proposals, too."""
        folder = self.resources.out / "tuning" / self.key[:16]
        names, checkpoints = self.images.names, Checkpoints(folder)
        found = train_detector(
            self.train, names, self.config, track=self.track, checkpoints=checkpoints
        )
        self.test = replace(self.test, encoder=found.encoder, anchors=found.anchors)
        self.test.encode_all(self.track)
        return found

    def _build_encoder(self) -> Encoder:
        """Choose the scales as the recipe does."""
        return put_to_use(self.network.backbone, self.config, self.images.train)


def describe_proposals(config: DetectionConfig) -> str:
    """Say how proposals differ from the paper's, which are its authors' selective search.

    Example:
        >>> describe_proposals(DetectionConfig(recipe="paper"))
        "OpenCV's selective search"
    """
    usual = DetectionConfig(recipe="paper")
    is_usual = (config.proposals, config.max_proposals) == (usual.proposals, usual.max_proposals)
    if is_usual:
        return "OpenCV's selective search"
    return f"{config.max_proposals} proposals of {config.proposals}"


def score_detector(
    detector: Detector | CombinedDetector, experiments: Sequence[DetectionExperiment], track: Track
) -> Tensor:
    """Detect on the images to score, from cached maps, and score.

    Args:
        detector: One, or several combined.
        experiments: Where the maps of each come from.
        track: Shows the progress.

    Returns:
        (K,) average precision of each class, NaN for one without objects.
    """
    first, *others = (experiment.test for experiment in experiments)
    found = {}
    for image, encoded, proposals in first.samples("detecting", track):
        if isinstance(detector, CombinedDetector):
            maps = (encoded, *(other.encoded(image) for other in others))
            found[image.image_id] = detector.detect(maps, proposals)
        else:
            found[image.image_id] = detector.detect(encoded, proposals)
    result = evaluate_detections(first.usable, found, detector.names, "voc07")
    values = [result.per_class[name] for name in detector.names]
    return torch.tensor([float("nan") if value is None else value for value in values])


def digest_images(images: Sequence[LabelledImage]) -> str:
    """SHA-256 over names and contents of image files and over their boxes."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.image_id!r} {sha256_file(image.path)}".encode())
        marks = (image.labels, image.difficult, image.crowd)
        digest.update(repr([image.boxes.tolist(), *(each.tolist() for each in marks)]).encode())
    return digest.hexdigest()
