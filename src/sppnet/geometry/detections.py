"""What a detector returns for one image."""

import torch
from torch import Tensor

from sppnet.geometry.boxes import check_boxes, reject_rows


class Detections(dict[str, Tensor]):
    """Boxes, scores and labels of one image: a plain dict, checked when it is made.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image, x2 and y2 exclusive.
        scores: (K,) floating point, finite.
        labels: (K,) integers 0..classes-1.
        confidence: (K,) probabilities 0..1 that each is right, if a calibration gave them.

    Raises:
        TypeError: If boxes or scores are not floating-point tensors, or labels not a tensor of
            integers.
        ValueError: If the counts differ, a value is not finite in float32, a box is reversed, a
            label is negative, or a confidence is not 0..1; names the row.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
        >>> found = Detections(box, torch.tensor([0.9]), torch.tensor([3]))
        >>> found["boxes"].shape, found.labels.tolist(), found.count
        (torch.Size([1, 4]), [3], 1)
        >>> found.confidence is None
        True
        >>> Detections.empty().count
        0
    """

    def __init__(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, confidence: Tensor | None = None
    ) -> None:
        for name, values, integral in (("scores", scores, False), ("labels", labels, True)):
            _check_kind(name, values, integral)
        more = {} if confidence is None else {"confidence": confidence}
        for name, values in more.items():
            _check_kind(name, values, False)
        check_boxes(boxes)
        for name, values in {"scores": scores, "labels": labels, **more}.items():
            if values.shape != boxes.shape[:1]:
                raise ValueError(
                    f"{name} must have shape ({len(boxes)},), got {tuple(values.shape)}"
                )
        # checked once more as float32, in which a large float64 is infinite
        boxes, scores = check_boxes(boxes.to(torch.float32)), scores.to(torch.float32)
        reject_rows(~scores.isfinite(), scores, "scores must be finite")
        reject_rows(labels < 0, labels, "labels must be 0 or more")
        for name, values in more.items():
            more[name] = values.to(torch.float32)
            reject_rows(~((values >= 0) & (values <= 1)), values, f"{name} must be 0..1")
        super().__init__(boxes=boxes, scores=scores, labels=labels.to(torch.int64), **more)

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
    def confidence(self) -> Tensor | None:
        """(K,) float32 0..1, or None if nothing was calibrated; then the key is missing, too."""
        return self.get("confidence")

    @property
    def count(self) -> int:
        """How many things were found (``len`` counts the keys of the dict)."""
        return len(self["boxes"])

    def select(self, rows: Tensor) -> "Detections":
        """Take some rows, by index or by mask.

        Args:
            rows: (M,) int64 indices or (K,) bool.

        Returns:
            The detections of these rows, in the order of the indices.
        """
        sure = None if self.confidence is None else self.confidence[rows]
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], sure)


def _check_kind(name: str, values: Tensor, integral: bool) -> None:
    """Refuse what is not a tensor of integers, or not one of floating-point numbers."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if not integral and not values.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {values.dtype}")
    if integral and (
        values.is_floating_point() or values.is_complex() or values.dtype == torch.bool
    ):
        raise TypeError(f"{name} must be integers, got {values.dtype}")
