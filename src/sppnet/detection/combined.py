"""Several detectors of the same classes as one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from sppnet.config.detection import InferenceConfig
from sppnet.detection.detector import Detector, Images
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.postprocess import select_detections
from sppnet.detection.proposals.propose import keep_first
from sppnet.detection.watch import WatchedFrame, watch_frames
from sppnet.evaluation.operating_point import OperatingPoints
from sppnet.geometry import Detections
from sppnet.images import ImageSource, to_image
from sppnet.progress import Track, show_progress


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
    def workers(self) -> int:
        """Images that are best looked at at a time; see :attr:`Encoder.workers`."""
        return min(each.workers for each in self.detectors)

    @property
    def operating_points(self) -> None:
        """None: scores of detections that were joined need points of their own."""
        return

    @overload
    def predict(self, image: ImageSource, *, track: Track = ...) -> Detections: ...
    @overload
    def predict(self, image: Images, *, track: Track = ...) -> list[Detections]: ...
    def predict(
        self, image: ImageSource | Images, *, track: Track = show_progress
    ) -> Detections | list[Detections]:
        """Find objects in one image or in a list of them; see :meth:`Detector.predict`."""
        if isinstance(image, list | tuple):
            return list(track(map(self._predict_one, image), "detecting", total=len(image)))
        return self._predict_one(image)

    def _predict_one(self, image: ImageSource) -> Detections:
        pixels = to_image(image, compact=True)
        encoded = self.encode(pixels)
        return self.detect(encoded, self.propose(pixels, encoded))

    def watch(self, source: str | Path | int, *, every: int = 1) -> Iterator[WatchedFrame]:
        """Find objects in a video or before a camera; see :meth:`Detector.watch`."""
        return watch_frames(self, source, every)

    def __repr__(self) -> str:
        """Show each of the detectors."""
        return f"CombinedDetector({', '.join(map(repr, self.detectors))})"

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
    def workers(self) -> int:
        """Images that are best looked at at a time."""
        ...

    @property
    def operating_points(self) -> OperatingPoints | None:
        """From which scores on detections count; None if that is not known."""
        ...

    def predict(self, image: ImageSource, *, track: Track = ...) -> Detections:
        """Find objects in one image."""
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


def load_detectors(
    models: Sequence[Path],
    device: torch.device | str,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> AnyDetector:
    """Read detectors; several are combined into one.

    Args:
        models: Their folders, at least one.
        device: Where to put them.
        overrides: Fields of their :class:`InferenceConfig` to change.

    Returns:
        The detector.

    Raises:
        UnusableFileError: If a folder is no detector.
        ValueError: If the detectors have different classes, or a value is out of range.
    """
    detectors = [Detector.load(model, device) for model in models]
    for detector in detectors:
        detector.inference = detector.inference.changed(overrides)
    return detectors[0] if len(detectors) == 1 else CombinedDetector(detectors)
