"""Images with boxes and what was found in them, for reports; one right, one wrong, one empty."""

import torch

from sppnet.errors import InputError
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage

HOSTILE = "<script>alert(1)</script>"


def image(image_id, boxes, labels=None, difficult=None):
    count = len(boxes)
    none = torch.zeros(count, dtype=torch.bool)
    return LabelledImage(
        path=f"{image_id}.jpg",
        image_id=image_id,
        size_hw=(120, 160),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or [0] * count, dtype=torch.int64),
        difficult=none if difficult is None else torch.tensor(difficult),
        crowd=none,
        truncated=none,
    )


def found(boxes, scores, labels=None):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    )


def load_white(path):
    return torch.ones(3, 120, 160)


def load_nothing(path):
    raise InputError("the file is empty", path=path)


A, B, C = [10, 10, 60, 60], [80, 20, 140, 100], [0, 0, 20, 20]
IMAGES = [image("good", [A, B]), image("bad", [A, B]), image("blank", [])]
DETECTIONS = {"good": found([A, B], [0.9, 0.8]), "bad": found([C, B], [0.85, 0.2])}
