"""How a detector is learnt: maps once per image, then small linear models on pooled windows."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sppnet.backbones import build_backbone
from sppnet.detection.box_regression import BoxRegressor, BoxSamples
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
# Samples of the box regression over all classes: 2 GB at 25,600 numbers each.
MOST_BOX_SAMPLES = 20_000


def build_encoder(settings: DetectionSettings, *, download: bool = False) -> Encoder:
    """Build the trunk and the encoder that the settings describe.

    Args:
        settings: Names the trunk, its weights, the scales and the levels.
        download: Whether missing weights may be downloaded.

    Returns:
        The encoder.
    """
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
        limit = min(settings.max_box_samples, max(1, MOST_BOX_SAMPLES // len(self.names)))
        self.samples = [BoxSamples(limit, self.encoder.length) for _ in self.names]

    def measure_scale(self, track: Track = no_tracking) -> None:
        """Pool the objects, and find the factor that gives features their mean length."""
        positives: list[list[Tensor]] = [[] for _ in self.names]
        lengths: list[Tensor] = []
        for image, encoded, windows in self.prepared.tracked("describing objects", track):
            wanted = self._wanted(image)
            features = self.encoder.describe(encoded, image.boxes[wanted]).cpu()
            for row, label in zip(features, image.labels[wanted].tolist(), strict=True):
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
        """Go once through all windows: hard negatives, and samples for the box regression.

        All windows are scored, but only those that are kept become vectors.
        """
        rule = MiningRule(self.settings.svm_cost, self.settings.positive_weight)
        miner = HardNegativeMiner(self.positives, rule)
        for image, encoded, windows in self.prepared.tracked("mining hard negatives", track):
            boxes, cells = self._distinct(encoded, torch.cat([image.boxes, windows]))
            weights = (miner.weights_ * self.feature_scale).to(self.encoder.device)
            scores = self.encoder.score_cells(encoded, cells, weights).cpu() + miner.bias_
            is_hard = miner.choose(scores, self._negative_of(image, boxes))
            target_of = self._target_of(image, boxes)
            kept = (is_hard.any(1) | (target_of >= 0)).nonzero().flatten()
            features = self.encoder.describe_cells(encoded, cells[kept]).cpu()
            features.mul_(self.feature_scale)
            miner.add(features, is_hard[kept])
            self._sample_boxes(image, boxes[kept], features, target_of[kept])
        miner.finish()
        return miner

    def fit_boxes(self) -> BoxRegressor | None:
        """Fit the box regression on the samples that mining met."""
        if not self.settings.box_regression:
            return None
        features, proposals, targets = zip(*(each.take() for each in self.samples), strict=True)
        regressor = BoxRegressor(self.settings.box_strength)
        return regressor.fit(list(features), list(proposals), list(targets))

    def build_detector(self, miner: HardNegativeMiner, regressor: BoxRegressor | None) -> Detector:
        """Put the fitted parts together; the scale of features goes into the weights."""
        classifier = WindowClassifier(miner.weights_ * self.feature_scale, miner.bias_)
        if regressor is not None:
            regressor.weights_ = regressor.weights_ * self.feature_scale
        rule = DetectionRule(self.settings.proposals, self.settings.max_proposals, self.seed)
        return Detector(self.encoder, classifier, regressor, self.names, rule)

    def _wanted(self, image: LabelledImage) -> Tensor:
        """(K,) which objects of an image count as positives."""
        return ~image.crowd & (~image.difficult | self.settings.use_difficult)

    def _distinct(self, encoded: EncodedImage, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Windows that fall on distinct cells, the first of each, and their cells."""
        cells = self.encoder.locate(encoded, boxes)
        distinct, cell_of = torch.unique(cells, dim=0, return_inverse=True)
        first = torch.full((len(distinct),), len(boxes))
        first.scatter_reduce_(0, cell_of, torch.arange(len(boxes)), "amin")
        rows = first.sort().values
        return boxes[rows], cells[rows]

    def _negative_of(self, image: LabelledImage, boxes: Tensor) -> Tensor:
        """(W, K) whether each window is a negative of each class."""
        negative = torch.ones(len(boxes), len(self.names), dtype=torch.bool)
        overlaps = box_iou(boxes, image.boxes)
        for overlap, label in zip(overlaps.T, image.labels.tolist(), strict=True):
            negative[:, label] &= overlap < self.settings.negative_below
        return negative

    def _target_of(self, image: LabelledImage, boxes: Tensor) -> Tensor:
        """(W,) the object that each window overlaps enough to learn its sides from, or -1."""
        wanted = self._wanted(image)
        if not self.settings.box_regression or not bool(wanted.any()):
            return torch.full((len(boxes),), -1)
        overlap, nearest = box_iou(boxes, image.boxes[wanted]).max(1)
        objects = wanted.nonzero().flatten()
        return torch.where(overlap > self.settings.box_overlap, objects[nearest], -1)

    def _sample_boxes(
        self, image: LabelledImage, boxes: Tensor, features: Tensor, target_of: Tensor
    ) -> None:
        """Keep the windows that have a target for the box regression."""
        for label in image.labels.unique().tolist():
            rows = ((target_of >= 0) & (image.labels[target_of] == label)).nonzero().flatten()
            targets = image.boxes[target_of[rows]]
            self.samples[label].add(features[rows], boxes[rows], targets, self.draw)


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
