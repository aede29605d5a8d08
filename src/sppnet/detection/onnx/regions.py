"""An image and boxes in, scores and refined boxes out."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sppnet.backbones.backbone import check_exportable, convolve_any_size
from sppnet.detection.encoder import EncodedImage, to_cells
from sppnet.detection.heads.box_regression import BoxCascade, RidgeBoxRegressor
from sppnet.detection.heads.classifiers import LinearRegionClassifier
from sppnet.errors import OutputError
from sppnet.geometry import Projection, deltas_to_boxes, project_boxes
from sppnet.pooling import pool_regions
from sppnet.pooling.boxes import POINTS_PER_BIN
from sppnet.pooling.onnx.export import ROUNDING, ExportRecipe

if TYPE_CHECKING:
    from sppnet.detection.detector import Detector

LARGEST_SIDE = 256  # of images that are compared; larger ones take longer and show no more
NARROW_SIDE = 16  # of very long images


class DetectorGraph(nn.Module):
    """Trunk, projection, pooling, classifier and box regression as one module for the exporter.

    Args:
        detector: On the CPU, with linear SVMs on pooled features.
    """

    weights: Tensor
    bias: Tensor
    box_weights: Tensor
    box_bias: Tensor

    def __init__(self, detector: "Detector") -> None:
        super().__init__()
        self.backbone = detector.encoder.backbone
        self.levels = detector.encoder.levels
        self.projection = detector.encoder.projection
        classifier = linear_classifier_of(detector)
        self.register_buffer("weights", classifier.weights.contiguous())
        self.register_buffer("bias", classifier.bias)
        self.classes = len(detector.names)
        cascade = cascade_of(detector)
        stages = [] if cascade is None else cascade.stages_
        self.as_points = cascade is not None and cascade.constants.bins == "points"
        # (D, S * G * 4): every stage and class beside each other
        columns = [each.weights_.permute(1, 0, 2).flatten(1) for each in stages]
        self.grid = (len(stages), len(stages[0].bias_) if stages else 0)
        self.register_buffer("box_weights", torch.cat([*columns, self.weights[:, :0]], 1))
        self.register_buffer(
            "box_bias", torch.cat([*(s.bias_.flatten() for s in stages), self.bias[:0]])
        )

    def forward(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """Score and refine boxes.

        Args:
            image: (1, 3, H, W) float RGB 0..1.
            boxes: (B, 4) float64 xyxy in its pixels.

        Returns:
            (B, K) scores; (B, S, G, 4) refined boxes, if there is box regression; then the probes
            of the check: (1, C, h, w) map, (B, 5) regions, (B, D) pooled vectors.
        """
        features = convolve_any_size(self.backbone, image)
        regions = project_to_free_grid(boxes, self.projection, features)
        pooled = pool_regions(features, regions, self.levels)
        scores = pooled @ self.weights + self.bias
        if not self.grid[0]:
            return scores, features, regions, pooled
        seen = pooled
        if self.as_points:
            within = to_cells(boxes, self.projection)
            seen = average_points_on_free_grid(features, within, self.levels)
        return scores, self._move(seen, boxes), features, regions, pooled

    def _move(self, pooled: Tensor, boxes: Tensor) -> Tensor:
        """Refine each box by each stage for each class: (B, S, G, 4)."""
        stages, groups = self.grid
        deltas = (pooled @ self.box_weights + self.box_bias).reshape(-1, 4)
        copies = boxes.to(pooled.dtype)[:, None].expand(-1, stages * groups, 4).reshape(-1, 4)
        return deltas_to_boxes(copies, deltas).reshape(-1, stages, groups, 4)


def project_to_free_grid(boxes: Tensor, projection: Projection, features: Tensor) -> Tensor:
    """Project boxes as :func:`sppnet.geometry.project_boxes` does, for maps of any size.

    Args:
        boxes: (B, 4) float64 xyxy in pixels of the image that was convolved; not checked.
        projection: Stride, centre of cell 0 and offset.
        features: (1, C, h, w).

    Returns:
        (B, 5) int64 regions [0, x0, y0, x1, y1].

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 224.0, 224.0]], dtype=torch.float64)
        >>> project_to_free_grid(boxes, Projection.released(), torch.zeros(1, 1, 13, 13))
        tensor([[ 0,  0,  0, 13, 13]])
    """
    stride, centre, offset = projection.stride, projection.centre, projection.offset
    first = torch.floor((boxes[:, :2] - centre + offset) / stride + 0.5)
    last = torch.ceil((boxes[:, 2:] - 1 - centre - offset) / stride - 0.5)
    midpoint = torch.trunc((first + last + 2) / 2) - 1
    between = first > last
    sides = []
    for side in (first, last):
        x, y = torch.where(between, midpoint, side).unbind(1)
        sides += [x.clamp(0, features.shape[3] - 1), y.clamp(0, features.shape[2] - 1)]
    x0, y0, x_last, y_last = sides
    columns = [torch.zeros_like(x0), x0, y0, x_last + 1, y_last + 1]
    return torch.stack(columns, 1).to(torch.int64)


def average_points_on_free_grid(features: Tensor, boxes: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Average as :func:`sppnet.pooling.average_points` does, by operations that ONNX has.

    Every cell of the map has a share of every bin, most of them 0.

    Args:
        features: (1, C, h, w).
        boxes: (B, 4) float64 xyxy in cells.
        levels: Bins along each side.

    Example:
        >>> cells = torch.arange(4.0).expand(1, 1, 3, 4)
        >>> boxes = torch.tensor([[0.5, 0.0, 2.5, 2.0]], dtype=torch.float64)
        >>> average_points_on_free_grid(cells, boxes, (1,))
        tensor([[1.5000]])
    """
    cells = features[0].flatten(1)  # (C, h * w)
    pooled = []
    for bins in levels:
        points = -(-POINTS_PER_BIN * max(levels) // bins)
        down = _shares(boxes[:, 1], boxes[:, 3], features.shape[2], bins, points)
        across = _shares(boxes[:, 0], boxes[:, 2], features.shape[3], bins, points)
        shares = down[:, :, None, :, None] * across[:, None, :, None, :]  # (B, n, n, h, w)
        pooled.append((shares.flatten(3).flatten(1, 2) @ cells.T).transpose(1, 2).flatten(1))
    return torch.cat(pooled, 1)


def _shares(begin: Tensor, end: Tensor, cells: int, bins: int, points: int) -> Tensor:
    """Share of each cell of a side in the mean of each bin: (B, bins, cells) float32."""
    steps = (torch.arange(bins * points, dtype=torch.float64) + 0.5) / (bins * points)
    places = (begin[:, None] + (end - begin)[:, None] * steps).clamp(min=0)
    places = torch.minimum(places, torch.ones_like(places) * (cells - 1))
    apart = places[:, :, None] - torch.arange(cells, dtype=torch.float64)
    near = (1 - apart.abs()).float().relu()
    return near.unflatten(1, (bins, points)).mean(2)


def linear_classifier_of(detector: "Detector") -> LinearRegionClassifier:
    """Give the linear SVMs of a detector.

    Raises:
        OutputError: If it has another classifier, or SVMs on another layer than the pooled one.
    """
    classifier = detector.classifier
    if not isinstance(classifier, LinearRegionClassifier) or classifier.features.layer != "pooled":
        raise OutputError(
            "only detectors with linear SVMs on pooled features can be exported; "
            f"this one has {classifier.config()['kind']} scores of another layer or kind"
        )
    return classifier


def cascade_of(detector: "Detector") -> BoxCascade | None:
    """Give the box regression of a detector; None if it has none.

    Raises:
        OutputError: If it is not a cascade on pooled features.
    """
    if detector.box_regressor is None or isinstance(detector.box_regressor, BoxCascade):
        return detector.box_regressor
    raise OutputError("only box regressions on pooled features can be exported")


def detector_recipe(detector: "Detector") -> ExportRecipe:
    """Describe the export of a detector.

    Args:
        detector: On the CPU.

    Returns:
        A recipe for :func:`sppnet.pooling.onnx.export.export_onnx`: ``image`` (1, 3, H, W), resized
        to one of the encoder's scales, and ``boxes`` (B, 4) float64 in its pixels in; ``scores``
        (B, K), and ``moved`` (B, S, G, 4) if the detector has box regression, out: the box as each
        of S stages refines it, for each of G classes (one for all if it is class-agnostic); a
        later stage expects boxes that the one before has refined. H, W and B are free.

    Raises:
        OutputError: If the trunk cannot be exported for all sizes, or the scores are not linear in
            the pooled features.
    """
    encoder = detector.encoder
    check_exportable(encoder.backbone)
    side, usual = encoder.backbone.min_size, min(encoder.short_sides[0], LARGEST_SIDE)
    sizes = [(1, 1, 1), (side, side, 7), (side + 5, side + 18, 0), (usual, usual * 3 // 2, 200)]
    narrow = max(side, NARROW_SIDE)
    sizes += [(narrow, 20 * narrow, 30), (20 * narrow, narrow, 31)]
    moved = {} if detector.box_regressor is None else {"moved": {0: "boxes"}}
    return ExportRecipe(
        module=DetectorGraph(detector),
        example=_draw_boxes(side + 30, side + 41, 5),
        inputs={"image": {2: "height", 3: "width"}, "boxes": {0: "boxes"}},
        outputs={"scores": {0: "boxes"}, **moved},
        expect=lambda image, boxes: _score(detector, image, boxes),
        cases=[_draw_boxes(*size) for size in sizes],
        tolerance=ROUNDING,
        probes=("features", "cells", "pooled"),
        repool=lambda features, regions: pool_regions(features, regions, encoder.levels),
        about=facts_of(detector),
    )


def facts_of(detector: "Detector") -> dict[str, object]:
    """What a program needs to know to use the graph, in JSON values."""
    projection = detector.encoder.projection
    places = {"stride": projection.stride, "centre": projection.centre, "offset": projection.offset}
    points = detector.operating_points
    sure = {} if points is None else {"operating_points": points.config()}
    return {"kind": "detector", **detector.config(), "cells": places, **sure}


def _score(detector: "Detector", image: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    """Score and refine boxes by the detector's own parts and torch, as the graph should."""
    encoder = detector.encoder
    features = encoder.backbone.with_engine("torch")(image)
    image_size_hw = (image.shape[2], image.shape[3])
    encoded = EncodedImage((features,), ((1.0, 1.0),), image_size_hw)
    grid_hw = (features.shape[2], features.shape[3])
    regions = project_boxes(boxes, encoder.projection, grid_hw)
    regions = torch.cat([torch.zeros_like(regions[:, :1]), regions], 1)
    scores = detector.classifier.score(encoder, encoded, regions)
    cascade = cascade_of(detector)
    if cascade is None:
        return (scores,)
    vectors = cascade.describe(encoder, encoded, boxes)
    return scores, torch.stack([_moved(stage, vectors, boxes) for stage in cascade.stages_], 1)


def _moved(stage: RidgeBoxRegressor, vectors: Tensor, boxes: Tensor) -> Tensor:
    """Boxes as one stage refines them for each class: (B, G, 4)."""
    labels = torch.arange(len(stage.bias_)).repeat(len(boxes), 1)
    return torch.stack(
        [stage.refine(vectors, label, boxes.float()) for label in labels.unbind(1)], 1
    )


def _draw_boxes(height: int, width: int, count: int) -> tuple[Tensor, Tensor]:
    """A random image, and random boxes on it, some far too small and some outside."""
    draw = torch.Generator().manual_seed(height * width)
    image = torch.rand(1, 3, height, width, generator=draw)
    corners = torch.rand(count, 2, 2, generator=draw, dtype=torch.float64) * 1.2 - 0.1
    corners = corners * torch.tensor([width, height])
    return image, torch.cat([corners.amin(1), corners.amax(1)], 1)
