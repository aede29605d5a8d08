"""Trains the SVMs of a detector: objects are positives, proposals away from them negatives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor

from sppnet.config.fields import Count, CountOrNone, Positive, Within, check_fields
from sppnet.detection.assign import ITSELF, Views, inside_crowd, trainable_objects
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.feature_set import CachedFeatures
from sppnet.detection.heads.classifiers import LinearRegionClassifier
from sppnet.detection.heads.hard_negatives import (
    NEVER,
    HardNegativeMiner,
    MiningConfig,
    ReservoirSample,
)
from sppnet.detection.heads.kernel_svm import KernelRegionClassifier, KernelSvmConfig, mine_kernel
from sppnet.detection.heads.region_head import RegionFeatures
from sppnet.errors import NothingUsableError
from sppnet.geometry import box_iou, nms
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking


@dataclass(frozen=True)
class NormConfig:
    """How the mean norm of features is measured.

    Args:
        target: Mean norm that the SVMs are to see; 20 in the 2014 code.
        images: The most images that are measured.
        proposals: The most proposals of each.
        seed: Seed of the sample.

    Source:
        spp_train.m of the authors' code.
    """

    target: Positive = 20.0
    images: Count = 200
    proposals: Count = 200
    seed: int = 0


def mean_norm(
    cached: CachedFeatures,
    features: RegionFeatures,
    config: NormConfig,
    track: Track = no_tracking,
) -> float:
    """Estimate the mean Euclidean norm of the feature vectors of proposals.

    Args:
        cached: Images with their proposals and maps.
        features: The features that are measured.
        config: How many of them.
        track: Shows progress.

    Returns:
        The mean over the sample, above 0; 1 if there is no proposal.
    """
    draw = torch.Generator().manual_seed(config.seed)
    images = cached.usable
    some = torch.randperm(len(images), generator=draw)[: config.images].tolist()
    # one block of memory: small tensors kept from image to image would fragment the heap
    norms, count = torch.zeros(len(some) * config.proposals), 0
    for image in track([images[i] for i in some], "measuring features", total=len(some)):
        encoded, proposals = cached.encoded(image), cached.propose(image)
        drawn = proposals[torch.randperm(len(proposals), generator=draw)[: config.proposals]]
        regions = cached.encoder.assign_regions(encoded, drawn)
        rows = features.describe(cached.encoder, encoded, regions)
        norms[count : count + len(rows)] = rows.norm(dim=1)
        count += len(rows)
    return max(float(norms[:count].mean()), 1e-12) if count else 1.0


class FeatureScaler:
    """Finds the factors that give features one mean norm; each is measured once.

    Args:
        cached: Images with their proposals and maps.
        config: The mean norm that the SVMs are to see, and how the present one is measured.
        track: Shows progress.
    """

    def __init__(
        self,
        cached: CachedFeatures,
        config: NormConfig | None = None,
        track: Track = no_tracking,
    ) -> None:
        self.cached, self.config, self.track = cached, config or NormConfig(), track
        self._known: dict[RegionFeatures, float] = {}

    def factor(self, features: RegionFeatures) -> float:
        """Give the factor for these features."""
        if features not in self._known:
            measured = mean_norm(self.cached, features, self.config, self.track)
            self._known[features] = self.config.target / measured
        return self._known[features]


@dataclass(frozen=True)
class SvmConfig:
    """Constants of the SVMs of a detector.

    Args:
        extra_positives: The most proposals per object that are positives beside it; fewer in
            classes with many objects; 0 in the paper.
        positive_from: Least IoU of such a proposal with the object.
        negative_below: A proposal is a negative of a class if its IoU with every object of the
            class is below this.
        negative_overlap: A negative whose IoU with an earlier negative of its class and image is
            above this is left out; 0.7 in the paper, 1 keeps all.
        enough_positives: A class with more objects than this gets no proposals as positives.
        use_difficult: Whether objects marked difficult are positives.
        kernel_proposals: Proposals per image from which the kernel's batches are drawn.
        mining: Constants of the linear SVMs.
        kernel: Constants of the kernel classifier.
        seed: Seed of all samples.

    Source:
        SPP-net, section 4.1; spp_train.m of the authors' code.
    """

    extra_positives: CountOrNone = 6
    positive_from: Annotated[float, Within(0, 1)] = 0.75
    negative_below: Annotated[float, Within(0, 1)] = 0.3
    negative_overlap: Annotated[float, Within(0, 1)] = 1.0
    enough_positives: CountOrNone = 1200
    use_difficult: bool = False
    kernel_proposals: Count = 100
    mining: MiningConfig = field(default_factory=MiningConfig)
    kernel: KernelSvmConfig = field(default_factory=KernelSvmConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


class SvmTrainer:
    """Trains region classifiers on cached features.

    Call :meth:`collect_positives` first, then :meth:`mine`, :meth:`mine_kernel` or both.

    Args:
        cached: Images with their proposals and maps.
        num_classes: K.
        features: What the classifiers see of a region.
        config: The constants.
        scale: Factor that gives the features the mean norm that the SVMs expect.
        views: What is learnt from each image.

    Source:
        SPP-net, section 4.1; spp_train.m of the authors' code.
    """

    def __init__(
        self,
        cached: CachedFeatures,
        num_classes: int,
        features: RegionFeatures,
        config: SvmConfig | None = None,
        *,
        scale: float,
        views: Views = ITSELF,
    ) -> None:
        self.cached = cached
        self.encoder = cached.encoder
        self.num_classes = num_classes
        self.features = features
        self.config = config or SvmConfig()
        self.mining = replace(self.config.mining, seed=self.config.seed)
        self.scale = scale
        self.views = views
        self.draw = torch.Generator().manual_seed(self.config.seed)
        self._numbers = {image.image_id: n for n, image in enumerate(cached.images)}

    def collect_positives(self, track: Track = no_tracking) -> None:
        """Compute the features of the objects; a random sample of them if memory is short.

        Raises:
            NothingUsableError: If no image has an object to learn from.
        """
        length = self.features.length(self.encoder)
        limit = max(1, self.mining.most_rows(length) // (2 * self.num_classes))
        self.count_extras()
        kept = [ReservoirSample(limit, length) for _ in range(self.num_classes)]
        for image, encoded in self.cached.maps("describing objects", track, views=self.views):
            boxes, labels = self.positives_of(image)
            rows = self.describe(encoded, self.encoder.assign_regions(encoded, boxes))
            for label in labels.unique().tolist():
                kept[label].add(rows[labels == label], self.draw, self._numbers[image.image_id])
        self.counts = [each.seen for each in kept]
        if not any(self.counts):
            raise NothingUsableError("no image has an object to learn from")
        self._owners = [each.owners for each in kept]
        # one after the other, so that not all of them are there twice
        self.positives = [kept.pop(0).take() for _ in range(len(kept))]

    def mine(
        self, track: Track = no_tracking, *, keep_positives: bool = True
    ) -> LinearRegionClassifier:
        """Train linear SVMs in one pass over all proposals; each class keeps its hard negatives.

        All proposals are scored, but only the vectors of hard negatives are built. The weights
        absorb the scale of the features.

        Args:
            track: Shows progress.
            keep_positives: Whether the features of the objects stay for :meth:`mine_kernel`; the
                SVMs have copies of them.

        Returns:
            The SVMs.
        """
        miner = HardNegativeMiner(self.positives, self.mining, self.counts, self._owners)
        if not keep_positives:
            self.positives = []
        samples = self.cached.samples("mining hard negatives", track, views=self.views)
        for image, encoded, proposals in samples:
            objects = image.boxes[trainable_objects(image, self.config.use_difficult)]
            boxes, regions = self.distinct(encoded, torch.cat([objects, proposals]))
            weights = (miner.weights_ * self.scale).to(self.encoder.device)
            products = self.features.multiply(self.encoder, encoded, regions, weights)
            is_hard = miner.choose(products.cpu() + miner.bias_, self.negatives_of(image, boxes))
            rows = is_hard.any(1).nonzero().flatten()
            owner = self._numbers[image.image_id]
            miner.add(self.describe(encoded, regions[rows]), is_hard[rows], owner)
        miner.finish()
        self._miner = miner
        return linear_classifier(miner, self.scale, self.features)

    def fit_without(self, images: Sequence[LabelledImage]) -> LinearRegionClassifier:
        """The SVMs of :meth:`mine` without what some images taught: these are then new to them.

        No image is looked at again: the examples that the others left are fitted once more, see
        :meth:`HardNegativeMiner.without`. A class without other objects is never found.

        Args:
            images: Some of the images.

        Returns:
            The SVMs.
        """
        rest = self._miner.without([self._numbers[image.image_id] for image in images])
        return linear_classifier(rest, self.scale, self.features)

    def mine_kernel(self, track: Track = no_tracking) -> KernelRegionClassifier:
        """Train a kernel classifier on the objects and on batches of negatives."""
        unscaled = [rows.float() / self.scale for rows in self.positives]
        config = replace(self.config.kernel, seed=self.config.seed)
        return mine_kernel(unscaled, self._negatives(track), config, self.features)

    def count_extras(self) -> Tensor:
        """Decide how many proposals may join each object of a class as positives: (K,) int64."""
        trainable = [
            image.labels[trainable_objects(image, self.config.use_difficult)]
            for image in self.cached.usable
        ]
        objects = torch.cat(trainable).bincount(minlength=self.num_classes).clamp(min=1)
        enough = self.config.enough_positives // objects
        self._extra_of = enough.clamp(max=self.config.extra_positives)
        return self._extra_of

    def positives_of(self, image: LabelledImage) -> tuple[Tensor, Tensor]:
        """Take an image's objects and proposals close to them, after :meth:`count_extras`.

        Args:
            image: One of the images, or a view of one.

        Returns:
            (P, 4) boxes, xyxy in pixels, the objects' own first, and their (P,) classes.
        """
        trainable = trainable_objects(image, self.config.use_difficult)
        objects, labels = image.boxes[trainable], image.labels[trainable]
        extra = self._extra_of[labels]
        if not int(extra.sum()):
            return objects, labels
        proposals = self.cached.propose(image)
        overlap, nearest = box_iou(proposals, objects).max(1)
        close = (overlap >= self.config.positive_from).nonzero().flatten()
        close = close[torch.randperm(len(close), generator=self.draw)]
        of_object = nearest[close, None] == torch.arange(len(objects))  # (C, G)
        rank = of_object.cumsum(0)[of_object]  # 1 for the first proposal of each object
        close = close[rank <= extra[nearest[close]]]
        shown = torch.cat([torch.arange(len(objects)), nearest[close]])
        return torch.cat([objects, proposals[close]]), labels[shown]

    def _negatives(self, track: Track) -> Iterator[tuple[Tensor, Tensor]]:
        """Per image, (W, D) features of some proposals and (W, K) whether each is a negative."""
        samples = self.cached.samples("mining for the kernel", track, views=self.views)
        for image, encoded, proposals in samples:
            boxes, regions = self.distinct(encoded, proposals)
            some = torch.randperm(len(boxes), generator=self.draw)[: self.config.kernel_proposals]
            rows = self.features.describe(self.encoder, encoded, regions[some]).cpu()
            yield rows, self.negatives_of(image, boxes[some])

    def describe(self, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Compute the scaled features of (W, 5) regions: (W, D) on the CPU."""
        return self.features.describe(self.encoder, encoded, regions).cpu() * self.scale

    def distinct(self, encoded: EncodedImage, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Take the first of (W, 4) boxes in each region: (U, 4) boxes and (U, 5) regions."""
        regions = self.encoder.assign_regions(encoded, boxes)
        distinct, region_of = torch.unique(regions, dim=0, return_inverse=True)
        first = torch.full((len(distinct),), len(boxes))
        first.scatter_reduce_(0, region_of, torch.arange(len(boxes)), "amin")
        rows = first.sort().values
        return boxes[rows], regions[rows]

    def negatives_of(self, image: LabelledImage, boxes: Tensor) -> Tensor:
        """Tell which of (W, 4) boxes are negatives of which class: (W, K) bool."""
        negative = ~inside_crowd(boxes, image)[:, None].repeat(1, self.num_classes)
        overlaps = box_iou(boxes, image.boxes)
        for overlap, label in zip(overlaps.T, image.labels.tolist(), strict=True):
            negative[:, label] &= overlap < self.config.negative_below
        if self.config.negative_overlap < 1:
            negative &= keep_apart(boxes, negative, self.config.negative_overlap)
        return negative


def linear_classifier(
    miner: HardNegativeMiner, scale: float, features: RegionFeatures | None = None
) -> LinearRegionClassifier:
    """Take the present SVMs of a miner as a classifier.

    Args:
        miner: It may go on learning.
        scale: What its features were multiplied by; those of the classifier are not.
        features: What the SVMs see of a region; None for the pooled vectors.

    Returns:
        The SVMs; a class that has lost its positives, but not its negatives, is never found.
    """
    # products of columns with gaps differ in their last bits from those of a loaded detector
    weights = (miner.weights_ * scale * (miner.bias_ > NEVER)).contiguous()
    return LinearRegionClassifier(weights, miner.bias_.clone(), features or RegionFeatures())


def keep_apart(boxes: Tensor, negative: Tensor, overlap: float) -> Tensor:
    """Drop negatives that overlap an earlier one that stays.

    Args:
        boxes: (W, 4) xyxy.
        negative: (W, K) bool: whether each box is a negative of each class.
        overlap: Largest IoU of two negatives of a class that both stay.

    Returns:
        (W, K) bool: the negatives that stay.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6]])
        >>> keep_apart(boxes, torch.tensor([[True], [True], [True]]), 0.7)[:, 0].tolist()
        [True, False, True]

    Source:
        SPP-net, section 4.1.
    """
    kept = torch.zeros_like(negative)
    groups, group_of = negative.unique(dim=1, return_inverse=True)
    for number, group in enumerate(groups.T):  # most classes of an image share their negatives
        rows = group.nonzero().flatten()
        stays = torch.zeros(len(boxes), dtype=torch.bool)
        stays[rows[nms(boxes[rows], torch.zeros(len(rows)), overlap)]] = True
        kept[:, group_of == number] = stays[:, None]
    return kept
