"""Detection in single files, timed stage by stage; finished images are kept for a later run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sppnet.app.console import options_to_blame
from sppnet.app.device import choose_device
from sppnet.detection import Detector, ExternalProposals
from sppnet.detection.detector import AnyDetector, CombinedDetector
from sppnet.errors import InputError, UnusableFileError
from sppnet.geometry import Detections
from sppnet.images import load_image
from sppnet.storage import FeatureCache, read_json, sha256_file

STAGES = ("decode", "features", "proposals", "windows")
OUTCOME_VERSION = 2  # raise it whenever the same model finds other things in the same file


@dataclass(frozen=True)
class ImageOutcome:
    """What a detector did with one image.

    Args:
        detections: What was found.
        windows: (W, 4) the proposals that were scored.
        seconds: Time of each of :data:`STAGES`.
    """

    detections: Detections
    windows: Tensor
    seconds: tuple[float, ...]


def detect_file(
    detector: AnyDetector, path: Path, external: ExternalProposals | None = None
) -> ImageOutcome:
    """Run a detector on one file, from its bytes to its boxes.

    Args:
        detector: The detector, or several as one.
        path: The image file.
        external: Windows from a file, in place of those that would be searched.

    Returns:
        Detections, windows and times.

    Raises:
        InputError: If the file cannot be decoded.
    """
    times = [time.perf_counter()]
    pixels = load_image(path)
    times.append(time.perf_counter())
    encoded = detector.encode(pixels)
    times.append(time.perf_counter())
    size_hw = (pixels.shape[1], pixels.shape[2])
    given = None if external is None else external.windows(path, size_hw)
    windows = detector.windows(pixels, encoded, given)
    times.append(time.perf_counter())
    detections = detector.detect(encoded, windows)
    times.append(time.perf_counter())
    return ImageOutcome(
        detections,
        windows,
        tuple(end - start for start, end in pairwise(times)),
    )


def open_detectors(
    models: Sequence[Path], device: str, rule: Mapping[str, Any] = MappingProxyType({})
) -> AnyDetector:
    """Read the detectors that options name; several answer as one.

    Args:
        models: Folders of the detectors.
        device: Where to compute, as the option says it.
        rule: Fields of their rule that are to be others.

    Returns:
        The detector.

    Raises:
        UnusableFileError: If a folder is no detector.
        UsageError: If the detectors have different classes, or a value of the rule is wrong.
    """
    detectors = [Detector.load(model, choose_device(device)) for model in models]
    with options_to_blame():
        for detector in detectors:
            detector.rule = replace(detector.rule, **rule)
        return detectors[0] if len(detectors) == 1 else CombinedDetector(detectors)


class OutcomeStore:
    """Finished images of one model, on disk.

    Args:
        folder: Where the records are kept.
        models: Folders of the models; other models never meet these records.
        windows_file: Where windows come from; None if they are found.
        fresh: Whether to compute everything again.
    """

    def __init__(
        self,
        folder: Path,
        models: Sequence[Path],
        windows_file: Path | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.cache = FeatureCache(folder)
        self.models = repr([read_json(model / "manifest.json") for model in models])
        self.external = None if windows_file is None else ExternalProposals.open(windows_file)
        self.windows = "" if windows_file is None else sha256_file(windows_file)
        self.fresh = fresh

    def detect(self, detector: AnyDetector, path: Path) -> ImageOutcome:
        """Look the image up, or run the detector on it and keep the outcome.

        Args:
            detector: The detector of this model.
            path: The image file.

        Returns:
            Its outcome; the times are those of the run that computed it.

        Raises:
            InputError: If the file cannot be read or decoded.
        """
        try:
            digest = sha256_file(path)
        except UnusableFileError as error:  # the run does not depend on this one file
            raise InputError(error.message, path=path, code="E_UNREADABLE") from error
        key = self.cache.make_key(
            kind="outcome", version=OUTCOME_VERSION, models=self.models, image=digest
        )
        record = None if self.fresh else self.cache.get(key)
        if record is None:
            outcome = detect_file(detector, path, self.external)
            self.cache.put(key, _to_record(outcome))
            return outcome
        return ImageOutcome(
            Detections(record["boxes"], record["scores"], record["labels"]),
            record["windows"],
            tuple(record["seconds"].tolist()),
        )


def _to_record(outcome: ImageOutcome) -> dict[str, Tensor]:
    """Write an outcome as named tensors."""
    seconds = torch.tensor(outcome.seconds, dtype=torch.float64)
    return {**outcome.detections, "windows": outcome.windows, "seconds": seconds}
