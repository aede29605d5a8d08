"""Decodes training images and puts them into batches of equal size."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sppnet.classification.train.config import (
    TrainerConfig,
    cut_natural,
    cut_square,
    natural_size,
    shift_colours,
)
from sppnet.classification.views import LONG_SIDE_FACTOR
from sppnet.errors import InputError, Problem
from sppnet.images import group_equal_sizes, resize_image, resize_short_side
from sppnet.images.decode import content_number, decode_content, read_content
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import derive_seed

MEMORY_LIMIT = 1 << 30  # bytes of decoded images that are kept between epochs
S = TypeVar("S")
T = TypeVar("T")


class TrainingImages:
    """The readable images of a list, resized so that crops can be cut from them.

    Every image is read once at the start, so that bad ones are known before training; as many as
    fit into ``memory_limit`` stay in memory as bytes, the others are read again in every epoch with
    the same result.

    Args:
        paths: Image files.
        short_side: Pixels of the short side of what is kept.
        memory_limit: Bytes to keep at most.
        track: Shows the progress of the first reading.

    Attributes:
        kept: (N,) int64, positions in ``paths`` of the readable images.
        digests: (N,) int64, their content numbers.
        sizes_hw: (height, width) of each one as it is kept.
        problems: One finding for each image that was left out.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        short_side: int,
        *,
        memory_limit: int = MEMORY_LIMIT,
        track: Track = no_tracking,
    ) -> None:
        self.short_side = short_side
        self.problems: list[Problem] = []
        self.sizes_hw: list[tuple[int, int]] = []
        self._paths: list[str | Path] = []
        self._photos: list[Tensor | None] = []
        kept, digests, room = [], [], memory_limit
        for index, path in enumerate(track(paths, "reading images", total=len(paths))):
            try:
                data = read_content(path)
                photo = self._prepare(data, path)
            except InputError as error:
                self.problems.append(Problem.of(error, action="left out"))
                continue
            room -= photo.numel()
            self._paths.append(path)
            self._photos.append(photo if room >= 0 else None)
            self.sizes_hw.append((photo.shape[1], photo.shape[2]))
            kept.append(index)
            digests.append(content_number(data))
        self.kept = torch.tensor(kept, dtype=torch.int64)
        self.digests = torch.tensor(digests, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def photo(self, index: int) -> Tensor:
        """Return one image: (3, H, W) uint8, the short side ``short_side``, less on long strips."""
        photo = self._photos[index]
        if photo is None:
            path = self._paths[index]
            data = read_content(path)
            if content_number(data) != self.digests[index]:
                rule = "the file was changed while the training read it"
                raise InputError(rule, path=path, code="E_UNREADABLE")
            photo = self._prepare(data, path)
        return photo

    def natural_sizes(self, short_side: int) -> list[tuple[int, int]]:
        """(height, width) of every image as natural input of a given short side."""
        return [natural_size(size_hw, short_side) for size_hw in self.sizes_hw]

    def crops(self, indices: Tensor, draws: Tensor, crop: int, size: int) -> Tensor:
        """Cut one square from each image, mirror and colour it, resize it to the epoch's size.

        Args:
            indices: (n,) which images.
            draws: (n, 6) as :meth:`Augmentation.draw` gives them.
            crop: Side of the square in pixels.
            size: Side of what is returned; the same crop resized, as in the paper.

        Returns:
            (n, 3, size, size) float32, 0..1, channels last in memory.
        """
        pairs = zip(indices.tolist(), draws.tolist(), strict=True)
        parts = [cut_square(self.photo(index), draw[:2], crop) for index, draw in pairs]
        return _finish(parts, draws, (size, size))

    def naturals(self, indices: Tensor, draws: Tensor, short_side: int) -> Tensor:
        """Take images of one natural size whole, mirror and colour them.

        Args:
            indices: (n,) which images; all of one size in :meth:`natural_sizes`.
            draws: (n, 6) as for :meth:`crops`; the place says which end of the long side gives the
                few pixels that are cut off.
            short_side: Pixels.

        Returns:
            (n, 3, h, w) float32, 0..1, channels last in memory.
        """
        pairs = zip(indices.tolist(), draws.tolist(), strict=True)
        parts = [cut_natural(self.photo(index), draw[:2], short_side) for index, draw in pairs]
        return _finish(parts, draws, (parts[0].shape[1], parts[0].shape[2]))

    def _prepare(self, data: bytes, path: str | Path) -> Tensor:
        limit = LONG_SIDE_FACTOR * self.short_side
        image, _ = resize_short_side(decode_content(data, path), self.short_side, limit)
        return image.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _finish(parts: Sequence[Tensor], draws: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Turn n parts (3, h, w) uint8 of one size into the network's input."""
    mirrored = [p.flip(2) if sign < 0 else p for p, sign in zip(parts, draws[:, 2], strict=True)]
    images = torch.stack(mirrored).contiguous(memory_format=torch.channels_last)
    resized = resize_image(images.float().div_(255), size_hw)
    coloured = shift_colours(resized, draws[:, 3:]) if draws[:, 3:].any() else resized
    return coloured.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class MicroBatch:
    """Images that go through the network together, without padding.

    Args:
        groups: (n_i, 3, h_i, w_i) of one size each.
        labels: (sum of n_i,) in the order of the groups.
    """

    groups: list[Tensor]
    labels: Tensor


class Epoch:
    """One pass over all images: order, size and what is drawn follow from the seed and its number.

    Args:
        images: N images.
        labels: (N,) int64.
        config: What the training does.
        number: 0 for the first epoch.

    Attributes:
        size: Side, or short side, of the input.
        batches: Positions of the images of each update; every image once.
    """

    def __init__(
        self, images: TrainingImages, labels: Tensor, config: TrainerConfig, number: int
    ) -> None:
        self._images, self._labels, self._config = images, labels, config
        self.size = config.sizes.of_epoch(number, config.seed)
        square = (self.size, self.size)
        natural = config.sizes.natural
        self._sizes_hw = images.natural_sizes(self.size) if natural else [square] * len(images)
        self._draws = config.augmentation.draw(
            len(images), derive_seed(config.seed, "images", number)
        )
        order = torch.Generator().manual_seed(derive_seed(config.seed, "order", number))
        self.batches = equal_size_batches(self._sizes_hw, config.batch, order)

    def micro_batches(self, shard: Tensor) -> list[MicroBatch]:
        """Prepare what one process shows of one batch, in the configured number of parts."""
        pieces = shard.tensor_split(self._config.accumulate)
        return [self._micro_batch(piece) for piece in pieces if len(piece)]

    def _micro_batch(self, indices: Tensor) -> MicroBatch:
        sizes = [self._sizes_hw[index] for index in indices.tolist()]
        groups = [indices[group] for group in group_equal_sizes(sizes, len(indices))]
        return MicroBatch([self._group(group) for group in groups], self._labels[torch.cat(groups)])

    def _group(self, indices: Tensor) -> Tensor:
        draws = self._draws[indices]
        if self._config.sizes.natural:
            return self._images.naturals(indices, draws, self.size)
        return self._images.crops(indices, draws, self._config.crop, self.size)


def equal_size_batches(
    sizes_hw: Sequence[tuple[int, int]], batch: int, generator: torch.Generator
) -> list[Tensor]:
    """Shuffle images and put those of one size together; what is left over makes mixed batches.

    Every size fills as many whole batches as it can. The rest, less than a batch of each size,
    shares batches in which equal sizes lie beside each other. Nothing is padded or left out.

    Args:
        sizes_hw: (height, width) of each of N images.
        batch: Images in a batch.
        generator: Decides the order of images and of batches.

    Returns:
        ceil(N / batch) batches of positions, every position once.

    Example:
        >>> sizes = [(2, 2)] * 5 + [(2, 3)] * 4
        >>> batches = equal_size_batches(sizes, 4, torch.Generator().manual_seed(0))
        >>> sorted(len({sizes[index] for index in each.tolist()}) for each in batches)
        [1, 1, 1]
    """
    of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in torch.randperm(len(sizes_hw), generator=generator).tolist():
        of_size[sizes_hw[index]].append(index)
    batches: list[Tensor] = []
    rest: list[int] = []
    for members in of_size.values():
        whole = len(members) // batch * batch
        batches += [torch.tensor(members[i : i + batch]) for i in range(0, whole, batch)]
        rest += members[whole:]
    if rest:
        batches += torch.tensor(rest).tensor_split(-(-len(rest) // batch))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def prepare_ahead(prepare: Callable[[S], T], jobs: Iterable[S], workers: int) -> Iterator[T]:
    """Prepare what comes next in threads while what came before is being used.

    Args:
        prepare: Does one job; its result must not depend on other jobs.
        jobs: In the order of the results.
        workers: Threads, each at most one job ahead; 0 prepares each job when it is asked for.

    Yields:
        The results, in order, the same for any number of threads.

    Example:
        >>> list(prepare_ahead(abs, [-3, 2, -1], workers=2))
        [3, 2, 1]
    """
    if not workers:
        yield from map(prepare, jobs)
        return
    threads = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(threads.submit(prepare, job))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
