"""Which scored boxes become detections."""

import torch
from torch import Tensor

from sppnet.config.detection import InferenceConfig
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


def preselect(found: Detections, per_class: int) -> Tensor:
    """Choose the windows of each class whose boxes are worth moving.

    Args:
        found: Scored boxes of one image.
        per_class: The most windows of a class.

    Returns:
        (M,) rows, best first.

    Example:
        >>> scores, labels = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 0, 1])
        >>> found = Detections(torch.zeros(3, 4), scores, labels)
        >>> preselect(found, 1).tolist()
        [1, 2]
    """
    order = found.scores.argsort(descending=True, stable=True)
    labels = found.labels[order]
    of_class = labels[:, None] == labels.unique()[None]  # (W, K)
    place = of_class.cumsum(0)[of_class]  # 1 for the best of each class
    return order[place <= per_class]


def select_detections(
    found: Detections, config: InferenceConfig, *, moved: bool = False
) -> Detections:
    """Suppress copies, and keep the best detections.

    Args:
        found: Scored boxes of one image.
        config: How copies are suppressed, and how many detections are kept.
        moved: Whether box regression has moved them, each to the thing that it saw; then those
            that agree say together where it is.

    Returns:
        At most ``max_detections``, best first.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]])
        >>> found = Detections(boxes, torch.tensor([0.5, 1.0]), torch.tensor([0, 0]))
        >>> select_detections(found, InferenceConfig()).boxes.tolist()
        [[0.0, 0.0, 9.0, 8.0]]
    """
    if config.nms == "soft":
        return _soften(found, config)
    kept = _suppress(found, config)
    if moved and config.vote_overlap < 1:
        kept = _suppress(vote_boxes(kept, found, config.vote_overlap), config)
    return kept


def _suppress(found: Detections, config: InferenceConfig) -> Detections:
    """Drop what overlaps a better detection of its class too much."""
    kept = nms_per_class(found.boxes, found.scores, found.labels, config.nms_threshold)
    return found.select(kept[: config.max_detections])


def _soften(found: Detections, config: InferenceConfig) -> Detections:
    """Lower the scores of what overlaps a better detection of its class."""
    # probabilities can be lowered by a factor; a margin below 0 would rise
    shares = soft_nms_per_class(
        found.boxes, found.scores.sigmoid(), found.labels, config.soft_sigma
    )
    scores = shares.logit(eps=SHARE_MARGIN)
    best = scores.argsort(descending=True, stable=True)[: config.max_detections]
    best = best[scores[best] > config.score_threshold]
    return Detections(found.boxes, scores, found.labels).select(best)
