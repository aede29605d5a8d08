"""Boxes pooled on the maps of a feature pyramid, in the place of torchvision's MultiScaleRoIAlign.

``import sppnet.pooling`` does not load this module: it needs torchvision.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from sppnet.geometry.boxes import box_area
from sppnet.pooling import pool_boxes
from sppnet.pooling.bins import (
    DEFAULT_LEVELS,
    Level,
    check_mode,
    choose_levels,
    level_shape,
    vector_length,
)

CANONICAL_SCALE, CANONICAL_LEVEL = 224, 4
EPSILON = 1e-6  # torchvision adds it before it rounds down, so that a box of 224 px is of level 4


class MultiScaleBoxPool(MultiScaleRoIAlign):
    """Pools each box on the map of a feature pyramid that suits its size.

    A drop-in for the ``box_roi_pool`` of torchvision's ``FasterRCNN``. A box of w x h pixels goes
    to level floor(4 + log2(sqrt(w * h) / 224)) of the pyramid of maps, as in torchvision. Scales
    are inferred from the sizes of each batch; torchvision keeps those of the first.

    Args:
        featmap_names: Keys of the maps to pool, the finest first, each half as large as the one
            before.
        levels: Bins along each side, one number per level of bins, or (rows, columns) of bins; or
            one number alone.
        canonical_scale: Side in pixels of the square that goes to ``canonical_level``.
        canonical_level: Its level; level k has a stride of 2 ** k.
        centre: Pixel on which cell 0 of every map is centred, such as 0 for torchvision's ResNets;
            the middle of the pixels of a cell if None.
        mode: "max" or "avg".
        output_sizes: Another name of ``levels``.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1, or the mode is unknown, or both
            ``levels`` and ``output_sizes`` are given, or there is no name.

    Example:
        >>> pool = MultiScaleBoxPool(["0", "1"], levels=7)
        >>> maps = {"0": torch.rand(1, 8, 32, 32), "1": torch.rand(1, 8, 16, 16)}
        >>> boxes = [torch.tensor([[4.0, 4.0, 60.0, 90.0], [0.0, 0.0, 128.0, 128.0]])]
        >>> pool(maps, boxes, [(128, 128)]).shape
        torch.Size([2, 8, 7, 7])
        >>> MultiScaleBoxPool(["0", "1"], levels=(1, 2, 3, 6))(maps, boxes, [(128, 128)]).shape
        torch.Size([2, 400])

    Source:
        Feature Pyramid Networks (Lin et al. 2017), equation 1, for the choice of the map.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        levels: int | Sequence[Level] = DEFAULT_LEVELS,
        *,
        canonical_scale: int = CANONICAL_SCALE,
        canonical_level: int = CANONICAL_LEVEL,
        centre: float | None = None,
        mode: str = "max",
        output_sizes: int | Sequence[Level] | None = None,
    ) -> None:
        # FasterRCNN wants an instance of the class; none of its state is used here
        nn.Module.__init__(self)
        if isinstance(featmap_names, str) or not featmap_names:
            raise ValueError(f"featmap_names must be one or more names, got {featmap_names!r}")
        self.featmap_names = list(featmap_names)
        self.levels = choose_levels(levels, output_sizes)
        self.canonical_scale, self.canonical_level = canonical_scale, canonical_level
        self.centre = centre
        self.mode = check_mode(mode)

    @property
    def output_size(self) -> tuple[int, int]:
        """(rows, columns) of bins of the only level, which FasterRCNN sizes its head by.

        Raises:
            ValueError: If there are several levels; the head is then the caller's to give.
        """
        if len(self.levels) > 1:
            raise ValueError(
                "levels must be one number for FasterRCNN's own head, got "
                f"{self.levels}: give it box_head=TwoMLPHead(pool.out_features(channels), 1024) "
                "and box_predictor=FastRCNNPredictor(1024, num_classes)"
            )
        return level_shape(self.levels[0])

    def out_features(self, channels: int) -> int:
        """Numbers in the vector of a box on maps with so many channels.

        Example:
            >>> MultiScaleBoxPool(["0"], (1, 2, 3, 6)).out_features(256)
            12800
        """
        return vector_length(channels, self.levels)

    def forward(
        self,
        x: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        image_shapes: Sequence[Sequence[int]],
    ) -> Tensor:
        """Pool boxes on the maps of a pyramid.

        Args:
            x: Name -> (N, C, h, w); maps that ``featmap_names`` does not name are left out.
            boxes: For each image (K_i, 4) floating point xyxy in pixels, x2 and y2 exclusive.
            image_shapes: (height, width) of each image in the batch; the largest is the batch's.

        Returns:
            (K, C, n, n) of one level, (K, C * sum(n * n)) of several; boxes in order.

        Raises:
            TypeError: If boxes or maps are not floating point.
            ValueError: If a map is missing, there is no image, or as :func:`pool_boxes`.
        """
        maps = self._choose_maps(x)
        scales = [_infer_scale(each, image_shapes) for each in maps]
        for i, each in enumerate(boxes):
            if not isinstance(each, Tensor):
                raise TypeError(f"boxes[{i}] must be a tensor, got {type(each).__name__}")
        level_of = self._assign(torch.cat(list(boxes)), scales)
        pooled = [
            self._pool_one(features, boxes, scale, level_of == k)
            for k, (features, scale) in enumerate(zip(maps, scales, strict=True))
        ]
        if len(maps) == 1:
            return self._shape(pooled[0])
        # autocast may give maps of several dtypes; the first one's is taken, as in torchvision
        joined = torch.cat([each.to(pooled[0].dtype) for each in pooled])
        order = torch.cat([(level_of == k).nonzero().flatten() for k in range(len(maps))])
        return self._shape(joined[order.argsort()])

    def _choose_maps(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        if not isinstance(maps, Mapping):
            raise TypeError(f"maps must be a dict of maps by name, got {type(maps).__name__}")
        missing = [name for name in self.featmap_names if name not in maps]
        if missing:
            raise ValueError(f"maps must have the names {self.featmap_names}, got {list(maps)}")
        return [maps[name] for name in self.featmap_names]

    def _assign(self, boxes: Tensor, scales: Sequence[float]) -> Tensor:
        """Index of the map of each of (K, 4) boxes."""
        finest, coarsest = (round(-math.log2(scale)) for scale in (scales[0], scales[-1]))
        side = box_area(boxes).sqrt()
        level = (self.canonical_level + (side / self.canonical_scale).log2() + EPSILON).floor()
        return level.clamp(finest, coarsest).to(torch.int64) - finest

    def _pool_one(
        self, features: Tensor, boxes: Sequence[Tensor], scale: float, mine: Tensor
    ) -> Tensor:
        """Pool the boxes that belong to one map, in their order."""
        parts = mine.split([len(each) for each in boxes])
        chosen = [each[part] for each, part in zip(boxes, parts, strict=True)]
        stride = 1 / scale
        return pool_boxes(
            features, chosen, self.levels, stride=stride, centre=self.centre, mode=self.mode
        )

    def _shape(self, pooled: Tensor) -> Tensor:
        """Lay the vectors of one level out as a grid."""
        if len(self.levels) > 1:
            return pooled
        bins = level_shape(self.levels[0])
        return pooled.view(len(pooled), pooled.shape[1] // math.prod(bins), *bins)

    def __repr__(self) -> str:
        modes = f", mode={self.mode!r}" if self.mode != "max" else ""
        names = f"featmap_names={self.featmap_names}"
        return f"{type(self).__name__}({names}, levels={self.levels}{modes})"


def _infer_scale(features: Tensor, image_shapes: Sequence[Sequence[int]]) -> float:
    """Cells per pixel, a power of two, from the height of the largest image of the batch."""
    if not image_shapes:
        raise ValueError("image_shapes must hold at least one size, got none")
    height = max(shape[0] for shape in image_shapes)
    return float(2.0 ** round(math.log2(features.shape[-2] / height)))
