"""The fitted detector: one folder on disk, one call per image."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sppnet.config.detection import InferenceConfig, proposals_file
from sppnet.config.fields import restore_fields
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.box_regression import BoxRegressor, box_regressor_from_config
from sppnet.detection.heads.classifiers import RegionClassifier, classifier_from_config
from sppnet.detection.postprocess import let_classes_compete, preselect, select_detections
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.detection.proposals.propose import keep_first, propose, take_turns
from sppnet.errors import UsageError
from sppnet.evaluation.operating_point import OperatingPoints
from sppnet.geometry import Detections, flip_boxes
from sppnet.images import ImageSource, flip_left_right, to_image
from sppnet.storage import load_model, put_under, restore_model, save_model, tensors_under
from sppnet.storage.tensors import check_float32

MODEL_KIND = "detector"
# Constants of testing that models of earlier versions do not name, as they had them.
EARLIER = {"softmax_temperature": 0.0}


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


class Detector:
    """Finds objects in images of any size.

    :meth:`encode` an image once, then :meth:`propose`, :meth:`score` or :meth:`detect` as often as
    wanted; :meth:`predict` does it all.

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

    def predict(self, image: ImageSource) -> Detections:
        """Find objects in one image.

        All that was found is given, down to low scores: ``operating_points.select(found)`` takes
        what counts.

        Args:
            image: Path, PIL image, uint8 array (H, W, 3), or tensor (3, H, W) of RGB 0..1; any
                size.

        Returns:
            A dict of boxes (K, 4) xyxy in pixels, scores (K,) and labels (K,), best first. A score
            is the margin of an SVM or the log-odds of a softmax: above 0 the box more likely shows
            the class than not. With ``operating_points`` also confidence (K,), the probability that
            a detection is right.

        Raises:
            InputError: If a file cannot be decoded.
            TypeError: If the value is none of these kinds.
        """
        pixels = to_image(image)
        encoded = self.encode(pixels)
        found = self.detect(encoded, self.propose(pixels, encoded))
        points = self.operating_points
        return found if points is None else points.with_confidence(found)

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
            UsageError: If the detector was trained on proposals from a file and none are given.
        """
        config = self.inference
        if external is None and proposals_file(config.proposals) is not None:
            raise UsageError(
                f"this detector was trained on the proposals of {config.proposals}: give "
                "--proposals, a file with proposals of these images or a method"
            )
        if external is None:
            external = propose(
                image,
                config.proposals,
                config.max_proposals,
                config.seed,
                search_side=config.search_side,
                least_side=config.least_side,
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
        encoded = self.encoder.encode(image)
        if not self.inference.flip:
            return encoded
        return replace(encoded, mirrored=self.encoder.encode(flip_left_right(image)))

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
        best = found.select(preselect(found, self.inference.moved_per_class))
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
        after = self._score_jointly(encoded, boxes)[torch.arange(len(boxes)), labels]
        return Detections(boxes, (before + after) / 2, labels)

    def to(self, device: torch.device | str) -> "Detector":
        """Move the trunk and the classifier to a device; returns itself."""
        self.encoder.backbone.to(device)
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
        save_model(Path(path), MODEL_KIND, config, self.tensors() | seen)

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
        return restore_model(Path(path), MODEL_KIND, cls._restore).to(device)

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
    save_model(folder, MODEL_KIND, {**config, "operating_points": points.config()}, tensors)


class CombinedDetector:
    """Several detectors of the same classes, combined into one.

    Every network scores the proposals of all networks; the detections are joined, and copies are
    suppressed once more. Scores are compared as they are, since the margins of detectors that were
    trained alike have one scale.

    Args:
        detectors: Two or more, with the same class names in the same order.

    Raises:
        ValueError: If there are fewer than two, or their names differ.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> from sppnet.detection import InferenceConfig, Encoder, LinearRegionClassifier
        >>> parts = []
        >>> for seed in (0, 1):
        ...     encoder = Encoder(build_backbone("small5"), short_sides=(96,))
        ...     weights, biases = torch.zeros(encoder.length, 1), torch.tensor([-9.0])
        ...     classifier = LinearRegionClassifier(weights, biases)
        ...     parts.append(Detector(encoder, classifier, None, ("a",), InferenceConfig("grid")))
        >>> CombinedDetector(parts).predict(torch.rand(3, 60, 80)).count
        0

    Source:
        SPP-net, section 4.4.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        if len(detectors) < 2:
            raise ValueError(f"detectors must be two or more, got {len(detectors)}")
        names = {detector.names for detector in detectors}
        if len(names) > 1:
            raise ValueError(f"detectors must have the same classes, got {sorted(names)}")
        self.detectors = tuple(detectors)
        (self.names,) = names
        self.inference = detectors[0].inference

    @property
    def seen(self) -> Tensor | None:
        """Content numbers of the images that any of them was trained on; None if one cannot say."""
        known = [each.seen for each in self.detectors if each.seen is not None]
        return torch.cat(known) if len(known) == len(self.detectors) else None

    @property
    def operating_points(self) -> None:
        """None: scores of detections that were joined need points of their own."""
        return

    def predict(self, image: ImageSource) -> Detections:
        """Find objects in one image; see :meth:`Detector.predict`."""
        pixels = to_image(image)
        encoded = self.encode(pixels)
        return self.detect(encoded, self.propose(pixels, encoded))

    def encode(self, image: Tensor) -> tuple[EncodedImage, ...]:
        """Convolve an image, (3, H, W) RGB 0..1, by every network; see :meth:`Detector.encode`."""
        return tuple(detector.encode(image) for detector in self.detectors)

    def propose(
        self, image: Tensor, encoded: Sequence[EncodedImage], external: Tensor | None = None
    ) -> Tensor:
        """Join the (W, 4) proposals of all detectors, each once; see :meth:`Detector.propose`."""
        pairs = zip(self.detectors, encoded, strict=True)
        return keep_first(torch.cat([each.propose(image, maps, external) for each, maps in pairs]))

    def detect(self, encoded: Sequence[EncodedImage], boxes: Tensor) -> Detections:
        """Detect by every network, join the detections, and suppress copies.

        Args:
            encoded: From :meth:`encode`.
            boxes: (W, 4) proposals, xyxy in pixels of the original image.

        Returns:
            Detections, best first.
        """
        pairs = zip(self.detectors, encoded, strict=True)
        found = [each.detect(maps, boxes) for each, maps in pairs]
        joined = [torch.cat([each[key] for each in found]) for key in ("boxes", "scores", "labels")]
        return select_detections(Detections(*joined), self.inference, again=True)

    def config(self) -> dict[str, Any]:
        """Everything but the weights of all detectors, in JSON values."""
        return {"combined": [detector.config() for detector in self.detectors]}

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, those of each detector under its number."""
        numbered = enumerate(self.detectors)
        return {
            f"{n}.{name}": tensor for n, each in numbered for name, tensor in each.tensors().items()
        }


class AnyDetector(Protocol):
    """What one detector and several have in common."""

    names: tuple[str, ...]
    inference: InferenceConfig

    @property
    def seen(self) -> Tensor | None:
        """Content numbers of the images that were trained on; None if that is not known."""
        ...

    @property
    def operating_points(self) -> OperatingPoints | None:
        """From which scores on detections count; None if that is not known."""
        ...

    def encode(self, image: Tensor) -> Any:
        """Convolve an image, (3, H, W) RGB 0..1."""
        ...

    def propose(self, image: Tensor, encoded: Any, external: Tensor | None = None) -> Tensor:
        """Propose (W, 4) boxes, xyxy in pixels."""
        ...

    def detect(self, encoded: Any, boxes: Tensor) -> Detections:
        """Score (W, 4) proposals and choose the detections."""
        ...

    def config(self) -> dict[str, Any]:
        """Everything but the weights, in JSON values."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        ...
