"""Linear SVMs of several classes over shared examples, by block coordinate ascent on the dual."""

from collections.abc import Collection, Sequence
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from sppnet.detection.heads.example_blocks import (
    ExampleBlock,
    FittedTogether,
    Floats,
    Labels,
    row_products,
)
from sppnet.errors import UsageError
from sppnet.storage.tensors import RowStore

BLOCK = 64  # rows; their products with each other are kept
MOST_ROUNDS = 50
# A round is one sweep over all rows of a class, then so many over those that are still active.
ACTIVE_SWEEPS = 2
TOGETHER = 128  # classes that are fitted at the same time
NO_PRODUCTS = np.zeros((0, 0))
NOBODY = -1  # owner of rows that are never dropped
LEAST_USE = 0.5  # blocks of which a smaller share of the rows is used are rebuilt
LOCAL_SHARE = 0.25  # of the blocks; more are not few


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
        self._random = np.random.default_rng(seed)

    @property
    def num_rows(self) -> int:
        """Rows that are held."""
        return sum(len(block.places) for block in self.blocks + self._new)

    @property
    def num_duals(self) -> int:
        """Dual variables that are held: one for each class that uses a row."""
        return sum(len(block.labels) for block in self.blocks + self._new)

    def add(
        self, rows: Tensor, low: np.ndarray, high: np.ndarray, owner: int | np.ndarray = NOBODY
    ) -> None:
        """Add rows, to be used from the next fit on.

        Args:
            rows: (B, D) features; kept in float16.
            low: (B, K) minus the cost of the row where it is a negative of the class, else 0.
            high: (B, K) its cost where it is a positive of the class, else 0.
            owner: Whose rows these are, for :meth:`drop`; or (B,) whose each is.
        """
        if len(rows):
            bounds = (low + high).T
            labels, used = bounds.nonzero()
            block = ExampleBlock(
                self.store.add(rows),
                np.array(np.broadcast_to(owner, len(rows)), dtype=np.int64),
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
        fresh = self.weights.new_zeros(more, self.weights.shape[1])
        self.weights = torch.cat([self.weights, fresh])
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

        Raises:
            UsageError: If rows are not finite as float16.
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
        if not all(map(isfinite, found.values())):
            most = "below 65,520, the most that float16 holds; a smaller feature_norm makes them so"
            raise UsageError(f"the features of the SVMs must be finite and {most}")
        return [found[label] for label in labels]

    def _fit_together(self, labels: Labels, tolerance: float, start: int) -> None:
        """Fit some classes; each leaves the others as soon as it is done."""
        party = self._gather(labels)
        for _ in range(MOST_ROUNDS):
            gain = self._sweep(party, start)
            gain += sum(self._sweep(party, start, only_active=True) for _ in range(ACTIVE_SWEEPS))
            self._scatter(party)
            party = party.only(gain > tolerance * self._dual_objectives(party.labels))
            if not len(party.labels):
                break

    def _gather(self, labels: Labels) -> FittedTogether:
        """What a fit of some classes works on; :meth:`_scatter` writes it back."""
        weights, bias = self.weights[labels], self.bias[labels].double().numpy()
        return FittedTogether(labels, weights, bias, len(self.bias), self.bias_factor**2)

    def _scatter(self, party: FittedTogether) -> None:
        """Write back the weights and biases of classes."""
        self.weights[party.labels] = party.weights
        self.bias[party.labels] = torch.from_numpy(party.bias).float()

    def dual_objective(self, label: int) -> float:
        """The dual objective of a class, a lower bound of the primal one."""
        return float(self._dual_objectives(np.array([label]))[0])

    def _dual_objectives(self, labels: Labels) -> Floats:
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

    def count_examples(self, sign: int) -> list[int]:
        """Count the positives of each class, or with -1 its negatives."""
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
            products = row_products(self.store, places[group], self.bias_factor**2)
            parts = (labels[mine], inside, whole.bounds[mine], whole.duals[mine])
            blocks.append(ExampleBlock(places[group], owners[group], products, *parts))
        return blocks

    def _sweep(self, party: FittedTogether, start: int, *, only_active: bool = False) -> Floats:
        """Visit blocks from one on in random order; (L,) the rise of each dual objective."""
        gain = np.zeros(len(party.labels))
        for number in self._random.permutation(len(self.blocks) - start).tolist():
            block = self.blocks[start + number]
            party.improve(block, self.store, gain, only_active=only_active)
        return gain

    def _half_squares(self, labels: Labels) -> Floats:
        """(L,) half the squared norms of the weights and the scaled biases of some classes."""
        squares = self.weights[labels].square().sum(1).double()
        if self.bias_factor:
            squares += (self.bias[labels].double() / self.bias_factor).square()
        return 0.5 * squares.numpy()

    def _score_all(self, labels: Labels, start: int) -> Floats:
        """Score the rows of some classes in blocks from one on; (L,) their primal objectives."""
        party, total = self._gather(labels), self._half_squares(labels)
        for block in self.blocks[start:]:
            party.score(block, self.store, total)
        return total
