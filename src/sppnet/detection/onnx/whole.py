"""An image in, detections out: proposals, scores, refined boxes and suppression in one graph.

The trunk is exported by torch; all that follows is one operator, ``find_objects``, which the
functions here write in ONNX as onnxscript records them. Needs onnxscript; sppnet imports this
module only to export.
"""

import copy
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from onnxscript import opset18
from torch import Tensor, nn

from sppnet.backbones.backbone import check_exportable, convolve_any_size
from sppnet.detection.detector import MOST_MOVED, Detector
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.heads.box_regression import BoxCascade
from sppnet.detection.onnx.regions import cascade_of, facts_of, linear_classifier_of
from sppnet.detection.proposals.anchor_boxes import AnchorGrid
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.errors import OutputError
from sppnet.geometry.boxes import LARGEST_LOG_RATIO
from sppnet.images import resize_image
from sppnet.pooling.boxes import POINTS_PER_BIN
from sppnet.pooling.onnx.export import ExportRecipe
from sppnet.pooling.onnx.loops import take_best
from sppnet.pooling.onnx.operators import average_points, double, ints, pool_regions, size

if TYPE_CHECKING:
    import onnx

Value = Any  # a tensor of the graph that is being made
op: Any = opset18
FLOAT, DOUBLE, INT64 = 1, 11, 7  # numbers of types in ONNX
TOLERANCE = 1e-4  # of the largest value: maps of two libraries differ in their last bits
THRESHOLD = "score_threshold"  # name of the number in the file
LEAST_THRESHOLD = -6.9  # soft suppression ends at a probability of 0.001
SIZES = ((224, 224), (300, 400), (400, 533), (480, 360), (97, 301))
LIBRARY = torch.library.Library("sppnet_detection", "DEF")
LIBRARY.define(
    "find_objects(Tensor features, Tensor image, Tensor[] anchors, Tensor[] scorer, "
    "Tensor[] movers, str facts) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sppnet_detection::find_objects", lib=LIBRARY)
def _fake(features: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes of the results: as many detections as there are."""
    count = torch.library.get_ctx().new_dynamic_size()
    scores = features.new_empty(count)
    return features.new_empty(count, 4), scores, scores.to(torch.int64)


class WholeDetector(nn.Module):
    """A detector that takes an image and gives detections, for the exporter only.

    Args:
        detector: On the CPU, as :func:`whole_recipe` wants it.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone = detector.encoder.backbone
        proposer = cast(AnchorProposer, detector.anchors)
        learnt = proposer.learnt_
        self.register_buffer("rotation", learnt.rotation)
        self.register_buffer("shift", learnt.shift[:, None].contiguous())
        per_bin = learnt.weights[:, :-1].unflatten(1, (len(learnt.rotation), -1))  # (A, P, B, 5)
        mixing = per_bin.permute(0, 2, 3, 1).flatten(0, 2)
        self.register_buffer("mixing", mixing.contiguous())  # (A * B * 5, P)
        self.register_buffer("constants", learnt.weights[:, -1].double())
        classifier = linear_classifier_of(detector)
        self.register_buffer("weights", classifier.weights.contiguous())
        self.register_buffer("bias", classifier.bias)
        self.register_buffer(THRESHOLD, torch.tensor([detector.inference.score_threshold]))
        cascade = cascade_of(detector)
        stages = [] if cascade is None else cascade.stages_
        for number, stage in enumerate(stages):
            columns = stage.weights_.permute(1, 0, 2).flatten(1)  # (D, G * 4)
            self.register_buffer(f"mover{number}", columns.contiguous())
            self.register_buffer(f"mover_bias{number}", stage.bias_.flatten())
        self.stages = len(stages)
        self.facts = json.dumps(_graph_facts(detector))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find objects: (1, 3, H, W) -> (K, 4) boxes, (K,) scores, (K,) labels, best first."""
        names = [f"{kind}{n}" for n in range(self.stages) for kind in ("mover", "mover_bias")]
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.sppnet_detection.find_objects(
            convolve_any_size(self.backbone, image),
            image,
            [self.rotation, self.shift, self.mixing, self.constants],
            [self.weights, self.bias, getattr(self, THRESHOLD)],
            [getattr(self, name) for name in names],
            self.facts,
        )
        return found


def _graph_facts(detector: Detector) -> dict[str, Any]:
    """The constants of the graph, in JSON values."""
    proposer = cast(AnchorProposer, detector.anchors)
    rule, geometry, move = detector.inference, proposer.geometry, detector.box_regressor
    constants = proposer.config()["rule"]
    grids = proposer.learnt_.grids(geometry, constants["bins"], 0)
    projection = detector.encoder.projection
    return {
        "shapes": [[grid.width, grid.height] for _, grid in grids],
        "bins": constants["bins"],
        "stride": geometry.stride,
        "anchor_centre": geometry.centre,
        "candidates": max(constants["candidates"], rule.max_anchors),
        "proposals": rule.max_anchors,
        "anchor_nms": constants["nms_threshold"],
        "levels": list(detector.encoder.levels),
        "cells": [projection.stride, projection.centre, projection.offset],
        "temperature": rule.softmax_temperature,
        "moved": rule.moved_per_class,
        "rescore": rule.rescore,
        "soft": rule.nms == "soft",
        "sigma": rule.soft_sigma,
        "nms": rule.nms_threshold,
        "most": rule.max_detections,
        "vote": rule.vote_overlap,
        "as_points": isinstance(move, BoxCascade) and move.constants.bins == "points",
    }


def check_whole(detector: Detector) -> None:
    """Refuse what one graph cannot do.

    Raises:
        OutputError: If the detector has no anchors, several scales, mirror images, a cap of each
            class, boxes refined after suppression, or another kind of scores or box regression.
    """
    rule = detector.inference
    check_exportable(detector.encoder.backbone)
    linear_classifier_of(detector)
    cascade = cascade_of(detector)
    sizes, late = len(detector.encoder.short_sides), rule.refined != "scored"
    wrong = {
        "it has no anchors (detect train --anchors)": detector.anchors is None,
        "it convolves images at several sizes (detect train --imgsz N)": sizes > 1,
        "it averages over mirror images (flip)": rule.flip,
        "its cap is of each class (max-per class)": rule.max_per != "image",
        "it refines boxes after suppression (refined kept)": cascade is not None and late,
        f"its score threshold is below {LEAST_THRESHOLD}": rule.score_threshold < LEAST_THRESHOLD,
    }
    for reason, holds in wrong.items():
        if holds:
            raise OutputError(f"the whole detector does not fit into one graph: {reason}")


def whole_recipe(detector: Detector) -> ExportRecipe:
    """Describe the export of a detector from the image to its detections.

    Proposals come from the learnt anchors alone: what the detector would look for in the pixels
    (``inference.proposals``) no graph can do.

    Args:
        detector: On the CPU; with anchors, one scale, linear SVMs on pooled features.

    Returns:
        A recipe for :func:`sppnet.pooling.onnx.export.export_onnx`: ``image`` (1, 3, H, W) float32
        RGB 0..1, resized to the encoder's scale, in; ``boxes`` (K, 4) xyxy in its pixels,
        ``scores`` (K,) and ``labels`` (K,) int64 out, best first.

    Raises:
        OutputError: As :func:`check_whole`.
    """
    check_whole(detector)
    facts = {**facts_of(detector), "kind": "whole detector", "proposals": "anchors"}
    # a trained detector finds nothing in drawn noise: with its own threshold all would be equal
    low = copy.copy(detector)
    low.inference = replace(detector.inference, score_threshold=LEAST_THRESHOLD)
    own = detector.inference.score_threshold
    return ExportRecipe(
        module=WholeDetector(low),
        example=(_draw_image(203, 311),),
        inputs={"image": {2: "height", 3: "width"}},
        outputs={name: {0: "detections"} for name in ("boxes", "scores", "labels")},
        expect=lambda image: detect_by_torch(low, image),
        cases=[(_draw_image(*sides),) for sides in SIZES],
        tolerance=TOLERANCE,
        about=facts,
        finish=lambda model: _set_threshold(model, own),
        translations={torch.ops.sppnet_detection.find_objects.default: find_objects},
    )


def _set_threshold(model: "onnx.ModelProto", value: float) -> None:
    """Put the detector's own threshold into a graph that was compared at the lowest one."""
    [place] = [each for each in model.graph.initializer if each.name == THRESHOLD]
    place.raw_data = np.array([value], "<f4").tobytes()


def detect_by_torch(detector: Detector, image: Tensor) -> tuple[Tensor, ...]:
    """Detect on the anchors of an image by torch, as the graph should."""
    proposer = cast(AnchorProposer, detector.anchors)
    features = detector.encoder.backbone.with_engine("torch")(image)
    encoded = EncodedImage((features,), ((1.0, 1.0),), (image.shape[2], image.shape[3]))
    proposals, _ = proposer.propose(encoded, detector.inference.max_anchors)
    found = detector.detect(encoded, proposals)
    return found.boxes, found.scores, found.labels


def _draw_image(height: int, width: int) -> Tensor:
    """A random image with large and small structures, (1, 3, H, W)."""
    draw = torch.Generator().manual_seed(height * width)
    parts = [torch.rand(1, 3, side, side, generator=draw) for side in (3, 8, 40)]
    return torch.stack([resize_image(each, (height, width)) for each in parts]).mean(0)


@dataclass(frozen=True)
class _Scorer:
    """What scores and moves regions in the graph."""

    features: Value
    image: Value
    weights: Value
    bias: Value
    threshold: Value
    facts: dict[str, Any]

    def pool(self, boxes: Value) -> Value:
        """Pool the regions of (R, 4) boxes: (R, D)."""
        return pool_regions([self.features], self._regions(boxes), self.facts["levels"])

    def interpolate(self, boxes: Value) -> Value:
        """Average interpolated points inside (R, 4) boxes: (R, D)."""
        stride, centre, _ = self.facts["cells"]
        low, step = (double(_floats(value)) for value in (0.5 + centre, stride))
        cells = op.Div(op.Sub(double(boxes), low), step)
        return average_points(self.features, cells, self.facts["levels"], POINTS_PER_BIN)

    def score(self, pooled: Value) -> Value:
        """Scores (R, K) of pooled vectors, the classes in competition."""
        scores = op.Add(op.MatMul(pooled, self.weights), self.bias)
        temperature = self.facts["temperature"]
        if not temperature:
            return scores
        logits = op.Div(double(scores), double(_floats(temperature)))
        highest = op.Max(op.ReduceMax(logits, ints(1), keepdims=1), double(_floats(0.0)))
        classes = size(self.bias, 0)
        one = op.Expand(double(_floats(1.0)), op.Concat(classes, classes, axis=0))
        others = op.Sub(one, op.EyeLike(one))
        shares = op.Exp(op.Sub(logits, highest))
        rest = op.Add(op.MatMul(shares, others), op.Exp(op.Neg(highest)))
        claimed = op.Add(op.Log(rest), highest)
        lost = op.Mul(claimed, double(_floats(temperature)))
        return op.Cast(op.Sub(double(scores), lost), to=FLOAT)

    def move(self, boxes: Value, labels: Value, weights: Value, bias: Value, groups: int) -> Value:
        """Refine boxes by one stage; one that would leave the image stays as it is."""
        seen = self.interpolate(boxes) if self.facts["as_points"] else self.pool(boxes)
        products = op.Add(op.MatMul(seen, weights), bias)
        shape = op.Concat(size(labels, 0), ints(groups, 4), axis=0)
        products = op.Reshape(products, shape, allowzero=1)
        own = labels if groups > 1 else op.Mul(labels, ints(0))
        deltas = op.GatherND(products, op.Unsqueeze(own, ints(1)), batch_dims=1)
        moved = self.clip(_shift(boxes, deltas))
        sides = op.Sub(_columns(moved, 2, 4), _columns(moved, 0, 2))
        has_area = op.Greater(op.ReduceMin(sides, ints(1), keepdims=1), _floats(0.0))
        return op.Where(has_area, moved, boxes)

    def clip(self, boxes: Value) -> Value:
        """Cut boxes off at the sides of the image."""
        height, width = (op.Cast(size(self.image, axis), to=FLOAT) for axis in (2, 3))
        limits = op.Concat(width, height, width, height, axis=0)
        return op.Min(op.Max(boxes, _floats(0.0)), limits)

    def _regions(self, boxes: Value) -> Value:
        """Cells of (R, 4) boxes, (R, 5) int64: ``project_to_free_grid`` in ONNX."""
        stride, centre, offset = (double(_floats(value)) for value in self.facts["cells"])
        half, two = double(_floats(0.5)), double(_floats(2.0))
        exact = double(boxes)
        low = op.Add(op.Sub(_columns(exact, 0, 2), centre), offset)
        high = op.Sub(op.Sub(op.Sub(_columns(exact, 2, 4), op.Add(half, half)), centre), offset)
        first = op.Floor(op.Add(op.Div(low, stride), half))
        last = op.Ceil(op.Sub(op.Div(high, stride), half))
        middle = op.Div(op.Add(op.Add(first, last), two), two)
        middle = op.Sub(double(op.Cast(middle, to=INT64)), op.Add(half, half))
        between = op.Greater(first, last)
        ends = op.Sub(op.Concat(size(self.features, 3), size(self.features, 2), axis=0), ints(1))
        near, far = (
            op.Min(op.Max(op.Cast(op.Where(between, middle, side), to=INT64), ints(0)), ends)
            for side in (first, last)
        )
        image = op.Mul(_columns(near, 0, 1), ints(0))
        return op.Concat(image, near, op.Add(far, ints(1)), axis=1)


def find_objects(
    features: Value, image: Value, anchors: Value, scorer: Value, movers: Value, facts: str
) -> tuple[Value, Value, Value]:
    """Translate ``sppnet_detection::find_objects``: what ``Detector.detect`` does on anchors."""
    known = json.loads(facts)
    weights, bias, threshold = scorer
    parts = _Scorer(features, image, weights, bias, threshold, known)
    proposals = _propose(parts, *anchors)
    boxes, scores, labels = _pairs(parts, proposals, bool(movers))
    if movers:
        before = scores
        for products, constants in zip(movers[::2], movers[1::2], strict=True):
            groups = constants.shape[0] // 4
            boxes = parts.move(boxes, labels, products, constants, groups)
        if known["rescore"]:
            after = parts.score(parts.pool(boxes))
            own = op.GatherND(after, op.Unsqueeze(labels, ints(1)), batch_dims=1)
            scores = op.Div(op.Add(before, own), _floats(2.0))
        sides = op.Sub(_columns(boxes, 2, 4), _columns(boxes, 0, 2))
        has_area = op.Greater(op.ReduceMin(sides, ints(1), keepdims=0), _floats(0.0))
        boxes, scores, labels = (op.Compress(v, has_area, axis=0) for v in (boxes, scores, labels))
    return _select(boxes, scores, labels, parts, moved=bool(movers))


def _propose(parts: _Scorer, rotation: Value, shift: Value, mixing: Value, last: Value) -> Value:
    """Proposals (M, 4) of the learnt anchors, best first."""
    facts, features = parts.facts, parts.features
    height, width = size(features, 2), size(features, 3)
    flat = op.Reshape(features, op.Concat(size(features, 1), ints(-1), axis=0))
    mixed = op.MatMul(mixing, op.Add(op.MatMul(rotation, flat), shift))
    count, bins = len(facts["shapes"]), facts["bins"] ** 2
    shape = op.Concat(ints(count, bins * 5), height, width, axis=0)
    exact = double(op.Reshape(mixed, shape))
    summed = op.CumSum(op.CumSum(exact, ints(2)), ints(3))
    sums = op.Pad(summed, ints(0, 0, 1, 1, 0, 0, 0, 0))
    boxes, responses = [], []
    for number, (wide, tall) in enumerate(facts["shapes"]):
        grid = AnchorGrid(wide, tall, facts["stride"], facts["anchor_centre"], facts["bins"])
        boxes.append(_anchor_boxes(grid, height, width))
        own = op.Gather(sums, op.Squeeze(ints(number)), axis=0)  # (B * 5, h + 1, w + 1)
        total = _average(own, grid, height, width)
        per_cell = op.Transpose(op.Reshape(total, ints(5, -1)), perm=[1, 0])
        constant = op.Gather(last, ints(number), axis=0)
        responses.append(op.Cast(op.Add(per_cell, constant), to=FLOAT))
    anchors, answers = op.Concat(*boxes, axis=0), op.Concat(*responses, axis=0)
    scores = op.Squeeze(_columns(answers, 0, 1), ints(1))
    most = op.Min(ints(facts["candidates"]), size(scores, 0))
    best_scores, best = op.TopK(scores, most)
    deltas = op.Gather(_columns(answers, 1, 5), best, axis=0)
    moved = parts.clip(_shift(op.Gather(anchors, best, axis=0), deltas))
    sides = op.Sub(_columns(moved, 2, 4), _columns(moved, 0, 2))
    is_wide = op.GreaterOrEqual(op.ReduceMin(sides, ints(1), keepdims=0), _floats(1.0))
    moved, best_scores = (op.Compress(each, is_wide, axis=0) for each in (moved, best_scores))
    kept = op.NonMaxSuppression(
        op.Unsqueeze(moved, ints(0)),
        op.Unsqueeze(best_scores, ints(0, 1)),
        ints(facts["proposals"]),
        _floats(facts["anchor_nms"]),
    )
    return op.Gather(moved, op.Squeeze(_columns(kept, 2, 3), ints(1)), axis=0)


def _average(sums: Value, grid: AnchorGrid, height: Value, width: Value) -> Value:
    """Means of every anchor's bins, summed over the bins: (5, h, w) float64."""
    rows, columns = (_count(side) for side in (height, width))
    total = None
    for number, rectangle in enumerate(grid.rectangles.tolist()):
        x0, y0, x1, y1 = rectangle
        part = op.Slice(sums, ints(5 * number), ints(5 * number + 5), ints(0))
        upper, lower = (_within(rows, y, height) for y in (y0, y1))
        left, right = (_within(columns, x, width) for x in (x0, x1))
        bands = op.Sub(op.Gather(part, lower, axis=1), op.Gather(part, upper, axis=1))
        found = op.Sub(op.Gather(bands, right, axis=2), op.Gather(bands, left, axis=2))
        mean = op.Div(found, double(_floats(float((x1 - x0) * (y1 - y0)))))
        total = mean if total is None else op.Add(total, mean)
    return total


def _anchor_boxes(grid: AnchorGrid, height: Value, width: Value) -> Value:
    """(h * w, 4) anchors as ``AnchorGrid.boxes`` places them."""
    centres = []
    for side, cells in zip((width, height), grid.cells_wh, strict=True):
        places = op.Add(op.Cast(_count(side), to=FLOAT), _floats((1 - cells % 2) / 2))
        places = op.Add(op.Mul(places, _floats(float(grid.stride))), _floats(float(grid.centre)))
        centres.append(op.Add(places, _floats(0.5)))
    both = op.Concat(height, width, axis=0)
    x = op.Expand(centres[0], both)
    y = op.Expand(op.Unsqueeze(centres[1], ints(1)), both)
    middle = op.Concat(op.Reshape(x, ints(-1, 1)), op.Reshape(y, ints(-1, 1)), axis=1)
    half = _floats(grid.width / 2, grid.height / 2)
    return op.Concat(op.Sub(middle, half), op.Add(middle, half), axis=1)


def _pairs(parts: _Scorer, proposals: Value, moved: bool) -> tuple[Value, Value, Value]:
    """Boxes, scores and labels of the pairs of proposal and class that go on."""
    scores = parts.score(parts.pool(proposals))  # (M, K)
    per_class = parts.facts["moved"] if moved else 0
    rows = op.Unsqueeze(_count(size(scores, 0)), ints(1))
    if per_class:
        most = op.Min(ints(per_class), size(scores, 0))
        scores, rows = op.TopK(scores, most, axis=0)
    shape = op.Shape(scores)
    labels = op.Expand(_count(size(scores, 1)), shape)
    columns = (op.Reshape(v, ints(-1)) for v in (scores, op.Expand(rows, shape), labels))
    scores, rows, labels = columns
    counts = op.Greater(scores, parts.threshold)
    scores, rows, labels = (op.Compress(v, counts, axis=0) for v in (scores, rows, labels))
    if per_class:
        scores, order = op.TopK(scores, op.Min(ints(MOST_MOVED), size(scores, 0)))
        rows, labels = (op.Gather(v, order, axis=0) for v in (rows, labels))
    return op.Gather(proposals, rows, axis=0), scores, labels


def _select(
    boxes: Value, scores: Value, labels: Value, parts: _Scorer, *, moved: bool
) -> tuple[Value, Value, Value]:
    """Suppress copies and let boxes vote, as ``select_detections`` does."""
    facts = parts.facts
    votes = moved and facts["vote"] < 1
    kept, lowered = _take(boxes, scores, labels, parts)
    best, own = op.Gather(boxes, kept, axis=0), op.Gather(labels, kept, axis=0)
    if votes:
        best = _vote(best, own, boxes, scores, labels, facts["vote"])
    if votes and not facts["soft"]:
        again, lowered = _take(best, lowered, own, parts)
        best, own = (op.Gather(value, again, axis=0) for value in (best, own))
    return best, lowered, own


def _take(boxes: Value, scores: Value, labels: Value, parts: _Scorer) -> tuple[Value, Value]:
    """Rows that stay, best first, and their scores, which soft suppression has lowered."""
    facts = parts.facts
    shares = double(op.Sigmoid(scores))
    most = op.Min(ints(facts["most"]), size(scores, 0))
    soft = facts["soft"]
    kept, lowered = take_best(
        double(boxes),
        shares,
        labels,
        op.Squeeze(most),
        double(_floats(facts["sigma"] if soft else 1.0)),
        double(_floats(2.0 if soft else facts["nms"])),
    )
    if not soft:
        stays = op.GreaterOrEqual(lowered, double(_floats(0.0)))
        kept = op.Compress(kept, stays, axis=0)
        return kept, op.Gather(scores, kept, axis=0)
    new = op.Cast(op.Sub(op.Log(lowered), op.Log(op.Sub(double(_floats(1.0)), lowered))), to=FLOAT)
    stays = op.Greater(new, parts.threshold)  # NaN, of rows taken before, does not
    return op.Compress(kept, stays, axis=0), op.Compress(new, stays, axis=0)


def _vote(
    best: Value, own: Value, boxes: Value, scores: Value, labels: Value, overlap: float
) -> Value:
    """Weighted means of the boxes that overlap each kept one: ``vote_boxes`` in ONNX."""
    kept, voters = double(best), double(boxes)
    low, high = (
        end(op.Unsqueeze(_columns(kept, a, a + 2), ints(1)), _columns(voters, a, a + 2))
        for end, a in ((op.Max, 0), (op.Min, 2))
    )
    zero = double(_floats(0.0))
    shared = op.ReduceProd(op.Max(op.Sub(high, low), zero), ints(2), keepdims=0)  # (n, P)
    areas = [
        op.ReduceProd(op.Sub(_columns(each, 2, 4), _columns(each, 0, 2)), ints(1), keepdims=0)
        for each in (kept, voters)
    ]
    union = op.Sub(op.Add(op.Unsqueeze(areas[0], ints(1)), areas[1]), shared)
    near = op.GreaterOrEqual(op.Div(shared, union), double(_floats(overlap)))
    near = op.And(near, op.Equal(op.Unsqueeze(own, ints(1)), labels))
    worth = op.Max(op.Add(double(scores), double(_floats(1.0))), zero)
    weights = op.Mul(double(near), worth)
    total = op.ReduceSum(weights, ints(1), keepdims=1)
    least = double(_floats(1e-12))
    means = op.Cast(op.Div(op.MatMul(weights, voters), op.Max(total, least)), to=FLOAT)
    return op.Where(op.Greater(total, zero), means, best)


def _shift(boxes: Value, deltas: Value) -> Value:
    """Move and stretch (R, 4) boxes: ``deltas_to_boxes`` in ONNX."""
    sizes = op.Sub(_columns(boxes, 2, 4), _columns(boxes, 0, 2))
    centres = op.Add(_columns(boxes, 0, 2), op.Div(sizes, _floats(2.0)))
    centres = op.Add(centres, op.Mul(_columns(deltas, 0, 2), sizes))
    growth = op.Exp(op.Min(_columns(deltas, 2, 4), _floats(LARGEST_LOG_RATIO)))
    half = op.Div(op.Mul(sizes, growth), _floats(2.0))
    return op.Concat(op.Sub(centres, half), op.Add(centres, half), axis=1)


def _within(places: Value, shift: int, most: Value) -> Value:
    return op.Min(op.Max(op.Add(places, ints(shift)), ints(0)), most)


def _count(length: Value) -> Value:
    """0, 1, ... of a (1,) length."""
    zero, one = (op.Squeeze(ints(value)) for value in (0, 1))
    return op.Range(zero, op.Squeeze(length), one)


def _columns(value: Value, first: int, end: int) -> Value:
    return op.Slice(value, ints(first), ints(end), ints(1))


def _floats(*values: float) -> Value:
    return op.Constant(value_floats=[float(value) for value in values])
