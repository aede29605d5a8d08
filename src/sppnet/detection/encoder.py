"""The idea of the paper: encode an image once, then describe as many windows as wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.backbones import Backbone
from sppnet.detection.scales import TARGET_SIDE, choose_scales
from sppnet.geometry import Projection, project_boxes
from sppnet.geometry.projection import PROJECTION_PRESETS
from sppnet.images import resize_short_side
from sppnet.pooling import num_bins, pool_regions, score_regions
from sppnet.pooling.bins import check_levels


@dataclass(frozen=True)
class EncodedImage:
    """Feature maps of one image at every scale, ready to be asked about windows.

    Args:
        maps: One (1, C, h, w) feature map per scale.
        zooms_xy: Per scale, pixels of the resized image per pixel of the original, along x and y.
        image_size_hw: Size of the original image.
        mirrored: The mirror image, where windows are to be judged in both.
    """

    maps: tuple[Tensor, ...]
    zooms_xy: tuple[tuple[float, float], ...]
    image_size_hw: tuple[int, int]
    mirrored: "EncodedImage | None" = None

    @property
    def short_sides(self) -> tuple[int, ...]:
        """Length of the resized image's short side at each scale; a cap makes it smaller."""
        height, width = self.image_size_hw
        return tuple(min(round(width * x), round(height * y)) for x, y in self.zooms_xy)


class Encoder:
    """Turns images into feature maps, and windows into vectors of one length.

    Args:
        backbone: Convolution trunk; knows its stride and the centre of its cell 0.
        short_sides: Length of the image's short side at each scale, in pixels.
        levels: Bins along each side, one number per pyramid level.
        projection: ``released`` or ``paper_v4``: how pixel boxes become cells.
        max_long_side: Cap on the long side, in pixels: very long images are convolved at a smaller
            scale; None for no cap, as in the paper.
        target_side: Size that a window should have at its scale, in pixels.

    Raises:
        ValueError: If there is no scale, a level is below 1, or the projection does not exist.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> encoder = Encoder(build_backbone("small5"), short_sides=(160,))
        >>> encoded = encoder.encode(torch.rand(3, 120, 200))
        >>> encoder.describe(encoded, torch.tensor([[10.0, 10.0, 90.0, 60.0]])).shape
        torch.Size([1, 4800])

    Source:
        SPP-net, section 4.1.
    """

    def __init__(
        self,
        backbone: Backbone,
        short_sides: Sequence[int] = (688,),
        levels: Sequence[int] = (1, 2, 3, 6),
        projection: str = "released",
        max_long_side: int | None = 2000,
        target_side: float = TARGET_SIDE,
    ) -> None:
        if not short_sides or min(short_sides) < 1:
            raise ValueError(f"short_sides must be positive, got {tuple(short_sides)}")
        if projection not in PROJECTION_PRESETS:
            raise ValueError(
                f"projection must be one of {sorted(PROJECTION_PRESETS)}, got {projection!r}"
            )
        self.backbone = backbone.eval()
        self.short_sides = tuple(short_sides)
        self.levels = check_levels(levels)
        self.projection_name = projection
        self.max_long_side = max_long_side
        self.target_side = target_side

    @property
    def length(self) -> int:
        """Numbers in the description of a window: C * sum(n * n)."""
        return self.backbone.channels * num_bins(self.levels)

    @property
    def device(self) -> torch.device:
        """Where the trunk runs."""
        return next(self.backbone.parameters()).device

    @property
    def projection(self) -> Projection:
        """The rule from pixels of the resized image to cells."""
        preset = PROJECTION_PRESETS[self.projection_name]
        return preset(self.backbone.stride, self.backbone.centre)

    def encode(self, image: Tensor) -> EncodedImage:
        """Convolve an image once per scale.

        Args:
            image: (3, H, W) float RGB 0..1 of any size.

        Returns:
            Its feature maps.
        """
        encoded = [self.encode_scale(image, short_side) for short_side in self.short_sides]
        maps, zooms_xy = zip(*encoded, strict=True)
        return EncodedImage(maps, zooms_xy, (image.shape[1], image.shape[2]))

    @torch.no_grad()
    def encode_scale(self, image: Tensor, short_side: int) -> tuple[Tensor, tuple[float, float]]:
        """Convolve an image at one scale: its (1, C, h, w) map and the zoom along x and y."""
        resized, (zoom_y, zoom_x) = resize_short_side(image, short_side, self.max_long_side)
        # channels last: a cell is one stretch of memory, for the convolutions and for the pooling
        batch = resized[None].to(self.device, memory_format=torch.channels_last)
        return self.backbone(batch), (zoom_x, zoom_y)

    def locate(
        self, encoded: EncodedImage, boxes: Tensor, scale_of: Tensor | None = None
    ) -> Tensor:
        """Find the cells of each window at the scale that suits it.

        Args:
            encoded: The image.
            boxes: (K, 4) xyxy in pixels of the original image.
            scale_of: (K,) int64 index of the scale of each window; the best one if not given.

        Returns:
            (K, 5) int64 [scale, x0, y0, x1, y1], half-open cells.
        """
        if scale_of is None:
            sides = encoded.short_sides
            scale_of = choose_scales(boxes, encoded.image_size_hw, sides, self.target_side)
        cells = torch.zeros(len(boxes), 5, dtype=torch.int64)
        for scale, (features, zoom) in enumerate(zip(encoded.maps, encoded.zooms_xy, strict=True)):
            rows = (scale_of == scale).nonzero().flatten()
            zoomed = boxes[rows].double() * torch.tensor([*zoom, *zoom], dtype=torch.float64)
            grid_hw = (features.shape[2], features.shape[3])
            cells[rows, 0] = scale
            cells[rows, 1:] = project_boxes(zoomed, self.projection, grid_hw)
        return cells

    @torch.no_grad()
    def describe_cells(self, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Pool windows that :meth:`locate` found.

        Args:
            encoded: The image.
            cells: (K, 5) int64 [scale, x0, y0, x1, y1].

        Returns:
            (K, length) vectors.
        """
        vectors = encoded.maps[0].new_empty(len(cells), self.length)
        for features, rows, regions in _by_scale(encoded, cells):
            vectors[rows] = pool_regions(features, regions, self.levels)
        return vectors

    @torch.no_grad()
    def score_cells(self, encoded: EncodedImage, cells: Tensor, weights: Tensor) -> Tensor:
        """Multiply the vectors of windows by a matrix without building them.

        Args:
            encoded: The image.
            cells: (K, 5) int64 [scale, x0, y0, x1, y1].
            weights: (length, M).

        Returns:
            (K, M), equal to ``describe_cells(...) @ weights`` up to rounding.
        """
        scores = encoded.maps[0].new_empty(len(cells), weights.shape[1])
        for features, rows, regions in _by_scale(encoded, cells):
            scores[rows] = score_regions(features, regions, weights, self.levels)
        return scores

    def describe(self, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Describe windows of an encoded image by vectors of one length.

        Args:
            encoded: The image.
            boxes: (K, 4) xyxy in pixels of the original image.

        Returns:
            (K, length) pooled features.
        """
        return self.describe_cells(encoded, self.locate(encoded, boxes))

    def configuration(self) -> dict[str, object]:
        """Everything but the weights that decides what a window's vector is."""
        return {
            "backbone": self.backbone.description(),
            "short_sides": list(self.short_sides),
            "levels": list(self.levels),
            "projection": self.projection_name,
            "max_long_side": self.max_long_side,
            "target_side": self.target_side,
        }


def _by_scale(encoded: EncodedImage, cells: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give the map of each scale, the rows of the windows there, and their regions."""
    for scale, features in enumerate(encoded.maps):
        rows = (cells[:, 0] == scale).nonzero().flatten()
        if len(rows):
            yield features, rows, torch.cat([torch.zeros_like(rows)[:, None], cells[rows, 1:]], 1)
