"""Which detections of one image are right, which are false alarms, and which objects are missed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.geometry import Detections, box_iou


@dataclass(frozen=True)
class Judgement:
    """What became of each detection and each object of one image.

    Args:
        is_hit: (K,) bool: the detection found an object that nothing better-scored had found.
        is_ignored: (K,) bool: it lies on an object that does not count.
        is_missed: (T,) bool: the object counts, and nothing found it.
    """

    is_hit: Tensor
    is_ignored: Tensor
    is_missed: Tensor

    @property
    def is_false_alarm(self) -> Tensor:
        """(K,) bool: neither a hit nor ignored."""
        return ~(self.is_hit | self.is_ignored)

    def counts(self) -> tuple[int, int, int]:
        """Number of hits, of false alarms and of misses."""
        return (
            int(self.is_hit.sum()),
            int(self.is_false_alarm.sum()),
            int(self.is_missed.sum()),
        )


def judge_detections(
    truth_boxes: Tensor,
    truth_labels: Tensor,
    detections: Detections,
    iou_threshold: float = 0.5,
    truth_ignored: Tensor | None = None,
) -> Judgement:
    """Match the detections of one image with its objects, by the rule of PASCAL VOC.

    The best score goes first. Each detection looks at the object of its class that it overlaps
    most; if the overlap is large enough and the object not taken yet, it is a hit.

    Args:
        truth_boxes: (T, 4) xyxy pixels.
        truth_labels: (T,) classes.
        detections: What was found.
        iou_threshold: Overlap that is enough, 0..1.
        truth_ignored: (T,) bool, objects that count neither way, such as difficult ones.

    Returns:
        The judgement, in the orders given.

    Example:
        >>> truth = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        >>> found = Detections(truth, torch.tensor([0.9]), torch.tensor([0]))
        >>> judge_detections(truth, torch.tensor([0]), found).counts()
        (1, 0, 0)

    Source:
        Everingham et al., The PASCAL Visual Object Classes Challenge (2010), section 4.2.
    """
    num_truth = len(truth_boxes)
    ignored = torch.zeros(num_truth, dtype=torch.bool) if truth_ignored is None else truth_ignored
    is_taken = torch.zeros(num_truth, dtype=torch.bool)
    is_hit = torch.zeros(detections.count, dtype=torch.bool)
    is_ignored = torch.zeros(detections.count, dtype=torch.bool)
    if num_truth and detections.count:
        overlaps = box_iou(detections.boxes, truth_boxes.to(torch.float32))
        overlaps[detections.labels[:, None] != truth_labels[None, :]] = -1
        best_overlaps, best_objects = overlaps.max(dim=1)
        for row in detections.scores.sort(descending=True, stable=True).indices.tolist():
            target = int(best_objects[row])
            if best_overlaps[row] < iou_threshold:
                continue
            is_ignored[row] = ignored[target]
            is_hit[row] = not (ignored[target] or is_taken[target])
            is_taken[target] = True
    return Judgement(is_hit, is_ignored, ~(is_taken | ignored))
