"""Which proposals are scored, and which scored boxes become detections."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.detection.proposals.precomputed import windows_file
from sppnet.detection.proposals.propose import split_methods
from sppnet.geometry import Detections, box_iou, nms_per_class, soft_nms_per_class

# A probability this close to 0 or 1 keeps a finite score.
SHARE_MARGIN = 1e-6


def vote_boxes(kept: Detections, voters: Detections, overlap: float = 0.65) -> Detections:
    """Replace each box by the mean of the boxes of its class around it, weighted by their scores.

    A score counts as 1 plus itself, and not at all below -1: windows outside the margin of an SVM
    do not vote. Non-maximum suppression throws the other windows away; their sides still tell
    where the thing ends.

    Args:
        kept: Detections after suppression.
        voters: All scored boxes before it.
        overlap: A voter overlaps the box by at least this.

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
    # double: a mean in float32 may lie beyond all of its voters, and so beyond the image
    weights = near * (1 + voters.scores.double()).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    means = (weights @ voters.boxes.double() / total.clamp(min=1e-12)).float()
    return Detections(torch.where(total > 0, means, kept.boxes), kept.scores, kept.labels)


@dataclass(frozen=True)
class InferenceConfig:
    """Constants of testing.

    Args:
        proposals: Name of the proposal method, or of the file that the windows of training were in.
        max_proposals: The most windows per image from the pixels.
        seed: Of the order of proposals.
        max_anchors: The most windows per image from the feature maps, if the detector learnt any.
        score_threshold: Windows that score lower are dropped.
        nms: ``hard`` drops what overlaps a better detection of its class too much; ``soft`` lowers
            its score instead.
        nms_threshold: Of two detections of a class that overlap by more, the worse is dropped.
        soft_sigma: With soft suppression, the width of the bell.
        max_detections: The most detections per image.
        moved_per_class: Windows of each class, best first, that box regression moves before copies
            are suppressed.
        vote_overlap: Boxes that were moved are replaced by the mean of those that overlap them by
            this or more; 1 for no voting.
        flip: Whether scores are averaged over the image and its mirror image.

    Raises:
        ValueError: If ``nms`` is neither hard nor soft, or there is no such method of proposals.

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
        if windows_file(self.proposals) is None:
            split_methods(self.proposals)

    def preselect(self, found: Detections) -> Tensor:
        """Choose the windows of each class whose boxes are worth moving: (M,) rows, best first."""
        order = found.scores.argsort(descending=True, stable=True)
        labels = found.labels[order]
        of_class = labels[:, None] == labels.unique()[None]  # (W, K)
        place = of_class.cumsum(0)[of_class]  # 1 for the best of each class
        return order[place <= self.moved_per_class]

    def select(self, found: Detections, *, moved: bool = False) -> Detections:
        """Suppress copies, and keep the best detections.

        Args:
            found: Scored boxes of one image.
            moved: Whether box regression has moved them, each to the thing that it saw; then
                those that agree say together where it is.

        Returns:
            At most ``max_detections``, best first.
        """
        if self.nms == "soft":
            return self._soften(found)
        kept = self._suppress(found)
        if moved and self.vote_overlap < 1:
            kept = self._suppress(vote_boxes(kept, found, self.vote_overlap))
        return kept

    def _suppress(self, found: Detections) -> Detections:
        """Drop what overlaps a better detection of its class too much."""
        kept = nms_per_class(found.boxes, found.scores, found.labels, self.nms_threshold)
        return found.select(kept[: self.max_detections])

    def _soften(self, found: Detections) -> Detections:
        """Lower the scores of what overlaps a better detection of its class."""
        # probabilities can be lowered by a factor; a margin below 0 would rise
        shares = soft_nms_per_class(
            found.boxes, found.scores.sigmoid(), found.labels, self.soft_sigma
        )
        scores = shares.logit(eps=SHARE_MARGIN)
        best = scores.argsort(descending=True, stable=True)[: self.max_detections]
        best = best[scores[best] > self.score_threshold]
        return Detections(found.boxes, scores, found.labels).select(best)
