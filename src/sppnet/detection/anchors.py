"""Windows learnt in seconds from the labelled boxes: anchors on the cells of the feature maps."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sppnet.detection.anchor_fitting import (
    AnchorLearner,
    AnchorRule,
    LearntAnchors,
    MapGeometry,
    Samples,
)
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.geometry import clip_boxes, deltas_to_boxes, nms

# Windows that are moved and compared with each other, if fewer are asked for.
CANDIDATES = 2500


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
        self, geometry: MapGeometry, rule: AnchorRule | None = None, seed: int = 0
    ) -> None:
        self.geometry = geometry
        self.rule = rule or AnchorRule()
        self.seed = seed

    @classmethod
    def of(
        cls, encoder: Encoder, rule: AnchorRule | None = None, seed: int = 0
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

    def configuration(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"geometry": asdict(self.geometry), "rule": asdict(self.rule), "seed": self.seed}

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`fit` learnt, by name."""
        return dict(vars(self.learnt_))

    @classmethod
    def restore(cls, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> "AnchorProposer":
        """Put a fitted proposer together again.

        Raises:
            KeyError: If a part is missing.
            TypeError: If a part has another name.
        """
        geometry = dict(configuration["geometry"])
        geometry["short_sides"] = tuple(geometry["short_sides"])
        proposer = cls(
            MapGeometry(**geometry), AnchorRule(**configuration["rule"]), configuration["seed"]
        )
        proposer.learnt_ = LearntAnchors(**tensors)
        return proposer
