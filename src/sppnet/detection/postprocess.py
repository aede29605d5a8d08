"""From scored boxes to detections: suppression of copies, and box voting."""

import torch
from torch import Tensor

from sppnet.config.detection import InferenceConfig
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


def let_classes_compete(scores: Tensor, temperature: float) -> Tensor:
    """Lower each score by what the other classes claim of the same box.

    The scores become temperature times the log-odds of a softmax over the classes and a background
    of score 0. A score that has no rival above 0 stays nearly as it is.

    Args:
        scores: (W, K), each from an SVM of its own.
        temperature: The smaller, the sharper; 0 leaves the scores as they are.

    Returns:
        (W, K) float32.

    Example:
        >>> scores = torch.tensor([[1.0, 0.5, -1.0], [1.0, -1.0, -1.0]])
        >>> let_classes_compete(scores, 0.1).round(decimals=2)
        tensor([[ 0.5000, -0.5000, -2.0000],
                [ 1.0000, -2.0000, -2.0000]])
    """
    if not temperature or not scores.numel():
        return scores
    logits = scores.double() / temperature
    background = torch.zeros(len(logits), 1, dtype=logits.dtype)
    earlier = torch.cat([background, logits[:, :-1]], 1).logcumsumexp(1)
    nothing = torch.full_like(background, -torch.inf)
    later = torch.cat([logits[:, 1:], nothing], 1).flip(1).logcumsumexp(1).flip(1)
    return (scores - temperature * torch.logaddexp(earlier, later)).float()


def preselect(found: Detections, per_class: int, most: int | None = None) -> Tensor:
    """Choose the boxes of each class that box regression refines.

    Args:
        found: Scored boxes of one image.
        per_class: The most boxes of a class; 0 for all.
        most: The most boxes of all classes, if each has a limit; None for no such limit.

    Returns:
        (M,) int64 rows, best score first.

    Example:
        >>> scores, labels = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 0, 1])
        >>> found = Detections(torch.zeros(3, 4), scores, labels)
        >>> preselect(found, 1).tolist()
        [1, 2]
    """
    order = found.scores.argsort(descending=True, stable=True)
    return order[_ranks(found.labels[order]) <= per_class][:most] if per_class else order


def _ranks(labels: Tensor) -> Tensor:
    """(W,) the place of each row among those of its class, from 1."""
    by_class, order = labels.sort(stable=True)
    first = torch.searchsorted(by_class, by_class)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(labels) + 1, device=labels.device) - first
    return ranks


def select_detections(
    found: Detections, config: InferenceConfig, *, moved: bool = False, again: bool = False
) -> Detections:
    """Suppress copies, and keep the best detections.

    Args:
        found: Scored boxes of one image.
        config: How copies are suppressed, and how many detections are kept.
        moved: Whether box regression has refined them; if so, boxes of one object vote on it.
        again: Whether copies were suppressed before. Soft suppression has lowered their scores
            then, and what is still a copy is dropped.

    Returns:
        At most ``config.max_detections`` detections, of all classes or of each, best first.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]])
        >>> found = Detections(boxes, torch.tensor([0.5, 1.0]), torch.tensor([0, 0]))
        >>> select_detections(found, InferenceConfig()).boxes.tolist()
        [[0.0, 0.0, 9.0, 8.0]]
    """
    votes = moved and config.vote_overlap < 1
    if config.nms == "soft" and not again:
        kept = _soften(found, config)
        return vote_boxes(kept, found, config.vote_overlap) if votes else kept
    kept = _suppress(found, config)
    if votes:
        kept = _suppress(vote_boxes(kept, found, config.vote_overlap), config)
    return kept


def _suppress(found: Detections, config: InferenceConfig) -> Detections:
    """Hard suppression: drop boxes that overlap a better detection of their class."""
    kept = nms_per_class(found.boxes, found.scores, found.labels, config.nms_threshold)
    return found.select(kept[_within_cap(found.labels[kept], config)])


def _soften(found: Detections, config: InferenceConfig) -> Detections:
    """Soft suppression: lower the scores of boxes that overlap a better one of their class."""
    # a factor below 1 lowers a probability, but would raise a negative margin
    shares = soft_nms_per_class(
        found.boxes, found.scores.sigmoid(), found.labels, config.soft_sigma
    )
    scores = shares.logit(eps=SHARE_MARGIN)
    best = scores.argsort(descending=True, stable=True)
    best = best[_within_cap(found.labels[best], config)]
    best = best[scores[best] > config.score_threshold]
    return Detections(found.boxes, scores, found.labels).select(best)


def _within_cap(labels: Tensor, config: InferenceConfig) -> Tensor:
    """(M,) bool: which rows, best first, are among as many as may be detected."""
    places = torch.arange(1, len(labels) + 1)
    ranks = _ranks(labels) if config.max_per == "class" else places
    return ranks <= config.max_detections
