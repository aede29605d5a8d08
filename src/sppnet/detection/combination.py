"""Model combination: detectors with other trunks see other things, so their findings are joined."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sppnet.detection.detection_rule import DetectionRule
from sppnet.detection.detector import Detector
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.proposals import keep_first
from sppnet.geometry import Detections
from sppnet.images import ImageSource, to_image


class CombinedDetector:
    """Several detectors of the same classes that answer as one.

    Every network scores the windows of all of them; what they find is put together and suppressed
    once more. Scores are compared as they are: detectors that were trained alike have margins of
    one scale.

    Args:
        detectors: Two or more, with the same class names in the same order.

    Raises:
        ValueError: If there are fewer than two, or their names differ.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> from sppnet.detection import DetectionRule, Encoder, LinearScorer
        >>> parts = []
        >>> for seed in (0, 1):
        ...     encoder = Encoder(build_backbone("small5"), short_sides=(96,))
        ...     scorer = LinearScorer(torch.zeros(encoder.length, 1), torch.tensor([-9.0]))
        ...     parts.append(Detector(encoder, scorer, None, ("a",), DetectionRule("grid")))
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
        self.rule = detectors[0].rule

    def predict(self, image: ImageSource) -> Detections:
        """Find things in one image; see :meth:`Detector.predict`."""
        pixels = to_image(image)
        encoded = self.encode(pixels)
        return self.detect(encoded, self.windows(pixels, encoded))

    def encode(self, image: Tensor) -> tuple[EncodedImage, ...]:
        """Convolve an image, (3, H, W) RGB 0..1, by every network."""
        return tuple(detector.encode(image) for detector in self.detectors)

    def windows(
        self, image: Tensor, encoded: Sequence[EncodedImage], external: Tensor | None = None
    ) -> Tensor:
        """Windows of all detectors, each once: (W, 4) xyxy in pixels."""
        pairs = zip(self.detectors, encoded, strict=True)
        return keep_first(torch.cat([each.windows(image, maps, external) for each, maps in pairs]))

    def detect(self, encoded: Sequence[EncodedImage], boxes: Tensor) -> Detections:
        """Score windows by every network, join what is found, and suppress copies.

        Args:
            encoded: From :meth:`encode`.
            boxes: (W, 4) windows, xyxy in pixels of the original image.

        Returns:
            Detections, best first.
        """
        pairs = zip(self.detectors, encoded, strict=True)
        found = [each.detect(maps, boxes) for each, maps in pairs]
        joined = [torch.cat([each[key] for each in found]) for key in ("boxes", "scores", "labels")]
        return self.rule.select(Detections(*joined))

    def configuration(self) -> dict[str, Any]:
        """Everything about the detectors that is not a weight."""
        return {"combined": [detector.configuration() for detector in self.detectors]}


class AnyDetector(Protocol):
    """What one detector and several have in common."""

    names: tuple[str, ...]
    rule: DetectionRule

    def encode(self, image: Tensor) -> Any:
        """Convolve an image, (3, H, W) RGB 0..1."""
        ...

    def windows(self, image: Tensor, encoded: Any, external: Tensor | None = None) -> Tensor:
        """Find (W, 4) windows, xyxy in pixels."""
        ...

    def detect(self, encoded: Any, boxes: Tensor) -> Detections:
        """Judge windows and keep the detections."""
        ...

    def configuration(self) -> dict[str, Any]:
        """Everything that is not a weight."""
        ...
