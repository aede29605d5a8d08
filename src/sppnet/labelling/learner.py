"""A detector that stays warm: what a photo teaches is added and taken away, nothing is begun anew.

Each view of a photo (itself, its mirror image, a part of it) owns its rows: positives and hard
negatives of the SVMs, samples of the box regression. An edit drops the rows of its photo and adds
new ones; the fits start from the last solution.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from sppnet.config.detection import DetectionConfig, InferenceConfig
from sppnet.detection import CachedFeatures, Detector, LinearRegionClassifier
from sppnet.detection.assign import Views, choose_views, trainable_objects
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.heads.box_regression import BoxCascade, RidgeBoxRegressor
from sppnet.detection.heads.box_sums import BoxSums, Landmarks, classes_share
from sppnet.detection.heads.hard_negatives import HardNegativeMiner
from sppnet.detection.heads.region_head import RegionFeatures
from sppnet.detection.heads.svm_trainer import FeatureScaler, SvmTrainer, linear_classifier
from sppnet.detection.proposals.anchors import AnchorConfig, AnchorProposer
from sppnet.detection.train import (
    cascade_config,
    inference_config,
    norm_config,
    part_of,
    svm_config,
)
from sppnet.images import LabelledImage

Work = Callable[[], Callable[[], None]]
MOST_LANDMARKS = 768
# Landmarks are chosen again when there are so many times as many photos, up to so many photos.
LANDMARK_GROWTH, ENOUGH_PHOTOS = 2, 64
# Anchors are learnt again when there are so many times as many labelled photos.
ANCHOR_GROWTH = 1.3
# Samples of the box regression that are kept over all photos, about 1.5 KB each and stage.
MOST_BOX_SAMPLES = 40_000
# Bytes of memory: maps of photos looked at lately, and rows of the SVMs.
MAPS_IN_MEMORY, ROWS_IN_MEMORY = 100_000_000, 280_000_000
# Of a photo that may be unfinished, this share of the likeliest negatives is not believed.
SUSPECT_SHARE = 0.05


@dataclass(frozen=True)
class Model:
    """A detector at one time.

    Args:
        detector: Finds things.
        version: ``warm N`` or ``full N``; another for every fit of every session.
    """

    detector: Detector
    version: str


@dataclass
class Learnt:
    """What has been learnt from a photo.

    Args:
        views: The photo with the labels that were learnt, and what is learnt from beside it.
        unfinished: Whether it was taken for a photo that is still being worked on.
        number: Of the photo; see :func:`owners_of`.
    """

    views: Sequence[LabelledImage]
    unfinished: bool
    number: int

    @property
    def image(self) -> LabelledImage:
        """The photo itself."""
        return self.views[0]

    def owner_of(self, view: LabelledImage) -> int:
        """The number that a view's rows belong to."""
        return owners_of(self.number)[2 * (view.part_of is not None) + view.is_mirrored]


def owners_of(number: int) -> range:
    """The numbers that rows of a photo belong to: its own, then as ``Views`` gives the others."""
    return range(4 * number, 4 * number + 4)


class WarmLearner:
    """Learns from labelled photos one by one, and forgets them one by one.

    Args:
        cached: Gives maps and proposals; its images are the labelled photos that are learnt.
        config: The constants of ``detect train``; no fine-tuning.
        names: Class names; more may come by :meth:`grow`.

    Attributes:
        learnt: What has been learnt, by path of the photo.
        numbers: Of all photos that were ever learnt, by path.
        miner: The SVMs; None before the first photo, as the box regression.
        boxes: The box regression.

    Raises:
        ValueError: If the configuration asks for a fine-tuning or another classifier than svm.
    """

    def __init__(
        self, cached: CachedFeatures, config: DetectionConfig, names: Sequence[str] = ()
    ) -> None:
        if config.tune != "none" or config.classifier != "svm":
            raise ValueError("config must have tune none and classifier svm to stay warm")
        self.cached, self.config = cached, config
        self.names: tuple[str, ...] = tuple(names)
        self.learnt: dict[Path, Learnt] = {}
        self.scale = 0.0
        self.numbers: dict[Path, int] = {}
        self._maps: OrderedDict[Hashable, EncodedImage] = OrderedDict()
        self._maps_lock = Lock()
        self.anchor_photos = 0
        self.landmark_photos = 0
        self.miner: HardNegativeMiner | None = None
        self.boxes: BoxSums | None = None
        self._trainer: SvmTrainer | None = None

    @property
    def is_ready(self) -> bool:
        """Whether there is anything to detect with."""
        return self.miner is not None and any(self.miner.objectives_)

    @property
    def inference(self) -> InferenceConfig:
        """The constants that the detector finds things with."""
        return inference_config(self.config)

    @property
    def channels(self) -> int:
        """C of the maps."""
        return self.cached.encoder.backbone.channels

    @property
    def views(self) -> Views:
        """What is learnt from each photo: more where labels are few, as in ``detect train``."""
        images = [each.image for each in self.learnt.values()]
        return choose_views(images, max(1, len(self.names)), self.config)

    @property
    def wants_anchors(self) -> bool:
        """Whether so many photos have come since that anchors should be learnt again."""
        count = sum(len(each.image.boxes) > 0 for each in self.learnt.values())
        return self.config.anchors and count >= max(1, ANCHOR_GROWTH * self.anchor_photos)

    @property
    def wants_landmarks(self) -> bool:
        """Whether so many photos have come since that the landmarks should be chosen again."""
        wanted = LANDMARK_GROWTH * self.landmark_photos
        return 0 < self.landmark_photos < ENOUGH_PHOTOS and len(self.learnt) >= wanted

    def grow(self, names: Sequence[str]) -> None:
        """Name the classes anew; the first ones keep their numbers, further ones are added.

        Args:
            names: At least as many as before.
        """
        more = len(names) - len(self.names)
        self.names = tuple(names)
        if more and self.miner is not None and self.boxes is not None:
            self.miner.grow(len(names))
            self.boxes.grow(len(names))
        self._trainer = None

    def encoded(self, view: LabelledImage) -> EncodedImage:
        """Give the maps of a view, from memory if it was in use lately; InputError."""
        key = (view.path, view.is_mirrored, view.corner_xy, view.size_hw)
        with self._maps_lock:
            found = self._maps.get(key)
        if found is None:
            found = self.cached.encoded(view)
        one = sum(each.numel() * each.element_size() for each in found.maps)
        with self._maps_lock:
            self._maps[key] = found
            self._maps.move_to_end(key)
            while len(self._maps) > max(2, MAPS_IN_MEMORY // one):
                self._maps.popitem(last=False)
        return found

    def learn(self, views: Sequence[LabelledImage], *, unfinished: bool = False) -> None:
        """Learn what a photo says now, in place of what it said before.

        Args:
            views: The photo with its labels, numbers of :attr:`names`, and what is learnt from
                beside it.
            unfinished: Whether things on it may still lack a box: regions that look like the
                objects are then no negatives.

        Raises:
            InputError: If the photo cannot be read; nothing is learnt from it then.
        """
        path = views[0].path
        self.forget(path)
        self.encoded(views[0])  # before anything is changed
        known = Learnt(views, unfinished, self.numbers.setdefault(path, len(self.numbers)))
        self.learnt[path] = known
        self.share_images()
        if not self.names:  # there is no class that it could be a negative of
            return
        self._begin()
        for view in known.views:
            self._learn_view(view, known.owner_of(view), unfinished)
        if self.boxes is not None:
            self._sum_views(self.boxes, known)

    def forget(self, path: Path) -> None:
        """Take away all that was learnt from a photo; nothing if nothing was."""
        known = self.learnt.pop(path, None)
        if known is None:
            return
        self.share_images()
        owners = set(owners_of(known.number))
        if self.miner is not None and self.boxes is not None:
            self.miner.drop(owners)
            for owner in owners:
                self.boxes.drop(owner)

    def mine(self, path: Path) -> None:
        """Look through a photo that is known already for further hard negatives."""
        self._begin()
        known = self.learnt[path]
        for view in known.views:
            self._mine_view(view, known.owner_of(view), known.unfinished)

    def fit(self, *, early: bool = True, local: bool = False) -> None:
        """Fit what has changed, from the last solution on.

        Args:
            early: Whether the coarse tolerance is enough.
            local: Whether only rows beside the new ones are visited, for now.
        """
        if self.miner is not None and self.boxes is not None:
            self.miner.refit(early=early, local=local)
            self.boxes.solve()

    def polish(self) -> bool:
        """Fit one class as exactly as ``detect train`` does; tell whether there are more."""
        return self.miner is not None and self.miner.refit(early=False, most=1)

    def anchors_anew(self) -> Work:
        """Prepare to learn anchors from all labelled photos; proposals change once they are in use.

        Returns:
            The long work, for which the learner may be used meanwhile. What that returns puts the
            anchors to use.
        """
        labelled = [each.image for each in self.learnt.values() if len(each.image.boxes)]
        proposer = self.new_proposer()
        maps = self.cached.subset(labelled).maps("learning anchors")

        def work() -> Callable[[], None]:
            proposer.fit(maps)

            def use() -> None:
                self.cached.use_anchors(proposer)
                self.anchor_photos = len(labelled)

            return use

        return work

    def landmarks_anew(self) -> Work:
        """Prepare to choose landmarks for the box regression from all photos, and to sum anew.

        Returns:
            The long work, for which the learner may be used meanwhile. What that returns puts the
            sums to use; photos that have changed since are summed then.
        """
        known = dict(self.learnt)
        boxes = self._begin_boxes()

        def work() -> Callable[[], None]:
            for each in known.values():
                self._sum_views(boxes, each)

            def use() -> None:
                boxes.grow(len(self.names))
                for path, each in known.items():
                    if self.learnt.get(path) is not each:
                        for view in each.views:
                            boxes.drop(each.owner_of(view))
                self.boxes = boxes
                for path, each in self.learnt.items():
                    if known.get(path) is not each:
                        self._sum_views(boxes, each)
                boxes.solve()

            return use

        return work

    def detector(self) -> Detector:
        """Give the detector as it is learnt so far; later changes do not reach it.

        Raises:
            ValueError: If nothing was learnt yet.
        """
        if self.miner is None or self.boxes is None:
            raise ValueError("learner must have learnt from a photo, has from none")
        cascade = BoxCascade(len(self.names), self.boxes.config, self.config.seed)
        cascade.stages_ = [_copied(stage) for stage in self.boxes.cascade.stages_]
        return Detector(
            self.cached.encoder,
            linear_classifier(self.miner, self.scale),
            cascade if self.config.box_regression else None,
            self.names,
            self.inference,
            self.cached.anchors,
            self.cached.content_numbers(),
        )

    def trimmed(self) -> Detector:
        """Give the detector with the classes that have objects, as ``detect train`` makes it.

        Raises:
            ValueError: If nothing was learnt yet.
        """
        detector = self.detector()
        labels = torch.cat([each.image.labels for each in self.learnt.values()])
        rows = labels.unique()
        whole, boxes = detector.classifier, detector.box_regressor
        if len(rows) == len(self.names) or not isinstance(whole, LinearRegionClassifier):
            return detector
        detector.names = tuple(self.names[row] for row in rows.tolist())
        weights = whole.weights[:, rows].contiguous()
        detector.classifier = LinearRegionClassifier(weights, whole.bias[rows])
        if isinstance(boxes, BoxCascade):
            cascade = BoxCascade(len(rows), boxes.constants, self.config.seed)
            own = None if boxes.constants.class_agnostic else rows
            cascade.stages_ = [_copied(stage, own) for stage in boxes.stages_]
            detector.box_regressor = cascade
        return detector

    def without(self, paths: Collection[Path]) -> Detector:
        """Give the detector as it would be without some photos.

        Only the SVMs forget them: proposals and box regression say little of what is where.

        Args:
            paths: Photos that are known.

        Raises:
            ValueError: If nothing was learnt yet.
        """
        detector = self.detector()
        if self.miner is not None:
            owners = {owner for path in paths for owner in owners_of(self.learnt[path].number)}
            miner = self.miner.without(owners, early=True)
            detector.classifier = linear_classifier(miner, self.scale)
        return detector

    def share_images(self) -> None:
        """Let the features know which photos are learnt from."""
        self.cached.images = [each.image for each in self.learnt.values()]
        self._trainer = None

    def _begin(self) -> None:
        """Measure the features, choose landmarks and set up the SVMs, at the first photo."""
        if self.miner is not None:
            return
        scaler = FeatureScaler(self.cached, norm_config(self.config))
        self.scale = scaler.factor(RegionFeatures())
        self.miner = self.new_miner()
        self.boxes = self._begin_boxes()

    def new_miner(self) -> HardNegativeMiner:
        """SVMs of the present classes that have learnt nothing yet."""
        mining = svm_config(self.config).mining
        seed, budget = self.config.seed, ROWS_IN_MEMORY
        mining = replace(mining, seed=seed, budget_bytes=budget)
        none = torch.zeros(0, self.cached.encoder.length)
        return HardNegativeMiner([none] * len(self.names), mining)

    def new_proposer(self) -> AnchorProposer:
        """Anchors that are not learnt yet."""
        constants = part_of(self.config, AnchorConfig, "anchor_")
        return AnchorProposer.of(self.cached.encoder, constants, self.config.seed)

    def _begin_boxes(self) -> BoxSums:
        """Box regression without samples, in coordinates of landmarks from some photos."""
        draw = torch.Generator().manual_seed(self.config.seed)
        known = list(self.learnt.values())
        known = [known[i] for i in torch.randperm(len(known), generator=draw).tolist()]
        self.landmark_photos = len(known)
        rows = []
        per_photo = max(16, MOST_LANDMARKS // len(known))
        sampler = BoxCascade(1, cascade_config(self.config))
        for each in known:
            proposals = self.cached.propose(each.image)
            near, _, _ = sampler.near_objects(each.image, proposals, draw)
            some = torch.randperm(len(proposals), generator=draw)[:per_photo]
            boxes = torch.cat([near[: per_photo // 2], proposals[some]])[:per_photo]
            encoder, encoded = self.cached.encoder, self.encoded(each.image)
            rows.append(sampler.describe(encoder, encoded, boxes) * self.scale)
            if sum(map(len, rows)) >= MOST_LANDMARKS:
                break
        landmarks = Landmarks(torch.cat(rows)[:MOST_LANDMARKS].cpu())
        return BoxSums(
            self.cached.encoder,
            landmarks.basis * self.scale,
            len(self.names),
            cascade_config(self.config, class_agnostic=self._classes_share(known)),
            self.config.seed,
        )

    def _classes_share(self, known: Sequence[Learnt]) -> bool:
        """Decide from some photos whether one box regression serves all classes."""
        if self.config.box_agnostic != "auto":
            return self.config.box_agnostic == "on"
        encoder, images = self.cached.encoder, [each.image for each in known]
        samples = ((image, self.encoded(image), self.cached.propose(image)) for image in images)
        constants = cascade_config(self.config)
        return classes_share(samples, encoder, constants, self.scale, self.config.seed)

    def _svm_trainer(self) -> SvmTrainer:
        """What tells positives and negatives of a photo, for the present classes and photos."""
        if self._trainer is None:
            self._trainer = SvmTrainer(
                self.cached,
                len(self.names),
                RegionFeatures(),
                svm_config(self.config),
                scale=self.scale,
            )
            self._trainer.count_extras()
        return self._trainer

    def _learn_view(self, view: LabelledImage, owner: int, unfinished: bool) -> None:
        """Add the rows of one view."""
        trainer, encoded = self._svm_trainer(), self.encoded(view)
        boxes, labels = trainer.positives_of(view)
        if len(boxes) and self.miner is not None:
            rows = trainer.describe(encoded, self.cached.encoder.assign_regions(encoded, boxes))
            self.miner.add_positives(rows, labels, owner)
        self._mine_view(view, owner, unfinished)

    @torch.no_grad()
    def _mine_view(self, view: LabelledImage, owner: int, unfinished: bool) -> None:
        """Add the hard negatives of one view."""
        miner = self.miner
        if miner is None:
            return
        trainer, encoded = self._svm_trainer(), self.encoded(view)
        boxes, regions = trainer.distinct(encoded, self.cached.propose(view))
        weights = (miner.weights_ * self.scale).to(self.cached.encoder.device)
        products = self.cached.encoder.pool_and_multiply(encoded, regions, weights).cpu()
        negative = trainer.negatives_of(view, boxes)
        if unfinished:
            negative &= ~self._suspects(view, encoded, regions, negative)
        is_hard = miner.choose(products + miner.bias_, negative)
        rows = is_hard.any(1).nonzero().flatten()
        if len(rows):
            miner.add(trainer.describe(encoded, regions[rows]), is_hard[rows], owner)

    def _suspects(
        self, view: LabelledImage, encoded: EncodedImage, regions: Tensor, negative: Tensor
    ) -> Tensor:
        """(W, K) negatives that look so much like the photo's objects that they may be some."""
        objects = view.boxes[trainable_objects(view, self.config.use_difficult)]
        if not len(objects):
            return torch.zeros_like(negative)
        encoder = self.cached.encoder
        shown = torch.nn.functional.normalize(encoder.describe(encoded, objects), dim=1)
        products = encoder.pool_and_multiply(encoded, regions, shown.T.contiguous())
        alike = (products / encoder.pool(encoded, regions).norm(dim=1)[:, None]).amax(1).cpu()
        free = negative.any(1)
        if not bool(free.any()):
            return torch.zeros_like(negative)
        bound = alike[free].quantile(1 - SUSPECT_SHARE)
        return negative & (alike >= bound)[:, None]

    def _sum_views(self, boxes: BoxSums, known: Learnt) -> None:
        """Add the samples of the box regression of a photo."""
        views = max(2, len(known.views)) * max(1, len(self.learnt))
        most = max(8, MOST_BOX_SAMPLES // views)
        for view in known.views:
            if len(view.boxes):
                encoded, proposals = self.encoded(view), self.cached.propose(view)
                boxes.add(known.owner_of(view), view, encoded, proposals, most)


def _copied(stage: RidgeBoxRegressor, rows: Tensor | None = None) -> RidgeBoxRegressor:
    """A regression that later fits do not change, of some classes or of all."""
    other = RidgeBoxRegressor(stage.strength, stage.spread)
    rows = torch.arange(len(stage.bias_)) if rows is None else rows
    other.weights_, other.bias_ = stage.weights_[rows], stage.bias_[rows]
    return other
