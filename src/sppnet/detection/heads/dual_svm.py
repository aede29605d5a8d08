"""Linear SVMs of several classes over shared examples, by block coordinate ascent on the dual."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Rows per block; their products with each other are kept.
BLOCK = 64
# Passes over the rows of a block at each visit.
INNER_PASSES = 2
MOST_ROUNDS = 50
# A round is one sweep over all rows of a class, then so many over those that are still active.
ACTIVE_SWEEPS = 2
NO_PRODUCTS = np.zeros((0, 0))
NOBODY = -1  # owner of rows that are never dropped
# Blocks of which a smaller share of the rows is used are rebuilt.
LEAST_USE = 0.5
PART_BYTES = 2**26  # of rows that are kept together, unless the caller says how many there will be
Places = NDArray[np.int64]


class RowStore:
    """Feature vectors in float16, in few large stretches of memory whose places are used again.

    Many small tensors that come and go would tear the heap, and a process would hold several times
    the memory that it uses. A stretch is touched only as it is filled.

    Args:
        length: D.
        capacity: Rows of a stretch of memory; more rows take another one.

    Example:
        >>> store = RowStore(length=2, capacity=3)
        >>> places = store.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> store.release(places[:1])
        >>> store.add(torch.tensor([[5.0, 6.0]])).tolist(), store.take(places[1:]).tolist()
        ([0], [[3.0, 4.0]])
    """

    def __init__(self, length: int, capacity: int | None = None) -> None:
        self.length = length
        self.capacity = max(BLOCK, capacity or PART_BYTES // (2 * length))
        self._parts: list[Tensor] = []
        self._free: list[int] = []
        self._next = 0  # first place that was never used
        self._readers: WeakSet[RowStore] = WeakSet()
        self._waiting: list[int] = []  # released, but a reader may still need them

    def add(self, rows: Tensor) -> Places:
        """Keep (B, D) rows in float16; (B,) their places."""
        if self._waiting and not self._readers:
            self._free, self._waiting = self._free + self._waiting, []
        again = [self._free.pop() for _ in range(min(len(rows), len(self._free)))]
        fresh = range(self._next, self._next + len(rows) - len(again))
        self._next = fresh.stop
        while len(self._parts) * self.capacity < self._next:
            self._parts.append(torch.empty(self.capacity, self.length, dtype=torch.float16))
        places = np.array([*again, *fresh], dtype=np.int64)
        for part, chosen, inside in self._by_part(places):
            part[inside] = rows[chosen].half()
        return places

    def release(self, places: Places) -> None:
        """Let places be used for other rows."""
        (self._waiting if self._readers else self._free).extend(places.tolist())

    def take(self, places: Places, out: Tensor | None = None) -> Tensor:
        """(B, D) the rows in some places, in ``out`` if it is given."""
        out = torch.empty(len(places), self.length, dtype=torch.float16) if out is None else out
        for part, chosen, inside in self._by_part(places):
            if len(inside) == len(places):
                return torch.index_select(part, 0, inside, out=out)
            out[chosen] = part[inside]
        return out

    def share(self) -> "RowStore":
        """A store with the same rows; what either adds or releases from now on is its own."""
        other = RowStore(self.length, self.capacity)
        other._parts = list(self._parts)
        other._next = len(self._parts) * self.capacity
        self._readers.add(other)
        return other

    def _by_part(self, places: Places) -> Iterable[tuple[Tensor, Tensor | slice, Tensor]]:
        """Each stretch of memory that some places lie in: which of them, and where inside."""
        if len(self._parts) == 1:  # the usual case, in the innermost loop
            yield self._parts[0], slice(None), torch.from_numpy(places)
            return
        numbers = places // self.capacity
        for number in np.unique(numbers).tolist():
            chosen = np.flatnonzero(numbers == number)
            inside = torch.from_numpy(places[chosen] - number * self.capacity)
            yield self._parts[number], torch.from_numpy(chosen), inside


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
        bounds: (E,) cost of a positive, minus that of a negative; 0 once the entry is forgotten.
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
        """Find the rows in use anew, after some entries were forgotten."""
        self.is_used = np.zeros(len(self.places), dtype=bool)
        self.is_used[self.rows[self.bounds != 0]] = True

    def span(self, label: int) -> slice:
        """The entries of a class."""
        first, end = np.searchsorted(self.labels, [label, label + 1]).tolist()
        return slice(first, end)

    def find(self, span: slice, *, only_active: bool = False) -> Places:
        """(R,) indices of the entries in use of a span, or only of those that are active."""
        is_member = self.bounds[span] != 0
        return span.start + np.flatnonzero(
            is_member & self.active[span] if only_active else is_member
        )

    def ascend(self, entries: Places, scores: np.ndarray) -> tuple[np.ndarray, float]:
        """Set one dual variable of a class after the other to its best value.

        Args:
            entries: (R,) indices of the entries of a class to visit.
            scores: (R,) scores by the present weights.

        Returns:
            (R,) the changes of the dual variables, and by how much the dual objective rose.
        """
        rows, bounds = self.rows[entries], self.bounds[entries]
        low, high, duals = np.minimum(bounds, 0), np.maximum(bounds, 0), self.duals[entries]
        missing = np.sign(bounds) - scores
        products = self.products[np.ix_(rows, rows)]
        curvature = np.maximum(products.diagonal(), 1e-12)
        gain = 0.0
        for _ in range(INNER_PASSES):
            wanted = np.clip(duals + missing / curvature, low, high)
            for row in np.flatnonzero(wanted != duals):
                best = duals[row] + missing[row] / curvature[row]
                move = min(max(best, low[row]), high[row]) - duals[row]
                gain += move * (missing[row] - 0.5 * curvature[row] * move)
                duals[row] += move
                missing -= products[row] * move
        added = duals - self.duals[entries]
        self.duals[entries] = duals
        self.active[entries] = added != 0
        return added, float(gain)

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
        >>> svms.fit(0, tolerance=1e-6), svms.weights.tolist()
        (0.5, [[1.0]])

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
        self.store = RowStore(length, capacity)
        self._halves = torch.zeros(BLOCK, length, dtype=torch.float16)
        self._values = torch.zeros(BLOCK, length)
        self._random = np.random.default_rng(seed)

    @property
    def num_rows(self) -> int:
        """Rows that are held."""
        return sum(len(block.places) for block in self.blocks + self._new)

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

        Args:
            owners: Whose rows go.

        Returns:
            The classes that had learnt from these rows: they are worth another fit.
        """
        changed: set[int] = set()
        for block in self.blocks + self._new:
            gone = np.isin(block.owners, list(owners))[block.rows] & (block.bounds != 0)
            pressing = np.flatnonzero(gone & (block.duals != 0))
            for label in np.unique(block.labels[pressing]).tolist():
                entries = pressing[block.labels[pressing] == label]
                duals = torch.from_numpy(block.duals[entries]).float()
                rows = self.store.take(block.places[block.rows[entries]])
                self.weights[label] -= duals @ rows.float()
                self.bias[label] -= self.bias_factor**2 * float(block.duals[entries].sum())
                changed.add(label)
            block.bounds[gone], block.duals[gone] = 0, 0
            block.find_used()
        return sorted(changed)

    def grow(self, num_classes: int) -> None:
        """Make room for more classes, which have no rows yet.

        Raises:
            ValueError: If there are more classes already.
        """
        more = num_classes - len(self.bias)
        if more < 0:
            raise ValueError(f"num_classes must be at least {len(self.bias)}, got {num_classes}")
        self.weights = torch.cat(
            [self.weights, self.weights.new_zeros(more, self.weights.shape[1])]
        )
        self.bias = torch.cat([self.bias, self.bias.new_zeros(more)])

    def copy(self) -> "DualCoordinateDescentSvm":
        """Copy the solution and what each class uses; the features are shared, not copied."""
        other = DualCoordinateDescentSvm(self.weights.shape[1], len(self.bias), self.bias_factor)
        other.weights, other.bias = self.weights.clone(), self.bias.clone()
        other.store = self.store.share()
        other.blocks = [block.copy() for block in self.blocks]
        other._new = [block.copy() for block in self._new]
        return other

    def fit(self, label: int, tolerance: float) -> float:
        """Fit a class, starting from its last solution.

        Args:
            label: The class.
            tolerance: The fit ends when a round raises the dual objective by at most this share.

        Returns:
            The value of the primal objective.
        """
        self._mix()
        spans = self._spans(label)
        for _ in range(MOST_ROUNDS):
            gain = self._sweep(label, spans)
            gain += sum(self._sweep(label, spans, only_active=True) for _ in range(ACTIVE_SWEEPS))
            if gain <= tolerance * self.dual_objective(label):
                break
        return self._score_all(label, spans)

    def dual_objective(self, label: int) -> float:
        """The dual objective of a class, a lower bound of the primal one."""
        spans = self._spans(label).items()
        total = sum(float(np.abs(self.blocks[n].duals[span]).sum()) for n, span in spans)
        return total - self._half_square(label)

    def forget(self, label: int, below: float) -> None:
        """Drop the negatives of a class that have a low score and a dual variable of 0.

        The solution stays the same.

        Args:
            label: The class, which must have been fitted.
            below: Scores below this are low.
        """
        for number, span in self._spans(label).items():
            block = self.blocks[number]
            is_idle = (block.scores[span] < below) & (block.duals[span] == 0)
            is_idle &= block.bounds[span] < 0
            if is_idle.any():
                block.bounds[span][is_idle] = 0
                block.find_used()

    def compact(self) -> None:
        """Free the memory of all rows that no class uses."""
        idle = [not block.is_used.all() for block in self.blocks]
        self._rebuild(set(np.flatnonzero(idle).tolist()))

    def count_negatives(self) -> list[int]:
        """Count the negatives of each class."""
        counts = np.zeros(len(self.bias), dtype=np.int64)
        for block in self.blocks + self._new:
            counts += np.bincount(block.labels[block.bounds < 0], minlength=len(counts))
        return [int(count) for count in counts]

    def count_positives(self) -> list[int]:
        """Count the positives of each class."""
        counts = np.zeros(len(self.bias), dtype=np.int64)
        for block in self.blocks + self._new:
            counts += np.bincount(block.labels[block.bounds > 0], minlength=len(counts))
        return [int(count) for count in counts]

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
        self.blocks, self._new = kept + self._build([*self._new, *taken]), []

    def _build(self, chosen: Sequence[ExampleBlock]) -> list[ExampleBlock]:
        """Build full blocks from the used rows of others, in random order."""
        if not chosen:
            self._random.permutation(0)
            return []
        places, owners, used = (
            np.concatenate([getattr(block, name) for block in chosen])
            for name in ("places", "owners", "is_used")
        )
        self.store.release(places[~used])
        kept = np.flatnonzero(used)
        kept = kept[self._random.permutation(len(kept))]
        moved = np.zeros(len(places), dtype=np.int64)  # where each row comes to lie
        moved[kept] = np.arange(len(kept))
        starts = np.cumsum([0, *(len(block.places) for block in chosen)])
        rows = np.concatenate([b.rows + start for b, start in zip(chosen, starts, strict=False)])
        labels, bounds, duals = (
            np.concatenate([getattr(block, name) for block in chosen])
            for name in ("labels", "bounds", "duals")
        )
        entries = np.flatnonzero(bounds != 0)
        at = moved[rows[entries]]
        entries = entries[np.lexsort((at, labels[entries], at // BLOCK))]
        at = moved[rows[entries]]
        ends = np.searchsorted(at // BLOCK, np.arange(1, -(-len(kept) // BLOCK)))
        blocks = []
        for number, mine in enumerate(np.split(entries, ends) if len(kept) else []):
            group = kept[number * BLOCK : (number + 1) * BLOCK]
            inside = (moved[rows[mine]] - number * BLOCK).astype(np.int32)
            products = self._products(places[group])
            parts = (labels[mine], inside, bounds[mine], duals[mine])
            blocks.append(ExampleBlock(places[group], owners[group], products, *parts))
        return blocks

    def _products(self, places: Places) -> NDArray[np.float64]:
        """(B, B) inner products of rows, each with the constant feature."""
        values = self.store.take(places).float()
        return (values @ values.T).double().numpy() + self.bias_factor**2

    def _spans(self, label: int) -> dict[int, slice]:
        """The entries of a class, by the number of the block."""
        spans = ((number, block.span(label)) for number, block in enumerate(self.blocks))
        return {number: span for number, span in spans if span.start < span.stop}

    def _sweep(self, label: int, spans: dict[int, slice], *, only_active: bool = False) -> float:
        """Visit the blocks of a class in random order; return the rise of the dual objective."""
        gain = 0.0
        for number in self._random.permutation(len(self.blocks)).tolist():
            if number not in spans:
                continue
            block = self.blocks[number]
            entries = block.find(spans[number], only_active=only_active)
            if len(entries):
                values = self._read(block, entries)
                scores = torch.mv(values, self.weights[label]) + self.bias[label]
                added, gained = block.ascend(entries, scores.double().numpy())
                self.weights[label].addmv_(values.T, torch.from_numpy(added).float())
                self.bias[label] += self.bias_factor**2 * float(added.sum())
                gain += gained
        return gain

    def _read(self, block: ExampleBlock, entries: Places) -> Tensor:
        """(R, D) the rows of some entries in float32; the next call overwrites them."""
        halves, values = self._halves[: len(entries)], self._values[: len(entries)]
        return values.copy_(self.store.take(block.places[block.rows[entries]], halves))

    def _half_square(self, label: int) -> float:
        """Half the squared norm of the weights and the scaled bias."""
        square = float(self.weights[label].square().sum())
        if self.bias_factor:
            square += (float(self.bias[label]) / self.bias_factor) ** 2
        return 0.5 * square

    def _score_all(self, label: int, spans: dict[int, slice]) -> float:
        """Score all rows of a class; return the primal objective."""
        total = self._half_square(label)
        for number, span in spans.items():
            block = self.blocks[number]
            entries = block.find(span)
            if not len(entries):
                continue
            values = self._read(block, entries)
            scores = (torch.mv(values, self.weights[label]) + self.bias[label]).double().numpy()
            block.scores[entries] = scores
            bounds = block.bounds[entries]
            losses = np.maximum(1 - np.sign(bounds) * scores, 0)
            total += float((np.abs(bounds) * losses).sum())
        return total
