"""The features of a data set: proposals and feature maps of each image, kept in a cache on disk."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache, partial, wraps
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from sppnet.detection.assign import ITSELF, Views
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.detection.proposals.precomputed import ExternalProposals
from sppnet.detection.proposals.propose import (
    PROPOSALS_VERSION,
    WORKING_SIDE,
    propose,
    take_turns,
)
from sppnet.errors import InputError, Problem
from sppnet.geometry import flip_boxes
from sppnet.images import LabelledImage
from sppnet.images.decode import decode_content, number_of, read_content
from sppnet.progress import Track, no_tracking, work_ahead
from sppnet.storage import FeatureCache, WriteBehind, sha256_bytes
from sppnet.storage.files import json_text
from sppnet.storage.tensors import bytes_to_tensors, digest_of, tensors_to_bytes

MAPS_VERSION = 2  # raise it whenever resizing or the trunks compute other maps from the same input
CHANGED = "the file was changed while the run worked on it"
# A part of an image has the proposals of which this share of the area is seen there.
SEEN_PROPOSAL = 0.5
T = TypeVar("T")
P = ParamSpec("P")
Put = Callable[[str, dict[str, Tensor]], None]


@dataclass(frozen=True)
class Repeatable(Generic[T]):
    """Begins a generator anew each time it is iterated over.

    Args:
        begin: Calls the generator function.

    Example:
        >>> numbers = Repeatable(lambda: iter([1, 2]))
        >>> list(numbers), list(numbers)
        ([1, 2], [1, 2])
    """

    begin: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.begin()


def repeatable(generator: Callable[P, Iterator[T]]) -> Callable[P, Iterable[T]]:
    """Let a generator function return something that can be iterated over more than once."""

    @wraps(generator)
    def start(*args: P.args, **kwargs: P.kwargs) -> Iterable[T]:
        return Repeatable(partial(generator, *args, **kwargs))

    return start


@dataclass
class CachedFeatures:
    """Proposals and feature maps of a set of images, computed once and kept on disk.

    An image that cannot be decoded is recorded in ``problems`` and left out from then on.

    Args:
        images: The images; nothing is computed before it is asked for.
        encoder: Makes the maps.
        cache: Keeps proposals and maps; survives a kill at any time.
        method: Method that proposes from the pixels; see :func:`sppnet.detection.propose`.
        max_proposals: The most such proposals per image.
        seed: Seed of their order.
        problems: Findings about images, added as they are met.
        anchors: Proposes from the maps as well; None until it has been learnt.
        max_anchors: The most proposals per image from the maps.
        external: Proposals from a file, used instead of ``method``.
        search_side: Longest side of the copy that is searched, in pixels; 0 searches the image.
        least_side: The least side of a proposal from the pixels.
    """

    images: Sequence[LabelledImage]
    encoder: Encoder
    cache: FeatureCache
    method: str = "graph"
    max_proposals: int = 1000
    seed: int = 0
    problems: list[Problem] = field(default_factory=list)
    anchors: AnchorProposer | None = None
    max_anchors: int = 400
    external: ExternalProposals | None = None
    search_side: int = WORKING_SIDE
    least_side: int = 0

    def __post_init__(self) -> None:
        self._digests: dict[Path, str] = {}
        self._bad: set[Path] = set()
        self._weights = digest_of(None, self.encoder.backbone.state_dict())
        if self.anchors is not None:
            self.use_anchors(self.anchors)

    @property
    def usable(self) -> list[LabelledImage]:
        """The images that could be decoded so far."""
        return [image for image in self.images if image.path not in self._bad]

    def subset(self, images: Sequence[LabelledImage]) -> "CachedFeatures":
        """Give the features of some of the images; what is known of bad ones is shared.

        Args:
            images: Some of the images.
        """
        part = copy(self)
        part.images = images
        return part

    def content_numbers(self) -> Tensor:
        """Numbers by which the usable images are known again, as of ``content_number``: int64."""
        numbers = [number_of(self._digest(image)) for image in self.usable]
        return torch.tensor(numbers, dtype=torch.int64)

    def to_bytes(self) -> bytes:
        """What other processes must know to have the same images and proposals."""
        anchors = self.anchors
        places = [n for n, image in enumerate(self.images) if image.path not in self._bad]
        about = [places, None if anchors is None else anchors.config()]
        tensors = {} if anchors is None else anchors.tensors()
        return json_text(about, indent=None).encode() + tensors_to_bytes(tensors)

    def take(self, data: bytes) -> None:
        """Have the images and the proposals of another process, as ``to_bytes`` gave them.

        What that process has put into a cache on a disk that both see is taken from there; the rest
        is computed when it is asked for.

        Args:
            data: Of features that were made of the same images, encoder and settings.
        """
        plain, _, tensors = data.partition(b"\n")
        places, anchors = json.loads(plain)
        self.images = [self.images[place] for place in places]
        if anchors is not None:
            self.use_anchors(AnchorProposer.from_config(anchors, bytes_to_tensors(tensors)))

    def use_anchors(self, anchors: AnchorProposer) -> None:
        """Propose from the maps as well, from now on."""
        self.anchors = anchors
        self._anchors_digest = digest_of(None, anchors.tensors())

    def propose_all(self, workers: int = 2, track: Track = no_tracking) -> None:
        """Compute the proposals of every image from its pixels.

        Args:
            workers: Threads, each of which works on one image at a time; 0 for none but the caller.
            track: Shows progress.
        """
        images = self.usable  # counted before the threads begin to find bad ones
        shown = track(images, "finding proposals", total=len(images))
        for _, ready in work_ahead(shown, self.attempt(self.propose_from_pixels), workers):
            ready.result()

    def encode_all(self, track: Track = no_tracking, *, views: Views = ITSELF) -> None:
        """Convolve every image at every scale.

        Args:
            track: Shows progress.
            views: What is convolved of each image.
        """
        images = self.usable
        with WriteBehind(self.cache) as later:

            @torch.no_grad()
            def encode(image: LabelledImage) -> None:
                decode = cache(partial(self._decode, image))  # once for all that is seen of it
                for view in views.of(image):
                    self.encoded(view, later.put, decode)

            shown = track(images, "convolving images", total=len(images))
            for _, ready in work_ahead(shown, self.attempt(encode), self.encoder.workers):
                ready.result()

    def propose_learnt(self, track: Track = no_tracking) -> None:
        """Compute the proposals of every image from its maps; nothing without learnt anchors."""
        if self.anchors is None:
            return
        with WriteBehind(self.cache) as later:
            for image, encoded in self.maps("finding learnt proposals", track):
                self._propose_from_maps(image, self.anchors, encoded, later.put)

    def propose(self, image: LabelledImage) -> Tensor:
        """Give the proposals of an image; those from pixels and from maps take turns.

        Args:
            image: One of the images, or a view of one.

        Returns:
            (K, 4) xyxy in pixels; a view has those of its original of which half is seen.

        Raises:
            InputError: If the image cannot be read, or a file of proposals has none for it.
        """
        if (seen := _in_view(image, self.propose)) is not None:
            return seen
        found = self.propose_from_pixels(image)
        if self.anchors is None:
            return found
        return take_turns([found, self._propose_from_maps(image, self.anchors)])

    def propose_from_pixels(self, image: LabelledImage) -> Tensor:
        """Give the proposals of an image from its pixels, or from the file if there is one.

        Args:
            image: One of the images, or a view of one.

        Returns:
            (K, 4) xyxy in pixels, at most ``max_proposals``.

        Raises:
            InputError: If the image cannot be read, or a file of proposals has none for it.
        """
        if (seen := _in_view(image, self.propose_from_pixels)) is not None:
            return seen
        if self.external is not None:
            return self.external.look_up(image.path, image.size_hw)[: self.max_proposals]
        key = self.cache.make_key(
            kind="proposals",
            version=PROPOSALS_VERSION,
            image=self._digest(image),
            method=self.method,
            limit=self.max_proposals,
            seed=self.seed,
            sides=(self.search_side, self.least_side),
        )
        record = self.cache.get(key)
        if record is None:
            found = propose(
                self._decode(image),
                self.method,
                self.max_proposals,
                self.seed,
                search_side=self.search_side,
                least_side=self.least_side,
            )
            record = {"boxes": found}
            self.cache.put(key, record)
        return record["boxes"]

    def _propose_from_maps(
        self,
        image: LabelledImage,
        anchors: AnchorProposer,
        encoded: EncodedImage | None = None,
        put: Put | None = None,
    ) -> Tensor:
        """(A, 4) proposals of an image from its maps."""
        key = self.cache.make_key(
            kind="anchors",
            version=MAPS_VERSION,
            anchors=self._anchors_digest,
            image=self._digest(image),
            limit=self.max_anchors,
            maps=self._encoding(),
            short_sides=self.encoder.short_sides,
        )
        record = self.cache.get(key)
        if record is None:
            encoded = encoded or self.encoded(image)
            record = {"boxes": anchors.propose(encoded, self.max_anchors)[0]}
            (put or self.cache.put)(key, record)
        return record["boxes"]

    def encoded(
        self,
        image: LabelledImage,
        put: Put | None = None,
        decode: Callable[[], Tensor] | None = None,
    ) -> EncodedImage:
        """Give the feature maps of an image.

        Args:
            image: One of the images, or a view of one.
            put: Stores a map that had to be computed; the cache's own ``put`` if None.
            decode: Gives the pixels of the whole file, where a map has to be computed; None to
                read them.

        Returns:
            The maps at every scale.

        Raises:
            InputError: If the image cannot be read or decoded.
        """
        pixels: Tensor | None = None
        maps, zooms = [], []
        for short_side in self.encoder.short_sides:
            key = self._map_key(image, short_side)
            record = self.cache.get(key)
            if record is None:
                if pixels is None:
                    pixels = image.show(decode() if decode else self._decode(image))
                record = self._convolve(pixels, short_side)
                (put or self.cache.put)(key, record)
            maps.append(record["map"].permute(0, 3, 1, 2).to(self.encoder.device))
            zoom_x, zoom_y = record["zoom"].tolist()
            zooms.append((zoom_x, zoom_y))
        return EncodedImage(tuple(maps), tuple(zooms), image.size_hw)

    def is_usable(self, image: LabelledImage) -> bool:
        """Tell whether an image could be decoded so far."""
        return image.path not in self._bad

    def is_encoded(self, image: LabelledImage) -> bool:
        """Tell whether the maps of an image are kept, or it is known that it cannot be decoded."""
        if image.path in self._bad:
            return True
        has_all = self.attempt(
            lambda image: all(
                self._map_key(image, side) in self.cache for side in self.encoder.short_sides
            )
        )(image)
        return has_all is not False

    def _map_key(self, image: LabelledImage, short_side: int) -> str:
        """Everything that a map depends on."""
        part = {} if image.part_of is None else {"part": (*image.corner_xy, *image.size_hw)}
        return self.cache.make_key(
            kind=f"map of {type(self.encoder).__name__}",
            version=MAPS_VERSION,
            image=self._digest(image),
            flipped=image.is_mirrored,
            short_side=short_side,
            maps=self._encoding(),
            **part,
        )

    def _encoding(self) -> tuple[str | int, ...]:
        """Everything that maps depend on besides the image and its size."""
        backbone, long_side = self.encoder.backbone, self.encoder.max_long_side or 0
        trunk = repr(sorted(backbone.config().items()))
        return self._weights, trunk, long_side, self.encoder.device.type

    def _convolve(self, pixels: Tensor, short_side: int) -> dict[str, Tensor]:
        """One map as the cache keeps it: (1, h, w, C), so that a cell is contiguous."""
        features, zoom = self.encoder.encode_scale(pixels, short_side)
        cells = features.cpu().permute(0, 2, 3, 1)
        return {"map": cells, "zoom": torch.tensor(zoom, dtype=torch.float64)}

    def __iter__(self) -> Iterator[tuple[LabelledImage, EncodedImage, Tensor]]:
        """Go through the usable images with their maps and (K, 4) proposals."""
        return iter(self.samples(""))

    @repeatable
    def maps(
        self, description: str, track: Track = no_tracking, *, views: Views = ITSELF
    ) -> Iterator[tuple[LabelledImage, EncodedImage]]:
        """Go through the usable images with their maps, as often as wanted.

        Args:
            description: Says what the pass is for while ``track`` shows its progress.
            track: Shows progress.
            views: What is given of each image.

        Yields:
            An image and its maps; an image that turns out to be bad is left out.
        """
        images = self.usable
        seen, total = each_view(images, views), len(images) * views.each
        # maps are read, and their checksums made, while those of the image before are worked on
        encode = torch.no_grad()(self.attempt(self.encoded))  # another thread has its own mode
        read = work_ahead(track(seen, description, total=total), encode)
        for image, ready in read:
            encoded = ready.result()
            if encoded is not None:
                yield image, encoded

    @repeatable
    def samples(
        self, description: str, track: Track = no_tracking, *, views: Views = ITSELF
    ) -> Iterator[tuple[LabelledImage, EncodedImage, Tensor]]:
        """Go through the usable images with maps and proposals, as often as wanted.

        Args:
            description: Says what the pass is for while ``track`` shows its progress.
            track: Shows progress.
            views: What is given of each image.

        Yields:
            An image, its maps and its (K, 4) proposals, xyxy in pixels; an image that turns out to
            be bad is left out.
        """
        for image, encoded in self.maps(description, track, views=views):
            proposals = self.attempt(self.propose)(image)
            if proposals is not None:
                yield image, encoded, proposals

    def _digest(self, image: LabelledImage) -> str:
        """SHA-256 of the bytes of the file, read once per run."""
        if image.path not in self._digests:
            self._digests[image.path] = sha256_bytes(read_content(image.path))
        return self._digests[image.path]

    def _decode(self, image: LabelledImage) -> Tensor:
        """Decode the bytes under whose hash results are kept: (3, H, W) of the whole file.

        A photo that was exchanged during the run is left out: its boxes belong to another one.
        """
        data = read_content(image.path)
        if sha256_bytes(data) != self._digests.setdefault(image.path, sha256_bytes(data)):
            raise InputError(CHANGED, path=image.path, code="E_UNREADABLE")
        pixels = decode_content(data, image.path)
        if pixels.shape[1:] != (image.part_of or image).size_hw:
            raise InputError(CHANGED, path=image.path, code="E_UNREADABLE")
        return pixels

    def attempt(self, work: Callable[[LabelledImage], T]) -> Callable[[LabelledImage], T | None]:
        """Wrap a function of an image, so that a bad image is recorded and does not end the run."""

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


def _in_view(view: LabelledImage, propose: Callable[[LabelledImage], Tensor]) -> Tensor | None:
    """Proposals of the original, where a view of it shows at least half; None of an original."""
    if view.is_mirrored:
        return flip_boxes(propose(view.mirror()), view.size_hw[1])
    if view.part_of is not None:
        inside, seen = view.clip(propose(view.part_of))
        return inside[seen >= SEEN_PROPOSAL]
    return None


def each_view(images: Iterable[LabelledImage], views: Views) -> Iterator[LabelledImage]:
    """Give what is learnt from each image, one after the other; nothing of it is kept.

    Example:
        >>> list(each_view([], ITSELF))
        []
    """
    for image in images:
        yield from views.of(image)
