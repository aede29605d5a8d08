"""Proposals from learnt anchors on the cells of the feature maps, fitted in seconds."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from sppnet.config.detection import TARGET_SIDE
from sppnet.config.fields import Count, CountOrNone, Within, restore_fields
from sppnet.detection.assign import trainable_objects
from sppnet.detection.encoder import EncodedImage, Encoder, choose_scales
from sppnet.detection.proposals.anchor_boxes import (
    AnchorGrid,
    NormalEquations,
    PrincipalComponents,
    cluster_shapes,
    integral_image,
)
from sppnet.errors import NothingUsableError
from sppnet.geometry import box_area, box_iou, boxes_to_deltas, clip_boxes, deltas_to_boxes, nms
from sppnet.geometry.boxes import box_intersection
from sppnet.images import LabelledImage
from sppnet.progress import using_threads

Samples = Iterable[tuple[LabelledImage, EncodedImage]]
NEGATIVE, NEITHER = -1, -2
MOST_SHAPES = 200_000  # of objects that are clustered; of more a random part


@dataclass(frozen=True)
class AnchorConfig:
    """Constants of learnt anchors.

    Args:
        shapes: The most shapes per scale.
        bins: Bins along each side of an anchor, over which the map is averaged.
        channels: Principal components of the map's channels that are kept.
        strength: Ridge penalty, for means whose mean square is about 1.
        positive_from: An anchor whose IoU with an object is at least this is a positive.
        negative_below: An anchor whose IoU with every object is below this is a negative.
        positives: The most positives per image and shape.
        negatives: The most negatives per image and shape.
        use_difficult: Whether objects marked difficult have positives.
        nms_threshold: Of two proposals with an IoU above this, the worse is dropped.
        candidates: Anchors, the best ones, that go on to suppression, however few proposals are
            asked for.
        cells: Cells of each map from which the principal components of the channels are estimated.
    """

    shapes: Count = 9
    bins: Count = 3
    channels: Count = 64
    strength: Annotated[float, Within(0)] = 0.05
    positive_from: Annotated[float, Within(0, 1)] = 0.5
    negative_below: Annotated[float, Within(0, 1)] = 0.3
    positives: CountOrNone = 100
    negatives: CountOrNone = 16
    use_difficult: bool = False
    nms_threshold: Annotated[float, Within(0, 1)] = 0.7
    candidates: Count = 2500
    cells: Count = 200


@dataclass(frozen=True)
class MapGeometry:
    """Where the cells of an encoder's maps lie, and at which scales it convolves.

    Args:
        stride: Pixels from cell to cell.
        centre: Pixel on which cell 0 is centred.
        short_sides: Short side of the image at each scale, in pixels.
        target_side: Side that an object should have at its scale, in pixels.
    """

    stride: float
    centre: float
    short_sides: tuple[int, ...]
    target_side: float = TARGET_SIDE


@dataclass(frozen=True)
class SavedAnchors:
    """What :meth:`AnchorProposer.config` writes."""

    geometry: MapGeometry
    rule: AnchorConfig
    seed: int


@dataclass(frozen=True)
class LearntAnchors:
    """What :meth:`AnchorProposer.fit` learns.

    Args:
        rotation: (P, C) principal components of the channels.
        shift: (P,) shift that centres them.
        shapes: (A, 3) scale, width and height in pixels of the convolved image.
        weights: (A, P * bins * bins + 1, 5) weights of the score and the deltas.
    """

    rotation: Tensor
    shift: Tensor
    shapes: Tensor
    weights: Tensor

    def check(self, channels: int, config: AnchorConfig) -> None:
        """Check that the tensors fit maps of so many channels and the constants.

        Raises:
            ValueError: If a tensor has another shape, or an anchor no sensible side.
        """
        parts = len(self.rotation)
        wanted = {
            "rotation": (parts, channels),
            "shift": (parts,),
            "shapes": (len(self.shapes), 3),
            "weights": (len(self.shapes), parts * config.bins**2 + 1, 5),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                got = tuple(getattr(self, name).shape)
                raise ValueError(f"anchors.{name} must have shape {shape}, got {got}")
        sides = self.shapes[:, 1:]
        if not bool(((sides > 0) & (sides <= 10**6)).all()):
            raise ValueError("anchors.shapes must have sides above 0 and at most 1000000")

    def rotate(self, features: Tensor) -> Tensor:
        """Project a (1, C, h, w) map onto the principal components: (P, h, w) on the CPU."""
        rotation, shift = (part.to(features.device) for part in (self.rotation, self.shift))
        return (
            (rotation @ features[0].flatten(1) + shift[:, None])
            .cpu()
            .unflatten(1, features.shape[2:])
        )

    def grids(self, geometry: MapGeometry, bins: int, scale: int) -> list[tuple[int, AnchorGrid]]:
        """Row in ``shapes`` and anchors of each shape of one scale."""
        return [
            (number, AnchorGrid(width, height, geometry.stride, geometry.centre, bins))
            for number, (at, width, height) in enumerate(self.shapes.tolist())
            if at == scale
        ]


class AnchorLearner:
    """Learns anchors from labelled images.

    Args:
        geometry: Geometry of the maps.
        config: The constants.
        seed: Seed of the samples of cells, positives and negatives.
    """

    def __init__(self, geometry: MapGeometry, config: AnchorConfig, seed: int) -> None:
        self.geometry, self.config = geometry, config
        self.draw = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def learn(self, samples: Samples) -> LearntAnchors:
        """Find the principal components and the shapes in one pass, then fit each shape in another.

        Args:
            samples: Images with their maps.

        Returns:
            The fitted anchors.

        Raises:
            NothingUsableError: If no image has an object.
        """
        unfitted = self._survey(samples)
        length = len(unfitted.rotation) * self.config.bins**2 + 1
        equations = [NormalEquations(length) for _ in unfitted.shapes]
        for image, encoded in samples:
            for scale, features in enumerate(encoded.maps):
                sums = integral_image(unfitted.rotate(features))
                zoom = torch.tensor(encoded.zooms_xy[scale]).repeat(2)
                for number, grid in unfitted.grids(self.geometry, self.config.bins, scale):
                    self._add(equations[number], grid, sums, image, zoom)
        weights = torch.stack([each.solve(self.config.strength) for each in equations])
        return LearntAnchors(unfitted.rotation, unfitted.shift, unfitted.shapes, weights)

    def _survey(self, samples: Samples) -> LearntAnchors:
        """Find the principal components of the channels and the shapes of the objects."""
        components: PrincipalComponents | None = None
        objects = []
        for image, encoded in samples:
            components = components or PrincipalComponents(encoded.maps[0].shape[1])
            for features in encoded.maps:
                cells = features[0].flatten(1)
                some = torch.randperm(cells.shape[1], generator=self.draw)[: self.config.cells]
                components.add(cells[:, some.to(cells.device)])
            objects.append(self._objects(image, encoded))
        if components is None or not any(len(labels) for labels, _ in objects):
            raise NothingUsableError("no image has an object to learn anchors from")
        labels, shapes = (torch.cat(parts) for parts in zip(*objects, strict=True))
        rotation, shift = components.solve(self.config.channels)
        return LearntAnchors(rotation, shift, self._cluster(labels, shapes), torch.zeros(0))

    def _objects(self, image: LabelledImage, encoded: EncodedImage) -> tuple[Tensor, Tensor]:
        """(G,) labels of an image's objects, and (G, 3) their scale, width and height there."""
        trainable = trainable_objects(image, self.config.use_difficult)
        boxes, geometry = image.boxes[trainable], self.geometry
        scale_of = choose_scales(boxes, image.size_hw, geometry.short_sides, geometry.target_side)
        sizes = (boxes[:, 2:] - boxes[:, :2]) * torch.tensor(encoded.zooms_xy)[scale_of]
        return image.labels[trainable], torch.cat([scale_of[:, None].to(sizes.dtype), sizes], 1)

    def _cluster(self, labels: Tensor, shapes: Tensor) -> Tensor:
        """Cluster the shapes of each scale; all classes weigh the same, however rare: (A, 3)."""
        weights = 1 / labels.bincount()[labels].float()
        self.class_weights = labels.bincount().clamp(min=1).float().rsqrt()
        if len(shapes) > MOST_SHAPES:
            some = torch.randperm(len(shapes), generator=self.draw)[:MOST_SHAPES]
            shapes, weights = shapes[some], weights[some]
        found = []
        for scale in shapes[:, 0].unique():
            rows = shapes[:, 0] == scale
            middles = cluster_shapes(shapes[rows, 1:], weights[rows], self.config.shapes)
            found.append(torch.cat([scale.expand(len(middles), 1), middles], 1))
        return torch.cat(found)

    def _add(
        self,
        equations: NormalEquations,
        grid: AnchorGrid,
        sums: Tensor,
        image: LabelledImage,
        zoom: Tensor,
    ) -> None:
        """Add the positives and negatives of one shape on an image."""
        boxes = grid.boxes((sums.shape[1] - 1, sums.shape[2] - 1)) / zoom
        target_of = self._target_of(boxes, image)
        positives = self._some(target_of >= 0, self.config.positives)
        negatives = self._some(target_of == NEGATIVE, self.config.negatives)
        equations.add_negatives(grid.describe(sums, negatives))
        if len(positives):
            targets = target_of[positives]
            deltas = boxes_to_deltas(boxes[positives], image.boxes[targets])
            weights = self.class_weights[image.labels[targets]]
            equations.add_positives(grid.describe(sums, positives), deltas, weights)

    def _target_of(self, boxes: Tensor, image: LabelledImage) -> Tensor:
        """(N,) the object of which an anchor is a positive, or else NEGATIVE or NEITHER."""
        if not len(image.boxes):
            return torch.full((len(boxes),), NEGATIVE)
        overlaps = box_iou(boxes, image.boxes)
        inside = box_intersection(boxes, image.boxes) / box_area(boxes)[:, None]
        far = torch.where(image.crowd, inside, overlaps).amax(1) < self.config.negative_below
        trainable = trainable_objects(image, self.config.use_difficult)
        best, nearest = (overlaps * trainable).max(1)
        target_of = torch.where(far, NEGATIVE, NEITHER)
        return torch.where(best >= self.config.positive_from, nearest, target_of)

    def _some(self, mask: Tensor, limit: int) -> Tensor:
        """At most ``limit`` of the rows where a mask is true, drawn at random."""
        rows = mask.nonzero().flatten()
        return rows[torch.randperm(len(rows), generator=self.draw)[:limit]]


class AnchorProposer:
    """A region proposal network in closed form: anchors with linear models of score and deltas.

    It finds what segmentation misses: small, round and touching objects. The sizes of the labelled
    boxes are clustered into a few shapes per scale. An anchor of each shape on each cell is
    described by the means of the map over its bins; two linear models per shape, fitted in closed
    form, give a score and the deltas to the object's box. An image takes some milliseconds, because
    means over rectangles come from integral images.

    Args:
        geometry: Stride, centre of cell 0 and scales of the maps.
        config: The constants.
        seed: Seed of the samples of cells, positives and negatives.

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
        self, geometry: MapGeometry, config: AnchorConfig | None = None, seed: int = 0
    ) -> None:
        self.geometry = geometry
        self._config = config or AnchorConfig()
        self.seed = seed

    @classmethod
    def of(
        cls, encoder: Encoder, config: AnchorConfig | None = None, seed: int = 0
    ) -> "AnchorProposer":
        """Make a proposer, not fitted yet, for the maps of an encoder."""
        trunk = encoder.backbone
        geometry = MapGeometry(trunk.stride, trunk.centre, encoder.short_sides, encoder.target_side)
        return cls(geometry, config, seed)

    def fit(self, samples: Samples) -> "AnchorProposer":
        """Learn shapes, scores and deltas; the same samples give the same proposer.

        Args:
            samples: Images with their maps; iterated over twice, and not kept in memory.

        Returns:
            Itself.

        Raises:
            NothingUsableError: If no image has an object.
            TypeError: If ``samples`` can be iterated over only once.
        """
        if isinstance(samples, Iterator):
            raise TypeError("samples must be iterable more than once, got an iterator")
        self.learnt_ = AnchorLearner(self.geometry, self._config, self.seed).learn(samples)
        return self

    @torch.no_grad()
    def propose(self, encoded: EncodedImage, limit: int) -> tuple[Tensor, Tensor]:
        """Propose boxes that may show an object.

        Args:
            encoded: Feature maps of an image.
            limit: The most proposals.

        Returns:
            (K, 4) xyxy in pixels of the original image, best first, sides of at least 1 px, and
            their (K,) scores: near 1 for objects, near -1 for background.
        """
        anchors, responses = self._respond(encoded)
        count = min(max(self._config.candidates, limit), len(anchors))
        scores, best = responses[:, 0].topk(count)
        moved = deltas_to_boxes(anchors[best], responses[best, 1:])
        moved = clip_boxes(moved, encoded.image_size_hw)
        has_area = ((moved[:, 2:] - moved[:, :2]) >= 1).all(1)
        moved, scores = moved[has_area], scores[has_area]
        kept = nms(moved, scores, self._config.nms_threshold)[:limit]
        return moved[kept], scores[kept]

    @using_threads(1)  # as in training: it is faster, and some libraries round otherwise with each
    def _respond(self, encoded: EncodedImage) -> tuple[Tensor, Tensor]:
        """(N, 4) anchors of all shapes on all cells, and (N, 5) their scores and deltas."""
        boxes, responses = [], []
        for scale, features in enumerate(encoded.maps):
            rotated = self.learnt_.rotate(features)
            zoom = torch.tensor(encoded.zooms_xy[scale]).repeat(2)
            for number, grid in self.learnt_.grids(self.geometry, self._config.bins, scale):
                boxes.append(grid.boxes((features.shape[2], features.shape[3])) / zoom)
                responses.append(grid.respond(rotated, self.learnt_.weights[number]))
        return torch.cat(boxes), torch.cat(responses)

    def check(self, encoder: Encoder) -> None:
        """Check that a fitted proposer fits an encoder.

        Raises:
            ValueError: If its maps lie otherwise, or its tensors have other shapes.
        """
        expected = AnchorProposer.of(encoder).geometry
        if self.geometry != expected:
            raise ValueError(f"anchors.geometry must be {expected}, got {self.geometry}")
        self.learnt_.check(encoder.backbone.channels, self._config)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors, in JSON values."""
        return {"geometry": asdict(self.geometry), "rule": asdict(self._config), "seed": self.seed}

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`fit` learnt, by name."""
        return dict(vars(self.learnt_))

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> "AnchorProposer":
        """Restore a fitted proposer from :meth:`config` and :meth:`tensors`.

        Raises:
            TypeError: If a tensor has another name.
            ValueError: If a field is missing or unknown, or breaks its rule.
        """
        saved = restore_fields(SavedAnchors, config, "anchors")
        proposer = cls(saved.geometry, saved.rule, saved.seed)
        proposer.learnt_ = LearntAnchors(**tensors)
        return proposer
