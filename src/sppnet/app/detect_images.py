"""Detection in single files, timed stage by stage; finished images are kept for a later run."""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sppnet.detection import Detector
from sppnet.errors import InputError, UnusableFileError
from sppnet.geometry import Detections
from sppnet.images import load_image
from sppnet.storage import FeatureCache, read_json, sha256_file

STAGES = ("decode", "proposals", "features", "windows")
OUTCOME_VERSION = 1  # raise it whenever the same model finds other things in the same file


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


def detect_file(detector: Detector, path: Path) -> ImageOutcome:
    """Run a detector on one file, from its bytes to its boxes.

    Args:
        detector: The detector.
        path: The image file.

    Returns:
        Detections, windows and times.

    Raises:
        InputError: If the file cannot be decoded.
    """
    times = [time.perf_counter()]
    pixels = load_image(path)
    times.append(time.perf_counter())
    windows = detector.propose(pixels)
    times.append(time.perf_counter())
    encoded = detector.encode(pixels)
    times.append(time.perf_counter())
    detections = detector.detect(encoded, windows)
    times.append(time.perf_counter())
    return ImageOutcome(
        detections,
        windows,
        tuple(end - start for start, end in pairwise(times)),
    )


class OutcomeStore:
    """Finished images of one model, on disk.

    Args:
        folder: Where the records are kept.
        model: Folder of the model; another model never meets these records.
        fresh: Whether to compute everything again.
    """

    def __init__(self, folder: Path, model: Path, *, fresh: bool = False) -> None:
        self.cache = FeatureCache(folder)
        self.model = repr(read_json(model / "manifest.json"))
        self.fresh = fresh

    def detect(self, detector: Detector, path: Path) -> ImageOutcome:
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
            kind="outcome", version=OUTCOME_VERSION, model=self.model, image=digest
        )
        record = None if self.fresh else self.cache.get(key)
        if record is None:
            outcome = detect_file(detector, path)
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
