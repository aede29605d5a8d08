"""The idea of the paper: convolve an image once, then pool as many regions of it as wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from sppnet.backbones import Backbone, as_device, restore_backbone
from sppnet.config.detection import PROJECTIONS, TARGET_SIDE, Side
from sppnet.config.fields import LARGEST, Each, Levels, OneOf, Positive, Within, restore_fields
from sppnet.geometry import Projection, box_area, project_boxes
from sppnet.geometry.projection import PROJECTION_PRESETS
from sppnet.images import group_equal_sizes, resize_short_side
from sppnet.pooling import average_points, num_bins, pool_regions, score_regions
from sppnet.pooling.bins import check_levels
from sppnet.pooling.boxes import score_points


def choose_scales(
    boxes: Tensor,
    image_size_hw: tuple[int, int],
    short_sides: Sequence[int],
    target_side: float = TARGET_SIDE,
) -> Tensor:
    """Pick for each box the scale at which its area comes closest to ``target_side`` squared.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image.
        image_size_hw: Height and width of the original image.
        short_sides: Length of the short side at each scale, in pixels.
        target_side: 224 in the paper; the released code uses 13 * 16 = 208 for ZF-5.

    Returns:
        (K,) int64 index into ``short_sides``; the smaller scale wins a tie.

    Example:
        >>> square = torch.tensor([[0.0, 0.0, 75.0, 75.0], [0.0, 0.0, 300.0, 300.0]])
        >>> choose_scales(square, (375, 500), (480, 688, 1200), target_side=208)
        tensor([2, 0])

    Source:
        SPP-net, section 4.1; spm_expected_scale.m of the authors' code.
    """
    shortest = min(image_size_hw)
    wanted = target_side * shortest / box_area(boxes).double().clamp(min=1e-6).sqrt()
    wanted = (wanted + 0.5).floor()  # halves go up, as in MATLAB; round() would take the even one
    sides = torch.tensor(sorted(short_sides), dtype=torch.float64, device=boxes.device)
    nearest = (sides[None, :] - wanted[:, None]).abs().argmin(1)
    order = torch.tensor(short_sides, device=boxes.device).argsort(stable=True)
    return order[nearest]


@dataclass(frozen=True)
class EncodedImage:
    """Feature maps of one image at every scale.

    Args:
        maps: One (1, C, h, w) feature map per scale.
        zooms_xy: Per scale, pixels of the resized image per pixel of the original, along x and y.
        image_size_hw: Size of the original image.
        mirrored: The mirror image, if scores are averaged over both.
    """

    maps: tuple[Tensor, ...]
    zooms_xy: tuple[tuple[float, float], ...]
    image_size_hw: tuple[int, int]
    mirrored: "EncodedImage | None" = None

    @property
    def short_sides(self) -> tuple[int, ...]:
        """Short side of the resized image at each scale; smaller where the long side was capped."""
        height, width = self.image_size_hw
        return tuple(min(round(width * x), round(height * y)) for x, y in self.zooms_xy)


@dataclass(frozen=True)
class SavedEncoder:
    """What :meth:`Encoder.config` writes."""

    backbone: dict[str, Any]
    short_sides: Annotated[tuple[int, ...], Each(Within(1, Side.high), least=1)]
    levels: Levels
    projection: Annotated[str, OneOf(PROJECTIONS)]
    max_long_side: Annotated[int | None, Within(1, LARGEST)]
    target_side: Positive


class Encoder:
    """Turns images into feature maps, and regions of them into vectors of one length.

    A proposal is a box in pixels of the original image. :meth:`assign_regions` finds its region:
    the scale that suits its size, and the cells that it covers on that scale's map. Regions are
    what :meth:`pool` and :meth:`pool_and_multiply` take.

    Args:
        backbone: Convolutional trunk; knows its stride and the centre of its cell 0.
        short_sides: Length of the image's short side at each scale, in pixels.
        levels: Bins along each side, one number per pyramid level.
        projection: How boxes in pixels become cells: ``released`` or ``paper_v4``.
        max_long_side: The most pixels along the long side; longer images are convolved at a smaller
            scale. None for no limit, as in the paper.
        target_side: Side, in pixels, that a proposal should have at the scale chosen for it.

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

    def __repr__(self) -> str:
        """Name the trunk, the sizes of images and the pyramid."""
        trunk, sides = self.backbone, ", ".join(map(str, self.short_sides))
        return (
            f"Encoder({trunk.name} at {trunk.node}, stride {trunk.stride}; short sides {sides} px; "
            f"levels {self.levels})"
        )

    @property
    def length(self) -> int:
        """D, numbers in the vector of a region: C * sum(n * n)."""
        return self.backbone.channels * num_bins(self.levels)

    @property
    def device(self) -> torch.device:
        """Where the trunk runs."""
        return next(self.backbone.parameters()).device

    @property
    def workers(self) -> int:
        """Images that are best worked on at a time; see :attr:`Backbone.workers`."""
        return self.backbone.workers

    def to(self, device: torch.device | str) -> "Encoder":
        """Move the trunk to a device; returns itself.

        Raises:
            ValueError: If there is no such device.
        """
        self.backbone.to(as_device(device))
        return self

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
        return self.encode_batch([image])[0]

    def encode_batch(self, images: Sequence[Tensor]) -> list[EncodedImage]:
        """Convolve some images once per scale.

        On a GPU those of one size go through the trunk together. On a CPU that is no faster, and
        one by one each has the same bits alone and in any company.

        Args:
            images: Each (3, H_i, W_i) float RGB 0..1 of any size.

        Returns:
            The feature maps of each, in order.
        """
        scales = [self._encode_scale(images, short_side) for short_side in self.short_sides]
        encoded = []
        for image, of_image in zip(images, zip(*scales, strict=True), strict=True):
            maps, zooms_xy = zip(*of_image, strict=True)
            encoded.append(EncodedImage(maps, zooms_xy, (image.shape[1], image.shape[2])))
        return encoded

    def encode_scale(self, image: Tensor, short_side: int) -> tuple[Tensor, tuple[float, float]]:
        """Convolve an image at one scale: its (1, C, h, w) map and the zoom along x and y."""
        return self._encode_scale([image], short_side)[0]

    @torch.no_grad()
    def _encode_scale(
        self, images: Sequence[Tensor], short_side: int
    ) -> list[tuple[Tensor, tuple[float, float]]]:
        resized = [resize_short_side(each, short_side, self.max_long_side) for each in images]
        maps: dict[int, Tensor] = {}
        sizes_hw = [(each.shape[1], each.shape[2]) for each, _ in resized]
        together = 1 if self.device.type == "cpu" else max(1, len(sizes_hw))
        for places in group_equal_sizes(sizes_hw, together):
            batch = torch.stack([resized[place][0] for place in places])
            # channels last: a cell is one stretch of memory, for convolutions and for pooling
            found = self.backbone(batch.to(self.device, memory_format=torch.channels_last))
            maps |= zip(places, found.split(1), strict=True)
        return [(maps[n], (zoom_x, zoom_y)) for n, (_, (zoom_y, zoom_x)) in enumerate(resized)]

    def assign_regions(
        self, encoded: EncodedImage, boxes: Tensor, scale_of: Tensor | None = None
    ) -> Tensor:
        """Find the region of each proposal: the scale that suits its size, and its cells there.

        Args:
            encoded: The image.
            boxes: (K, 4) xyxy in pixels of the original image.
            scale_of: (K,) int64 index of the scale of each proposal; the best one if None.

        Returns:
            (K, 5) int64 [scale, x0, y0, x1, y1], half-open, in cells.
        """
        if scale_of is None:
            sides = encoded.short_sides
            scale_of = choose_scales(boxes, encoded.image_size_hw, sides, self.target_side)
        regions = torch.zeros(len(boxes), 5, dtype=torch.int64)
        for scale, (features, zoom) in enumerate(zip(encoded.maps, encoded.zooms_xy, strict=True)):
            rows = (scale_of == scale).nonzero().flatten()
            zoomed = boxes[rows].double() * torch.tensor([*zoom, *zoom], dtype=torch.float64)
            grid_hw = (features.shape[2], features.shape[3])
            regions[rows, 0] = scale
            regions[rows, 1:] = project_boxes(zoomed, self.projection, grid_hw)
        return regions

    @torch.no_grad()
    def pool(self, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Pool regions of an encoded image.

        Args:
            encoded: The image.
            regions: (K, 5) int64 [scale, x0, y0, x1, y1] from :meth:`assign_regions`.

        Returns:
            (K, length) vectors on the device of the maps.
        """
        vectors = encoded.maps[0].new_empty(len(regions), self.length)
        for features, rows, of_map in _by_scale(encoded, regions):
            vectors[rows] = pool_regions(features, of_map, self.levels)
        return vectors

    @torch.no_grad()
    def pool_and_multiply(self, encoded: EncodedImage, regions: Tensor, weights: Tensor) -> Tensor:
        """Multiply the vectors of regions by a matrix, without keeping the vectors in memory.

        Args:
            encoded: The image.
            regions: (K, 5) int64 [scale, x0, y0, x1, y1] from :meth:`assign_regions`.
            weights: (length, M).

        Returns:
            (K, M), equal to ``pool(...) @ weights`` up to rounding.
        """
        products = encoded.maps[0].new_empty(len(regions), weights.shape[1])
        for features, rows, of_map in _by_scale(encoded, regions):
            products[rows] = score_regions(features, of_map, weights, self.levels)
        return products

    def describe(self, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Turn proposals of an encoded image into vectors of one length.

        Args:
            encoded: The image.
            boxes: (K, 4) xyxy in pixels of the original image.

        Returns:
            (K, length) pooled features.
        """
        return self.pool(encoded, self.assign_regions(encoded, boxes))

    @torch.no_grad()
    def interpolate(self, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Turn proposals into vectors that follow them by fractions of a cell.

        The bins of :meth:`describe` are whole cells, and the largest number of each is taken; here
        bins end where the proposal does, and hold means of interpolated points.

        Args:
            encoded: The image.
            boxes: (K, 4) xyxy in pixels of the original image.

        Returns:
            (K, length) averages on the device of the maps.

        Example:
            >>> from sppnet.backbones import build_backbone
            >>> encoder = Encoder(build_backbone("small5"), short_sides=(96,), levels=(1, 2))
            >>> encoded = encoder.encode(torch.rand(3, 96, 96))
            >>> boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0], [11.0, 10.0, 61.0, 60.0]])
            >>> cells = encoder.describe(encoded, boxes)
            >>> points = encoder.interpolate(encoded, boxes)
            >>> torch.equal(cells[0], cells[1]), torch.equal(points[0], points[1])
            (True, False)
        """
        vectors = encoded.maps[0].new_empty(len(boxes), self.length)
        for features, rows, within in self._find_cells(encoded, boxes):
            vectors[rows] = average_points(features, within, self.levels)
        return vectors

    @torch.no_grad()
    def interpolate_and_multiply(
        self, encoded: EncodedImage, boxes: Tensor, weights: Tensor
    ) -> Tensor:
        """Multiply what :meth:`interpolate` gives by a matrix, without building it for many boxes.

        Args:
            encoded: The image.
            boxes: (K, 4) xyxy in pixels of the original image.
            weights: (length, M).

        Returns:
            (K, M), equal to ``interpolate(...) @ weights`` up to rounding.
        """
        products = encoded.maps[0].new_empty(len(boxes), weights.shape[1])
        for features, rows, within in self._find_cells(encoded, boxes):
            products[rows] = score_points(features, within, weights, self.levels)
        return products

    def _find_cells(
        self, encoded: EncodedImage, boxes: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the map of each scale, the (K,) mask of boxes there, and these (R, 4) in cells."""
        sides = encoded.short_sides
        scale_of = choose_scales(boxes, encoded.image_size_hw, sides, self.target_side)
        for scale, (features, zoom) in enumerate(zip(encoded.maps, encoded.zooms_xy, strict=True)):
            rows = scale_of == scale
            zoomed = boxes[rows].double() * torch.tensor([*zoom, *zoom], dtype=torch.float64)
            yield features, rows, to_cells(zoomed, self.projection).to(features.device)

    def config(self) -> dict[str, object]:
        """Everything but the weights that decides the vector of a proposal."""
        return {
            "backbone": self.backbone.config(),
            "short_sides": list(self.short_sides),
            "levels": list(self.levels),
            "projection": self.projection_name,
            "max_long_side": self.max_long_side,
            "target_side": self.target_side,
        }

    @classmethod
    def from_config(cls, config: Any, tensors: dict[str, Tensor]) -> "Encoder":
        """Restore from :meth:`config` and the ``state_dict()`` of the backbone.

        Raises:
            UnusableFileError: If the two do not make a trunk.
            ValueError: If a field is missing or unknown, or breaks its rule.
        """
        saved = restore_fields(SavedEncoder, config, "encoder")
        return cls(
            restore_backbone(saved.backbone, tensors),
            saved.short_sides,
            saved.levels,
            saved.projection,
            saved.max_long_side,
            saved.target_side,
        )


def to_cells(boxes: Tensor, projection: Projection) -> Tensor:
    """Bring boxes in pixels of the convolved image to coordinates in which cell k is centred on k.

    Example:
        >>> to_cells(torch.tensor([[20.5, 36.5, 52.5, 68.5]]), Projection.released())
        tensor([[0., 1., 2., 3.]])
    """
    # pixel i has its middle at i, and a box begins and ends at the borders of pixels
    return (boxes - 0.5 - projection.centre) / projection.stride


def _by_scale(encoded: EncodedImage, regions: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the map of each scale, the (R,) rows that lie on it, and these (R, 5) regions.

    The first column of the regions becomes 0, the index of the only image.
    """
    for scale, features in enumerate(encoded.maps):
        rows = (regions[:, 0] == scale).nonzero().flatten()
        if len(rows):
            yield features, rows, torch.cat([torch.zeros_like(rows)[:, None], regions[rows, 1:]], 1)
