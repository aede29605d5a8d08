"""What a detector returns for one image."""

import torch
from torch import Tensor

from sppnet.geometry.boxes import check_boxes


class Detections(dict[str, Tensor]):
    """Boxes, scores and labels of one image: a plain dict, checked when it is made.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image, x2 and y2 exclusive.
        scores: (K,) finite.
        labels: (K,) integers 0..classes-1.

    Raises:
        ValueError: If the counts differ or a value is not finite.
        TypeError: If boxes or scores are not floating point, or labels not integers.

    Example:
        >>> found = Detections(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([0.9]), torch.tensor([3]))
        >>> found["boxes"].shape, found.labels.tolist(), found.count
        (torch.Size([1, 4]), [3], 1)
        >>> Detections.empty().count
        0
    """

    def __init__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
        check_boxes(boxes)
        if not scores.is_floating_point():
            raise TypeError(f"scores must be floating point, got {scores.dtype}")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        for name, values in (("scores", scores), ("labels", labels)):
            if values.shape != boxes.shape[:1]:
                raise ValueError(f"{name} must have shape ({len(boxes)},), got {tuple(values.shape)}")
        if not bool(scores.isfinite().all()):
            raise ValueError("scores must be finite")
        super().__init__(
            boxes=boxes.to(torch.float32),
            scores=scores.to(torch.float32),
            labels=labels.to(torch.int64),
        )

    @classmethod
    def empty(cls) -> "Detections":
        """Nothing found: shapes (0, 4), (0,) and (0,)."""
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    @property
    def boxes(self) -> Tensor:
        """(K, 4) float32 xyxy in pixels."""
        return self["boxes"]

    @property
    def scores(self) -> Tensor:
        """(K,) float32."""
        return self["scores"]

    @property
    def labels(self) -> Tensor:
        """(K,) int64."""
        return self["labels"]

    @property
    def count(self) -> int:
        """How many things were found (``len`` counts the keys of the dict)."""
        return len(self["boxes"])

    def select(self, rows: Tensor) -> "Detections":
        """Keep some rows, by index or by mask.

        Args:
            rows: (M,) int64 indices or (K,) bool.

        Returns:
            The detections of these rows, in the order of the indices.
        """
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])
