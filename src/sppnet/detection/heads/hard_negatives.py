"""Hard negative mining for linear SVMs, and the random sample that keeps their positives."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from sppnet.detection.heads.dual_svm import (
    NO_PRODUCTS,
    NOBODY,
    DualCoordinateDescentSvm,
    ExampleBlock,
)

# Score of a class that was never seen in training: below every threshold.
NEVER = -10.0
# Memory for the features of positives and hard negatives of all classes.
BUDGET_BYTES = 800_000_000
BYTES_PER_NUMBER = 2
# The classes' dual variables may take this share of it besides, and some for each row in any case.
SHARE_OF_DUALS, BYTES_PER_DUAL, DUALS_PER_ROW = 0.25, 33, 16
# A full budget is cleared again only after negatives of this share of it were met: each clearing
# fits all classes, and one for every image would cost more with every image.
PAUSE = 0.125
# Until the last fit, the tolerance of the SVMs is this many times as large.
EARLY_TOLERANCE = 20
ENTRIES = ("labels", "rows", "bounds", "duals")  # of a block: a value for each use of a row
ROWS_OF_PART = 1024


@dataclass(frozen=True)
class MiningConfig:
    """Constants of the 2014 code (spp_train.m).

    Args:
        cost: C of the SVM, for features of mean norm 20.
        positive_weight: Cost of a positive relative to that of a negative.
        hard_above: A negative with a score above this is hard: it lies inside or near the margin.
        easy_below: A negative that is held is dropped once its score falls below this.
        refit_after: New negatives of a class after which all SVMs that have new ones are fitted.
        bias_factor: Value of the constant feature that stands for the bias.
        tolerance: A fit ends when a pass over its examples raises the dual objective by no more
            than this share.
        budget_bytes: Memory for features, whatever the number of images.
        seed: Seed of the order in which the SVMs visit their examples.
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
        """Vectors of ``length`` numbers that fit into the budget; half of them for positives."""
        return max(2, self.budget_bytes // (BYTES_PER_NUMBER * length))


class HardNegativeMiner:
    """One pass over the images: each class keeps the negatives that its SVM scores too high.

    The SVMs start with all negatives of the first image. From then on a proposal becomes a negative
    of a class if its score lies above the lower edge of the margin. Once a class has
    ``refit_after`` new negatives, all that have new ones are fitted again, and at the end: they
    start from their last solutions, and then drop the negatives that have become easy. Classes
    share the vectors that they hold.

    When the budget is used up, all negatives outside the margin are dropped; if that is not enough,
    no further negatives are added until an eighth of what the budget holds has been met. So the
    cost of an image has a bound, however hard it is.

    Args:
        positives: Per class, (P, D) features; at most half of ``config.most_rows(D)`` in all, or
            the budget is exceeded.
        config: The constants.
        counts: Per class, the number of objects of which the positives are a sample; None if the
            positives are all objects.
        owners: Per class, (P,) int64 whose each positive is; None for nobody's.

    Attributes:
        weights_: (D, K) weights, after the first :meth:`add`.
        bias_: (K,) biases.
        objectives_: Per class, the value of the SVM objective after each fit.

    Raises:
        ValueError: If there is no class.

    Example:
        >>> noise = torch.randn(40, 3, generator=torch.manual_seed(0))
        >>> config = MiningConfig(cost=1.0)
        >>> miner = HardNegativeMiner([noise[:10] + torch.tensor([9.0, 0.0, 0.0])], config)
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
        config: MiningConfig | None = None,
        counts: Sequence[int] | None = None,
        owners: Sequence[Tensor] | None = None,
    ) -> None:
        if not positives:
            raise ValueError("positives must have one tensor per class, got none")
        length = positives[0].shape[1]
        self.config = config or MiningConfig()
        self._most_rows = self.config.most_rows(length)
        self._svms = DualCoordinateDescentSvm(
            length, len(positives), self.config.bias_factor, self.config.seed, self._most_rows
        )
        shared = SHARE_OF_DUALS * self.config.budget_bytes / BYTES_PER_DUAL
        self._most_duals = max(int(shared), DUALS_PER_ROW * self._most_rows)
        self._met = inf  # share of the budget that was met since it was last cleared
        self._has_positives = torch.tensor([len(rows) > 0 for rows in positives])
        self._new_of = [0 for _ in positives]
        self.weights_ = self._svms.weights.T
        self.bias_ = torch.full((len(positives),), NEVER)
        self.objectives_: list[list[float]] = [[] for _ in positives]
        self._coarse: set[int] = set()  # classes whose last fit had the coarser tolerance
        for label, rows in enumerate(positives):
            share = counts[label] / max(1, len(rows)) if counts else 1.0
            high = np.zeros((len(rows), len(positives)))
            high[:, label] = self.config.cost * self.config.positive_weight * share
            owner = NOBODY if owners is None else owners[label].numpy()
            self._svms.add(rows, np.zeros_like(high), high, owner)

    @property
    def waiting(self) -> Tensor:
        """(K,) bool: classes that have positives but no negative so far."""
        return self._has_positives & torch.tensor([not fits for fits in self.objectives_])

    @property
    def held(self) -> list[int]:
        """Per class, the number of negatives that it holds."""
        return self._svms.count_examples(-1)

    def choose(self, scores: Tensor, is_negative: Tensor) -> Tensor:
        """Choose the hard negatives of each class among the proposals of an image.

        Args:
            scores: (W, K) scores by the present SVMs, ``features @ weights_ + bias_``.
            is_negative: (W, K) bool: whether the proposal is a negative of the class.

        Returns:
            (W, K) bool: all negatives of a class that holds none so far, later those inside or near
            the margin; none of a class without positives.
        """
        return is_negative & ((scores > self.config.hard_above) | self.waiting)

    def add(self, features: Tensor, is_hard: Tensor, owner: int = NOBODY) -> None:
        """Add hard negatives, and fit the classes that have enough new ones.

        Args:
            features: (W, D) features of proposals of one image.
            is_hard: (W, K) bool: their rows of what :meth:`choose` returned.
            owner: Whose they are, such as the number of the image.

        Raises:
            ValueError: If the shapes do not fit together.
        """
        if is_hard.shape != (len(features), len(self.objectives_)):
            raise ValueError(
                f"is_hard must have shape {(len(features), len(self.objectives_))}, "
                f"got {tuple(is_hard.shape)}"
            )
        wanted = (is_hard & self._has_positives).any(1).nonzero().flatten()
        chosen = is_hard[wanted] & self._has_positives
        fitting = self._make_room(chosen)
        wanted, chosen = wanted[:fitting], chosen[:fitting]
        low = -self.config.cost * chosen.double().numpy()
        self._svms.add(features[wanted], low, np.zeros_like(low), owner)
        self._new_of = [
            n + int(new) for n, new in zip(self._new_of, chosen.sum(0).tolist(), strict=True)
        ]
        limits = [0 if first else self.config.refit_after for first in self.waiting.tolist()]
        if any(new > limit for new, limit in zip(self._new_of, limits, strict=True)):
            # the others come along: fewer fits, and fewer negatives by weights that are out of date
            self._fit([k for k, new in enumerate(self._new_of) if new])

    def add_positives(self, features: Tensor, labels: Tensor, owner: int) -> None:
        """Add objects, to be learnt from at the next fit.

        Args:
            features: (P, D) features of objects.
            labels: (P,) int64 their classes.
            owner: Whose they are, such as the number of an image.
        """
        high = np.zeros((len(features), len(self.bias_)))
        high[np.arange(len(features)), labels.numpy()] = (
            self.config.cost * self.config.positive_weight
        )
        self._svms.add(features, np.zeros_like(high), high, owner)
        for label in labels.unique().tolist():
            self._has_positives[label] = True
            self._new_of[label] += 1
            if self.objectives_[label]:
                self.bias_[label] = self._svms.bias[label]

    def drop(self, owners: Collection[int]) -> None:
        """Forget all that was learnt from some owners; the next fit starts from what is left.

        A class that is left without positives is found no more. Its negatives stay, and count again
        once it has positives.
        """
        for label in self._svms.drop(owners):
            self._new_of[label] += 1
        self._has_positives = torch.tensor([n > 0 for n in self._svms.count_examples(1)])
        self.bias_[~self._has_positives] = NEVER

    def without(self, owners: Collection[int], *, early: bool = False) -> "HardNegativeMiner":
        """What would have been learnt without some owners, as far as it can be told from the rest.

        Negatives that were easy for the SVMs of all owners are gone, though they may be hard for
        those of the others.

        Args:
            owners: Whose examples are left out.
            early: Whether the coarser tolerance of :meth:`refit` is enough.

        Returns:
            A copy that shares the features, fitted again.
        """
        other = self.copy()
        other.drop(owners)
        other.refit(early=early)
        return other

    def grow(self, num_classes: int) -> None:
        """Make room for more classes; they have no positives yet.

        Raises:
            ValueError: If there are more classes already.
        """
        more = num_classes - len(self.bias_)
        self._svms.grow(num_classes)
        self.weights_ = self._svms.weights.T
        self.bias_ = torch.cat([self.bias_, torch.full((more,), NEVER)])
        self._has_positives = torch.cat([self._has_positives, torch.zeros(more, dtype=torch.bool)])
        self._new_of += [0] * more
        self.objectives_ += [[] for _ in range(more)]

    def refit(self, *, early: bool = True, most: int | None = None, local: bool = False) -> bool:
        """Fit the classes whose examples changed since their last fit.

        Args:
            early: Whether the coarser tolerance of fits before the last is enough; otherwise the
                classes that were fitted so are fitted again.
            most: At most so many classes; None for all.
            local: Whether, of an early fit, only rows beside the new ones are visited.

        Returns:
            Whether there are more.
        """
        changed = [
            label
            for label, new in enumerate(self._new_of)
            if bool(self._has_positives[label]) and (new or (not early and label in self._coarse))
        ]
        labels = changed[:most]
        self._fit(labels, is_last=not early, local=local)
        self._coarse = self._coarse | set(labels) if early else self._coarse - set(labels)
        return len(labels) < len(changed)

    def copy(self) -> "HardNegativeMiner":
        """Copy the solution; the features are shared."""
        other = copy(self)
        other._svms = self._svms.copy()
        other.weights_, other.bias_ = other._svms.weights.T, self.bias_.clone()
        other._has_positives, other._new_of = self._has_positives.clone(), list(self._new_of)
        other.objectives_ = [list(values) for values in self.objectives_]
        other._coarse = set(self._coarse)
        return other

    def parts(self) -> Iterator[dict[str, Tensor]]:
        """Give all that was learnt in parts of a few MB, for :meth:`restore`."""
        yield {
            "bias": self.bias_,
            "has_positives": self._has_positives,
            "new_of": torch.tensor(self._new_of),
            "objectives": torch.tensor([(fits or [inf])[-1] for fits in self.objectives_]),
            "coarse": torch.tensor(sorted(self._coarse), dtype=torch.int64),
        }
        yield {"weights": self._svms.weights, "svm_bias": self._svms.bias}
        if not self._svms.num_rows:
            return
        whole = self._svms.join()
        used = np.flatnonzero(whole.is_used)
        whole.rows = np.searchsorted(used, whole.rows).astype(np.int32)
        known = {name: getattr(whole, name) for name in ENTRIES}
        known["owners"] = whole.owners[used]
        yield {name: torch.from_numpy(values) for name, values in known.items()}
        for some in np.split(whole.places[used], range(ROWS_OF_PART, len(used), ROWS_OF_PART)):
            yield {"features": self._svms.store.take(some)}

    def restore(self, parts: Iterator[Mapping[str, Tensor]]) -> None:
        """Go on from what :meth:`parts` gave; this one must not have learnt anything yet."""
        first = next(parts)
        self.bias_, self._has_positives = first["bias"], first["has_positives"]
        self._new_of = first["new_of"].tolist()
        self.objectives_ = [[] if fit == inf else [fit] for fit in first["objectives"].tolist()]
        self._coarse = set(first["coarse"].tolist())
        solution, svms = next(parts), self._svms
        svms.weights, svms.bias = solution["weights"], solution["svm_bias"]
        self.weights_ = svms.weights.T
        if known := next(parts, None):
            labels, rows, bounds, duals = (known[name].numpy() for name in ENTRIES)
            places = np.concatenate([svms.store.add(part["features"]) for part in parts])
            owners = known["owners"].numpy()
            svms.adopt(ExampleBlock(places, owners, NO_PRODUCTS, labels, rows, bounds, duals))

    def finish(self) -> None:
        """Fit every class that holds negatives once more, to the full tolerance."""
        held = self.held
        self._fit([label for label, count in enumerate(held) if count], is_last=True)

    def _make_room(self, chosen: Tensor) -> int:
        """Drop easy negatives if the budget is used up; return how many of the rows fit.

        Args:
            chosen: (B, K) bool: of which classes each new row is a negative.
        """
        duals = chosen.sum(1).cumsum(0)
        self._met += max(len(chosen) / self._most_rows, float(chosen.sum()) / self._most_duals)
        if self._count_fitting(duals) < len(chosen) and self._met >= PAUSE:
            self._met = 0.0
            self._fit([label for label, new in enumerate(self._new_of) if new])
            fitted = [label for label, fits in enumerate(self.objectives_) if fits]
            self._svms.forget(fitted, below=inf)
            self._svms.compact()
        return self._count_fitting(duals)

    def _count_fitting(self, duals: Tensor) -> int:
        """How many new rows fit, which have so many dual variables together with those before."""
        rows = self._most_rows - self._svms.num_rows
        return max(0, min(rows, int((duals <= self._most_duals - self._svms.num_duals).sum())))

    def _fit(self, labels: Sequence[int], *, is_last: bool = False, local: bool = False) -> None:
        """Fit the SVMs of some classes, then drop the negatives that have become easy."""
        tolerance = self.config.tolerance * (1 if is_last else EARLY_TOLERANCE)
        for label, value in zip(
            labels, self._svms.fit(labels, tolerance, local=local), strict=True
        ):
            self._new_of[label] = 0
            self.objectives_[label].append(value)
            self.bias_[label] = self._svms.bias[label]
        self._svms.forget(labels, self.config.easy_below)


class ReservoirSample:
    """A uniform random sample of a stream of rows.

    Each row draws a random priority, and the rows of the highest priority are kept. They lie in one
    block of memory: many small tensors between the large ones of the pooling would fragment the
    heap, and the process would hold several times the memory that it uses.

    Args:
        limit: The most rows to keep.
        length: D, numbers per row.

    Attributes:
        seen: Rows offered so far.

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
        self._owners = torch.zeros(0, dtype=torch.int64)

    def add(
        self, rows: Tensor, draw: torch.Generator, owner: int = NOBODY
    ) -> tuple[Tensor, Tensor]:
        """Offer rows to the sample.

        Args:
            rows: (S, D) numbers; kept in float16.
            draw: Source of the priorities.
            owner: Whose they are, such as the number of an image.

        Returns:
            (T,) int64 indices of the rows that were taken, and (T,) the places where they are kept;
            what a place held before is gone.
        """
        held = len(self._priorities)
        priorities = torch.cat([self._priorities, torch.rand(len(rows), generator=draw)])
        stays = torch.zeros(len(priorities), dtype=torch.bool)
        stays[priorities.argsort(descending=True, stable=True)[: self.limit]] = True
        taken = stays[held:].nonzero().flatten()
        free = torch.arange(held, min(self.limit, held + len(taken)))
        places = torch.cat([(~stays[:held]).nonzero().flatten(), free])[: len(taken)]
        grown = len(free) if len(places) else 0
        self._priorities = torch.cat([self._priorities, torch.zeros(grown)])
        more = torch.zeros(grown, dtype=torch.int64)
        self._arrivals = torch.cat([self._arrivals, more])
        self._owners = torch.cat([self._owners, more])
        self._rows[places] = rows[taken].to(self._rows)
        self._priorities[places] = priorities[held + taken]
        self._arrivals[places] = self.seen + taken
        self._owners[places] = owner
        self.seen += len(rows)
        return taken, places

    @property
    def order(self) -> Tensor:
        """(M,) places of the rows that are held, in the order in which the rows came."""
        return self._arrivals.argsort()

    @property
    def owners(self) -> Tensor:
        """(M,) whose each row is, in the order in which the rows came."""
        return self._owners[self.order]

    def take(self) -> Tensor:
        """Give the (M, D) float16 rows of the sample, in the order in which they came.

        They may share the sample's memory: no row may be added after that.
        """
        order = self.order
        is_in_order = bool((order == torch.arange(len(order))).all())
        return self._rows[: len(order)] if is_in_order else self._rows[order]
