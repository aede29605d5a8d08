"""What a detector did with images: worked out once, kept on disk, and looked up from then on."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sppnet.detection import ExternalProposals
from sppnet.detection.combined import AnyDetector
from sppnet.errors import InputError
from sppnet.geometry import Detections
from sppnet.images.decode import decode_content, is_large, number_of, read_content
from sppnet.progress import work_ahead
from sppnet.storage import FeatureCache, sha256_bytes
from sppnet.storage.tensors import digest_of

STAGES = ("decode", "features", "proposals", "windows")
OUTCOME_VERSION = 3  # raise it whenever the same model finds other things in the same file
T = TypeVar("T")
_ONE_LARGE = threading.Lock()  # several large images at a time would take gigabytes


@dataclass(frozen=True)
class ImageOutcome:
    """What a detector did with one image.

    Args:
        detections: What was found.
        proposals: (W, 4) boxes that were scored, xyxy in pixels.
        seconds: Time of each of :data:`STAGES`.
        number: The number by which the file's content is known again.
    """

    detections: Detections
    proposals: Tensor
    seconds: tuple[float, ...]
    number: int


@dataclass
class ReadImage:
    """An image file that was read once, so that what is hashed, decoded and drawn is one photo.

    Args:
        path: The file.
        data: Its bytes.
    """

    path: Path
    data: bytes
    seconds: float = 0.0  # of decoding

    @classmethod
    def of(cls, path: Path) -> "ReadImage":
        """Read a file; raises ``InputError``."""
        return cls(path, read_content(path))

    @cached_property
    def pixels(self) -> Tensor:
        """The image, (3, H, W) RGB, mostly in bytes; raises ``InputError``."""
        begin = time.perf_counter()
        decoded = decode_content(self.data, self.path)
        self.seconds = time.perf_counter() - begin
        return decoded

    @contextmanager
    def held(self) -> Iterator[Tensor]:
        """Give the pixels; of large images one at a time has them, and lets them go afterwards.

        Raises:
            InputError: If the file cannot be decoded.
        """
        if not is_large(self.data):
            yield self.pixels
            return
        with _ONE_LARGE:
            try:
                yield self.pixels
            finally:
                self.__dict__.pop("pixels", None)

    @cached_property
    def key_part(self) -> str:
        """SHA-256 of the bytes."""
        return sha256_bytes(self.data)

    @property
    def number(self) -> int:
        """The number by which the content is known again."""
        return number_of(self.key_part)


@torch.no_grad()
def detect_image(
    detector: AnyDetector, image: ReadImage, external: ExternalProposals | None = None
) -> ImageOutcome:
    """Run a detector on one image, from its bytes to its boxes.

    Args:
        detector: The detector, or several as one.
        image: The image file.
        external: Proposals from a file, used instead of a search in the pixels.

    Returns:
        Detections, proposals and times.

    Raises:
        InputError: If the file cannot be decoded.
    """
    with image.held() as pixels:
        return _detect_pixels(detector, image, pixels, external)


def _detect_pixels(
    detector: AnyDetector, image: ReadImage, pixels: Tensor, external: ExternalProposals | None
) -> ImageOutcome:
    """Run a detector on decoded pixels."""
    boxes = None
    if external is not None:
        boxes = external.look_up(image.path, (pixels.shape[1], pixels.shape[2]))
    times = [time.perf_counter()]
    encoded = detector.encode(pixels)
    times.append(time.perf_counter())
    proposals = detector.propose(pixels, encoded, boxes)
    times.append(time.perf_counter())
    detections = detector.detect(encoded, proposals)
    times.append(time.perf_counter())
    seconds = (image.seconds, *(end - start for start, end in pairwise(times)))
    return ImageOutcome(detections, proposals, seconds, image.number)


def estimate_seconds(detector: AnyDetector, paths: Sequence[Path]) -> float:
    """How long a detector needs for images, by the slower of the first two that can be read."""
    seconds = 0.0
    for path in paths[:2]:
        with suppress(InputError):  # reported where the image is looked at
            seconds = max(seconds, sum(detect_image(detector, ReadImage.of(path)).seconds))
    return seconds * len(paths)


Look = tuple[ReadImage, ImageOutcome]


class OutcomeStore:
    """Keeps the outcomes of images on disk, so that a run that was stopped continues.

    An outcome is found again only under all that it depends on: the numbers and constants of the
    detector, the bytes of the image, its proposals in the file of proposals, the kind of device and
    the number of threads, which change the last bits, and the versions of the software.

    Args:
        folder: Where the records are kept.
        detector: The detector, or several as one.
        proposals_file: File of proposals; None if the detectors search for them.
        fresh: Whether to compute everything again.
        keep_proposals: Whether the boxes that were scored are kept, too: most of an outcome.
    """

    def __init__(
        self,
        folder: Path,
        detector: AnyDetector,
        proposals_file: Path | None = None,
        *,
        fresh: bool = False,
        keep_proposals: bool = True,
    ) -> None:
        self.cache = FeatureCache(folder)
        self.detector = detector
        self.external = None if proposals_file is None else ExternalProposals.open(proposals_file)
        self.fresh = fresh
        self.keep_proposals = keep_proposals
        tensors = detector.tensors()
        self._digest = digest_of(detector.config(), tensors)
        self._threads = torch.get_num_threads()  # here: other threads may say something else
        self._devices = tuple(sorted({tensor.device.type for tensor in tensors.values()}))

    def detect(self, image: ReadImage) -> ImageOutcome:
        """Look the image up, or run the detector on it and keep the outcome.

        Args:
            image: The image file.

        Returns:
            Its outcome; the times are those of the run that computed it.

        Raises:
            InputError: If the file cannot be decoded.
        """
        key = self.key(image)
        record = None if self.fresh else self.cache.get(key)
        if record is not None:
            return ImageOutcome(
                _detections_of(record),
                record["windows"],
                tuple(record["seconds"].tolist()),
                image.number,
            )
        outcome = detect_image(self.detector, image, self.external)
        if not self.keep_proposals:
            outcome = replace(outcome, proposals=torch.zeros(0, 4))
        self.cache.put(key, _to_record(outcome))
        return outcome

    def detect_ahead(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Future[Look]]]:
        """Look at image files, several at a time: on a processor one in each thread.

        Args:
            paths: The files.

        Yields:
            Each file, in order, with the future of its bytes and its outcome; ``result()`` raises
            ``InputError`` if it cannot be decoded.
        """

        def look(path: Path) -> Look:
            image = ReadImage.of(path)
            return image, self.detect(image)

        # elsewhere one is decoded and searched while another is convolved
        workers = self.detector.workers
        return work_ahead(paths, look, max(2, workers), alone=workers > 1)

    def recall(self, key: str, path: Path) -> Detections:
        """Give what was found in an image once more, from the record or by computing it again.

        Args:
            key: Of its outcome.
            path: The image file.

        Raises:
            InputError: If the record is gone and the file cannot be decoded.
        """
        record = self.cache.get(key)
        if record is None:
            return detect_image(self.detector, ReadImage.of(path), self.external).detections
        return _detections_of(record)

    def key(self, image: ReadImage) -> str:
        """Everything that an outcome depends on."""
        slim = {} if self.keep_proposals else {"windows": "not kept"}
        return self.cache.make_key(
            kind="outcome",
            version=OUTCOME_VERSION,
            detector=self._digest,
            proposals=None if self.external is None else self.external.digest(image.path),
            image=image.key_part,
            devices=self._devices,
            threads=self._threads,
            **slim,
        )


def _to_record(outcome: ImageOutcome) -> dict[str, Tensor]:
    """Write an outcome as named tensors."""
    seconds = torch.tensor(outcome.seconds, dtype=torch.float64)
    return {**outcome.detections, "windows": outcome.proposals, "seconds": seconds}


def _detections_of(record: Mapping[str, Tensor]) -> Detections:
    """Read what :func:`_to_record` wrote of the detections."""
    return Detections(record["boxes"], record["scores"], record["labels"])


@dataclass(frozen=True)
class PerImage(Mapping[str, T]):
    """A value for each image that is worked out whenever it is asked for, and never kept.

    Args:
        images: Their names, in order.
        value: Gives the value of a name.
    """

    images: Sequence[str]
    value: Callable[[str], T]

    def __getitem__(self, image: str) -> T:
        return self.value(image)

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Seen:
    """What is remembered of an image: little, for there may be many.

    Args:
        key: Of its outcome.
        counts: How many detections of a class count, of the classes that have any.
    """

    key: str
    counts: Mapping[int, int]

    def all_counts(self, num_classes: int) -> list[int]:
        """(K,) how many of each class."""
        return [self.counts.get(label, 0) for label in range(num_classes)]
