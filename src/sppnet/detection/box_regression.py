"""Ridge regression from a window's features to the box of the thing inside it."""

from collections.abc import Callable

import torch
from torch import Tensor

from sppnet.detection.row_sample import RowSample
from sppnet.geometry import boxes_to_deltas, deltas_to_boxes

Multiply = Callable[[Tensor, Tensor], Tensor]


class BoxRegressor:
    """One linear regression per class, in closed form.

    The four targets are whitened, so that one strength of regularisation suits all. The fit goes
    through the products of the rows, because windows are fewer than their features.

    Args:
        strength: Ridge penalty, for features of mean norm 20; 4000 in the released code.

    Attributes:
        weights_: (K, D, 4) after :meth:`fit`.
        bias_: (K, 4) after :meth:`fit`.

    Example:
        >>> proposals = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0]])
        >>> regressor = BoxRegressor().fit([torch.eye(2)], [proposals], [proposals])
        >>> regressor.apply(torch.eye(2), torch.tensor([0, 0]), proposals)
        tensor([[ 0.,  0., 10., 10.],
                [ 0.,  0., 20., 20.]])

    Source:
        SPP-net, section 4.2; R-CNN, appendix C; spp_train_bbox_regressor.m of the authors' code.
    """

    def __init__(self, strength: float = 4000.0) -> None:
        self.strength = strength

    def fit(
        self, features: list[Tensor], proposals: list[Tensor], targets: list[Tensor]
    ) -> "BoxRegressor":
        """Fit every class; a class without samples leaves boxes as they are.

        Args:
            features: Per class (S, D) features of windows that overlap an object by more than 0.5.
            proposals: Per class (S, 4) these windows.
            targets: Per class (S, 4) the objects.

        Returns:
            Itself.
        """
        fitted = [
            self._fit_class(rows, boxes_to_deltas(boxes.double(), goals.double()))
            for rows, boxes, goals in zip(features, proposals, targets, strict=True)
        ]
        self.weights_ = torch.stack([weights for weights, _ in fitted])
        self.bias_ = torch.stack([bias for _, bias in fitted])
        return self

    def _fit_class(self, rows: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """(D, 4) weights and (4,) bias of one class."""
        if not len(rows):
            return torch.zeros(rows.shape[1], 4), torch.zeros(4)
        rows = rows.float()
        mean, whiten, colour = _whitening(deltas)
        # the constant 1 behind the features is regularised with them, as in the released code
        products = (rows @ rows.T).double() + 1
        products.diagonal().add_(self.strength)
        duals = torch.linalg.solve(products, (deltas - mean) @ whiten) @ colour
        return (rows.T @ duals.to(rows.dtype)), (duals.sum(0) + mean).to(rows.dtype)

    def apply(self, features: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """Move boxes to where the things in them seem to be.

        Args:
            features: (W, D) features of the windows.
            labels: (W,) class of each window.
            boxes: (W, 4) the windows.

        Returns:
            (W, 4) better boxes, not clipped to the image.
        """
        return self.apply_products(lambda rows, weights: features[rows] @ weights, labels, boxes)

    def apply_products(self, multiply: Multiply, labels: Tensor, boxes: Tensor) -> Tensor:
        """Move boxes as :meth:`apply`, where the features need not be there.

        Args:
            multiply: Gives the (R, 4) products of the features of some windows, a (W,) mask, with
                a (D, 4) matrix.
            labels: (W,) class of each window.
            boxes: (W, 4) the windows.

        Returns:
            (W, 4) better boxes, not clipped to the image.
        """
        deltas = torch.zeros(len(boxes), 4)
        for label in labels.unique().tolist():
            rows = labels == label
            deltas[rows] = multiply(rows, self.weights_[label]) + self.bias_[label]
        return deltas_to_boxes(boxes, deltas)


def _whitening(deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the targets, and the matrices that whiten them and colour them again."""
    mean = deltas.mean(0)
    centred = deltas - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(deltas))
    spread = (variances.clamp(min=0) + 1e-3).sqrt()
    return mean, axes / spread @ axes.T, axes * spread @ axes.T


class BoxSamples:
    """A random part of the windows that overlap an object, to teach the regression of one class.

    Args:
        limit: Samples to keep, each with the same chance.
        length: D, numbers per feature vector.

    Example:
        >>> samples = BoxSamples(limit=2, length=3)
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(5, 4)
        >>> samples.add(torch.rand(5, 3), box, box, torch.Generator().manual_seed(0))
        >>> [len(part) for part in samples.take()]
        [2, 2, 2]
    """

    def __init__(self, limit: int, length: int) -> None:
        self._features = RowSample(limit, length)
        self._boxes = torch.zeros(limit, 8)  # windows, objects

    def add(
        self, features: Tensor, proposals: Tensor, targets: Tensor, draw: torch.Generator
    ) -> None:
        """Take samples in: (S, D) features, (S, 4) windows, (S, 4) objects."""
        taken, slots = self._features.add(features, draw)
        self._boxes[slots] = torch.cat([proposals[taken], targets[taken]], 1)

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give features (float16), windows and objects of at most ``limit`` samples."""
        proposals, targets = self._boxes[self._features.order].split(4, 1)
        return self._features.take(), proposals, targets
