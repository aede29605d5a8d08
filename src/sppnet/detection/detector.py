"""The fitted detector: one folder on disk, one call per image."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

import torch
from torch import Tensor

from sppnet.config.detection import DetectionConfig, InferenceConfig, proposals_file
from sppnet.config.fields import restore_fields
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.box_regression import BoxRegressor, box_regressor_from_config
from sppnet.detection.heads.classifiers import RegionClassifier, classifier_from_config
from sppnet.detection.postprocess import let_classes_compete, preselect, select_detections
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.detection.proposals.precomputed import ExternalProposals
from sppnet.detection.proposals.propose import propose, take_turns
from sppnet.detection.watch import WatchedFrame, watch_frames
from sppnet.errors import UsageError, count_of
from sppnet.evaluation.operating_point import OperatingPoints
from sppnet.geometry import Detections, flip_boxes
from sppnet.images import (
    DetectionDataset,
    ImageSource,
    flip_left_right,
    open_detection_dataset,
    to_image,
    usual_split,
)
from sppnet.images.canary import as_answers, canary_boxes, canary_image
from sppnet.progress import Track, show_progress, work_ahead
from sppnet.storage import (
    FeatureCache,
    HubModel,
    load_model,
    put_under,
    read_answers,
    restore_model,
    save_model,
    tensors_under,
)
from sppnet.storage.tensors import check_float32

MODEL_KIND = "detector"
# Constants of testing that models of earlier versions do not name, as they had them.
EARLIER = {"softmax_temperature": 0.0}
MOST_NAMES = 8  # classes that are named when a detector is printed
BATCH = 8  # images that are convolved together where their sizes are equal
Images = list[Any] | tuple[Any, ...]
MOST_MOVED = 20_000  # boxes of an image that are refined, however many classes there are
SCORES_AT_ONCE = 1 << 24  # of boxes that are scored again: 64 MB


@dataclass(frozen=True)
class SavedDetector:
    """What :meth:`Detector.save` writes; the parts read their own."""

    names: tuple[str, ...]
    encoder: dict[str, Any]
    scorer: dict[str, Any]
    mover: dict[str, Any] | None
    rule: InferenceConfig
    anchors: dict[str, Any] | None
    training: dict[str, Any] = field(default_factory=dict)
    operating_points: dict[str, Any] | None = None


class Detector(HubModel):
    """Finds objects in images of any size: :meth:`predict` does it all.

    :meth:`encode` once, then :meth:`propose`, :meth:`score` or :meth:`detect` as often as wanted.

    Args:
        encoder: Convolves an image once and pools regions of its maps.
        classifier: Scores regions for every class.
        box_regressor: Refines the boxes of what was found; None leaves them.
        names: Class names in the order of the labels.
        inference: How images are searched and which boxes become detections.
        anchors: Proposes from the feature maps; learnt from labelled boxes.
        seen: (M,) int64 content numbers of the images it was trained on, so that a test can tell;
            None if that is not known.
        operating_points: From which scores on detections count, and how sure each is; None if that
            was never measured. It changes nothing of what :meth:`detect` finds.

    Raises:
        ValueError: If the classifier does not have one score per name, or expects vectors of
            another length than the encoder's.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> from sppnet.detection.heads.classifiers import LinearRegionClassifier
        >>> encoder = Encoder(build_backbone("small5"), short_sides=(96,))
        >>> nothing = LinearRegionClassifier(torch.zeros(encoder.length, 1), torch.tensor([-9.0]))
        >>> config = InferenceConfig(proposals="grid")
        >>> detector = Detector(encoder, nothing, None, ("thing",), config)
        >>> detector.predict(torch.rand(3, 60, 80)).boxes.shape
        torch.Size([0, 4])

    Source:
        SPP-net, section 4.1.
    """

    def __init__(
        self,
        encoder: Encoder,
        classifier: RegionClassifier,
        box_regressor: BoxRegressor | None,
        names: tuple[str, ...],
        inference: InferenceConfig | None = None,
        anchors: AnchorProposer | None = None,
        seen: Tensor | None = None,
        operating_points: OperatingPoints | None = None,
    ) -> None:
        if classifier.num_classes != len(names):
            raise ValueError(
                f"classifier must have one score per name ({len(names)}), "
                f"got {classifier.num_classes}"
            )
        classifier.check(encoder)
        self.encoder = encoder
        self.classifier = classifier
        self.box_regressor = box_regressor
        self.names = tuple(names)
        self.inference = inference or InferenceConfig()
        self.anchors = anchors
        self.seen = seen
        self.operating_points = operating_points

    @classmethod
    def fit(
        cls,
        data: DetectionDataset | str | Path,
        config: DetectionConfig | None = None,
        *,
        split: str | None = None,
        cache: str | Path | None = None,
        device: torch.device | str = "cpu",
        workers: int = 2,
        track: Track = show_progress,
        **settings: Any,
    ) -> "Detector":
        """Learn a detector from labelled photos, as ``sppnet detect train`` does.

        Args:
            data: A data set, or its folder or index file in VOC, COCO or YOLO layout, or labels of
                a :class:`sppnet.LabelSession`.
            config: What the detector is to be; the usual one if None.
            split: Part of a folder to learn from; "train" or "trainval" if None and there is one.
            cache: Folder in which maps and proposals are kept for a second call; None keeps none.
            device: Where to compute.
            workers: Threads that look for proposals; 0 for none but the caller.
            track: Shows progress, on a terminal unless told otherwise.
            **settings: Fields of :class:`sppnet.DetectionConfig` to change.

        Raises:
            NothingUsableError: If no image can be used, or none has an object.
            TypeError: If a setting does not exist.
            ValueError: If a setting breaks its rule.
            UsageError: If the folder or the split does not exist.

        Example:
            >>> from sppnet.images import draw_detection_set
            >>> small = {"backbone": "small5", "weights": "none", "imgsz": (96,)}
            >>> with TemporaryDirectory() as folder:
            ...     scenes = draw_detection_set(folder, 6, seed=0)
            ...     detector = Detector.fit(folder, **small, proposals="grid")
            >>> len(detector.names)
            6
        """
        from sppnet.detection.train import build_cached_features, build_encoder, train_detector

        if not isinstance(data, DetectionDataset):
            part = usual_split(data, split, ("train", "trainval"))
            data = open_detection_dataset(data, part, track=track)
        if not isinstance(config, DetectionConfig | None):
            kind = type(config).__name__
            raise TypeError(f"config must be a DetectionConfig, or settings by name, got {kind}")
        chosen = replace(config or DetectionConfig(), **settings)
        torch.manual_seed(chosen.seed)  # random weights follow it
        encoder = build_encoder(chosen, data.images).to(device)
        file = chosen.proposals_file
        external = None if file is None else ExternalProposals.open(file)
        with ExitStack() as stack:
            kept = FeatureCache(cache or stack.enter_context(TemporaryDirectory()))
            cached = build_cached_features(chosen, data.images, encoder, kept, external=external)
            return train_detector(cached, data.names, chosen, workers=workers, track=track)

    @overload
    def predict(self, image: ImageSource, *, track: Track = ...) -> Detections: ...
    @overload
    def predict(self, image: Images, *, track: Track = ...) -> list[Detections]: ...
    def predict(
        self, image: ImageSource | Images, *, track: Track = show_progress
    ) -> Detections | list[Detections]:
        """Find objects in one image or in many.

        All that was found is given, down to low scores: ``operating_points.select(found)`` takes
        what counts. Of a list, a few images are in memory at a time: on a processor each thread
        works on one, on a GPU those of one size go through the trunk together.

        Args:
            image: Path, PIL image, uint8 array (H, W, 3), or tensor (3, H, W) of RGB 0..1; any
                size. Or a list or tuple of them.
            track: Shows the progress of a list, on a terminal unless told otherwise.

        Returns:
            A dict of boxes (K, 4) xyxy in pixels, scores (K,) and labels (K,), best first; for a
            list one for each image, in order. A score is the margin of an SVM or the log-odds of a
            softmax: above 0 the box more likely shows the class than not. With
            ``operating_points`` also confidence (K,), the probability that a detection is right.

        Raises:
            InputError: If a file cannot be decoded; it names the file.
            TypeError: If a value is none of these kinds.
        """
        if isinstance(image, list | tuple):
            return list(track(self._predict_each(image), "detecting", total=len(image)))
        return self._predict_batch([image])[0]

    def _predict_each(self, images: Images) -> Iterator[Detections]:
        step = 1 if self.encoder.device.type == "cpu" else BATCH
        batches = [images[first : first + step] for first in range(0, len(images), step)]
        for _, found in work_ahead(batches, self._predict_batch, self.workers):
            yield from found.result()

    @torch.no_grad()
    def _predict_batch(self, images: Images) -> list[Detections]:
        """Find objects in images that go through the trunk together."""
        pixels = [to_image(each, compact=True) for each in images]
        seen = zip(pixels, self._encode_batch(pixels), strict=True)
        found = [self.detect(encoded, self.propose(each, encoded)) for each, encoded in seen]
        points = self.operating_points
        return found if points is None else [points.with_confidence(each) for each in found]

    @property
    def workers(self) -> int:
        """Images that are best looked at at a time; see :attr:`Encoder.workers`."""
        return self.encoder.workers

    def watch(self, source: str | Path | int, *, every: int = 1) -> Iterator[WatchedFrame]:
        """Find objects in a video or before a camera, frame by frame.

        Args:
            source: Path of a video, or the number of a camera, 0 for the first.
            every: Look at one of so many frames.

        Yields:
            Each frame with what counts in it.

        Raises:
            InputError: If the source cannot be opened or decoded.
            ValueError: If ``every`` is below 1.
        """
        return watch_frames(self, source, every)

    def propose(
        self, image: Tensor, encoded: EncodedImage, external: Tensor | None = None
    ) -> Tensor:
        """Propose boxes that may show an object.

        Args:
            image: (3, H, W) float RGB 0..1.
            encoded: The same image, from :meth:`encode`.
            external: (E, 4) boxes that another program proposed, used instead of a search in the
                pixels.

        Returns:
            (W, 4) xyxy in pixels; proposals from the pixels and from the maps take turns.

        Raises:
            UsageError: If it was trained on proposals from a file and none are given.
        """
        config = self.inference
        if external is None and proposals_file(config.proposals) is not None:
            raise UsageError(
                f"this detector was trained on the proposals of {config.proposals}: give "
                "--proposals, a file with proposals of these images or a method"
            )
        if external is None:
            asked = (config.proposals, config.max_proposals, config.seed)
            external = propose(
                image, *asked, search_side=config.search_side, least_side=config.least_side
            )
        proposals = external[: config.max_proposals]
        if self.anchors is None:
            return proposals
        return take_turns([proposals, self.anchors.propose(encoded, config.max_anchors)[0]])

    def encode(self, image: Tensor) -> EncodedImage:
        """Convolve an image once per scale, and its mirror image if ``inference.flip`` is set.

        Args:
            image: (3, H, W) float RGB 0..1 of any size.

        Returns:
            Its feature maps.
        """
        return self._encode_batch([image])[0]

    def _encode_batch(self, images: Sequence[Tensor]) -> list[EncodedImage]:
        encoded = self.encoder.encode_batch(images)
        if not self.inference.flip:
            return encoded
        mirrored = self.encoder.encode_batch([flip_left_right(each) for each in images])
        return [replace(a, mirrored=b) for a, b in zip(encoded, mirrored, strict=True)]

    @torch.no_grad()
    def detect(self, encoded: EncodedImage, boxes: Tensor) -> Detections:
        """Score proposals of an encoded image, refine the best, and choose the detections.

        Args:
            encoded: From :meth:`encode`.
            boxes: (W, 4) proposals, xyxy in pixels of the original image.

        Returns:
            At most ``inference.max_detections`` detections, of all classes or of each, best first.
        """
        scores = self._score_jointly(encoded, boxes)
        row, label = (scores > self.inference.score_threshold).nonzero().unbind(1)
        found = Detections(boxes[row], scores[row, label], label)
        if self.box_regressor is None:
            return select_detections(found, self.inference)
        kept_only = self.inference.refined == "kept"
        if kept_only:
            found = select_detections(found, self.inference)
        most = MOST_MOVED if self.inference.max_per == "image" else None
        best = found.select(preselect(found, self.inference.moved_per_class, most))
        refined = self._refine(encoded, best)
        return select_detections(refined, self.inference, moved=True, again=kept_only)

    def score(self, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Score proposals; those that share a region are scored once.

        Args:
            encoded: From :meth:`encode`.
            boxes: (W, 4) proposals, xyxy in pixels of the original image.

        Returns:
            (W, K) scores on the CPU; means over the image and its mirror image, if there is one.
        """
        regions = self.encoder.assign_regions(encoded, boxes)
        distinct, region_of = torch.unique(regions, dim=0, return_inverse=True)
        scores = self.classifier.score(self.encoder, encoded, distinct)[region_of]
        if encoded.mirrored is None:
            return scores
        flipped = flip_boxes(boxes, encoded.image_size_hw[1])
        return (scores + self.score(encoded.mirrored, flipped)) / 2

    def _score_jointly(self, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Score (W, 4) boxes, the classes of SVMs in competition: (W, K)."""
        scores = self.score(encoded, boxes)
        if self.classifier.classes_compete:
            return scores
        return let_classes_compete(scores, self.inference.softmax_temperature)

    def _refine(self, encoded: EncodedImage, found: Detections) -> Detections:
        """Refine boxes, score them again if that is wished, and drop those without area."""
        if self.box_regressor is None or not found.count:
            return found
        boxes = self.box_regressor.apply(self.encoder, encoded, found.labels, found.boxes)
        has_area = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        boxes, labels, before = boxes[has_area], found.labels[has_area], found.scores[has_area]
        if not self.inference.rescore:
            return Detections(boxes, before, labels)
        step = max(1, SCORES_AT_ONCE // len(self.names))
        parts = [
            self._score_jointly(encoded, some)[torch.arange(len(some)), own]
            for some, own in zip(boxes.split(step), labels.split(step), strict=True)
        ]
        return Detections(boxes, (before + torch.cat(parts or [before])) / 2, labels)

    def __repr__(self) -> str:
        """Say what it finds, by which trunk and sizes, and what is to be expected of it."""
        points, names = self.operating_points, self.names
        shown = ", ".join([*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])])
        expected = "no operating point yet: detections count from a score of 0"
        if points is not None:
            expected = f"{points.describe(names)}; {points.expect()}"
        kinds = count_of(len(names), "class")
        return f"Detector({kinds}: {shown}; {self.encoder}; {expected})"

    def to(self, device: torch.device | str) -> "Detector":
        """Move trunk and classifier to a device; returns itself."""
        self.encoder.to(device)
        self.classifier = self.classifier.to(device)
        return self

    def config(self) -> dict[str, Any]:
        """Everything that decides what is found but the weights, in JSON values."""
        return {
            "names": list(self.names),
            "encoder": self.encoder.config(),
            "scorer": self.classifier.config(),
            "mover": None if self.box_regressor is None else self.box_regressor.config(),
            "rule": asdict(self.inference),
            "anchors": None if self.anchors is None else self.anchors.config(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        return (
            put_under("backbone.", self.encoder.backbone.state_dict())
            | put_under("scorer.", self.classifier.tensors())
            | put_under("anchors.", {} if self.anchors is None else self.anchors.tensors())
            | put_under(
                "mover.", {} if self.box_regressor is None else self.box_regressor.tensors()
            )
        )

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write the detector as one folder: safetensors, JSON and checksums.

        Args:
            path: The folder; an older model there is replaced as a whole.
            extra: JSON values to record beside the configuration, such as how it was trained.

        Raises:
            OutputError: If it cannot be written.
        """
        config = {**self.config(), "training": extra or {}}
        if self.operating_points is not None:
            config["operating_points"] = self.operating_points.config()
        seen = {} if self.seen is None else {"seen": self.seen}
        save_model(path, MODEL_KIND, config, self.tensors() | seen, self.answers())

    @torch.no_grad()
    def answers(self) -> dict[str, Any]:
        """Score and refine fixed boxes of a picture that all have, for ``sppnet doctor``."""
        encoded, boxes = self.encode(canary_image()), canary_boxes()
        scores = self.score(encoded, boxes)
        labels = torch.arange(len(boxes)) % len(self.names)
        refined = self._refine(encoded, Detections(boxes, scores[:, 0], labels))
        return as_answers(scores, refined.boxes, refined.scores)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Detector":
        """Read a detector that :meth:`save` wrote.

        Args:
            path: The folder.
            device: Where its trunk and classifier run.

        Returns:
            The detector, with the same answers bit for bit on the same kind of device.

        Raises:
            UnusableFileError: If a file is missing, damaged, of another kind of model, or does not
                fit the others.
        """
        return restore_model(path, MODEL_KIND, cls._restore).to(device)

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "Detector":
        """Restore the parts of a saved detector; each must fit the encoder and the names."""
        rule = config.get("rule")
        if isinstance(rule, dict):
            config = {**config, "rule": {**EARLIER, **rule}}
        saved = restore_fields(SavedDetector, config)
        encoder = Encoder.from_config(saved.encoder, tensors_under("backbone.", tensors))
        seen = tensors.pop("seen", None)  # models of version 0.1 do not have it
        if seen is not None and (seen.dtype != torch.int64 or seen.ndim != 1):
            raise ValueError(f"seen must be (M,) int64, got {tuple(seen.shape)} {seen.dtype}")
        own = {k: tensor for k, tensor in tensors.items() if not k.startswith("backbone.")}
        check_float32(own)
        mover = anchors = None
        if saved.mover is not None:
            mover = box_regressor_from_config(saved.mover, tensors_under("mover.", own))
            mover.check(encoder, len(saved.names))
        if saved.anchors is not None:
            parts = tensors_under("anchors.", own)
            anchors = AnchorProposer.from_config(saved.anchors, parts)
            anchors.check(encoder)
        scorer = classifier_from_config(saved.scorer, tensors_under("scorer.", own))
        points = None  # as in models of version 0.1
        if saved.operating_points is not None:
            points = OperatingPoints.from_config(saved.operating_points, len(saved.names))
        detector = cls(encoder, scorer, mover, saved.names, saved.rule, anchors, seen, points)
        if unknown := sorted(own.keys() - detector.tensors().keys()):
            raise ValueError(f"tensor {unknown[0]!r} belongs to no part of it")
        return detector


def keep_operating_points(folder: str | Path, points: OperatingPoints) -> None:
    """Keep operating points in the folder of a detector; all else in it stays bit for bit.

    Args:
        folder: What :meth:`Detector.save` wrote; it is replaced as a whole.
        points: Take the place of those that are there.

    Raises:
        UnusableFileError: If the folder is no detector, or damaged.
        OutputError: If it cannot be written.
    """
    config, tensors = load_model(folder, MODEL_KIND)
    config["operating_points"] = points.config()
    save_model(folder, MODEL_KIND, config, tensors, read_answers(folder))
