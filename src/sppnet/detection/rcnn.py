"""R-CNN's features, the baseline: each proposal is cut out of the image and convolved by itself."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sppnet.backbones import Backbone
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.images import as_floats
from sppnet.pooling import spatial_pyramid_pool

CROP_SIDE = 227
CONTEXT = 16  # pixels around the proposal, at the size of the crop
# Crops convolved at a time: the batch of the 2014 code is for a GPU; a CPU needs a smaller one.
BATCH, CPU_BATCH = 256, 32


def warp_proposals(
    image: Tensor,
    boxes: Tensor,
    size: int = CROP_SIDE,
    context: int = CONTEXT,
    fill: Tensor | None = None,
) -> Tensor:
    """Warp proposals, with some context around each, to squares of one size.

    Each box grows about its centre until ``context`` of the crop's pixels surround it, and its
    corners are rounded. The part inside the image is resized, bilinearly and without antialiasing,
    and put at its place in the crop; the rest of the crop is filled with one colour.

    Args:
        image: (3, H, W) floating point.
        boxes: (K, 4) xyxy in pixels.
        size: Side of a crop, in pixels.
        context: Pixels of a crop on each side of the box, below half of ``size``.
        fill: (3,) colour outside the image; the trunk's mean in R-CNN. None is black.

    Returns:
        (K, 3, size, size) crops, channels last in memory.

    Raises:
        ValueError: If ``context`` is negative or not below half of ``size``.

    Example:
        >>> image = torch.arange(16.0).reshape(1, 4, 4).expand(3, 4, 4)
        >>> warp_proposals(image, torch.tensor([[1.0, 1.0, 3.0, 3.0]]), size=2, context=0)[0, 0]
        tensor([[ 5.,  6.],
                [ 9., 10.]])

    Source:
        R-CNN (Girshick et al. 2014), appendix A; rcnn_im_crop.m of its code.
    """
    return warp_regions(image, add_context(boxes, size, context), size, fill)


def add_context(boxes: Tensor, size: int = CROP_SIDE, context: int = CONTEXT) -> Tensor:
    """Grow boxes about their centres as :func:`warp_proposals` does.

    Args:
        boxes: (K, 4) xyxy in pixels.
        size: Side of a crop, in pixels.
        context: Pixels of a crop on each side of the box.

    Returns:
        (K, 4) int64 xyxy, half-open, at least a pixel wide and high, not clipped to the image.

    Raises:
        ValueError: If ``context`` is negative or not below half of ``size``.

    Example:
        >>> add_context(torch.tensor([[0.0, 0.0, 195.0, 39.0]])).tolist()
        [[-16, -3, 211, 42]]
    """
    if not 0 <= 2 * context < size:
        raise ValueError(f"context must be at least 0 and below half of {size}, got {context}")
    corners = boxes.double()
    centres = corners.view(-1, 2, 2).mean(1)
    halves = (corners[:, 2:] - corners[:, :2]) / 2 * (size / (size - 2 * context))
    first, last = _round(centres - halves), _round(centres + halves)
    return torch.cat([first, torch.maximum(last, first + 1)], dim=1)


def warp_regions(image: Tensor, regions: Tensor, size: int, fill: Tensor | None = None) -> Tensor:
    """Cut out and resize boxes that have their context already; see :func:`warp_proposals`.

    Args:
        image: (3, H, W) floating point.
        regions: (K, 4) int64 xyxy in pixels, from :func:`add_context`; may reach beyond the image.
        size: Side of a crop, in pixels.
        fill: (3,) colour outside the image; None is black.

    Returns:
        (K, 3, size, size) crops, channels last in memory.
    """
    pixels = image[None].contiguous(memory_format=torch.channels_last)
    colour = image.new_zeros(3) if fill is None else fill.to(image)
    crops = colour.expand(len(regions), size, size, 3).contiguous().permute(0, 3, 1, 2)
    sources, targets = _clip_regions(regions, (image.shape[1], image.shape[2]), size)
    for crop, source, target in zip(crops, sources.tolist(), targets.tolist(), strict=True):
        (x0, y0, x1, y1), (left, top, right, bottom) = source, target
        part = pixels[:, :, y0:y1, x0:x1]
        resized = interpolate(part, (bottom - top, right - left), mode="bilinear")
        crop[:, top:bottom, left:right] = resized[0]
    return crops


def _clip_regions(
    regions: Tensor, image_size_hw: tuple[int, int], size: int
) -> tuple[Tensor, Tensor]:
    """The part of each region inside the image, and its place in the crop: two (K, 4) xyxy."""
    height, width = image_size_hw
    sides = torch.tensor([width, height])
    first, last = regions.cpu()[:, :2], regions.cpu()[:, 2:]
    start = torch.minimum(first.clamp(min=0), sides - 1)
    end = torch.maximum(torch.minimum(last, sides), start + 1)
    zoom = size / (last - first).double()
    left = _round((-first).clamp(min=0) * zoom).clamp(max=size - 1)
    right = torch.minimum(left + _round((end - start) * zoom).clamp(min=1), torch.tensor(size))
    return torch.cat([start, end], dim=1), torch.cat([left, right], dim=1)


def _round(values: Tensor) -> Tensor:
    """Round to the nearest, halves up as MATLAB does."""
    return (values + 0.5).floor().long()


class RcnnEncoder(Encoder):
    """Describes proposals by convolving each of them: the features that SPP-net is compared with.

    It has the methods of :class:`Encoder`, so that the same SVMs, box regression and suppression
    work on it. Encoding an image only keeps its pixels; the region of a proposal is its box with
    context, in pixels; all of the work is done in :meth:`pool`.

    Args:
        backbone: Convolutional trunk, the same as SPP-net's.
        levels: Bins along each side of the crop's map, one number per pyramid level.
        size: Side of a crop, in pixels.
        context: Pixels of a crop on each side of the proposal.
        batch: Crops convolved at a time; None for 256 on a GPU and 32 on a CPU.

    Raises:
        ValueError: If a level or the size is below 1.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> encoder = RcnnEncoder(build_backbone("small5"), levels=(1, 2), size=64, context=8)
        >>> encoded = encoder.encode(torch.rand(3, 120, 200))
        >>> encoder.describe(encoded, torch.tensor([[10.0, 10.0, 90.0, 60.0]])).shape
        torch.Size([1, 480])

    Source:
        R-CNN (Girshick et al. 2014); its features as in table 10 of SPP-net, from the same trunk.
    """

    def __init__(
        self,
        backbone: Backbone,
        levels: Sequence[int] = (1, 2, 3, 6),
        size: int = CROP_SIDE,
        context: int = CONTEXT,
        batch: int | None = None,
    ) -> None:
        # whatever the size of the image, the trunk sees squares of one size
        super().__init__(backbone, (size,), levels, max_long_side=size)
        self.size = size
        self.context = context
        self.batch = batch

    def _encode_scale(
        self,
        images: Sequence[Tensor],
        short_side: int,  # noqa: ARG002
    ) -> list[tuple[Tensor, tuple[float, float]]]:
        """Keep the pixels, from which the proposals are cut later: (1, 3, H, W), at zooms of 1."""
        return [(as_floats(image)[None].to(self.device), (1.0, 1.0)) for image in images]

    def assign_regions(
        self,
        encoded: EncodedImage,  # noqa: ARG002
        boxes: Tensor,
        scale_of: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Add the context to proposals.

        Args:
            encoded: The image.
            boxes: (K, 4) xyxy in pixels of the original image.
            scale_of: Not used; there is one scale.

        Returns:
            (K, 5) int64 [0, x0, y0, x1, y1], half-open, in pixels; may reach beyond the image.

        Raises:
            ValueError: If the context is negative or not below half of the crop's side.
        """
        regions = add_context(boxes, self.size, self.context)
        return torch.cat([torch.zeros_like(regions[:, :1]), regions], dim=1)

    @torch.no_grad()
    def pool(self, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Warp regions, convolve them, and pool the whole map of each.

        Args:
            encoded: The image.
            regions: (K, 5) int64 [0, x0, y0, x1, y1] from :meth:`assign_regions`.

        Returns:
            (K, length) vectors.
        """
        vectors = encoded.maps[0].new_empty(len(regions), self.length)
        for rows, pooled in self._batches(encoded, regions):
            vectors[rows] = pooled
        return vectors

    @torch.no_grad()
    def pool_and_multiply(self, encoded: EncodedImage, regions: Tensor, weights: Tensor) -> Tensor:
        """Multiply the vectors of regions by a matrix, a batch at a time.

        Args:
            encoded: The image.
            regions: (K, 5) int64 [0, x0, y0, x1, y1] from :meth:`assign_regions`.
            weights: (length, M).

        Returns:
            (K, M).
        """
        products = encoded.maps[0].new_empty(len(regions), weights.shape[1])
        for rows, pooled in self._batches(encoded, regions):
            products[rows] = pooled @ weights
        return products

    def interpolate(self, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Describe proposals: a crop follows its proposal by pixels, so nothing lies between."""
        return self.describe(encoded, boxes)

    def interpolate_and_multiply(
        self, encoded: EncodedImage, boxes: Tensor, weights: Tensor
    ) -> Tensor:
        """Multiply what :meth:`interpolate` gives: (K, M)."""
        return self.pool_and_multiply(encoded, self.assign_regions(encoded, boxes), weights)

    def config(self) -> dict[str, object]:
        """Everything but the weights that decides the vector of a proposal."""
        return {
            "backbone": self.backbone.config(),
            "levels": list(self.levels),
            "size": self.size,
            "context": self.context,
        }

    def _batches(self, encoded: EncodedImage, regions: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Pool a batch of regions at a time: yield their rows and their vectors."""
        (pixels,) = encoded.maps[0]
        count = self.batch or (CPU_BATCH if pixels.device.type == "cpu" else BATCH)
        for start in range(0, len(regions), count):
            rows = slice(start, start + count)
            crops = warp_regions(pixels, regions[rows, 1:], self.size, self._mean_colour())
            yield rows, spatial_pyramid_pool(self.backbone(crops), self.levels)

    def _mean_colour(self) -> Tensor:
        """RGB that becomes zero when the trunk normalises it."""
        return self.backbone.mean.flip(0) if self.backbone.bgr else self.backbone.mean
