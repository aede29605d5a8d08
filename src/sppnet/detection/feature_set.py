"""What training asks of each image again and again: its windows and its maps, from the cache."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sppnet.config.detection import DetectionConfig
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.detection.proposals.precomputed import ExternalProposals
from sppnet.detection.proposals.propose import PROPOSALS_VERSION, propose, take_turns
from sppnet.errors import InputError, Problem
from sppnet.geometry import flip_boxes
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache, WriteBehind

MAPS_VERSION = 2  # raise it whenever resizing or the trunks compute other maps from the same input
T = TypeVar("T")
Put = Callable[[str, dict[str, Tensor]], None]


@dataclass
class CachedFeatures:
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
        anchors: Proposes further windows, from the maps; None as long as nothing is learnt.
        max_anchors: The most such windows per image.
        external: Windows from a file, in place of those of a method.
    """

    images: Sequence[LabelledImage]
    encoder: Encoder
    cache: FeatureCache
    proposals: str = "graph"
    max_proposals: int = 1000
    seed: int = 0
    problems: list[Problem] = field(default_factory=list)
    anchors: AnchorProposer | None = None
    max_anchors: int = 400
    external: ExternalProposals | None = None

    def __post_init__(self) -> None:
        self._digests: dict[Path, str] = {}
        self._bad: set[Path] = set()
        self._weights = digest_weights(self.encoder.backbone.state_dict())
        if self.anchors is not None:
            self.use_anchors(self.anchors)

    @classmethod
    def of(
        cls,
        settings: DetectionConfig,
        images: Sequence[LabelledImage],
        encoder: Encoder,
        cache: FeatureCache,
        *,
        anchors: AnchorProposer | None = None,
        external: ExternalProposals | None = None,
    ) -> "CachedFeatures":
        """Prepare images with the windows that settings ask for."""
        return cls(
            images,
            encoder,
            cache,
            settings.proposals,
            settings.max_proposals,
            settings.seed,
            anchors=anchors,
            max_anchors=settings.max_anchors,
            external=external,
        )

    @property
    def usable(self) -> list[LabelledImage]:
        """The images that could be decoded so far."""
        return [image for image in self.images if image.path not in self._bad]

    def views(self, *, mirror: bool = False) -> list[LabelledImage]:
        """The usable images, each followed by its mirror image, if asked."""
        return list_views(self.usable, mirror=mirror)

    def use_anchors(self, anchors: AnchorProposer) -> None:
        """Have further windows proposed from the maps from now on."""
        self.anchors = anchors
        self._anchors_digest = digest_weights(anchors.tensors())

    def propose_all(self, workers: int = 2, track: Track = no_tracking) -> None:
        """Compute the windows of every image, several images at a time."""
        images = self.usable  # counted before the threads begin to find bad ones
        pool = ThreadPoolExecutor(workers)
        try:
            jobs = pool.map(self.attempt(self.windows), images)
            for _ in track(jobs, "proposing windows", total=len(images)):
                pass
        finally:  # Ctrl-C waits for the images in work, not for all those that wait in line
            pool.shutdown(cancel_futures=True)

    def encode_all(self, track: Track = no_tracking, *, mirror: bool = False) -> None:
        """Convolve every image at every scale; its mirror image, too, if asked."""
        images = self.views(mirror=mirror)
        with WriteBehind(self.cache) as later:
            attempt = self.attempt(lambda image: self.encoded(image, put=later.put))
            for image in track(images, "convolving images", total=len(images)):
                attempt(image)

    def propose_learnt(self, track: Track = no_tracking) -> None:
        """Compute the windows that the maps propose, of every image."""
        if self.anchors is None:
            return
        with WriteBehind(self.cache) as later:
            for image, encoded in self.maps("proposing learnt windows", track):
                self._learnt_windows(image, self.anchors, encoded, later.put)

    def windows(self, image: LabelledImage) -> Tensor:
        """(K, 4) proposals from the pixels of an image or from a file, xyxy in pixels."""
        if image.is_mirrored:
            return flip_boxes(self.windows(image.mirror()), image.size_hw[1])
        if self.external is not None:
            return self.external.windows(image.path, image.size_hw)[: self.max_proposals]
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
            pixels = image.load()
            record = {"boxes": propose(pixels, self.proposals, self.max_proposals, self.seed)}
            self.cache.put(key, record)
        return record["boxes"]

    def all_windows(self, image: LabelledImage) -> Tensor:
        """(K, 4) proposals from the pixels and from the maps, which take turns."""
        if image.is_mirrored:
            return flip_boxes(self.all_windows(image.mirror()), image.size_hw[1])
        if self.anchors is None:
            return self.windows(image)
        return take_turns([self.windows(image), self._learnt_windows(image, self.anchors)])

    def _learnt_windows(
        self,
        image: LabelledImage,
        anchors: AnchorProposer,
        encoded: EncodedImage | None = None,
        put: Put | None = None,
    ) -> Tensor:
        """(A, 4) proposals from the maps of an image."""
        key = self.cache.make_key(
            kind="anchors",
            anchors=self._anchors_digest,
            image=self._digest(image),
            limit=self.max_anchors,
        )
        record = self.cache.get(key)
        if record is None:
            encoded = encoded or self.encoded(image)
            record = {"boxes": anchors.propose(encoded, self.max_anchors)[0]}
            (put or self.cache.put)(key, record)
        return record["boxes"]

    def encoded(self, image: LabelledImage, put: Put | None = None) -> EncodedImage:
        """Feature maps of an image.

        Args:
            image: Which one.
            put: Keeps a new map; into the cache at once if not given.

        Returns:
            The maps at every scale.
        """
        pixels: Tensor | None = None
        maps, zooms = [], []
        for short_side in self.encoder.short_sides:
            key = self._map_key(image, short_side)
            record = self.cache.get(key)
            if record is None:
                pixels = image.load() if pixels is None else pixels
                record = self._convolve(pixels, short_side)
                (put or self.cache.put)(key, record)
            maps.append(record["map"].permute(0, 3, 1, 2).to(self.encoder.device))
            zoom_x, zoom_y = record["zoom"].tolist()
            zooms.append((zoom_x, zoom_y))
        return EncodedImage(tuple(maps), tuple(zooms), image.size_hw)

    def _map_key(self, image: LabelledImage, short_side: int) -> str:
        """Everything that a map depends on."""
        return self.cache.make_key(
            kind=f"map of {type(self.encoder).__name__}",
            version=MAPS_VERSION,
            image=self._digest(image),
            flipped=image.is_mirrored,
            weights=self._weights,
            backbone=repr(sorted(self.encoder.backbone.config().items())),
            short_side=short_side,
            max_long_side=self.encoder.max_long_side or 0,
        )

    def _convolve(self, pixels: Tensor, short_side: int) -> dict[str, Tensor]:
        """One map as the cache keeps it: (1, h, w, C), a cell in one stretch."""
        features, zoom = self.encoder.encode_scale(pixels, short_side)
        cells = features.cpu().permute(0, 2, 3, 1)
        return {"map": cells, "zoom": torch.tensor(zoom, dtype=torch.float64)}

    def __iter__(self) -> Iterator[tuple[LabelledImage, EncodedImage, Tensor]]:
        """Go through the usable images with their maps and windows."""
        return iter(CachedProposals(CachedMaps(self)))

    def maps(
        self, description: str, track: Track = no_tracking, *, mirror: bool = False
    ) -> "CachedMaps":
        """The usable images with their maps, to be gone through as often as wanted."""
        return CachedMaps(self, description, track, mirror)

    def tracked(
        self, description: str, track: Track = no_tracking, *, mirror: bool = False
    ) -> "CachedProposals":
        """The usable images with their maps and windows, as often as wanted."""
        return CachedProposals(self.maps(description, track, mirror=mirror))

    def _digest(self, image: LabelledImage) -> str:
        """SHA-256 of the bytes of the file, read once per run."""
        if image.path not in self._digests:
            try:
                self._digests[image.path] = hashlib.sha256(image.path.read_bytes()).hexdigest()
            except OSError as error:
                rule = f"cannot be read: {error.strerror}"
                raise InputError(rule, path=image.path, code="E_UNREADABLE") from error
        return self._digests[image.path]

    def attempt(self, work: Callable[[LabelledImage], T]) -> Callable[[LabelledImage], T | None]:
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


@dataclass(frozen=True)
class CachedMaps:
    """Images with their maps, without windows.

    Args:
        cached: Where they come from.
        description: What a pass is for.
        track: Shows the progress of each pass.
        mirror: Whether each image is followed by its mirror image.
    """

    cached: CachedFeatures
    description: str = ""
    track: Track = no_tracking
    mirror: bool = False

    def __iter__(self) -> Iterator[tuple[LabelledImage, EncodedImage]]:
        images = self.cached.views(mirror=self.mirror)
        for image in self.track(images, self.description, total=len(images)):
            encoded = self.cached.attempt(self.cached.encoded)(image)
            if encoded is not None:
                yield image, encoded


@dataclass(frozen=True)
class CachedProposals:
    """Images with their maps and windows.

    Args:
        maps: The images.
    """

    maps: CachedMaps

    def __iter__(self) -> Iterator[tuple[LabelledImage, EncodedImage, Tensor]]:
        cached = self.maps.cached
        for image, encoded in self.maps:
            windows = cached.attempt(cached.all_windows)(image)
            if windows is not None:
                yield image, encoded, windows


def list_views(images: Sequence[LabelledImage], *, mirror: bool) -> list[LabelledImage]:
    """List images, each followed by its mirror image if asked.

    Example:
        >>> list_views([], mirror=True)
        []
    """
    if not mirror:
        return list(images)
    return [view for image in images for view in (image, image.mirror())]


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
