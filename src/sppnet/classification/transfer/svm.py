"""One-vs-rest linear SVMs; ``choice.py`` chooses their cost.

:class:`RidgeSums` solves the least-squares ones for more images than memory holds.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.classification.network import build_head
from sppnet.classification.scoring import one_against_rest
from sppnet.config.classification import LOSSES
from sppnet.pooling.bins import check_numbers
from sppnet.progress import Track, no_tracking

GRAM_ROWS = 8000  # the Gram matrix of so many images takes 512 MB of float64
GRAM_COLUMNS = 8192  # columns of the rows that are multiplied at a time
SUM_LENGTH = 8192  # the longest rows whose products are summed: 512 MB
LONG_ROW = 2.0
# Rows are rounded to multiples of this share of the largest value; sums of so many products of two
# such integers are below 2**53, so that a float64 holds them whatever the order.
SUM_UNIT, SUM_ROWS = 2**20, 2**12
SUM_MOST = 2**22  # images: their sums fit 64 bits
SUM_CLASSES = 1024  # classes that are solved at a time
NO = -1.0
Coefficients = tuple[Tensor, Tensor]


class LinearSvm:
    """One linear SVM for each class, collapsed into one matrix.

    Up to 8,000 images the dual problem is solved by LIBSVM on the Gram matrix, which is worked out
    once for all classes: with 600 images of 25,600 numbers each, the solver sees 600 x 600. Beyond
    that LIBLINEAR solves the squared-hinge problem on the features themselves.

    Args:
        c: Cost of a margin violation; the paper's transfer experiments leave LIBSVM's 1.
        loss: ``"hinge"``, the paper's, or ``"squares"``: the least-squares SVM, one linear system
            for all classes.

    Attributes:
        weights_: (D, K) float32 after ``fit``.
        bias_: (K,) float32 after ``fit``.

    Raises:
        ValueError: If ``c`` is not above 0 or the loss unknown.

    Example:
        >>> rows, labels = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
        >>> svm = LinearSvm().fit(rows, labels, num_classes=4)
        >>> svm.decision_function(rows).argmax(dim=1).equal(labels)
        True

    Source:
        SPP-net, section 3.2 and 3.3 (LIBSVM on L2-normalised features); Suykens and Vandewalle,
        "Least squares support vector machine classifiers", 1999.
    """

    weights_: Tensor
    bias_: Tensor

    def __init__(self, c: float = 1.0, loss: str = "hinge") -> None:
        if not c > 0:
            raise ValueError(f"c must be above 0, got {c}")
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        self.c = c
        self.loss = loss

    def fit(
        self, rows: Tensor, labels: Tensor, num_classes: int, track: Track = no_tracking
    ) -> "LinearSvm":
        """Learn weights and biases from images of one class each.

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
        _check_labels(labels, num_classes)
        if self.loss == "squares" and len(rows) > GRAM_ROWS and rows.shape[1] <= SUM_LENGTH:
            largest = max(float(rows.abs().max()), 1e-12)
            sums = RidgeSums(rows.shape[1], num_classes, largest).partial_fit(rows, labels)
            solved = sums.solve(self.c)
            self.weights_, self.bias_ = solved.weights_, solved.bias_
            return self
        return self.fit_targets(rows, one_against_rest(labels, num_classes), track)

    def fit_targets(
        self,
        rows: Tensor,
        targets: Tensor,
        track: Track = no_tracking,
        gram: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> "LinearSvm":
        """Learn weights and biases from images that are of several classes, or of none.

        Args:
            rows: (N, D) float32, finite; scale them to length 1 first.
            targets: (N, K): 1 yes, -1 no, 0 leaves the image out of that class's problem.
            track: Shows the progress over the classes.
            gram: ``gram_matrix(rows)`` where it is there already.
            weights: (N,) above 0: an image of weight 2 counts as two; None for 1 each.

        Returns:
            The machine itself.

        Raises:
            ValueError: If shapes do not fit, a value is not finite, or there is no row.
        """
        _check_rows(rows, targets)
        if len(rows) > GRAM_ROWS:
            self.weights_, self.bias_ = _fit_primal(
                rows, targets, self.c, self.loss, track, weights
            )
        else:
            gram = gram_matrix(rows) if gram is None else gram
            dual, self.bias_ = fit_dual(gram, targets, self.c, self.loss, track, weights)
            self.weights_ = rows.T @ dual
        return self

    def decision_function(self, rows: Tensor) -> Tensor:
        """Signed distances to the separating planes in units of the margin: (N, D) -> (N, K)."""
        return rows @ self.weights_ + self.bias_


class RidgeSums:
    """Sums from which least-squares SVMs of any number of images and classes are solved.

    Rows are rounded to whole multiples of ``largest / 2**20`` and summed as integers: in whatever
    parts the images come and in whatever order these are merged, every bit of the sums, and so of
    the SVMs, is that of one pass. 10,000 classes of rows of 4,096 numbers take 0.5 GB, and 1.2 GB
    while they are solved. Sums can be pickled, and so sent from one machine to another.

    Args:
        length: D, numbers in a row; at most 8,192.
        num_classes: K.
        largest: No number is further from 0; rows of length 1 have 1.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> rows, labels = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
        >>> first, second = RidgeSums(4, 4), RidgeSums(4, 4)
        >>> sums = first.partial_fit(rows[:5], labels[:5])
        >>> sums = sums.merge(second.partial_fit(rows[5:], labels[5:]))
        >>> sums.solve(c=10.0).decision_function(rows).argmax(dim=1).equal(labels)
        True

    Source:
        Suykens and Vandewalle, "Least squares support vector machine classifiers", 1999.
    """

    def __init__(self, length: int, num_classes: int, largest: float = 1.0) -> None:
        check_numbers(length=length, num_classes=num_classes, largest=largest)
        if not (1 <= length <= SUM_LENGTH and num_classes >= 1 and largest > 0):
            raise ValueError(
                f"length must be 1..{SUM_LENGTH}, num_classes and largest above 0, got {length}, "
                f"{num_classes} and {largest}"
            )
        self.largest = largest
        self.products = torch.zeros(length, length, dtype=torch.int64)
        self.by_class = torch.zeros(num_classes, length, dtype=torch.int64)
        self.images = torch.zeros(num_classes, dtype=torch.int64)

    def partial_fit(
        self, rows: Tensor | np.ndarray, labels: Tensor | np.ndarray | Sequence[int]
    ) -> "RidgeSums":
        """Add images: (N, D) rows, of a ``numpy.memmap``, too, and (N,) int64 labels 0..K-1.

        Raises:
            TypeError: If labels are no integers.
            ValueError: If shapes do not fit, a number is beyond ``largest`` or not finite, a label
                is no class, or there are more than 4,194,304 images.
        """
        rows = rows if isinstance(rows, Tensor) else np.asarray(rows)
        labels = torch.as_tensor(labels)
        if labels.is_floating_point():
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        length, num_classes = len(self.products), len(self.images)
        if rows.ndim != 2 or rows.shape[1] != length or labels.shape != rows.shape[:1]:
            shapes = f"{tuple(rows.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"rows must be (N, {length}) and labels (N,), got {shapes}")
        _check_labels(labels, num_classes)
        if (count := int(self.images.sum()) + len(rows)) > SUM_MOST:
            raise ValueError(f"images must be at most {SUM_MOST}, got {count}")
        for start in range(0, len(rows), SUM_ROWS):
            part = torch.tensor(np.asarray(rows[start : start + SUM_ROWS]), dtype=torch.float64)
            part = part.mul_(SUM_UNIT / self.largest).round_()
            if not bool(part.abs().max() <= SUM_UNIT):
                raise ValueError(f"rows must be finite and within {self.largest}")
            own = labels[start : start + SUM_ROWS]
            self.products += (part.T @ part).long()  # float64 holds every one of these integers
            self.by_class.index_add_(0, own, part.long())
            self.images += own.bincount(minlength=num_classes)
        return self

    def merge(self, other: "RidgeSums") -> "RidgeSums":
        """Add the sums of other images.

        Raises:
            ValueError: If they are of other rows or classes, or there are too many images.
        """
        mine, its = ((len(each.products), len(each.images), each.largest) for each in (self, other))
        if mine != its:
            raise ValueError(f"length, num_classes and largest must be {mine}, got {its}")
        if (count := int(self.images.sum() + other.images.sum())) > SUM_MOST:
            raise ValueError(f"images must be at most {SUM_MOST}, got {count}")
        self.products += other.products
        self.by_class += other.by_class
        self.images += other.images
        return self

    def solve(self, c: float = 1.0) -> LinearSvm:
        """Solve all classes at one cost: what ``LinearSvm(c, "squares").fit`` finds.

        Raises:
            ValueError: If there is no image, or ``c`` is not above 0.
        """
        svm, count = LinearSvm(c, "squares"), int(self.images.sum())
        if not count:
            raise ValueError("images must be at least 1, got 0")
        unit = self.largest / SUM_UNIT
        total = self.by_class.sum(0).double() * unit
        means = total / count
        system = self.products.double().mul_(unit**2).addr_(total, means, alpha=-1)
        system.diagonal().add_(1 / c)
        factor = torch.linalg.cholesky(system)
        del system
        svm.weights_ = torch.empty(len(total), len(self.images))
        svm.bias_ = torch.empty(len(self.images))
        for first in range(0, len(self.images), SUM_CLASSES):
            some = slice(first, first + SUM_CLASSES)
            middle = 2 * self.images[some].double() / count - 1
            wanted = 2 * unit * self.by_class[some].double().T - total[:, None]
            weights = torch.cholesky_solve(wanted - total[:, None] * middle, factor)
            svm.weights_[:, some] = weights.float()
            svm.bias_[some] = (middle - means @ weights).float()
        return svm


def svm_head(svm: LinearSvm, feature_norm: float | None) -> nn.Sequential:
    """Put fitted SVMs into a head that scales its rows first.

    Args:
        svm: Fitted on rows of that length.
        feature_norm: Length to which rows are scaled; None leaves them as they are.

    Returns:
        A head from (N, D) to (N, K) margins.
    """
    head = build_head(*svm.weights_.shape, feature_norm=feature_norm)
    last = len(head) - 1  # a norm may come first
    weights = {f"{last}.weight": svm.weights_.T.contiguous(), f"{last}.bias": svm.bias_}
    head.load_state_dict(weights)
    return head


def gram_matrix(rows: Tensor) -> Tensor:
    """Inner products of all rows: (N, D) float32 -> (N, N) float64.

    Blocks of columns are multiplied in float32 and summed in float64, so that the memory beside
    the rows is that of the result, however many numbers a row has. Where a row's length is beyond
    2, float32 would round off what tells rows apart, and the products are float64, too.

    Example:
        >>> gram_matrix(torch.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    is_long = bool((torch.linalg.vector_norm(rows, dim=1) > LONG_ROW).any())
    for columns in rows.split(GRAM_COLUMNS, dim=1):
        columns = columns.double() if is_long else columns
        gram += columns @ columns.T
    return gram


def fit_dual(
    gram: Tensor,
    targets: Tensor,
    c: float = 1.0,
    loss: str = "hinge",
    track: Track = no_tracking,
    weights: Tensor | None = None,
) -> Coefficients:
    """Solve every class's SVM by the inner products of the images alone.

    Args:
        gram: (N, N) float64.
        targets: (N, K): 1 yes, -1 no, 0 left out.
        c: Cost of a margin violation.
        loss: ``"hinge"`` or ``"squares"``.
        track: Shows the progress over the classes.
        weights: (N,) above 0, how much an error of each image counts; None for 1 each.

    Returns:
        What each image adds to each class's weights, (N, K) float32, and the biases (K,) float32:
        the scores of other images are their inner products with these times the former, plus the
        latter.
    """
    weights = torch.ones(len(gram)) if weights is None else weights
    if loss == "squares" and bool(targets.all()):
        return _solve_squares(
            gram, targets, c, weights
        )  # one system, whatever the number of classes
    dual, bias = torch.zeros(targets.shape), torch.zeros(targets.shape[1])
    for label in track(range(targets.shape[1]), "fitting SVMs", total=targets.shape[1]):
        used = targets[:, label].nonzero().flatten()
        signs = targets[used, label : label + 1]
        inner = gram if len(used) == len(gram) else gram[used][:, used]
        solve = _solve_squares if loss == "squares" else _solve_hinge
        column, bias[label : label + 1] = solve(inner, signs, c, weights[used])
        dual[used, label] = column[:, 0]
    return dual, bias


def _solve_squares(gram: Tensor, targets: Tensor, c: float, weights: Tensor) -> Coefficients:
    """Minimise |w|^2 / 2 + c / 2 * the squared errors: Cholesky on the centred inner products."""
    if not len(gram):
        return torch.zeros(targets.shape), torch.full(targets.shape[1:], NO)
    shares = weights.double() / weights.double().sum()
    roots = weights.double().sqrt()[:, None]
    means = shares @ gram
    system = (gram - means - means[:, None] + means @ shares).mul_(roots).mul_(roots.T)
    system.diagonal().add_(1 / c)
    wanted = targets.double()
    middle = shares @ wanted
    factor = torch.linalg.cholesky(system)
    dual = roots * torch.cholesky_solve((wanted - middle) * roots, factor)  # columns sum to 0
    return dual.float(), (middle - means @ dual).float()


def _solve_hinge(gram: Tensor, signs: Tensor, c: float, weights: Tensor) -> Coefficients:
    """Minimise |w|^2 / 2 + c * the hinge losses of one two-class problem, signs (N, 1)."""
    positive = signs[:, 0] > 0
    dual = torch.zeros(signs.shape)
    if not _is_problem(positive):
        return dual, _constant_answer(positive)
    from sklearn.svm import SVC  # imported here: whoever only predicts need not wait for it

    machine = _quiet(SVC(kernel="precomputed", C=c), gram.numpy(), positive, weights)
    dual[machine.support_, 0] = torch.from_numpy(machine.dual_coef_[0]).float()
    return dual, torch.from_numpy(machine.intercept_).float()


def _fit_primal(
    rows: Tensor, targets: Tensor, c: float, loss: str, track: Track, own: Tensor | None
) -> Coefficients:
    """Solve every class's SVM on the rows themselves: weights (D, K) and biases."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.svm import LinearSVC

    weights, bias = torch.zeros(rows.shape[1], targets.shape[1]), torch.zeros(targets.shape[1])
    for label in track(range(targets.shape[1]), "fitting SVMs", total=targets.shape[1]):
        used = targets[:, label].nonzero().flatten()
        positive = targets[used, label] > 0
        if not _is_problem(positive):
            bias[label] = _constant_answer(positive)[0]
            continue
        machine = (
            LinearSVC(C=c, dual="auto", random_state=0)
            if loss == "hinge"
            else RidgeClassifier(alpha=1 / c, solver="lsqr", tol=1e-6)
        )
        inner = rows if len(used) == len(rows) else rows[used]
        machine = _quiet(machine, inner.numpy(), positive, None if own is None else own[used])
        weights[:, label] = torch.from_numpy(np.ravel(machine.coef_))
        bias[label] = float(np.ravel(machine.intercept_)[0])
    return weights, bias


def _is_problem(positive: Tensor) -> bool:
    """Whether there are images on both sides."""
    return bool(positive.any()) and not bool(positive.all())


def _constant_answer(positive: Tensor) -> Tensor:
    """Score of every image where only one answer was ever seen, (1,): no, if none was."""
    return torch.tensor([1.0 if bool(positive.any()) else NO])


def _quiet(machine: Any, rows: np.ndarray, positive: Tensor, weights: Tensor | None) -> Any:
    """Fit without the solver's remarks on versions and on iterations: the held-out score tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = None if weights is None else weights.double().numpy()
        return machine.fit(rows, positive.numpy(), sample_weight=own)


def _check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse classes that do not exist."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {labels.unique().tolist()}")


def _check_rows(rows: Tensor, targets: Tensor) -> None:
    """Refuse what would make the solver crash or answer nonsense."""
    if rows.ndim != 2 or targets.shape[:1] != rows.shape[:1] or not len(rows):
        raise ValueError(
            "rows must be (N, D) and labels (N,) with N at least 1, got "
            f"{tuple(rows.shape)} and {tuple(targets.shape)}"
        )
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"rows must be finite, got NaN or infinity in row {int(bad[0])}")
