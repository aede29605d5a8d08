"""Training images: decoded once, cut and mirrored anew for every epoch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sppnet.classification.features import content_number, decode_content, read_content
from sppnet.errors import InputError, Problem, Track, no_tracking
from sppnet.images import resize_image, resize_short_side

MEMORY_LIMIT = 1 << 30  # bytes of decoded images that are kept between epochs
LONG_SIDE_FACTOR = 8


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

    def crops(self, indices: Tensor, draws: Tensor, crop: int, size: int) -> Tensor:
        """Cut one square from each image, mirror half of them, resize to the size of the epoch.

        Args:
            indices: (n,) which images.
            draws: (n, 3) in 0..1: where the crop lies in y and x, and below 0.5 to mirror.
            crop: Side of the square in pixels.
            size: Side of what is returned; the same crop resized, as in the paper.

        Returns:
            (n, 3, size, size) float32, 0..1.
        """
        cut = [
            cut_crop(self.photo(index), draw, crop)
            for index, draw in zip(indices.tolist(), draws.tolist(), strict=True)
        ]
        resized = [c if size == crop else resize_image(c, (size, size)) for c in cut]
        return torch.stack(resized)

    def _prepare(self, data: bytes, path: str | Path) -> Tensor:
        limit = LONG_SIDE_FACTOR * self.short_side
        image, _ = resize_short_side(decode_content(data, path), self.short_side, limit)
        return image.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def cut_crop(photo: Tensor, draw: Sequence[float], crop: int) -> Tensor:
    """Cut a square out of a (3, H, W) uint8 image: (3, crop, crop) float32, 0..1.

    Example:
        >>> cut_crop(torch.full((3, 8, 20), 255, dtype=torch.uint8), (0.0, 0.9, 0.7), 8).shape
        torch.Size([3, 8, 8])
    """
    height, width = photo.shape[1:]
    side = min(crop, height, width)
    y = int(draw[0] * (height - side + 1))
    x = int(draw[1] * (width - side + 1))
    cut = photo[:, y : y + side, x : x + side].float().div(255)
    cut = cut.flip(2) if draw[2] < 0.5 else cut
    return cut if side == crop else resize_image(cut, (crop, crop))
