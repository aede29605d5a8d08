"""From scored boxes to detections: suppression of copies and box voting, and their constants."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.detection.proposals.precomputed import proposals_file
from sppnet.detection.proposals.propose import split_methods
from sppnet.geometry import Detections, box_iou, nms_per_class, soft_nms_per_class

# A probability this close to 0 or 1 keeps a finite score.
SHARE_MARGIN = 1e-6


def vote_boxes(kept: Detections, voters: Detections, overlap: float = 0.65) -> Detections:
    """Replace each box by a weighted mean of the boxes of its class that overlap it.

    A box weighs 1 plus its score, and nothing below a score of -1: boxes outside the margin of an
    SVM do not vote. Non-maximum suppression has dropped the voters, but their sides still tell
    where the object ends.

    Args:
        kept: Detections after suppression.
        voters: All scored boxes before it.
        overlap: Least IoU of a voter with the box.

    Returns:
        The detections in the same order, with the same scores; a box without voters stays.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 12.0]])
        >>> voters = Detections(boxes, torch.tensor([2.0, -0.5]), torch.tensor([0, 0]))
        >>> vote_boxes(voters.select(torch.tensor([0])), voters).boxes.round(decimals=2)
        tensor([[ 0.0000,  0.0000, 10.0000, 10.2900]])

    Source:
        Gidaris and Komodakis 2015, section 4: bounding box voting.
    """
    near = box_iou(kept.boxes, voters.boxes) >= overlap
    near &= kept.labels[:, None] == voters.labels[None, :]
    # in float32 a mean may lie beyond all of its voters, and so outside the image
    weights = near * (1 + voters.scores.double()).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    means = (weights @ voters.boxes.double() / total.clamp(min=1e-12)).float()
    return Detections(torch.where(total > 0, means, kept.boxes), kept.scores, kept.labels)


@dataclass(frozen=True)
class InferenceConfig:
    """Constants of a detector at test time.

    Args:
        proposals: Method that proposes, or the file from which the detector was trained.
        max_proposals: The most proposals per image from the pixels.
        seed: Seed of the order of proposals.
        max_anchors: The most proposals per image from the feature maps, if anchors were learnt.
        score_threshold: Boxes with a score that is not above this are dropped.
        nms: ``hard`` drops boxes that overlap a better detection of their class; ``soft`` lowers
            their scores instead.
        nms_threshold: Of two detections of a class with an IoU above this, the worse is dropped.
        soft_sigma: Width of the Gaussian of soft suppression.
        max_detections: The most detections per image.
        moved_per_class: The most boxes of each class, best first, that box regression refines.
        vote_overlap: Least IoU of the boxes that vote for a refined box; 1 for no voting.
        flip: Whether scores are averaged over the image and its mirror image.

    Raises:
        ValueError: If ``nms`` is neither hard nor soft, or ``proposals`` is neither a method nor a
            file.

    Source:
        SPP-net, section 4.1; spp_test.m of the authors' code. Soft: Bodla et al. 2017.
    """

    proposals: str = "graph"
    max_proposals: int = 1000
    seed: int = 0
    max_anchors: int = 400
    score_threshold: float = -1.5
    nms: str = "hard"
    nms_threshold: float = 0.3
    soft_sigma: float = 0.5
    max_detections: int = 100
    moved_per_class: int = 150
    vote_overlap: float = 0.7
    flip: bool = False

    def __post_init__(self) -> None:
        if self.nms not in ("hard", "soft"):
            raise ValueError(f"nms must be hard or soft, got {self.nms!r}")
        if proposals_file(self.proposals) is None:
            split_methods(self.proposals)

    def preselect(self, found: Detections) -> Tensor:
        """Choose the boxes of each class that box regression refines.

        Args:
            found: Scored boxes of one image.

        Returns:
            (M,) int64 rows, best score first, at most ``moved_per_class`` of each class.
        """
        order = found.scores.argsort(descending=True, stable=True)
        labels = found.labels[order]
        of_class = labels[:, None] == labels.unique()[None]  # (W, K)
        rank = of_class.cumsum(0)[of_class]  # 1 for the best of each class
        return order[rank <= self.moved_per_class]

    def select(self, found: Detections, *, moved: bool = False) -> Detections:
        """Suppress copies, and keep the best detections.

        Args:
            found: Scored boxes of one image.
            moved: Whether box regression has refined them; if so, boxes of one object vote on it.

        Returns:
            At most ``max_detections`` detections, best first.
        """
        if self.nms == "soft":
            return self._soften(found)
        kept = self._suppress(found)
        if moved and self.vote_overlap < 1:
            kept = self._suppress(vote_boxes(kept, found, self.vote_overlap))
        return kept

    def _suppress(self, found: Detections) -> Detections:
        """Hard suppression: drop boxes that overlap a better detection of their class."""
        kept = nms_per_class(found.boxes, found.scores, found.labels, self.nms_threshold)
        return found.select(kept[: self.max_detections])

    def _soften(self, found: Detections) -> Detections:
        """Soft suppression: lower the scores of boxes that overlap a better one of their class."""
        # a factor below 1 lowers a probability, but would raise a negative margin
        shares = soft_nms_per_class(
            found.boxes, found.scores.sigmoid(), found.labels, self.soft_sigma
        )
        scores = shares.logit(eps=SHARE_MARGIN)
        best = scores.argsort(descending=True, stable=True)[: self.max_detections]
        best = best[scores[best] > self.score_threshold]
        return Detections(found.boxes, scores, found.labels).select(best)
