"""Whether classes share one box regression: decided on photos that are left out, in closed form.

With few objects of each class one regression for all of them fits boxes better; with many, or with
classes of very different shapes, each class should have its own. Ridge regression tells without
being fitted again: what a fit without some rows would predict for them follows from the inverse of
the whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.box_regression import BoxCascade, CascadeConfig, whiten_deltas
from sppnet.geometry import box_iou, boxes_to_deltas, deltas_to_boxes
from sppnet.images import LabelledImage

MOST_ROWS = 1200  # 0.1 s for each inverse
MOST_PER_PHOTO = 30


@dataclass(frozen=True)
class NearBoxes:
    """Boxes that overlap an object.

    Args:
        features: (S, D), of mean norm 20.
        boxes: (S, 4) xyxy in pixels.
        targets: (S, 4) the object of each.
        labels: (S,) its class.
        photos: (S,) which photo each is in.
    """

    features: Tensor
    boxes: Tensor
    targets: Tensor
    labels: Tensor
    photos: Tensor


def classes_share(
    samples: Iterable[tuple[LabelledImage, EncodedImage, Tensor]],
    encoder: Encoder,
    config: CascadeConfig,
    feature_scale: float = 1.0,
    seed: int = 0,
) -> bool:
    """Decide whether one regression for all classes fits boxes better than one for each.

    Args:
        samples: Photos in random order, with their maps and (K, 4) proposals; as many are read as
            give 1,200 boxes near an object.
        encoder: Gives the features of boxes.
        config: Penalty, overlap and the like; what it says of sharing does not count.
        feature_scale: Factor that gives features a mean norm of 20.
        seed: Of the sample of boxes.

    Returns:
        Whether the mean IoU of boxes and objects, averaged over classes, is at least as high with
        one regression for all; each photo is left out in turn. True with one photo or none.
    """
    near = collect_near(samples, encoder, config, feature_scale, seed)
    if near is None or len(near.photos.unique()) < 2:
        return True
    shared = refine_left_out(near, config, torch.zeros_like(near.labels))
    own = refine_left_out(near, config, near.labels)
    return _mean_fit(shared, near) >= _mean_fit(own, near)


def collect_near(
    samples: Iterable[tuple[LabelledImage, EncodedImage, Tensor]],
    encoder: Encoder,
    config: CascadeConfig,
    feature_scale: float = 1.0,
    seed: int = 0,
) -> NearBoxes | None:
    """Collect boxes near objects from as many photos as it takes; None if there are none."""
    draw = torch.Generator().manual_seed(seed)
    sampler = BoxCascade(1, config, seed)
    parts: list[tuple[Tensor, ...]] = []
    for number, (image, encoded, proposals) in enumerate(samples):
        near = sampler.near_objects(image, proposals, draw)
        boxes, targets, labels = (each[:MOST_PER_PHOTO] for each in near)
        features = sampler.describe(encoder, encoded, boxes) * feature_scale
        parts.append((features, boxes, targets, labels, torch.full_like(labels, number)))
        if sum(len(part[1]) for part in parts) >= MOST_ROWS:
            break
    if not any(len(part[1]) for part in parts):
        return None
    return NearBoxes(*(torch.cat(column)[:MOST_ROWS] for column in zip(*parts, strict=True)))


def refine_left_out(near: NearBoxes, config: CascadeConfig, groups: Tensor) -> Tensor:
    """Refine every box by regressions that never saw its photo.

    Args:
        near: The boxes.
        config: Penalty and spread.
        groups: (S,) which regression each box belongs to.

    Returns:
        (S, 4) refined boxes, xyxy in pixels. Those of a group that one photo alone shows stay as
        they are: nothing is left that its regression could be fitted to.
    """
    refined = near.boxes.clone()
    for group in groups.unique().tolist():
        rows = groups == group
        if len(near.photos[rows].unique()) < 2:
            continue
        boxes = near.boxes[rows].double()
        deltas = boxes_to_deltas(boxes, near.targets[rows].double())
        mean, whiten, colour = whiten_deltas(deltas, config.spread)
        products = (near.features[rows] @ near.features[rows].T).double() + 1
        guess = predict_left_out(
            products, (deltas - mean) @ whiten, near.photos[rows], config.strength
        )
        refined[rows] = deltas_to_boxes(boxes, guess @ colour + mean).to(refined.dtype)
    return refined


def predict_left_out(products: Tensor, goals: Tensor, photos: Tensor, strength: float) -> Tensor:
    """Predict every row by a ridge regression that was fitted to the rows of other photos.

    With Q the inverse of ``products`` plus the penalty, and a = Q ``goals``, the error of the rows
    g of a photo that is left out is the solution of Q[g, g] e = a[g].

    Args:
        products: (S, S) inner products of the rows.
        goals: (S, M).
        photos: (S,) which photo each row is of.
        strength: Ridge penalty, above 0.

    Returns:
        (S, M) predictions.

    Example:
        >>> rows, goals = torch.eye(2).double(), torch.ones(2, 1).double()
        >>> predict_left_out(rows @ rows.T, goals, torch.tensor([0, 1]), 1.0).flatten().tolist()
        [0.0, 0.0]

    Source:
        Pahikkala, Boberg and Salakoski 2006 (fast n-fold cross-validation for regularized
        least-squares).
    """
    penalised = products + strength * torch.eye(len(products), dtype=products.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(penalised))
    duals = inverse @ goals
    predicted = torch.empty_like(goals)
    for photo in photos.unique().tolist():
        rows = (photos == photo).nonzero().flatten()
        error = torch.linalg.solve(inverse[rows][:, rows], duals[rows])
        predicted[rows] = goals[rows] - error
    return predicted


def _mean_fit(refined: Tensor, near: NearBoxes) -> float:
    """IoU of each box and its object: the mean over boxes of a class, then over classes."""
    overlap = box_iou(refined, near.targets).diagonal()
    classes = near.labels.unique()
    return float(torch.stack([overlap[near.labels == label].mean() for label in classes]).mean())
