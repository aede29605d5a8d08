"""Linear SVMs for windows, trained on positives and on the negatives that they find hard."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor

# Score of a class that was never seen in training: below every threshold.
NEVER = -10.0


@dataclass(frozen=True)
class MiningRule:
    """Constants of the 2014 code (spp_train.m).

    Args:
        cost: C of the SVM, for features of mean norm 20.
        positive_weight: Cost of a positive relative to that of a negative.
        hard_above: A window whose score is above this is a hard negative: inside or near the
            margin.
        easy_below: A kept negative whose score falls below this is dropped again.
        refit_after: New negatives of a class after which its SVM is fitted anew.
    """

    cost: float = 1e-3
    positive_weight: float = 2.0
    hard_above: float = -1.0001
    easy_below: float = -1.2
    refit_after: int = 2000


class HardNegativeMiner:
    """One pass over the images: each class keeps the negatives that its SVM scores too high.

    All negatives of the first image start the SVMs. From then on a window joins the negatives of a
    class when its score is above the margin; a class is fitted anew after ``refit_after`` new
    negatives and at the end, and then forgets the negatives that have become easy.

    Args:
        positives: One (P, D) tensor of features per class.
        rule: The constants.

    Attributes:
        weights_: (D, K) weights, after the first :meth:`add`.
        bias_: (K,) biases.
        objectives_: Per class, the value of the SVM objective after each fit.

    Example:
        >>> noise = torch.randn(40, 3, generator=torch.manual_seed(0))
        >>> rule = MiningRule(cost=1.0)
        >>> miner = HardNegativeMiner([noise[:10] + torch.tensor([9.0, 0.0, 0.0])], rule)
        >>> miner.add(noise[10:], torch.ones(30, 1, dtype=torch.bool))
        >>> miner.finish()
        >>> scores = noise @ miner.weights_ + miner.bias_
        >>> bool((scores[10:] < 0).all())
        True

    Source:
        SPP-net, section 4.1; Felzenszwalb et al. 2010; spp_train.m of the authors' code.
    """

    def __init__(self, positives: list[Tensor], rule: MiningRule | None = None) -> None:
        if not positives:
            raise ValueError("positives must have one tensor per class, got none")
        length = positives[0].shape[1]
        self.rule = rule or MiningRule()
        self.positives = positives
        self.blocks = [torch.zeros(0, length)]  # negatives of all classes, joined when needed
        self.rows_of = [torch.zeros(0, dtype=torch.int64) for _ in positives]
        self.new_of = [0 for _ in positives]
        self.products_of = [torch.zeros(0, 0) for _ in positives]  # of the last fit's rows
        self.weights_ = torch.zeros(length, len(positives))
        self.bias_ = torch.full((len(positives),), NEVER)
        self.objectives_: list[list[float]] = [[] for _ in positives]

    @property
    def waiting(self) -> Tensor:
        """(K,) bool: classes that have positives and have not met a negative yet."""
        pairs = zip(self.positives, self.objectives_, strict=True)
        return torch.tensor([len(rows) > 0 and not fits for rows, fits in pairs])

    def choose(self, scores: Tensor, is_negative: Tensor) -> Tensor:
        """Say which windows of an image are hard negatives of which class.

        Args:
            scores: (W, K) of the windows by the present SVMs, ``features @ weights_ + bias_``.
            is_negative: (W, K) bool: the window overlaps no object of the class by 0.3 or more.

        Returns:
            (W, K) bool: all negatives for a class that has met none yet, those near or inside the
            margin later, and none for a class without positives.
        """
        return is_negative & ((scores > self.rule.hard_above) | self.waiting)

    def add(self, features: Tensor, is_hard: Tensor) -> None:
        """Take hard negatives in, and fit the classes that have enough new ones.

        Args:
            features: (W, D) features of windows of one image.
            is_hard: (W, K) bool, the rows of :meth:`choose` that belong to these windows.

        Raises:
            ValueError: If the shapes do not fit together.
        """
        if is_hard.shape != (len(features), len(self.positives)):
            raise ValueError(
                f"is_hard must have shape {(len(features), len(self.positives))}, "
                f"got {tuple(is_hard.shape)}"
            )
        waiting = self.waiting
        self._remember(features, is_hard)
        for label, new in enumerate(self.new_of):
            if new > self.rule.refit_after or (new and waiting[label]):
                self._fit(label)

    def finish(self) -> None:
        """Fit every class once more on the negatives that it holds."""
        for label in range(len(self.positives)):
            self._fit(label)

    def _remember(self, features: Tensor, chosen: Tensor) -> None:
        """Append the rows that any class wants; classes share them."""
        wanted = chosen.any(1).nonzero().flatten()
        position = torch.full((len(features),), -1)
        position[wanted] = torch.arange(len(wanted)) + sum(map(len, self.blocks))
        self.blocks.append(features[wanted])
        for label in range(len(self.positives)):
            rows = position[chosen[:, label]]
            self.rows_of[label] = torch.cat([self.rows_of[label], rows])
            self.new_of[label] += len(rows)

    def _fit(self, label: int) -> None:
        """Fit the SVM of one class, then drop the negatives that have become easy."""
        self.new_of[label] = 0
        positives, rows = self.positives[label], self.rows_of[label]
        if not len(positives) or not len(rows):
            return
        self.blocks = [torch.cat(self.blocks)]
        examples = torch.cat([positives, self.blocks[0][rows]])
        products = extend_products(self.products_of[label], examples)
        weights, bias = fit_linear_svm(examples, len(positives), self.rule, products)
        self.weights_[:, label], self.bias_[label] = weights, bias
        scores = examples @ weights + bias
        self.objectives_[label].append(svm_objective(scores, len(positives), weights, self.rule))
        kept = scores >= self.rule.easy_below
        kept[: len(positives)] = True
        self.products_of[label] = products[kept][:, kept]
        self.rows_of[label] = rows[kept[len(positives) :]]
        self._forget_unused()

    def _forget_unused(self) -> None:
        """Free the rows that no class holds any more, once they are half of all."""
        (negatives,) = self.blocks
        used = torch.cat(self.rows_of).unique()
        if len(used) > len(negatives) // 2:
            return
        position = torch.full((len(negatives),), -1)
        position[used] = torch.arange(len(used))
        self.blocks = [negatives[used]]
        self.rows_of = [position[rows] for rows in self.rows_of]


def extend_products(products: Tensor, rows: Tensor) -> Tensor:
    """Grow the matrix of products of rows by the rows that it does not hold yet.

    Args:
        products: (M, M) products of the first M rows.
        rows: (N, D) with N at least M.

    Returns:
        (N, N) products of all rows.

    Example:
        >>> rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> extend_products(extend_products(torch.zeros(0, 0), rows[:1]), rows).tolist()
        [[5.0, 11.0], [11.0, 25.0]]
    """
    known, new = rows[: len(products)], rows[len(products) :]
    across = new @ known.T
    return torch.cat(
        [torch.cat([products, across.T], 1), torch.cat([across, new @ new.T], 1)], dim=0
    )


def fit_linear_svm(
    rows: Tensor, num_positives: int, rule: MiningRule, products: Tensor | None = None
) -> tuple[Tensor, float]:
    """Fit a linear SVM through the products of the rows: windows are far fewer than their features.

    LIBSVM solves the same problem as the liblinear call of the 2014 code, except that its bias is
    not regularised (there it was, by a hundredth).

    Args:
        rows: (N, D) positives, then negatives; at least one of each.
        num_positives: How many positives there are.
        rule: Gives the cost and the weight of positives.
        products: (N, N) ``rows @ rows.T``, if it is at hand.

    Returns:
        (D,) weights and the bias.

    Example:
        >>> weights, bias = fit_linear_svm(torch.tensor([[1.0], [-1.0]]), 1, MiningRule(cost=1.0))
        >>> weights.tolist(), abs(round(bias, 6))
        ([1.0], 0.0)

    Source:
        Hinge loss, L2 regularisation: spp_train.m (liblinear -s 3 -c 0.001 -w1 2 -B 10).
    """
    signs = np.where(np.arange(len(rows)) < num_positives, 1, -1)
    products = rows @ rows.T if products is None else products
    svm = SVC(
        C=rule.cost,
        kernel="precomputed",
        class_weight={1: rule.positive_weight, -1: 1.0},
        tol=1e-3,
        cache_size=500,
    )
    svm.fit(products.double().numpy(), signs)
    support = torch.from_numpy(svm.support_.astype(np.int64))
    duals = torch.from_numpy(svm.dual_coef_[0]).to(rows.dtype)
    return rows[support].T @ duals, float(svm.intercept_[0])


def svm_objective(scores: Tensor, num_positives: int, weights: Tensor, rule: MiningRule) -> float:
    """Value that the SVM minimises: weighted hinge losses plus half the squared norm.

    Args:
        scores: (N,) of positives, then negatives.
        num_positives: How many positives there are.
        weights: (D,).
        rule: Gives the cost and the weight of positives.

    Example:
        >>> svm_objective(torch.zeros(2), 1, torch.zeros(1), MiningRule(cost=1.0))
        3.0
    """
    losses = rule.positive_weight * (1 - scores[:num_positives]).clamp(min=0).sum()
    losses += (1 + scores[num_positives:]).clamp(min=0).sum()
    return float(rule.cost * losses + 0.5 * weights.square().sum())
