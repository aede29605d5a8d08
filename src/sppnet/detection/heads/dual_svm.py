"""Linear SVMs of several classes over shared examples, by block coordinate ascent on the dual."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.storage.tensors import Places, RowStore

# Rows per block; their products with each other are kept.
BLOCK = 64
# Passes over the rows of a block at each visit.
INNER_PASSES = 2
MOST_ROUNDS = 50
# A round is one sweep over all rows of a class, then so many over those that are still active.
ACTIVE_SWEEPS = 2
# Classes that are fitted at the same time. Their weights are read once for each block.
TOGETHER = 128
NO_PRODUCTS = np.zeros((0, 0))
NOBODY = -1  # owner of rows that are never dropped
# Blocks of which a smaller share of the rows is used are rebuilt.
LEAST_USE = 0.5
LOCAL_SHARE = 0.25  # of the blocks; more are not few
Labels = NDArray[np.int64]


@dataclass
class ExampleBlock:
    """A block of examples, their products with each other, and each class's dual variables.

    A class that uses a row has an entry for it. So memory grows with the rows that classes use, not
    with the product of rows and classes. The dual variable of an entry is signed: from 0 to its
    cost for a positive of the class, from minus its cost to 0 for a negative.

    Args:
        places: (B,) of the rows in the store.
        owners: (B,) whose each row is, such as the number of an image.
        products: (B, B) inner products of the rows, each with the constant feature for the bias.
        labels: (E,) class of each entry, never falling.
        rows: (E,) row of each entry in the block.
        bounds: (E,) cost of a positive, minus that of a negative; never 0.
        duals: (E,) present values.

    Attributes:
        active: (E,) whether the last visit changed a dual variable.
        scores: (E,) scores by the weights of each class's last fit.
        is_used: (B,) whether any class uses a row.
    """

    places: Places
    owners: NDArray[np.int64]
    products: NDArray[np.float64]
    labels: NDArray[np.int32]
    rows: NDArray[np.int32]
    bounds: NDArray[np.float64]
    duals: NDArray[np.float64]

    def __post_init__(self) -> None:
        self.active = np.zeros(len(self.rows), dtype=bool)
        self.scores = np.zeros(len(self.rows))
        self.find_used()

    def find_used(self) -> None:
        """Find the rows in use."""
        self.is_used = np.zeros(len(self.places), dtype=bool)
        self.is_used[self.rows] = True

    def leave_out(self, gone: NDArray[np.bool_]) -> None:
        """Forget some entries: (E,) bool."""
        kept = ~gone
        self.labels, self.rows = self.labels[kept], self.rows[kept]
        self.bounds, self.duals = self.bounds[kept], self.duals[kept]
        self.active, self.scores = self.active[kept], self.scores[kept]
        self.find_used()

    def find(self, labels: Labels, *, only_active: bool = False) -> tuple[Places, Places]:
        """Find the entries of some classes, or only those that are active.

        Args:
            labels: (L,) the classes, rising.
            only_active: Whether entries that the last visit left alone are passed over.

        Returns:
            (E,) indices of the entries, and (E,) which of ``labels`` each is of.
        """
        first, end = np.searchsorted(self.labels, [labels[0], labels[-1] + 1]).tolist()
        chosen = self.active[first:end] if only_active else np.ones(end - first, dtype=bool)
        columns = np.searchsorted(labels, self.labels[first:end])
        if len(labels) < labels[-1] + 1 - labels[0]:  # other classes lie between them
            chosen = chosen & (labels[columns] == self.labels[first:end])
        kept = np.flatnonzero(chosen)
        return first + kept, columns[kept]

    def ascend(
        self, entries: Places, columns: Places, rows: Places, scores: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Set one dual variable after the other to its best value, that of all classes at once.

        Args:
            entries: (E,) indices of the entries to visit.
            columns: (E,) which class each is of.
            rows: (R,) the rows of the block that they are of, rising.
            scores: (R, L) scores by the present weights of each class.

        Returns:
            (R, L) the changes of the dual variables, and (L,) by how much each dual objective rose.
        """
        at = np.searchsorted(rows, self.rows[entries]), columns
        bounds, before = np.zeros(scores.shape), np.zeros(scores.shape)
        bounds[at], before[at] = self.bounds[entries], self.duals[entries]
        low, high, duals = np.minimum(bounds, 0), np.maximum(bounds, 0), before.copy()
        missing = np.sign(bounds) - scores
        products = self.products[np.ix_(rows, rows)]
        curvature = np.maximum(products.diagonal(), 1e-12)
        gain = np.zeros(scores.shape[1])
        for _ in range(INNER_PASSES):
            wanted = np.clip(duals + missing / curvature[:, None], low, high)
            for row in np.flatnonzero((wanted != duals).any(1)).tolist():
                best = duals[row] + missing[row] / curvature[row]
                move = np.minimum(np.maximum(best, low[row]), high[row]) - duals[row]
                gain += move * (missing[row] - 0.5 * curvature[row] * move)
                duals[row] += move
                missing -= products[row][:, None] * move
        added = duals - before
        self.duals[entries] = duals[at]
        self.active[entries] = added[at] != 0
        return added, gain

    def copy(self) -> "ExampleBlock":
        """A block with the same rows, whose classes go their own way."""
        other = ExampleBlock(
            self.places,
            self.owners,
            self.products,
            self.labels,
            self.rows,
            self.bounds.copy(),
            self.duals.copy(),
        )
        other.active, other.scores = self.active.copy(), self.scores.copy()
        return other


@dataclass
class FittedTogether:
    """Classes that are fitted at the same time: a row is read once for all of them.

    Args:
        labels: (L,) the classes, rising.
        weights: (L, D) their present weights.
        bias: (L,) their present biases.
    """

    labels: Labels
    weights: Tensor
    bias: NDArray[np.float64]

    def score(self, values: Tensor) -> NDArray[np.float64]:
        """(R, L) scores of (R, D) rows."""
        return (values @ self.weights.T).double().numpy() + self.bias

    def only(self, keep: NDArray[np.bool_]) -> "FittedTogether":
        """Those of them that go on."""
        if keep.all():
            return self
        return FittedTogether(
            self.labels[keep], self.weights[torch.from_numpy(keep)], self.bias[keep]
        )


class DualCoordinateDescentSvm:
    """Linear SVMs with hinge loss that can be fitted further while examples are added and dropped.

    Minimises, for each class, half the squared norm of the weights and of bias / ``bias_factor``,
    plus the cost of each row times its hinge loss. A sweep visits the rows of a class block by
    block; inside a block the dual variables are improved one by one by means of the block's own
    products, which all classes share. Memory is that of the rows in float16 and of what each class
    uses: there is no matrix of the products of all rows, nor one of rows and classes.

    Args:
        length: D.
        num_classes: K.
        bias_factor: Value of the constant feature that stands for the bias; 10 in the 2014 code.
        seed: Seed of the order of the rows, which must be random for fast progress.
        capacity: About how many rows there will be at most; None if that is not known.

    Attributes:
        weights: (K, D), the sum of the rows times their dual variables.
        bias: (K,).

    Example:
        >>> svms = DualCoordinateDescentSvm(length=1, num_classes=1, bias_factor=0.0)
        >>> bounds = np.array([[1.0], [1.0]])
        >>> svms.add(torch.tensor([[1.0], [-1.0]]), -bounds * [[0], [1]], bounds * [[1], [0]])
        >>> svms.fit([0], tolerance=1e-6), svms.weights.tolist()
        ([0.5], [[1.0]])

    Source:
        Hsieh et al. 2008, "A dual coordinate descent method for large-scale linear SVM"
        (liblinear -s 3, which the 2014 code calls); Yu et al. 2010 for the blocks.
    """

    def __init__(
        self,
        length: int,
        num_classes: int,
        bias_factor: float = 10.0,
        seed: int = 0,
        capacity: int | None = None,
    ) -> None:
        self.weights = torch.zeros(num_classes, length)
        self.bias = torch.zeros(num_classes)
        self.bias_factor = bias_factor
        self.blocks: list[ExampleBlock] = []
        self._new: list[ExampleBlock] = []
        self._fresh = 0  # blocks at the end of the list that the last new rows were put into
        self.store = RowStore(length, capacity)
        self._halves = torch.zeros(BLOCK, length, dtype=torch.float16)
        self._values = torch.zeros(BLOCK, length)
        self._random = np.random.default_rng(seed)

    @property
    def num_rows(self) -> int:
        """Rows that are held."""
        return sum(len(block.places) for block in self.blocks + self._new)

    @property
    def num_duals(self) -> int:
        """Dual variables that are held: one for each class that uses a row."""
        return sum(len(block.labels) for block in self.blocks + self._new)

    def add(self, rows: Tensor, low: np.ndarray, high: np.ndarray, owner: int = NOBODY) -> None:
        """Add rows, to be used from the next fit on.

        Args:
            rows: (B, D) features; kept in float16.
            low: (B, K) minus the cost of the row where it is a negative of the class, else 0.
            high: (B, K) its cost where it is a positive of the class, else 0.
            owner: Whose rows these are, for :meth:`drop`.
        """
        if len(rows):
            bounds = (low + high).T
            labels, used = bounds.nonzero()
            block = ExampleBlock(
                self.store.add(rows),
                np.full(len(rows), owner),
                NO_PRODUCTS,
                labels.astype(np.int32),
                used.astype(np.int32),
                bounds[labels, used],
                np.zeros(len(labels)),
            )
            self._new.append(block)

    def drop(self, owners: Collection[int]) -> list[int]:
        """Take out all rows of some owners; what the others say stays, and so do their duals.

        Returns:
            The classes that had learnt from these rows: they are worth another fit.
        """
        changed: set[int] = set()
        for block in self.blocks + self._new:
            gone = np.isin(block.owners, list(owners))[block.rows]
            pressing = np.flatnonzero(gone & (block.duals != 0))
            for label in np.unique(block.labels[pressing]).tolist():
                entries = pressing[block.labels[pressing] == label]
                duals = torch.from_numpy(block.duals[entries]).float()
                rows = self.store.take(block.places[block.rows[entries]])
                self.weights[label] -= duals @ rows.float()
                self.bias[label] -= self.bias_factor**2 * float(block.duals[entries].sum())
                changed.add(label)
            if gone.any():
                block.leave_out(gone)
        return sorted(changed)

    def grow(self, num_classes: int) -> None:
        """Make room for more classes, which have no rows yet.

        Raises:
            ValueError: If there are more classes already.
        """
        more = num_classes - len(self.bias)
        if more < 0:
            raise ValueError(f"num_classes must be at least {len(self.bias)}, got {num_classes}")
        blank = self.weights.new_zeros(more, self.weights.shape[1])
        self.weights = torch.cat([self.weights, blank])
        self.bias = torch.cat([self.bias, self.bias.new_zeros(more)])

    def copy(self) -> "DualCoordinateDescentSvm":
        """Copy the solution and what each class uses; the features are shared, not copied."""
        other = DualCoordinateDescentSvm(self.weights.shape[1], len(self.bias), self.bias_factor)
        other.weights, other.bias = self.weights.clone(), self.bias.clone()
        other.store = self.store.share()
        other.blocks = [block.copy() for block in self.blocks]
        other._new = [block.copy() for block in self._new]
        return other

    def fit(self, labels: Sequence[int], tolerance: float, *, local: bool = False) -> list[float]:
        """Fit some classes, starting from their last solutions.

        Args:
            labels: The classes.
            tolerance: The fit of a class ends when a round raises its dual objective by at most
                this share.
            local: Visit only the blocks that the last new rows were put into, if they are few.

        Returns:
            The value of the primal objective of each, of what was visited.
        """
        if not labels:
            return []
        self._mix()
        order = np.unique(np.array(labels, dtype=np.int64))
        found: dict[int, float] = {}
        is_local = local and 0 < self._fresh < LOCAL_SHARE * len(self.blocks)
        start = len(self.blocks) - self._fresh if is_local else 0
        for first in range(0, len(order), TOGETHER):
            some = order[first : first + TOGETHER]
            self._fit_together(some, tolerance, start)
            found |= zip(some.tolist(), self._score_all(some, start).tolist(), strict=True)
        return [found[label] for label in labels]

    def _fit_together(self, labels: Labels, tolerance: float, start: int) -> None:
        """Fit some classes; each leaves the others as soon as it is done."""
        party = self._gather(labels)
        for _ in range(MOST_ROUNDS):
            gain = self._sweep(party, start)
            for _ in range(ACTIVE_SWEEPS):
                gain += self._sweep(party, start, only_active=True)
            self._scatter(party)
            party = party.only(gain > tolerance * self._dual_objectives(party.labels))
            if not len(party.labels):
                break

    def _gather(self, labels: Labels) -> FittedTogether:
        """What a fit of some classes works on; :meth:`_scatter` writes it back."""
        places = torch.from_numpy(labels)
        return FittedTogether(labels, self.weights[places], self.bias[places].double().numpy())

    def _scatter(self, party: FittedTogether) -> None:
        """Write back the weights and biases of classes."""
        places = torch.from_numpy(party.labels)
        self.weights[places] = party.weights
        self.bias[places] = torch.from_numpy(party.bias).float()

    def dual_objective(self, label: int) -> float:
        """The dual objective of a class, a lower bound of the primal one."""
        return float(self._dual_objectives(np.array([label]))[0])

    def _dual_objectives(self, labels: Labels) -> NDArray[np.float64]:
        """(L,) the dual objectives of some classes."""
        total = -self._half_squares(labels)
        for block in self.blocks:
            entries, columns = block.find(labels)
            total += np.bincount(columns, np.abs(block.duals[entries]), len(labels))
        return total

    def forget(self, labels: Sequence[int], below: float) -> None:
        """Drop the negatives of some classes that have a low score and a dual variable of 0.

        The classes must have been fitted; the solutions stay the same.
        """
        chosen = np.unique(np.array(labels, dtype=np.int64))
        for block in self.blocks if len(chosen) else ():
            gone = (block.scores < below) & (block.duals == 0) & (block.bounds < 0)
            if len(chosen) < len(self.bias):
                gone &= np.isin(block.labels, chosen)
            if gone.any():
                block.leave_out(gone)

    def compact(self) -> None:
        """Free the memory of all rows that no class uses."""
        idle = [not block.is_used.all() for block in self.blocks]
        self._rebuild(set(np.flatnonzero(idle).tolist()))

    def count_negatives(self) -> list[int]:
        """Count the negatives of each class."""
        return self._count(-1)

    def count_positives(self) -> list[int]:
        """Count the positives of each class."""
        return self._count(1)

    def _count(self, sign: int) -> list[int]:
        counts = np.zeros(len(self.bias), dtype=np.int64)
        for block in self.blocks + self._new:
            counts += np.bincount(block.labels[sign * block.bounds > 0], minlength=len(counts))
        return [int(count) for count in counts]

    def adopt(self, block: ExampleBlock) -> None:
        """Learn from a block, such as :meth:`join` gives, and from nothing else."""
        self.blocks, self._new = [], [block]
        self._mix()

    def join(self, blocks: Sequence[ExampleBlock] = ()) -> ExampleBlock:
        """One block with the rows and entries of some, or of all, without products."""
        blocks = blocks or [*self.blocks, *self._new]
        starts = np.cumsum([0, *(len(block.places) for block in blocks)])
        rows = [block.rows + start for block, start in zip(blocks, starts, strict=False)]
        names = ("places", "owners", "labels", "bounds", "duals")
        columns = {name: np.concatenate([getattr(b, name) for b in blocks]) for name in names}
        return ExampleBlock(products=NO_PRODUCTS, rows=np.concatenate(rows), **columns)

    def _mix(self) -> None:
        """Put new rows into blocks together with as many old ones, and free unused rows."""
        count = -(-sum(len(block.places) for block in self._new) // BLOCK)
        mixed = set(self._random.permutation(len(self.blocks))[:count].tolist())
        idle = [block.is_used.mean() < LEAST_USE for block in self.blocks]
        self._rebuild(mixed | set(np.flatnonzero(idle).tolist()))

    def _rebuild(self, places: set[int]) -> None:
        """Build new blocks from the new rows and from the used rows of some blocks."""
        taken = [block for place, block in enumerate(self.blocks) if place in places]
        kept = [block for place, block in enumerate(self.blocks) if place not in places]
        built = self._build([*self._new, *taken])
        self._fresh = len(built) if self._new else min(self._fresh, len(kept))
        self.blocks, self._new = kept + built, []

    def _build(self, chosen: Sequence[ExampleBlock]) -> list[ExampleBlock]:
        """Build full blocks from the used rows of others, in random order."""
        if not chosen:
            self._random.permutation(0)
            return []
        whole = self.join(chosen)
        places, owners, rows, labels = whole.places, whole.owners, whole.rows, whole.labels
        self.store.release(places[~whole.is_used])
        kept = np.flatnonzero(whole.is_used)
        kept = kept[self._random.permutation(len(kept))]
        moved = np.zeros(len(places), dtype=np.int64)  # where each row comes to lie
        moved[kept] = np.arange(len(kept))
        at = moved[rows]
        entries = np.lexsort((at, labels, at // BLOCK))
        at = at[entries]
        ends = np.searchsorted(at // BLOCK, np.arange(1, -(-len(kept) // BLOCK)))
        blocks = []
        for number, mine in enumerate(np.split(entries, ends) if len(kept) else []):
            group = kept[number * BLOCK : (number + 1) * BLOCK]
            inside = (moved[rows[mine]] - number * BLOCK).astype(np.int32)
            products = self._products(places[group])
            parts = (labels[mine], inside, whole.bounds[mine], whole.duals[mine])
            blocks.append(ExampleBlock(places[group], owners[group], products, *parts))
        return blocks

    def _products(self, places: Places) -> NDArray[np.float64]:
        """(B, B) inner products of rows, each with the constant feature."""
        values = self.store.take(places).float()
        return (values @ values.T).double().numpy() + self.bias_factor**2

    def _sweep(
        self, party: FittedTogether, start: int = 0, *, only_active: bool = False
    ) -> NDArray[np.float64]:
        """Visit blocks from one on in random order; (L,) the rise of each dual objective."""
        gain = np.zeros(len(party.labels))
        for number in self._random.permutation(len(self.blocks) - start).tolist():
            block = self.blocks[start + number]
            entries, columns = block.find(party.labels, only_active=only_active)
            if len(entries):
                rows = np.unique(block.rows[entries])
                values = self._read(block, rows)
                added, gained = block.ascend(entries, columns, rows, party.score(values))
                party.weights.addmm_(torch.from_numpy(added.T).float(), values)
                party.bias += self.bias_factor**2 * added.sum(0)
                gain += gained
        return gain

    def _read(self, block: ExampleBlock, rows: Places) -> Tensor:
        """(R, D) some rows in float32; the next call overwrites them."""
        halves, values = self._halves[: len(rows)], self._values[: len(rows)]
        return values.copy_(self.store.take(block.places[rows], halves))

    def _half_squares(self, labels: Labels) -> NDArray[np.float64]:
        """(L,) half the squared norms of the weights and the scaled biases of some classes."""
        places = torch.from_numpy(labels)
        squares = self.weights[places].square().sum(1).double()
        if self.bias_factor:
            squares += (self.bias[places].double() / self.bias_factor).square()
        return 0.5 * squares.numpy()

    def _score_all(self, labels: Labels, start: int) -> NDArray[np.float64]:
        """Score the rows of some classes in blocks from one on; (L,) their primal objectives."""
        party, total = self._gather(labels), self._half_squares(labels)
        for block in self.blocks[start:]:
            entries, columns = block.find(labels)
            if not len(entries):
                continue
            rows = np.unique(block.rows[entries])
            scores = party.score(self._read(block, rows))
            scores = scores[np.searchsorted(rows, block.rows[entries]), columns]
            block.scores[entries] = scores
            bounds = block.bounds[entries]
            losses = np.abs(bounds) * np.maximum(1 - np.sign(bounds) * scores, 0)
            total += np.bincount(columns, losses, len(labels))
        return total
