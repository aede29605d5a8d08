"""The fitted detector: one folder on disk, one call per image."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet.backbones import restore_backbone
from sppnet.detection.box_regression import BoxRegressor
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.proposals import propose
from sppnet.errors import UnusableFileError
from sppnet.geometry import Detections, clip_boxes, nms_per_class
from sppnet.images import ImageSource, to_image
from sppnet.storage import load_model, save_model

MODEL_KIND = "detector"


@dataclass(frozen=True)
class WindowClassifier:
    """Linear scores of windows, one column per class.

    Args:
        weights: (D, K).
        bias: (K,).
    """

    weights: Tensor
    bias: Tensor

    def score(self, features: Tensor) -> Tensor:
        """(W, D) features -> (W, K) scores; the margin of the SVM, not a probability."""
        return features @ self.weights + self.bias


@dataclass(frozen=True)
class DetectionRule:
    """Which windows are proposed, and which scored windows become detections.

    Args:
        proposals: Name of the proposal method.
        max_proposals: The most windows per image.
        seed: Of the order of proposals.
        score_threshold: Windows that score lower are dropped.
        nms_threshold: Of two detections of a class that overlap by more, the worse is dropped.
        max_detections: The most detections per image.
    """

    proposals: str = "selective_search"
    max_proposals: int = 2000
    seed: int = 0
    score_threshold: float = -1.5
    nms_threshold: float = 0.3
    max_detections: int = 100


class Detector:
    """Finds things in images of any size.

    Args:
        encoder: Convolves an image once and describes windows of it.
        classifier: Scores the descriptions.
        regressor: Moves the boxes of what was found; None leaves them.
        names: Class names in the order of the labels.
        rule: How windows are proposed and detections chosen.

    Raises:
        ValueError: If the classifier does not have one column per name, or one row per number of
            the encoder's vectors.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> encoder = Encoder(build_backbone("small5"), short_sides=(96,))
        >>> nothing = WindowClassifier(torch.zeros(encoder.length, 1), torch.tensor([-9.0]))
        >>> detector = Detector(encoder, nothing, None, ("thing",), DetectionRule(proposals="grid"))
        >>> detector.predict(torch.rand(3, 60, 80)).boxes.shape
        torch.Size([0, 4])

    Source:
        SPP-net, section 4.1.
    """

    def __init__(
        self,
        encoder: Encoder,
        classifier: WindowClassifier,
        regressor: BoxRegressor | None,
        names: tuple[str, ...],
        rule: DetectionRule | None = None,
    ) -> None:
        shape = (encoder.length, len(names))
        if classifier.weights.shape != shape or classifier.bias.shape != shape[1:]:
            raise ValueError(
                f"classifier must have weights of shape {shape} and {shape[1]} biases, got "
                f"{tuple(classifier.weights.shape)} and {tuple(classifier.bias.shape)}"
            )
        self.encoder = encoder
        self.classifier = classifier
        self.regressor = regressor
        self.names = tuple(names)
        self.rule = rule or DetectionRule()

    def predict(self, image: ImageSource) -> Detections:
        """Find things in one image.

        Args:
            image: Path, PIL image, uint8 array (H, W, 3), or tensor (3, H, W) of RGB 0..1; any
                size.

        Returns:
            A dict of boxes (K, 4) xyxy in pixels, scores (K,) and labels (K,), best first. A score
            is the margin of a linear SVM: above 0 the window is more likely the class than not.

        Raises:
            InputError: If a file cannot be decoded.
            TypeError: If the value is none of these kinds.
        """
        pixels = to_image(image)
        return self.detect(self.encode(pixels), self.propose(pixels))

    def propose(self, image: Tensor) -> Tensor:
        """Find windows of an image that may hold a thing: (K, 4) xyxy in pixels."""
        rule = self.rule
        return propose(image, rule.proposals, rule.max_proposals, rule.seed)

    def encode(self, image: Tensor) -> EncodedImage:
        """Convolve an image, (3, H, W) RGB 0..1, once per scale."""
        return self.encoder.encode(image)

    @torch.no_grad()
    def detect(self, encoded: EncodedImage, boxes: Tensor) -> Detections:
        """Score windows of an encoded image and keep the detections.

        Args:
            encoded: From :meth:`encode`.
            boxes: (W, 4) windows, xyxy in pixels of the original image.

        Returns:
            Detections, best first, at most ``rule.max_detections``.
        """
        cells = self.encoder.locate(encoded, boxes)
        distinct, cell_of = torch.unique(cells, dim=0, return_inverse=True)
        margins = self.encoder.score_cells(encoded, distinct, self.classifier.weights)
        scores = (margins + self.classifier.bias).cpu()[cell_of]
        window, label = (scores > self.rule.score_threshold).nonzero().unbind(1)
        found = Detections(boxes[window], scores[window, label], label)
        kept = nms_per_class(found.boxes, found.scores, found.labels, self.rule.nms_threshold)
        kept = kept[: self.rule.max_detections]
        found = found.select(kept)
        if self.regressor is None:
            return found
        features = self.encoder.describe_cells(encoded, cells[window[kept]]).cpu()
        return self._refine(found, features, encoded.image_size_hw)

    def _refine(
        self, found: Detections, features: Tensor, image_size_hw: tuple[int, int]
    ) -> Detections:
        """Move the boxes and suppress those that have become copies."""
        if self.regressor is None or not found.count:
            return found
        moved = self.regressor.apply(features, found.labels, found.boxes)
        boxes = clip_boxes(moved, image_size_hw)
        seen = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        found = Detections(boxes, found.scores, found.labels).select(seen)
        kept = nms_per_class(found.boxes, found.scores, found.labels, self.rule.nms_threshold)
        return found.select(kept)

    def to(self, device: torch.device | str) -> "Detector":
        """Move the trunk and the classifier to a device; returns itself."""
        self.encoder.backbone.to(device)
        weights, bias = self.classifier.weights.to(device), self.classifier.bias.to(device)
        self.classifier = WindowClassifier(weights, bias)
        return self

    def configuration(self) -> dict[str, Any]:
        """Everything about the detector that is not a weight."""
        return {
            "names": list(self.names),
            "encoder": self.encoder.configuration(),
            "rule": asdict(self.rule),
        }

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write the detector as one folder: safetensors, JSON and checksums.

        Args:
            path: The folder; an older model there is replaced as a whole.
            extra: Anything more to record in the configuration, such as how it was trained.

        Raises:
            OutputError: If it cannot be written.
        """
        config = {**self.configuration(), "training": extra or {}}
        tensors = {f"backbone.{k}": v for k, v in self.encoder.backbone.state_dict().items()}
        tensors |= {"svm.weights": self.classifier.weights, "svm.bias": self.classifier.bias}
        if self.regressor is not None:
            tensors |= {"box.weights": self.regressor.weights_, "box.bias": self.regressor.bias_}
        save_model(Path(path), MODEL_KIND, config, tensors)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Detector":
        """Read a detector that :meth:`save` wrote.

        Args:
            path: The folder.
            device: Where its trunk runs.

        Returns:
            The detector, with the same answers bit for bit on the same kind of device.

        Raises:
            UnusableFileError: If a file is missing, damaged, of another kind of model, or does not
                fit the others.
        """
        config, tensors = load_model(Path(path), MODEL_KIND)
        try:
            return cls._restore(config, tensors).to(device)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UnusableFileError(
                f"the saved detector does not fit together: {reason}",
                path=path,
                code="E_WEIGHTS_ARCH",
            ) from error

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "Detector":
        """Put the parts of a saved detector together."""
        encoder_config = dict(config["encoder"])
        trunk = {
            k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")
        }
        backbone = restore_backbone(encoder_config.pop("backbone"), trunk)
        regressor = None
        if "box.weights" in tensors:
            regressor = BoxRegressor()
            regressor.weights_, regressor.bias_ = tensors["box.weights"], tensors["box.bias"]
        return cls(
            Encoder(backbone, **encoder_config),
            WindowClassifier(tensors["svm.weights"], tensors["svm.bias"]),
            regressor,
            tuple(config["names"]),
            DetectionRule(**config["rule"]),
        )
