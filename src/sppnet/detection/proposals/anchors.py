"""Windows learnt in seconds from the labelled boxes: anchors on the cells of the feature maps."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sppnet.config.detection import TARGET_SIDE
from sppnet.detection.encoder import EncodedImage, Encoder, choose_scales
from sppnet.detection.proposals.anchor_boxes import (
    AnchorEquations,
    AnchorGrid,
    ChannelAxes,
    find_shapes,
    table_of_sums,
)
from sppnet.errors import NothingUsableError
from sppnet.geometry import box_area, box_iou, boxes_to_deltas, clip_boxes, deltas_to_boxes, nms
from sppnet.geometry.boxes import box_intersection
from sppnet.images import LabelledImage

Samples = Iterable[tuple[LabelledImage, EncodedImage]]
# Cells of each map from which the main directions of the channels are estimated.
CELLS_PER_MAP = 200
COUNTEREXAMPLE, NEITHER = -1, -2
# Windows that are moved and compared with each other, if fewer are asked for.
CANDIDATES = 2500


@dataclass(frozen=True)
class AnchorConfig:
    """Constants of learnt anchors.

    Args:
        shapes: The most shapes per scale.
        bins: Bins along each side of a window, in which the map is averaged.
        channels: Directions of the map's channels that are kept.
        strength: Ridge penalty, beside averages of mean square about 1.
        positive_from: A window with this overlap with an object is an example of it.
        negative_below: A window that overlaps every object by less is a counterexample.
        positives: The most examples per image and shape.
        negatives: The most counterexamples per image and shape.
        use_difficult: Whether objects marked difficult are examples.
        nms_threshold: Of two proposals that overlap by more, the worse is dropped.
    """

    shapes: int = 9
    bins: int = 3
    channels: int = 64
    strength: float = 0.05
    positive_from: float = 0.5
    negative_below: float = 0.3
    positives: int = 100
    negatives: int = 16
    use_difficult: bool = False
    nms_threshold: float = 0.7


@dataclass(frozen=True)
class MapGeometry:
    """Where the cells of an encoder's maps lie, and which scale suits which window.

    Args:
        stride: Pixels from cell to cell.
        centre: Pixel on which cell 0 is centred.
        short_sides: The scales.
        target_side: Size that a window should have at its scale.
    """

    stride: float
    centre: float
    short_sides: tuple[int, ...]
    target_side: float = TARGET_SIDE


@dataclass(frozen=True)
class LearntAnchors:
    """What is learnt.

    Args:
        rotation: (P, C) main directions of the channels.
        shift: (P,) that centres them.
        shapes: (A, 3) scale, width and height in pixels of the convolved image.
        weights: (A, P * bins * bins + 1, 5) of the score and the deltas.
    """

    rotation: Tensor
    shift: Tensor
    shapes: Tensor
    weights: Tensor

    def rotate(self, features: Tensor) -> Tensor:
        """Take a (1, C, h, w) map to its main directions, (P, h, w) on the CPU."""
        rotation, shift = (part.to(features.device) for part in (self.rotation, self.shift))
        return (
            (rotation @ features[0].flatten(1) + shift[:, None])
            .cpu()
            .unflatten(1, features.shape[2:])
        )

    def grids(self, geometry: MapGeometry, bins: int, scale: int) -> list[tuple[int, AnchorGrid]]:
        """Number and windows of each shape of one scale."""
        return [
            (number, AnchorGrid(width, height, geometry.stride, geometry.centre, bins))
            for number, (at, width, height) in enumerate(self.shapes.tolist())
            if at == scale
        ]


class AnchorLearner:
    """Learns anchors from labelled images.

    Args:
        geometry: Of the maps.
        rule: The constants.
        seed: Of the examples and counterexamples that are drawn.
    """

    def __init__(self, geometry: MapGeometry, rule: AnchorConfig, seed: int) -> None:
        self.geometry, self.rule = geometry, rule
        self.draw = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def learn(self, samples: Samples) -> LearntAnchors:
        """Find the directions of the channels and the shapes, then fit each shape.

        Raises:
            NothingUsableError: If no image has an object.
        """
        unfitted = self._survey(samples)
        length = len(unfitted.rotation) * self.rule.bins**2 + 1
        equations = [AnchorEquations(length) for _ in unfitted.shapes]
        for image, encoded in samples:
            for scale, features in enumerate(encoded.maps):
                rotated = unfitted.rotate(features)
                zoom = torch.tensor(encoded.zooms_xy[scale]).repeat(2)
                for number, grid in unfitted.grids(self.geometry, self.rule.bins, scale):
                    self._add(equations[number], grid, rotated, image, zoom)
        weights = torch.stack([each.solve(self.rule.strength) for each in equations])
        return LearntAnchors(unfitted.rotation, unfitted.shift, unfitted.shapes, weights)

    def _survey(self, samples: Samples) -> LearntAnchors:
        """Go through the samples once for the directions of the channels and the shapes."""
        axes: ChannelAxes | None = None
        objects = []
        for image, encoded in samples:
            axes = axes or ChannelAxes(encoded.maps[0].shape[1])
            for features in encoded.maps:
                cells = features[0].flatten(1)
                some = torch.randperm(cells.shape[1], generator=self.draw)[:CELLS_PER_MAP]
                axes.add(cells[:, some.to(cells.device)])
            objects.append(self._objects(image, encoded))
        if axes is None or not any(len(labels) for labels, _ in objects):
            raise NothingUsableError("no image has an object to learn anchors from")
        labels, shapes = (torch.cat(parts) for parts in zip(*objects, strict=True))
        rotation, shift = axes.solve(self.rule.channels)
        return LearntAnchors(rotation, shift, self._group(labels, shapes), torch.zeros(0))

    def _objects(self, image: LabelledImage, encoded: EncodedImage) -> tuple[Tensor, Tensor]:
        """Labels (K,) of an image's objects, and (K, 3) their scale, width and height there."""
        wanted = self._wanted(image)
        boxes, geometry = image.boxes[wanted], self.geometry
        scale_of = choose_scales(boxes, image.size_hw, geometry.short_sides, geometry.target_side)
        sizes = (boxes[:, 2:] - boxes[:, :2]) * torch.tensor(encoded.zooms_xy)[scale_of]
        return image.labels[wanted], torch.cat([scale_of[:, None].to(sizes.dtype), sizes], 1)

    def _group(self, labels: Tensor, shapes: Tensor) -> Tensor:
        """Find the shapes of each scale; all classes weigh the same, however rare."""
        weights = 1 / labels.bincount()[labels].float()
        self.class_weights = labels.bincount().clamp(min=1).float().rsqrt()
        found = []
        for scale in shapes[:, 0].unique():
            rows = shapes[:, 0] == scale
            middles = find_shapes(shapes[rows, 1:], weights[rows], self.rule.shapes)
            found.append(torch.cat([scale.expand(len(middles), 1), middles], 1))
        return torch.cat(found)

    def _add(
        self,
        equations: AnchorEquations,
        grid: AnchorGrid,
        rotated: Tensor,
        image: LabelledImage,
        zoom: Tensor,
    ) -> None:
        """Add an image's examples and counterexamples of one shape."""
        boxes = grid.boxes((rotated.shape[1], rotated.shape[2])) / zoom
        target_of = self._target_of(boxes, image)
        examples = self._some(target_of >= 0, self.rule.positives)
        others = self._some(target_of == COUNTEREXAMPLE, self.rule.negatives)
        sums = table_of_sums(rotated)
        equations.add_negatives(grid.describe(sums, others))
        if len(examples):
            targets = target_of[examples]
            deltas = boxes_to_deltas(boxes[examples], image.boxes[targets])
            weights = self.class_weights[image.labels[targets]]
            equations.add_positives(grid.describe(sums, examples), deltas, weights)

    def _target_of(self, boxes: Tensor, image: LabelledImage) -> Tensor:
        """(N,) the object that each window is an example of, COUNTEREXAMPLE or NEITHER."""
        if not len(image.boxes):
            return torch.full((len(boxes),), COUNTEREXAMPLE)
        overlaps = box_iou(boxes, image.boxes)
        inside = box_intersection(boxes, image.boxes) / box_area(boxes)[:, None]
        far = torch.where(image.crowd, inside, overlaps).amax(1) < self.rule.negative_below
        best, nearest = (overlaps * self._wanted(image)).max(1)
        target_of = torch.where(far, COUNTEREXAMPLE, NEITHER)
        return torch.where(best >= self.rule.positive_from, nearest, target_of)

    def _some(self, mask: Tensor, limit: int) -> Tensor:
        """At most ``limit`` of the rows where the mask is true, drawn at random."""
        rows = mask.nonzero().flatten()
        return rows[torch.randperm(len(rows), generator=self.draw)[:limit]]

    def _wanted(self, image: LabelledImage) -> Tensor:
        """(K,) which objects of an image are examples."""
        return ~image.crowd & (~image.difficult | self.rule.use_difficult)


class AnchorProposer:
    """Proposes windows where labelled objects would be: small, round and touching ones, too.

    The sizes of the labelled boxes give a few shapes per scale. A window of each shape on each
    cell is described by averages of the map in its bins; two linear models per shape, in closed
    form, say whether there is a thing and where its sides are. All windows of an image take some
    milliseconds, because averages of rectangles come from a table of sums.

    Args:
        geometry: Of the maps: stride, centre of cell 0, scales.
        rule: The constants.
        seed: Of the examples and counterexamples that are drawn.

    Attributes:
        learnt_: The shapes and their weights, after :meth:`fit`.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> encoder = Encoder(build_backbone("small5"), short_sides=(96,))
        >>> AnchorProposer.of(encoder).geometry.short_sides
        (96,)

    Source:
        Anchors: Ren et al. 2015 (Faster R-CNN). Learnt in closed form from fixed features:
        Maiettini et al. 2017 (arXiv 1803.08740), Ceola et al. 2020 (arXiv 2011.12790).
    """

    learnt_: LearntAnchors

    def __init__(
        self, geometry: MapGeometry, rule: AnchorConfig | None = None, seed: int = 0
    ) -> None:
        self.geometry = geometry
        self.rule = rule or AnchorConfig()
        self.seed = seed

    @classmethod
    def of(
        cls, encoder: Encoder, rule: AnchorConfig | None = None, seed: int = 0
    ) -> "AnchorProposer":
        """Make a proposer, not fitted yet, for the maps of an encoder."""
        trunk = encoder.backbone
        geometry = MapGeometry(trunk.stride, trunk.centre, encoder.short_sides, encoder.target_side)
        return cls(geometry, rule, seed)

    def fit(self, samples: Samples) -> "AnchorProposer":
        """Learn shapes, scores and deltas; the same samples give the same proposer.

        Args:
            samples: Images with their maps, gone through twice; nothing of them is kept.

        Returns:
            Itself.

        Raises:
            NothingUsableError: If no image has an object.
            TypeError: If the samples can be gone through only once.
        """
        if isinstance(samples, Iterator):
            raise TypeError("samples must be iterable more than once, got an iterator")
        self.learnt_ = AnchorLearner(self.geometry, self.rule, self.seed).learn(samples)
        return self

    @torch.no_grad()
    def propose(self, encoded: EncodedImage, limit: int) -> tuple[Tensor, Tensor]:
        """Find windows that may hold a thing.

        Args:
            encoded: Feature maps of an image.
            limit: The most windows.

        Returns:
            (K, 4) xyxy in pixels of the original image, best first, sides of at least 1 px, and
            their (K,) scores: towards 1 where there is a thing, towards -1 where not.
        """
        windows, responses = self._respond(encoded)
        scores, best = responses[:, 0].topk(min(max(CANDIDATES, limit), len(windows)))
        moved = deltas_to_boxes(windows[best], responses[best, 1:])
        moved = clip_boxes(moved, encoded.image_size_hw)
        seen = ((moved[:, 2:] - moved[:, :2]) >= 1).all(1)
        moved, scores = moved[seen], scores[seen]
        kept = nms(moved, scores, self.rule.nms_threshold)[:limit]
        return moved[kept], scores[kept]

    def _respond(self, encoded: EncodedImage) -> tuple[Tensor, Tensor]:
        """(N, 4) windows of all shapes on all cells, and (N, 5) their scores and deltas."""
        boxes, responses = [], []
        for scale, features in enumerate(encoded.maps):
            rotated = self.learnt_.rotate(features)
            zoom = torch.tensor(encoded.zooms_xy[scale]).repeat(2)
            for number, grid in self.learnt_.grids(self.geometry, self.rule.bins, scale):
                boxes.append(grid.boxes((features.shape[2], features.shape[3])) / zoom)
                responses.append(grid.respond(rotated, self.learnt_.weights[number]))
        return torch.cat(boxes), torch.cat(responses)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"geometry": asdict(self.geometry), "rule": asdict(self.rule), "seed": self.seed}

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`fit` learnt, by name."""
        return dict(vars(self.learnt_))

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "AnchorProposer":
        """Put a fitted proposer together again.

        Raises:
            KeyError: If a part is missing.
            TypeError: If a part has another name.
        """
        geometry = dict(config["geometry"])
        geometry["short_sides"] = tuple(geometry["short_sides"])
        proposer = cls(MapGeometry(**geometry), AnchorConfig(**config["rule"]), config["seed"])
        proposer.learnt_ = LearntAnchors(**tensors)
        return proposer
