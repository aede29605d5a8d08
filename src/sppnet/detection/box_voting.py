"""Detections whose boxes are agreed on by all windows that saw the same thing."""

import torch

from sppnet.geometry import Detections, box_iou


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
