"""Linear SVMs for windows, trained on positives and on the negatives that they find hard."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from sppnet.detection.heads.dual_svm import DualCoordinateDescentSvm

# Score of a class that was never seen in training: below every threshold.
NEVER = -10.0
# Memory for windows, positives and hard negatives of all classes.
BUDGET_BYTES = 800_000_000
BYTES_PER_NUMBER = 2
# SVMs that are fitted on later may be so much less exact.
EARLY_TOLERANCE = 20


@dataclass(frozen=True)
class MiningConfig:
    """Constants of the 2014 code (spp_train.m).

    Args:
        cost: C of the SVM, for features of mean norm 20.
        positive_weight: Cost of a positive relative to that of a negative.
        hard_above: A window whose score is above this is a hard negative: inside or near the
            margin.
        easy_below: A kept negative whose score falls below this is dropped again.
        refit_after: New negatives of a class after which its SVM is fitted anew.
        bias_factor: Value of the constant feature that stands for the bias.
        tolerance: Share of the dual objective that one pass over the windows must gain to be
            followed by another.
        budget_bytes: Memory for windows, whatever the number of images.
        seed: Of the order in which the SVMs take their windows.
    """

    cost: float = 1e-3
    positive_weight: float = 2.0
    hard_above: float = -1.0001
    easy_below: float = -1.2
    refit_after: int = 2000
    bias_factor: float = 10.0
    tolerance: float = 1e-3
    budget_bytes: int = BUDGET_BYTES
    seed: int = 0

    def most_rows(self, length: int) -> int:
        """Windows of ``length`` numbers that fit into the budget; half of them for positives."""
        return max(2, self.budget_bytes // (BYTES_PER_NUMBER * length))


class HardNegativeMiner:
    """One pass over the images: each class keeps the negatives that its SVM scores too high.

    All negatives of the first image start the SVMs. From then on a window joins the negatives of a
    class when its score is above the margin; a class is fitted on after ``refit_after`` new
    negatives and at the end, from where its last fit stopped, and then forgets the negatives that
    have become easy. Classes share the windows that they hold.

    When the budget is used up, every negative that is outside the margin goes; if that does not
    help, further negatives are not taken in.

    Args:
        positives: One (P, D) tensor of features per class; at most half of
            ``rule.most_rows(D)`` in all, or the budget is exceeded.
        rule: The constants.
        counts: How many objects the positives of each class stand for, where they are a sample.

    Attributes:
        weights_: (D, K) weights, after the first :meth:`add`.
        bias_: (K,) biases.
        objectives_: Per class, the value of the SVM objective after each fit.

    Raises:
        ValueError: If there is no class.

    Example:
        >>> noise = torch.randn(40, 3, generator=torch.manual_seed(0))
        >>> rule = MiningConfig(cost=1.0)
        >>> miner = HardNegativeMiner([noise[:10] + torch.tensor([9.0, 0.0, 0.0])], rule)
        >>> miner.add(noise[10:], torch.ones(30, 1, dtype=torch.bool))
        >>> miner.finish()
        >>> scores = noise @ miner.weights_ + miner.bias_
        >>> bool((scores[10:] < 0).all())
        True

    Source:
        SPP-net, section 4.1; Felzenszwalb et al. 2010; spp_train.m of the authors' code.
    """

    def __init__(
        self,
        positives: list[Tensor],
        rule: MiningConfig | None = None,
        counts: Sequence[int] | None = None,
    ) -> None:
        if not positives:
            raise ValueError("positives must have one tensor per class, got none")
        length = positives[0].shape[1]
        self.rule = rule or MiningConfig()
        self._svms = DualCoordinateDescentSvm(
            length, len(positives), self.rule.bias_factor, self.rule.seed
        )
        self._most_rows = self.rule.most_rows(length)
        self._has_positives = torch.tensor([len(rows) > 0 for rows in positives])
        self._new_of = [0 for _ in positives]
        self.weights_ = self._svms.weights.T
        self.bias_ = torch.full((len(positives),), NEVER)
        self.objectives_: list[list[float]] = [[] for _ in positives]
        for label, rows in enumerate(positives):
            share = counts[label] / max(1, len(rows)) if counts else 1.0
            high = np.zeros((len(rows), len(positives)))
            high[:, label] = self.rule.cost * self.rule.positive_weight * share
            self._svms.add(rows, np.zeros_like(high), high)

    @property
    def waiting(self) -> Tensor:
        """(K,) bool: classes that have positives and have not met a negative yet."""
        return self._has_positives & torch.tensor([not fits for fits in self.objectives_])

    @property
    def held(self) -> list[int]:
        """Per class, how many negatives it holds."""
        return self._svms.count_negatives()

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
        if is_hard.shape != (len(features), len(self.objectives_)):
            raise ValueError(
                f"is_hard must have shape {(len(features), len(self.objectives_))}, "
                f"got {tuple(is_hard.shape)}"
            )
        wanted = (is_hard & self._has_positives).any(1).nonzero().flatten()
        wanted = wanted[: self._make_room(len(wanted))]
        chosen = is_hard[wanted] & self._has_positives
        low = -self.rule.cost * chosen.double().numpy()
        self._svms.add(features[wanted], low, np.zeros_like(low))
        self._new_of = [n + int(new) for n, new in zip(self._new_of, chosen.sum(0), strict=True)]
        limits = [0 if first else self.rule.refit_after for first in self.waiting.tolist()]
        self._fit([k for k, new in enumerate(self._new_of) if new > limits[k]])

    def finish(self) -> None:
        """Fit every class once more on the negatives that it holds."""
        held = self.held
        self._fit([label for label, count in enumerate(held) if count], is_last=True)

    def _make_room(self, count: int) -> int:
        """Forget easy negatives where the budget asks for it; say how many new ones fit."""
        if self._svms.num_rows + count > self._most_rows:
            self._fit([label for label, new in enumerate(self._new_of) if new])
            for label, fits in enumerate(self.objectives_):
                if fits:
                    self._svms.forget(label, below=inf)
            self._svms.compact()
        return max(0, self._most_rows - self._svms.num_rows)

    def _fit(self, labels: Sequence[int], *, is_last: bool = False) -> None:
        """Fit the SVMs of some classes, then drop the negatives that have become easy."""
        tolerance = self.rule.tolerance * (1 if is_last else EARLY_TOLERANCE)
        for label in labels:
            self._new_of[label] = 0
            self.objectives_[label].append(self._svms.fit(label, tolerance))
            self._svms.forget(label, self.rule.easy_below)
            self.bias_[label] = self._svms.bias[label]


class ReservoirSample:
    """Some of the rows that come by, each with the same chance to stay.

    Each row draws a priority when it comes; those of the highest priority stay. They lie in one
    stretch of memory: many small ones between the large ones of the pooling would tear the heap to
    pieces, and the process would hold several times what it uses.

    Args:
        limit: Rows to keep.
        length: D, numbers per row.

    Attributes:
        seen: Rows that came by.

    Raises:
        ValueError: If ``limit`` is below 1.

    Example:
        >>> sample = ReservoirSample(limit=2, length=3)
        >>> for _ in range(5):
        ...     _ = sample.add(torch.rand(1, 3), torch.default_generator)
        >>> sample.seen, sample.take().shape
        (5, torch.Size([2, 3]))
    """

    def __init__(self, limit: int, length: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit = limit
        self.seen = 0
        self._rows = torch.empty(limit, length, dtype=torch.float16)  # touched as it is filled
        self._priorities = torch.zeros(0)
        self._arrivals = torch.zeros(0, dtype=torch.int64)

    def add(self, rows: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Show it (S, D) rows.

        Args:
            rows: Any numbers; kept in float16.
            draw: Source of the priorities.

        Returns:
            (T,) which of the rows stay for now, and (T,) the slots that they lie in; what lay there
            before is gone.
        """
        held = len(self._priorities)
        priorities = torch.cat([self._priorities, torch.rand(len(rows), generator=draw)])
        stays = torch.zeros(len(priorities), dtype=torch.bool)
        stays[priorities.argsort(descending=True, stable=True)[: self.limit]] = True
        taken = stays[held:].nonzero().flatten()
        free = torch.arange(held, min(self.limit, held + len(taken)))
        slots = torch.cat([(~stays[:held]).nonzero().flatten(), free])[: len(taken)]
        grown = len(free) if len(slots) else 0
        self._priorities = torch.cat([self._priorities, torch.zeros(grown)])
        self._arrivals = torch.cat([self._arrivals, torch.zeros(grown, dtype=torch.int64)])
        self._rows[slots] = rows[taken].to(self._rows)
        self._priorities[slots] = priorities[held + taken]
        self._arrivals[slots] = self.seen + taken
        self.seen += len(rows)
        return taken, slots

    @property
    def order(self) -> Tensor:
        """(M,) slots of the rows that are held, in the order in which the rows came."""
        return self._arrivals.argsort()

    def take(self) -> Tensor:
        """Give at most ``limit`` rows, float16, in the order in which they came."""
        order = self.order
        is_in_order = bool((order == torch.arange(len(order))).all())
        return self._rows[: len(order)] if is_in_order else self._rows[order]
