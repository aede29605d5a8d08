"""Training images: decoded once, cut and mirrored anew for every epoch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sppnet.classification.augmentation import (
    cut_natural,
    cut_square,
    natural_size,
    shift_colours,
)
from sppnet.classification.views import LONG_SIDE_FACTOR
from sppnet.errors import InputError, Problem
from sppnet.images import resize_image, resize_short_side
from sppnet.images.content import content_number, decode_content, read_content
from sppnet.progress import Track, no_tracking

MEMORY_LIMIT = 1 << 30  # bytes of decoded images that are kept between epochs


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
            photo = self._prepare(read_content(path), path)
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
