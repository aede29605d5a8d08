"""How windows come to be judged: objects as positives, hard negatives from all other windows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sppnet.config.detection import DetectionConfig
from sppnet.detection.assign import inside_crowd
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.feature_set import CachedFeatures
from sppnet.detection.heads.classifiers import LinearRegionClassifier
from sppnet.detection.heads.hard_negatives import HardNegativeMiner, MiningConfig, ReservoirSample
from sppnet.detection.heads.kernel_svm import KernelRegionClassifier, KernelSvmConfig, mine_kernel
from sppnet.detection.heads.region_head import RegionFeatures
from sppnet.errors import NothingUsableError
from sppnet.geometry import box_iou
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking

# Images and windows per image from which the mean length of features is estimated (spp_train.m).
NORM_IMAGES, NORM_WINDOWS = 200, 200
# Classes with more objects than this need no windows close to them as further positives.
ENOUGH_POSITIVES = 1200
# Windows per image that the kernel's batches of negatives are drawn from.
KERNEL_WINDOWS = 100


def mean_length(
    cached: CachedFeatures,
    features: RegionFeatures,
    seed: int = 0,
    track: Track = no_tracking,
) -> float:
    """Estimate the mean length of the vectors of windows.

    Args:
        cached: Images with their windows and maps.
        features: What of a window is measured.
        seed: Of the windows that are drawn.
        track: Shows progress.

    Returns:
        The mean over at most 200 windows of each of at most 200 images; above 0.
    """
    draw = torch.Generator().manual_seed(seed)
    images = cached.usable
    some = torch.randperm(len(images), generator=draw)[:NORM_IMAGES].tolist()
    # one stretch of memory: small tensors kept from image to image would tear the heap to pieces
    lengths, count = torch.zeros(len(some) * NORM_WINDOWS), 0
    for image in track([images[i] for i in some], "measuring windows", total=len(some)):
        encoded, windows = cached.encoded(image), cached.all_windows(image)
        drawn = windows[torch.randperm(len(windows), generator=draw)[:NORM_WINDOWS]]
        cells = cached.encoder.locate(encoded, drawn)
        rows = features.describe(cached.encoder, encoded, cells)
        lengths[count : count + len(rows)] = rows.norm(dim=1)
        count += len(rows)
    return max(float(lengths[:count].mean()), 1e-12) if count else 1.0


class FeatureScales:
    """Factors that give features the mean length that the SVMs want, each measured once.

    Args:
        cached: Images with their windows and maps.
        wanted: The mean length.
        seed: Of the windows that are drawn.
        track: Shows progress.
    """

    def __init__(
        self, cached: CachedFeatures, wanted: float, seed: int = 0, track: Track = no_tracking
    ) -> None:
        self.cached, self.wanted, self.seed, self.track = cached, wanted, seed, track
        self._known: dict[RegionFeatures, float] = {}

    def of(self, features: RegionFeatures) -> float:
        """Give the factor of some features."""
        if features not in self._known:
            length = mean_length(self.cached, features, self.seed, self.track)
            self._known[features] = self.wanted / length
        return self._known[features]


class SvmTrainer:
    """Learns to judge windows of prepared images.

    Args:
        cached: Images with their windows and maps.
        num_classes: K.
        settings: The constants.
        features: What of a window is judged.
        scale: Factor that gives the features the mean length that the SVMs want.
        mirror: Whether mirror images teach, too.

    Source:
        SPP-net, section 4.1; spp_train.m of the authors' code.
    """

    def __init__(
        self,
        cached: CachedFeatures,
        num_classes: int,
        settings: DetectionConfig,
        features: RegionFeatures,
        *,
        scale: float,
        mirror: bool = False,
    ) -> None:
        self.cached = cached
        self.encoder = cached.encoder
        self.num_classes = num_classes
        self.settings = settings
        self.features = features
        self.scale = scale
        self.rule = MiningConfig(settings.svm_cost, settings.positive_weight, seed=settings.seed)
        self.mirror = mirror
        self.draw = torch.Generator().manual_seed(settings.seed)

    def collect_positives(self, track: Track = no_tracking) -> None:
        """Describe the objects; as many are kept as fit into the budget, and stand for all."""
        length_of_rows = self.features.length(self.encoder)
        limit = max(1, self.rule.most_rows(length_of_rows) // (2 * self.num_classes))
        self._extra_of = self._count_extras()
        kept = [ReservoirSample(limit, length_of_rows) for _ in range(self.num_classes)]
        for image, encoded in self.cached.maps("describing objects", track, mirror=self.mirror):
            boxes, labels = self._positives_of(image)
            rows = self._describe(encoded, self.encoder.locate(encoded, boxes))
            for label in labels.unique().tolist():
                kept[label].add(rows[labels == label], self.draw)
        self.counts = [each.seen for each in kept]
        if not any(self.counts):
            raise NothingUsableError("no image has an object to learn from")
        self.positives = [each.take() for each in kept]

    def mine(self, track: Track = no_tracking) -> LinearRegionClassifier:
        """Go once through all windows: each class keeps the negatives that it finds hard.

        All windows are scored, but only those that are kept become vectors. The scale of the
        features goes into the weights.
        """
        miner = HardNegativeMiner(self.positives, self.rule, self.counts)
        passes = self.cached.tracked("mining hard negatives", track, mirror=self.mirror)
        for image, encoded, windows in passes:
            boxes, cells = self._distinct(encoded, torch.cat([image.boxes, windows]))
            weights = (miner.weights_ * self.scale).to(self.encoder.device)
            products = self.features.multiply(self.encoder, encoded, cells, weights)
            is_hard = miner.choose(products.cpu() + miner.bias_, self._negative_of(image, boxes))
            rows = is_hard.any(1).nonzero().flatten()
            miner.add(self._describe(encoded, cells[rows]), is_hard[rows])
        miner.finish()
        # products of columns with gaps differ in their last bits from those of a loaded detector
        weights = (miner.weights_ * self.scale).contiguous()
        return LinearRegionClassifier(weights, miner.bias_, self.features)

    def mine_kernel(self, track: Track = no_tracking) -> KernelRegionClassifier:
        """Fit a kernel scorer on the objects, and on negatives in batches."""
        plain = [rows.float() / self.scale for rows in self.positives]
        rule = KernelSvmConfig(seed=self.settings.seed)
        return mine_kernel(plain, self._negatives(track), rule, self.features)

    def _count_extras(self) -> Tensor:
        """(K,) how many windows close to an object stand beside it as positives."""
        labels = torch.cat([image.labels for image in self.cached.usable])
        objects = labels.bincount(minlength=self.num_classes).clamp(min=1)
        return (ENOUGH_POSITIVES // objects).clamp(max=self.settings.extra_positives)

    def _positives_of(self, image: LabelledImage) -> tuple[Tensor, Tensor]:
        """Boxes (P, 4) and labels (P,) of the objects of an image, and of windows close to them."""
        wanted = ~image.crowd & (~image.difficult | self.settings.use_difficult)
        objects, labels = image.boxes[wanted], image.labels[wanted]
        extra = self._extra_of[labels]
        if not int(extra.sum()):
            return objects, labels
        windows = self.cached.all_windows(image)
        overlap, nearest = box_iou(windows, objects).max(1)
        close = (overlap >= self.settings.positive_from).nonzero().flatten()
        close = close[torch.randperm(len(close), generator=self.draw)]
        of_object = nearest[close, None] == torch.arange(len(objects))  # (C, G)
        place = of_object.cumsum(0)[of_object]  # 1 for the first window of each object
        close = close[place <= extra[nearest[close]]]
        shown = torch.cat([torch.arange(len(objects)), nearest[close]])
        return torch.cat([objects, windows[close]]), labels[shown]

    def _negatives(self, track: Track) -> Iterator[tuple[Tensor, Tensor]]:
        """Per image, (W, D) features of some windows, and (W, K) of which classes they are none."""
        passes = self.cached.tracked("mining for the kernel", track, mirror=self.mirror)
        for image, encoded, windows in passes:
            boxes, cells = self._distinct(encoded, windows)
            some = torch.randperm(len(boxes), generator=self.draw)[:KERNEL_WINDOWS]
            rows = self.features.describe(self.encoder, encoded, cells[some]).cpu()
            yield rows, self._negative_of(image, boxes[some])

    def _describe(self, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """(W, D) scaled features."""
        return self.features.describe(self.encoder, encoded, cells).cpu() * self.scale

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
        negative = ~inside_crowd(boxes, image)[:, None].repeat(1, self.num_classes)
        overlaps = box_iou(boxes, image.boxes)
        for overlap, label in zip(overlaps.T, image.labels.tolist(), strict=True):
            negative[:, label] &= overlap < self.settings.negative_below
        return negative
