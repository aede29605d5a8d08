"""How a detector is learnt: maps once per image, then small linear models on pooled windows."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.backbones import Backbone, build_backbone
from sppnet.detection.box_regression import BoxRegressor
from sppnet.detection.detector import DetectionRule, Detector, WindowClassifier
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.hard_negatives import HardNegativeMiner, MiningRule
from sppnet.detection.prepared import PreparedImages
from sppnet.detection.settings import DetectionSettings
from sppnet.errors import NothingUsableError, Track, no_tracking
from sppnet.geometry import box_iou
from sppnet.images import LabelledImage

# Images and windows per image from which the mean length of features is estimated (spp_train.m).
NORM_IMAGES, NORM_WINDOWS = 200, 200


def build_encoder(
    settings: DetectionSettings, *, download: bool = False, backbone: Backbone | None = None
) -> Encoder:
    """Build the trunk and the encoder that the settings describe.

    Args:
        settings: Names the trunk, its weights, the scales and the levels.
        download: Whether missing weights may be downloaded.
        backbone: A trunk to use instead of building one.

    Returns:
        The encoder.
    """
    if backbone is None:
        backbone = build_backbone(
            settings.backbone, settings.weights, layer=settings.layer or None, download=download
        )
    return Encoder(
        backbone,
        settings.imgsz,
        settings.levels,
        settings.projection,
        settings.max_long_side,
        settings.target_side,
    )


@dataclass
class BoxSamples:
    """A random part of the windows that overlap an object, to teach the box regression."""

    limit: int
    features: Tensor
    proposals: Tensor
    targets: Tensor
    priority: Tensor

    @classmethod
    def empty(cls, limit: int, length: int) -> "BoxSamples":
        """Start without any."""
        return cls(
            limit, torch.zeros(0, length), torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0)
        )

    def add(
        self, features: Tensor, proposals: Tensor, targets: Tensor, draw: torch.Generator
    ) -> None:
        """Take samples in, and drop those of the lowest priority beyond the limit."""
        self.features = torch.cat([self.features, features])
        self.proposals = torch.cat([self.proposals, proposals])
        self.targets = torch.cat([self.targets, targets])
        self.priority = torch.cat([self.priority, torch.rand(len(features), generator=draw)])
        if len(self.priority) > 1.25 * self.limit:
            self.trim()

    def trim(self) -> None:
        """Keep the ``limit`` samples of the highest priority."""
        if len(self.priority) <= self.limit:
            return
        best = self.priority.argsort(descending=True)[: self.limit].sort().values
        self.features, self.proposals = self.features[best], self.proposals[best]
        self.targets, self.priority = self.targets[best], self.priority[best]


class DetectorTrainer:
    """Learns SVMs and box regressions from prepared images.

    Args:
        prepared: Images with their windows and maps.
        names: Class names.
        settings: The constants.
        seed: Of everything that is random.

    Source:
        SPP-net, section 4.1; spp_train.m and spp_train_bbox_regressor.m of the authors' code.
    """

    def __init__(
        self,
        prepared: PreparedImages,
        names: Sequence[str],
        settings: DetectionSettings,
        seed: int = 0,
    ) -> None:
        self.prepared = prepared
        self.encoder = prepared.encoder
        self.names = tuple(names)
        self.settings = settings
        self.seed = seed
        self.draw = torch.Generator().manual_seed(seed)
        limit, length = settings.max_box_samples, self.encoder.length
        self.samples = [BoxSamples.empty(limit, length) for _ in self.names]

    def measure_scale(self, track: Track = no_tracking) -> None:
        """Pool the objects, and find the factor that gives features their mean length."""
        positives: list[list[Tensor]] = [[] for _ in self.names]
        lengths: list[Tensor] = []
        for image, encoded, windows in self.prepared.tracked("describing objects", track):
            boxes, labels = self._objects(image)
            features = self.encoder.describe(encoded, boxes).cpu()
            for row, label in zip(features, labels.tolist(), strict=True):
                positives[label].append(row)
            if len(lengths) < NORM_IMAGES:
                some = torch.randperm(len(windows), generator=self.draw)[:NORM_WINDOWS]
                lengths.append(self.encoder.describe(encoded, windows[some]).norm(dim=1).cpu())
        if not any(positives):
            raise NothingUsableError("no image has an object to learn from")
        mean_length = float(torch.cat(lengths).mean()) if lengths else 0.0
        self.feature_scale = self.settings.feature_norm / max(mean_length, 1e-12)
        nothing = torch.zeros(0, self.encoder.length)
        self.positives = [
            torch.stack(rows) * self.feature_scale if rows else nothing for rows in positives
        ]

    def mine(self, track: Track = no_tracking) -> HardNegativeMiner:
        """Go once through all windows: hard negatives, and samples for the box regression."""
        rule = MiningRule(self.settings.svm_cost, self.settings.positive_weight)
        miner = HardNegativeMiner(self.positives, rule)
        for image, encoded, windows in self.prepared.tracked("mining hard negatives", track):
            features, boxes = self._describe_distinct(encoded, image, windows)
            miner.add_image(features, self._negative_of(image, boxes))
            if self.settings.box_regression:
                self._sample_boxes(image, boxes, features)
        miner.finish()
        return miner

    def fit_boxes(self) -> BoxRegressor | None:
        """Fit the box regression on the samples that mining met."""
        if not self.settings.box_regression:
            return None
        for each in self.samples:
            each.trim()
        return BoxRegressor(self.settings.box_strength).fit(
            [each.features for each in self.samples],
            [each.proposals for each in self.samples],
            [each.targets for each in self.samples],
        )

    def build_detector(self, miner: HardNegativeMiner, regressor: BoxRegressor | None) -> Detector:
        """Put the fitted parts together; the scale of features goes into the weights."""
        classifier = WindowClassifier(miner.weights_ * self.feature_scale, miner.bias_)
        if regressor is not None:
            regressor.weights_ = regressor.weights_ * self.feature_scale
        rule = DetectionRule(self.settings.proposals, self.settings.max_proposals, self.seed)
        return Detector(self.encoder, classifier, regressor, self.names, rule)

    def _objects(self, image: LabelledImage) -> tuple[Tensor, Tensor]:
        """Boxes and labels that count as positives."""
        wanted = ~image.crowd
        if not self.settings.use_difficult:
            wanted &= ~image.difficult
        return image.boxes[wanted], image.labels[wanted]

    def _describe_distinct(
        self, encoded: EncodedImage, image: LabelledImage, windows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scaled features and boxes of the windows and objects that fall on distinct cells."""
        boxes = torch.cat([image.boxes, windows])
        cells = self.encoder.locate(encoded, boxes)
        distinct, cell_of = torch.unique(cells, dim=0, return_inverse=True)
        first = torch.full((len(distinct),), len(boxes))
        first.scatter_reduce_(0, cell_of, torch.arange(len(boxes)), "amin")
        rows = first.sort().values
        features = self.encoder.describe_cells(encoded, cells[rows]).cpu()
        return features.mul_(self.feature_scale), boxes[rows]

    def _negative_of(self, image: LabelledImage, boxes: Tensor) -> Tensor:
        """(W, K) whether each window is a negative of each class."""
        negative = torch.ones(len(boxes), len(self.names), dtype=torch.bool)
        overlaps = box_iou(boxes, image.boxes)
        for overlap, label in zip(overlaps.T, image.labels.tolist(), strict=True):
            negative[:, label] &= overlap < self.settings.negative_below
        return negative

    def _sample_boxes(self, image: LabelledImage, boxes: Tensor, features: Tensor) -> None:
        """Keep windows that overlap an object well enough to learn where its sides are."""
        objects, labels = self._objects(image)
        if not len(objects):
            return
        overlap, nearest = box_iou(boxes, objects).max(1)
        close = overlap > self.settings.box_overlap
        for label in labels.unique().tolist():
            rows = (close & (labels[nearest] == label)).nonzero().flatten()
            self.samples[label].add(features[rows], boxes[rows], objects[nearest[rows]], self.draw)


def train_detector(
    prepared: PreparedImages,
    names: Sequence[str],
    settings: DetectionSettings,
    *,
    seed: int = 0,
    workers: int = 2,
    track: Track = no_tracking,
    stage: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Detector:
    """Learn a detector: windows, maps, SVMs with hard negatives, box regression.

    Windows and maps are kept in the cache, so that a second call after a kill goes on where the
    first one stopped.

    Args:
        prepared: The images, with the encoder and the cache.
        names: Class names in the order of the labels.
        settings: The constants.
        seed: Of everything that is random; the same seed gives the same detector.
        workers: Threads that look for windows.
        track: Shows progress.
        stage: ``stage(name)`` is a context that times a stage.

    Returns:
        The fitted detector.

    Raises:
        NothingUsableError: If no image can be used, or none has an object.
    """
    with stage("proposals"):
        prepared.propose_all(workers, track)
    with stage("features"):
        prepared.encode_all(track)
    if not prepared.usable:
        raise NothingUsableError("no image of the data set can be used")
    trainer = DetectorTrainer(prepared, names, settings, seed)
    with stage("objects"):
        trainer.measure_scale(track)
    with stage("svm"):
        miner = trainer.mine(track)
    with stage("boxes"):
        regressor = trainer.fit_boxes()
    return trainer.build_detector(miner, regressor)
