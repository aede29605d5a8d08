"""Linear support vector machines, one against the rest, fast where features outnumber images."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.errors import Track, no_tracking

GRAM_ROWS = 8000  # the Gram matrix of so many images takes 512 MB of float64


class LinearSvm:
    """One linear SVM for each class, collapsed into one matrix.

    Up to 8,000 images the dual problem is solved by LIBSVM on the Gram matrix, which is worked out
    once for all classes: with 600 images of 25,600 numbers each, the solver sees 600 x 600. Beyond
    that LIBLINEAR solves the squared-hinge problem on the features themselves.

    Args:
        c: Cost of a margin violation; the paper's transfer experiments leave LIBSVM's 1.

    Attributes:
        weights_: (D, K) float32 after ``fit``.
        bias_: (K,) float32 after ``fit``.

    Raises:
        ValueError: If ``c`` is not above 0.

    Example:
        >>> rows, labels = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
        >>> svm = LinearSvm().fit(rows, labels, num_classes=4)
        >>> svm.decision_function(rows).argmax(dim=1).equal(labels)
        True

    Source:
        SPP-net, section 3.2 and 3.3 (LIBSVM on L2-normalised features).
    """

    weights_: Tensor
    bias_: Tensor

    def __init__(self, c: float = 1.0) -> None:
        if not c > 0:
            raise ValueError(f"c must be above 0, got {c}")
        self.c = c

    def fit(
        self, rows: Tensor, labels: Tensor, num_classes: int, track: Track = no_tracking
    ) -> "LinearSvm":
        """Learn weights and biases.

        Args:
            rows: (N, D) float32, finite; scale them to length 1 first.
            labels: (N,) int64 in 0..num_classes-1.
            num_classes: K; a class without images gets a machine that always says no.
            track: Shows the progress over the classes.

        Returns:
            The machine itself.

        Raises:
            ValueError: If shapes do not fit, a value is not finite, or there is no row.
        """
        _check_rows(rows, labels, num_classes)
        solve = _GramSolver(rows, self.c) if len(rows) <= GRAM_ROWS else _PrimalSolver(rows, self.c)
        self.weights_ = torch.zeros(rows.shape[1], num_classes)
        self.bias_ = torch.zeros(num_classes)
        for label in track(range(num_classes), "fitting SVMs", total=num_classes):
            self.weights_[:, label], self.bias_[label] = solve(labels == label)
        return self

    def decision_function(self, rows: Tensor) -> Tensor:
        """Signed distances to the separating planes in units of the margin: (N, D) -> (N, K)."""
        return rows @ self.weights_ + self.bias_


class _GramSolver:
    """Solves two-class problems on the inner products of the rows."""

    def __init__(self, rows: Tensor, c: float) -> None:
        self.rows = rows
        self.c = c
        self.gram = (rows @ rows.T).double().numpy()  # (N, N)

    def __call__(self, positive: Tensor) -> tuple[Tensor, float]:
        if bool(positive.all()) or not bool(positive.any()):
            return torch.zeros(self.rows.shape[1]), 1.0 if bool(positive.all()) else -1.0
        from sklearn.svm import SVC  # imported here: whoever only predicts need not wait for it

        machine = _quiet(SVC(kernel="precomputed", C=self.c), self.gram, positive)
        support = torch.from_numpy(machine.support_.astype(np.int64))
        coefficients = torch.from_numpy(machine.dual_coef_[0]).float()  # (support vectors,)
        return coefficients @ self.rows[support], float(machine.intercept_[0])


class _PrimalSolver:
    """Solves two-class problems on the rows themselves."""

    def __init__(self, rows: Tensor, c: float) -> None:
        self.rows = rows
        self.c = c

    def __call__(self, positive: Tensor) -> tuple[Tensor, float]:
        if bool(positive.all()) or not bool(positive.any()):
            return torch.zeros(self.rows.shape[1]), 1.0 if bool(positive.all()) else -1.0
        from sklearn.svm import LinearSVC

        machine = _quiet(
            LinearSVC(C=self.c, dual="auto", random_state=0), self.rows.numpy(), positive
        )
        return torch.from_numpy(machine.coef_[0]).float(), float(machine.intercept_[0])


def _quiet(machine: Any, rows: np.ndarray, positive: Tensor) -> Any:
    """Fit without the solver's remarks on versions and on iterations: the held-out score tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return machine.fit(rows, positive.numpy())


def _check_rows(rows: Tensor, labels: Tensor, num_classes: int) -> None:
    """Refuse what would make the solver crash or answer nonsense."""
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or not len(rows):
        raise ValueError(
            f"rows must be (N, D) and labels (N,) with N at least 1, got {tuple(rows.shape)} "
            f"and {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {labels.unique().tolist()}")
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"rows must be finite, got NaN or infinity in row {int(bad[0])}")
