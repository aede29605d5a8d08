"""One method of detection, trained once for all rows of tables 9 to 12 that ask for it."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sppnet.detection import (
    BoxCascade,
    CachedFeatures,
    CombinedDetector,
    Detector,
    InferenceConfig,
    LinearRegionClassifier,
)
from sppnet.detection.finetune.head import HeadTuningConfig, tune_head
from sppnet.detection.heads.box_regression import CascadeConfig
from sppnet.detection.heads.region_head import RegionFeatures, RegionHead
from sppnet.detection.heads.svm_trainer import FeatureScaler, SvmConfig, SvmTrainer
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
from sppnet.training.optimizers import OptimizerConfig

# Trained layers learn on at the rate of the 2014 code; new ones need a higher one.
TRAINED_RATE, NEW_RATE = 1e-3, 1e-2
CHECK_EVERY = 2000
BUDGET_BYTES = 4_000_000_000
FEATURE_NORM = 20.0  # mean norm of the features that the SVMs see, as in the 2014 code
EXPERIMENT_VERSION = 1


def head_tuning_config(
    updates: int, head: RegionHead, seed: int, *, is_trained: bool
) -> HeadTuningConfig:
    """Configure fine-tuning as in the 2014 code, with flips, for a number of updates.

    Example:
        >>> head_tuning_config(100, RegionHead(8, 2, (4, 4)), 0, is_trained=True).optimizer.rate
        0.001
    """
    return HeadTuningConfig(
        updates=updates,
        check_every=min(CHECK_EVERY, max(1, updates // 4)),
        flip=True,
        widths=head.widths,
        optimizer=OptimizerConfig(TRAINED_RATE if is_trained else NEW_RATE),
        budget_bytes=BUDGET_BYTES,
        seed=seed,
    )


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
    """

    def __init__(
        self,
        method: Method,
        network: DetectionNetwork,
        images: DetectionImages,
        resources: Resources,
        track: Track,
    ) -> None:
        self.method, self.network, self.images = method, network, images
        self.resources, self.track = resources, method.label(track)
        self.svm_config = SvmConfig(seed=resources.seed)
        self.cache = FeatureCache(resources.out / "cache" / ("rcnn" if method.is_rcnn else "spp"))
        self.encoder = build_method_encoder(method, network, self.cache)
        self.train = self._prepare(images.train)
        self.test = self._prepare(images.test)
        self.key = self._make_key()
        self._is_prepared = False
        self._classifiers: dict[tuple[str, bool], LinearRegionClassifier] = {}
        self._scaler = FeatureScaler(self.train, FEATURE_NORM, resources.seed, self.track)

    def why_not(self, row: Row) -> str:
        """Say why a row cannot be measured; empty if it can."""
        needs_trained = row.layer != "pooled" and not row.is_tuned
        return NEEDS_HIDDEN if needs_trained and self.network.hidden is None else ""

    def differs(self, row: Row) -> str:
        """Say what is not as in the paper."""
        budget, usual = self.resources.budget, Budget()
        parts = [self.network.differs, self.images.differs]
        if (budget.max_proposals, budget.proposals) != (usual.max_proposals, usual.proposals):
            parts.append(f"{budget.max_proposals} proposals of {budget.proposals}")
        if row.is_tuned:
            widths = "-".join(map(str, budget.widths))
            parts.append("" if self.network.hidden else f"new fc layers {widths}")
            parts.append("" if budget.updates == usual.updates else f"{budget.updates:,} updates")
            parts.append("only fc layers tuned" if self.method.is_rcnn else "")
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
        budget, seed = self.resources.budget, self.resources.seed
        config = InferenceConfig(budget.proposals, budget.max_proposals, seed)
        box_regressor = self._boxes if row.moves_boxes else None
        classifier = self._classifier(row.layer, row.is_tuned)
        return Detector(self.encoder, classifier, box_regressor, self.images.names, config).to(
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
        budget, seed = self.resources.budget, self.resources.seed
        config = head_tuning_config(budget.updates, head, seed, is_trained=is_trained)
        folder = self.resources.out / "tuning" / self.key[:16]
        tuned = tune_layers(self.train, head, config, folder, self.track, is_trained=is_trained)
        return tuned.to(self.resources.device)

    @cached_property
    def _boxes(self) -> BoxCascade:
        """Box regression on the pooled vectors: one stage, as in the paper."""
        config = CascadeConfig(stages=1, per_image=self.resources.budget.max_proposals)
        cascade = BoxCascade(len(self.images.names), config, self.resources.seed)
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
                self.svm_config,
                scale=self._scaler.factor(features),
            )
            trainer.collect_positives(self.track)
            self._classifiers[layer, is_tuned] = trainer.mine(self.track)
        return self._classifiers[layer, is_tuned]

    def _make_key(self) -> str:
        """Key of everything that scores depend on."""
        budget, network = self.resources.budget, self.network
        return self.cache.make_key(
            version=EXPERIMENT_VERSION,
            settings=repr((self.svm_config, FEATURE_NORM)),
            encoder=repr(sorted(self.encoder.config().items())),
            weights=digest_of(None, network.backbone.state_dict()),
            hidden=tuple(digest_of(None, each.state_dict()) for each in network.hidden or ()),
            images=(digest_images(self.images.train), digest_images(self.images.test)),
            budget=(budget.proposals, budget.max_proposals, budget.updates, budget.widths),
            seed=self.resources.seed,
        )

    def _new_head(self) -> RegionHead:
        """fc6 and fc7 before fine-tuning."""
        widths, seed = self.resources.budget.widths, self.resources.seed
        return self.network.build_head(self.encoder.length, len(self.images.names), widths, seed)

    def _prepare(self, images: Sequence[LabelledImage]) -> CachedFeatures:
        """Put images, encoder and cache together."""
        budget, seed = self.resources.budget, self.resources.seed
        return CachedFeatures(
            images, self.encoder, self.cache, budget.proposals, budget.max_proposals, seed
        )


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
