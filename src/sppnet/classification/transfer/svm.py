"""One-vs-rest linear SVMs, and the choice of their cost on validation parts."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.classification.data import Split, draw_sample, holdout_split
from sppnet.classification.network import build_head
from sppnet.classification.scoring import one_against_rest
from sppnet.config.classification import COSTS, LOSSES
from sppnet.progress import Track, no_tracking

GRAM_ROWS = 8000  # the Gram matrix of so many images takes 512 MB of float64
GRAM_COLUMNS = 8192  # columns of the rows that are multiplied at a time
NO = -1.0
Coefficients = tuple[Tensor, Tensor]
DRAWS = 3  # validation parts whose figures are averaged
ONE_DRAW_ROWS = 2000  # a fifth of so many images tells enough by itself
Figure = Callable[[Tensor, Tensor], float]


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
        return self.fit_targets(rows, one_against_rest(labels, num_classes), track)

    def fit_targets(
        self,
        rows: Tensor,
        targets: Tensor,
        track: Track = no_tracking,
        gram: Tensor | None = None,
    ) -> "LinearSvm":
        """Learn weights and biases from images that are of several classes, or of none.

        Args:
            rows: (N, D) float32, finite; scale them to length 1 first.
            targets: (N, K): 1 yes, -1 no, 0 leaves the image out of that class's problem.
            track: Shows the progress over the classes.
            gram: ``gram_matrix(rows)`` where it is there already.

        Returns:
            The machine itself.

        Raises:
            ValueError: If shapes do not fit, a value is not finite, or there is no row.
        """
        _check_rows(rows, targets)
        if len(rows) > GRAM_ROWS:
            self.weights_, self.bias_ = _fit_primal(rows, targets, self.c, self.loss, track)
        else:
            gram = gram_matrix(rows) if gram is None else gram
            dual, self.bias_ = fit_dual(gram, targets, self.c, self.loss, track)
            self.weights_ = rows.T @ dual
        return self

    def decision_function(self, rows: Tensor) -> Tensor:
        """Signed distances to the separating planes in units of the margin: (N, D) -> (N, K)."""
        return rows @ self.weights_ + self.bias_


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
    the rows is that of the result, however long the rows are.

    Example:
        >>> gram_matrix(torch.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for columns in rows.split(GRAM_COLUMNS, dim=1):
        gram += columns @ columns.T
    return gram


def fit_dual(
    gram: Tensor,
    targets: Tensor,
    c: float = 1.0,
    loss: str = "hinge",
    track: Track = no_tracking,
) -> Coefficients:
    """Solve every class's SVM by the inner products of the images alone.

    Args:
        gram: (N, N) float64.
        targets: (N, K): 1 yes, -1 no, 0 left out.
        c: Cost of a margin violation.
        loss: ``"hinge"`` or ``"squares"``.
        track: Shows the progress over the classes.

    Returns:
        What each image adds to each class's weights, (N, K) float32, and the biases (K,) float32:
        the scores of other images are their inner products with these times the former, plus the
        latter.
    """
    if loss == "squares" and bool(targets.all()):
        return _solve_squares(gram, targets, c)  # one system, whatever the number of classes
    dual, bias = torch.zeros(targets.shape), torch.zeros(targets.shape[1])
    for label in track(range(targets.shape[1]), "fitting SVMs", total=targets.shape[1]):
        used = targets[:, label].nonzero().flatten()
        signs = targets[used, label : label + 1]
        inner = gram if len(used) == len(gram) else gram[used][:, used]
        solve = _solve_squares if loss == "squares" else _solve_hinge
        column, bias[label : label + 1] = solve(inner, signs, c)
        dual[used, label] = column[:, 0]
    return dual, bias


def _solve_squares(gram: Tensor, targets: Tensor, c: float) -> Coefficients:
    """Minimise |w|^2 / 2 + c / 2 * the squared errors: Cholesky on the centred inner products."""
    if not len(gram):
        return torch.zeros(targets.shape), torch.full(targets.shape[1:], NO)
    means = gram.mean(dim=0)
    system = gram - means - means[:, None] + means.mean()
    system.diagonal().add_(1 / c)
    wanted = targets.double()
    factor = torch.linalg.cholesky(system)
    dual = torch.cholesky_solve(wanted - wanted.mean(dim=0), factor)  # (N, K), columns sum to 0
    return dual.float(), (wanted.mean(dim=0) - means @ dual).float()


def _solve_hinge(gram: Tensor, signs: Tensor, c: float) -> Coefficients:
    """Minimise |w|^2 / 2 + c * the hinge losses of one two-class problem, signs (N, 1)."""
    positive = signs[:, 0] > 0
    dual = torch.zeros(signs.shape)
    if not _is_problem(positive):
        return dual, _constant_answer(positive)
    from sklearn.svm import SVC  # imported here: whoever only predicts need not wait for it

    machine = _quiet(SVC(kernel="precomputed", C=c), gram.numpy(), positive)
    dual[machine.support_, 0] = torch.from_numpy(machine.dual_coef_[0]).float()
    return dual, torch.from_numpy(machine.intercept_).float()


def _fit_primal(rows: Tensor, targets: Tensor, c: float, loss: str, track: Track) -> Coefficients:
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
        machine = _quiet(machine, inner.numpy(), positive)
        weights[:, label] = torch.from_numpy(np.ravel(machine.coef_))
        bias[label] = float(np.ravel(machine.intercept_)[0])
    return weights, bias


def _is_problem(positive: Tensor) -> bool:
    """Whether there are images on both sides."""
    return bool(positive.any()) and not bool(positive.all())


def _constant_answer(positive: Tensor) -> Tensor:
    """Score of every image where only one answer was ever seen, (1,): no, if none was."""
    return torch.tensor([1.0 if bool(positive.any()) else NO])


def _quiet(machine: Any, rows: np.ndarray, positive: Tensor) -> Any:
    """Fit without the solver's remarks on versions and on iterations: the held-out score tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return machine.fit(rows, positive.numpy())


def _check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse classes that do not exist."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {labels.unique().tolist()}")


def _check_rows(rows: Tensor, targets: Tensor) -> None:
    """Refuse what would make the solver crash or answer nonsense."""
    if rows.ndim != 2 or targets.shape[:1] != rows.shape[:1] or not len(rows):
        raise ValueError(
            f"rows must be (N, D) and labels (N,) with N at least 1, got {tuple(rows.shape)} "
            f"and {len(targets)} labels"
        )
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(f"rows must be finite, got NaN or infinity in row {int(bad[0])}")


@dataclass(frozen=True)
class Choice:
    """What was chosen on validation parts, and the figures behind it.

    Args:
        candidate: Position of the feature set.
        c: Cost of a margin violation.
        figures: The mean figure of every (candidate, cost) that was tried; empty where there was
            nothing to choose.
    """

    candidate: int
    c: float
    figures: dict[tuple[int, float], float] = field(default_factory=dict)


def fit_best(
    candidates: Sequence[Tensor],
    targets: Tensor,
    figure: Figure,
    *,
    costs: Sequence[float] = COSTS,
    loss: str = "hinge",
    seed: int = 0,
    track: Track = no_tracking,
) -> tuple[LinearSvm, Choice]:
    """Choose one of several feature sets of the same images and the cost of the SVMs; fit these.

    Three times a fifth of the images is held out (once, of 2,000 images and more); SVMs fitted on
    the others are scored on it. Of equal figures the earlier candidate wins, then the earlier cost.
    Of more than 8,000 images a draw of 8,000 decides. The SVMs that are returned are fitted on all
    images.

    Args:
        candidates: At least one (N, D) float32, training images only, scaled as the SVMs will see
            them; D may differ.
        targets: (N, K): 1 yes, -1 no, 0 left out.
        figure: From scores (n, K) and targets (n, K) to a number, larger is better.
        costs: Costs of a margin violation to try, the likely ones first.
        loss: ``"hinge"`` or ``"squares"``.
        seed: Decides what is held out.
        track: Shows the progress of the last fit over the classes.

    Returns:
        The SVMs and the choice.

    Raises:
        ValueError: If there is no candidate or no cost.
    """
    choice, gram = _choose(candidates, targets, figure, costs, loss, seed)
    svm = LinearSvm(choice.c, loss).fit_targets(candidates[choice.candidate], targets, track, gram)
    return svm, choice


def _choose(
    candidates: Sequence[Tensor],
    targets: Tensor,
    figure: Figure,
    costs: Sequence[float],
    loss: str,
    seed: int,
) -> tuple[Choice, Tensor | None]:
    """The choice, and the inner products of all images if they were computed on the way."""
    if not candidates or not costs:
        raise ValueError(
            f"candidates and costs must be at least one, got {len(candidates)} and {len(costs)}"
        )
    if len(candidates) == len(costs) == 1:
        return Choice(0, costs[0]), None
    drawn = draw_sample(len(targets), GRAM_ROWS, seed)
    figures: dict[tuple[int, float], float] = {}
    for candidate, rows in enumerate(candidates):
        gram = gram_matrix(rows if len(drawn) == len(rows) else rows[drawn])
        found = validate_costs(gram, targets[drawn], figure, costs=costs, loss=loss, seed=seed)
        figures |= {(candidate, c): value for c, value in found.items()}
    best = max(figures, key=lambda key: figures[key])  # the first of equal ones
    serves = len(candidates) == 1 and len(drawn) == len(targets)
    return Choice(*best, figures), gram if serves else None


def validate_costs(
    gram: Tensor,
    targets: Tensor,
    figure: Figure,
    *,
    costs: Sequence[float] = COSTS,
    loss: str = "hinge",
    seed: int = 0,
) -> dict[float, float]:
    """Work out the figure on held-out parts for every cost, from inner products alone.

    Args:
        gram: (N, N) float64 inner products of training images.
        targets: (N, K): 1 yes, -1 no, 0 left out.
        figure: From scores (n, K) and targets (n, K) to a number, larger is better.
        costs: What to try.
        loss: ``"hinge"`` or ``"squares"``.
        seed: Decides what is held out.

    Returns:
        The mean figure over the parts, by cost.
    """
    strata = targets.argmax(dim=1)  # an image of several classes counts as one of the first
    draws = DRAWS if len(targets) < ONE_DRAW_ROWS else 1
    splits = [holdout_split(strata, seed=seed + draw) for draw in range(draws)]
    return {
        c: mean(_score(gram, targets, split, c, loss, figure) for split in splits) for c in costs
    }


def _score(
    gram: Tensor, targets: Tensor, split: Split, c: float, loss: str, figure: Figure
) -> float:
    """Fit on one part and work out the figure on the other, from inner products alone."""
    inner = gram[split.train][:, split.train].contiguous()
    dual, bias = fit_dual(inner, targets[split.train], c, loss)
    scores = gram[split.test][:, split.train].float() @ dual + bias
    return figure(scores, targets[split.test])
