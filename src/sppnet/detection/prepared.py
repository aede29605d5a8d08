"""What training asks of each image again and again: its windows and its maps, from the cache."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.proposals import PROPOSALS_VERSION, propose
from sppnet.errors import InputError, Problem, Track, no_tracking
from sppnet.images import LabelledImage, load_image
from sppnet.storage import FeatureCache

MAPS_VERSION = 1  # raise it whenever resizing or the trunks compute other maps from the same input
T = TypeVar("T")


@dataclass
class PreparedImages:
    """Proposals and feature maps of a set of images, computed once and kept on disk.

    An image that cannot be decoded is recorded in ``problems`` and left out from then on.

    Args:
        images: What to prepare.
        encoder: Makes the maps.
        cache: Where proposals and maps are kept; survives a kill at any time.
        proposals: Name of the proposal method.
        max_proposals: The most windows per image.
        seed: Of the order of proposals.
        problems: Findings about images, filled as they are met.
    """

    images: Sequence[LabelledImage]
    encoder: Encoder
    cache: FeatureCache
    proposals: str = "selective_search"
    max_proposals: int = 2000
    seed: int = 0
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._digests: dict[Path, str] = {}
        self._bad: set[Path] = set()
        self._weights = digest_weights(self.encoder.backbone.state_dict())

    @property
    def usable(self) -> list[LabelledImage]:
        """The images that could be decoded so far."""
        return [image for image in self.images if image.path not in self._bad]

    def propose_all(self, workers: int = 2, track: Track = no_tracking) -> None:
        """Compute the windows of every image, several images at a time."""
        images = self.usable  # counted before the threads begin to find bad ones
        pool = ThreadPoolExecutor(workers)
        try:
            jobs = pool.map(self._attempt(self.windows), images)
            for _ in track(jobs, "proposing windows", total=len(images)):
                pass
        finally:  # Ctrl-C waits for the images in work, not for all those that wait in line
            pool.shutdown(cancel_futures=True)

    def encode_all(self, track: Track = no_tracking) -> None:
        """Convolve every image at every scale."""
        attempt = self._attempt(self.encoded)
        for image in track(self.usable, "convolving images", total=len(self.usable)):
            attempt(image)

    def windows(self, image: LabelledImage) -> Tensor:
        """(K, 4) proposals of an image, xyxy in pixels."""
        key = self.cache.make_key(
            kind="proposals",
            version=PROPOSALS_VERSION,
            image=self._digest(image),
            method=self.proposals,
            limit=self.max_proposals,
            seed=self.seed,
        )
        record = self.cache.get(key)
        if record is None:
            pixels = load_image(image.path)
            record = {"boxes": propose(pixels, self.proposals, self.max_proposals, self.seed)}
            self.cache.put(key, record)
        return record["boxes"]

    def encoded(self, image: LabelledImage) -> EncodedImage:
        """Feature maps of an image."""
        pixels: Tensor | None = None
        maps, zooms = [], []
        for short_side in self.encoder.short_sides:
            key = self.cache.make_key(
                kind="map",
                version=MAPS_VERSION,
                image=self._digest(image),
                weights=self._weights,
                backbone=repr(sorted(self.encoder.backbone.description().items())),
                short_side=short_side,
                max_long_side=self.encoder.max_long_side,
            )
            record = self.cache.get(key)
            if record is None:
                pixels = load_image(image.path) if pixels is None else pixels
                features, zoom = self.encoder.encode_scale(pixels, short_side)
                record = {"map": features.cpu(), "zoom": torch.tensor(zoom, dtype=torch.float64)}
                self.cache.put(key, record)
            maps.append(record["map"].to(self.encoder.device))
            zoom_x, zoom_y = record["zoom"].tolist()
            zooms.append((zoom_x, zoom_y))
        return EncodedImage(tuple(maps), tuple(zooms), image.size_hw)

    def __iter__(self) -> Iterator[tuple[LabelledImage, EncodedImage, Tensor]]:
        """Go through the usable images with their maps and windows."""
        for image in self.usable:
            pair = self._attempt(lambda i: (self.encoded(i), self.windows(i)))(image)
            if pair is not None:
                yield image, *pair

    def tracked(
        self, description: str, track: Track = no_tracking
    ) -> Iterable[tuple[LabelledImage, EncodedImage, Tensor]]:
        """Iterate with progress."""
        return track(self, description, total=len(self.usable))

    def _digest(self, image: LabelledImage) -> str:
        """SHA-256 of the bytes of the file, read once per run."""
        if image.path not in self._digests:
            try:
                self._digests[image.path] = hashlib.sha256(image.path.read_bytes()).hexdigest()
            except OSError as error:
                rule = f"cannot be read: {error.strerror}"
                raise InputError(rule, path=image.path, code="E_UNREADABLE") from error
        return self._digests[image.path]

    def _attempt(self, work: Callable[[LabelledImage], T]) -> Callable[[LabelledImage], T | None]:
        """Wrap work on one image so that a bad image is recorded instead of stopping the run."""

        def attempt(image: LabelledImage) -> T | None:
            if image.path in self._bad:
                return None
            try:
                return work(image)
            except InputError as error:
                if image.path not in self._bad:
                    self.problems.append(Problem.of(error, "image left out"))
                self._bad.add(image.path)
                return None

        return attempt


def digest_weights(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the names and values of tensors.

    Example:
        >>> digest_weights({"a": torch.zeros(1)}) == digest_weights({"a": torch.ones(1)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        values = tensors[name].detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
