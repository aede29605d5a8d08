"""Linear SVMs of several classes over shared examples, by block coordinate ascent on the dual."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
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


@dataclass
class ExampleBlock:
    """A block of examples, their products with each other, and each class's dual variables.

    The dual variable of a row is signed: from 0 to its cost for a positive of the class, from minus
    its cost to 0 for a negative, and 0 for a row that the class does not use.

    Args:
        rows: (B, D) float16 features.
        low: (B, K) least value of each dual variable; below 0 for negatives.
        high: (B, K) largest value of each; above 0 for positives.
        duals: (B, K) present values.
        products: (B, B) inner products of the rows, each with the constant feature for the bias.
        owners: (B,) whose each row is, such as the number of an image.

    Attributes:
        active: (B, K) whether the last visit changed a dual variable.
        scores: (B, K) scores by the weights of each class's last fit.
    """

    rows: Tensor
    low: np.ndarray
    high: np.ndarray
    duals: np.ndarray
    products: np.ndarray
    owners: np.ndarray

    def __post_init__(self) -> None:
        self.active = np.zeros(self.low.shape, dtype=bool)
        self.scores = np.zeros_like(self.low)

    @property
    def is_used(self) -> np.ndarray:
        """(B,) whether any class uses a row."""
        return (self.high != self.low).any(1)

    def find_rows(self, label: int, *, only_active: bool = False) -> np.ndarray:
        """(R,) indices of the rows of a class, or only of those that are active."""
        is_member = self.high[:, label] != self.low[:, label]
        return np.flatnonzero(is_member & self.active[:, label] if only_active else is_member)

    def ascend(self, label: int, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float]:
        """Set one dual variable of a class after the other to its best value.

        Args:
            label: The class.
            rows: (R,) indices of the rows to visit.
            scores: (R,) scores by the present weights.

        Returns:
            (R,) the changes of the dual variables, and by how much the dual objective rose.
        """
        low, high, duals = (part[rows, label] for part in (self.low, self.high, self.duals))
        missing = np.sign(high + low) - scores
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
        added = duals - self.duals[rows, label]
        self.duals[rows, label] = duals
        self.active[rows, label] = added != 0
        return added, float(gain)


class DualCoordinateDescentSvm:
    """Linear SVMs with hinge loss that can be fitted further while examples are added and dropped.

    Minimises, for each class, half the squared norm of the weights and of bias / ``bias_factor``,
    plus the cost of each row times its hinge loss. A sweep visits the rows of a class block by
    block; inside a block the dual variables are improved one by one by means of the block's own
    products, which all classes share. Memory is that of the rows in float16: there is no matrix of
    the products of all rows.

    Args:
        length: D.
        num_classes: K.
        bias_factor: Value of the constant feature that stands for the bias; 10 in the 2014 code.
        seed: Seed of the order of the rows, which must be random for fast progress.

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
        self, length: int, num_classes: int, bias_factor: float = 10.0, seed: int = 0
    ) -> None:
        self.weights = torch.zeros(num_classes, length)
        self.bias = torch.zeros(num_classes)
        self.bias_factor = bias_factor
        self.blocks: list[ExampleBlock] = []
        self._new: list[ExampleBlock] = []
        self._halves = torch.zeros(BLOCK, length, dtype=torch.float16)
        self._values = torch.zeros(BLOCK, length)
        self._random = np.random.default_rng(seed)

    @property
    def num_rows(self) -> int:
        """Rows that are held."""
        return sum(len(block.rows) for block in self.blocks + self._new)

    def add(self, rows: Tensor, low: np.ndarray, high: np.ndarray, owner: int = NOBODY) -> None:
        """Add rows, to be used from the next fit on.

        Args:
            rows: (B, D) features; kept in float16.
            low: (B, K) minus the cost of the row where it is a negative of the class, else 0.
            high: (B, K) its cost where it is a positive of the class, else 0.
            owner: Whose rows these are, for :meth:`drop`.
        """
        if len(rows):
            owners = np.full(len(rows), owner)
            duals = np.zeros_like(low)
            self._new.append(ExampleBlock(rows.half(), low, high, duals, NO_PRODUCTS, owners))

    def drop(self, owners: Collection[int]) -> list[int]:
        """Take out all rows of some owners; what the others say stays, and so do their duals.

        Args:
            owners: Whose rows go.

        Returns:
            The classes that had learnt from these rows: they are worth another fit.
        """
        changed: set[int] = set()
        for block in self.blocks + self._new:
            gone = np.flatnonzero(np.isin(block.owners, list(owners)) & block.is_used)
            if not len(gone):
                continue
            duals = block.duals[gone]
            self.weights -= torch.from_numpy(duals.T).float() @ block.rows[gone].float()
            self.bias -= self.bias_factor**2 * torch.from_numpy(duals.sum(0)).float()
            changed |= set(np.flatnonzero((duals != 0).any(0)).tolist())
            for part in (block.low, block.high, block.duals):
                part[gone] = 0
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
        for block in self.blocks + self._new:
            for name in ("low", "high", "duals", "active", "scores"):
                setattr(block, name, np.pad(getattr(block, name), ((0, 0), (0, more))))

    def copy(self) -> "DualCoordinateDescentSvm":
        """Copy the solution and what each class uses; the features are shared, not copied."""
        other = DualCoordinateDescentSvm(self.weights.shape[1], len(self.bias), self.bias_factor)
        other.weights, other.bias = self.weights.clone(), self.bias.clone()
        for ours, theirs in ((self.blocks, other.blocks), (self._new, other._new)):
            for block in ours:
                parts = (block.low.copy(), block.high.copy(), block.duals.copy())
                theirs.append(ExampleBlock(block.rows, *parts, block.products, block.owners))
                theirs[-1].active[:], theirs[-1].scores[:] = block.active, block.scores
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
        for _ in range(MOST_ROUNDS):
            gain = self._sweep(label)
            gain += sum(self._sweep(label, only_active=True) for _ in range(ACTIVE_SWEEPS))
            if gain <= tolerance * self.dual_objective(label):
                break
        return self._score_all(label)

    def dual_objective(self, label: int) -> float:
        """The dual objective of a class, a lower bound of the primal one."""
        total = sum(float(np.abs(block.duals[:, label]).sum()) for block in self.blocks)
        return total - self._half_square(label)

    def forget(self, label: int, below: float) -> None:
        """Drop the negatives of a class that have a low score and a dual variable of 0.

        The solution stays the same.

        Args:
            label: The class, which must have been fitted.
            below: Scores below this are low.
        """
        for block in self.blocks:
            is_idle = (block.scores[:, label] < below) & (block.duals[:, label] == 0)
            block.low[is_idle, label] = 0

    def compact(self) -> None:
        """Free the memory of all rows that no class uses."""
        idle = [not block.is_used.all() for block in self.blocks]
        self._rebuild(set(np.flatnonzero(idle).tolist()))

    def count_negatives(self) -> list[int]:
        """Count the negatives of each class."""
        counts = np.zeros(len(self.bias), dtype=np.int64)
        for block in self.blocks + self._new:
            counts += (block.low < 0).sum(0)
        return [int(count) for count in counts]

    def count_positives(self) -> list[int]:
        """Count the positives of each class."""
        counts = np.zeros(len(self.bias), dtype=np.int64)
        for block in self.blocks + self._new:
            counts += (block.high > 0).sum(0)
        return [int(count) for count in counts]

    def _mix(self) -> None:
        """Put new rows into blocks together with as many old ones, and free unused rows."""
        count = -(-sum(len(block.rows) for block in self._new) // BLOCK)
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
        used = [np.flatnonzero(block.is_used) for block in chosen]
        places = [(b, row) for b, rows in zip(chosen, used, strict=True) for row in rows.tolist()]
        order = self._random.permutation(len(places))
        groups = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
        return [self._join([places[place] for place in group]) for group in groups]

    def _join(self, places: Sequence[tuple[ExampleBlock, int]]) -> ExampleBlock:
        """Build one block from rows of others."""
        rows = torch.stack([block.rows[row] for block, row in places])
        low, high, duals = (
            np.stack([getattr(block, name)[row] for block, row in places])
            for name in ("low", "high", "duals")
        )
        values = rows.float()
        products = (values @ values.T).double().numpy() + self.bias_factor**2
        owners = np.array([block.owners[row] for block, row in places])
        return ExampleBlock(rows, low, high, duals, products, owners)

    def _sweep(self, label: int, *, only_active: bool = False) -> float:
        """Visit the blocks of a class in random order; return the rise of the dual objective."""
        gain = 0.0
        for place in self._random.permutation(len(self.blocks)):
            block = self.blocks[place]
            rows = block.find_rows(label, only_active=only_active)
            if len(rows):
                values = self._read(block, rows)
                scores = torch.mv(values, self.weights[label]) + self.bias[label]
                added, gained = block.ascend(label, rows, scores.double().numpy())
                self.weights[label].addmv_(values.T, torch.from_numpy(added).float())
                self.bias[label] += self.bias_factor**2 * float(added.sum())
                gain += gained
        return gain

    def _read(self, block: ExampleBlock, rows: np.ndarray) -> Tensor:
        """(R, D) some rows of a block in float32; the next call overwrites them."""
        halves, values = self._halves[: len(rows)], self._values[: len(rows)]
        torch.index_select(block.rows, 0, torch.from_numpy(rows), out=halves)
        return values.copy_(halves)

    def _half_square(self, label: int) -> float:
        """Half the squared norm of the weights and the scaled bias."""
        square = float(self.weights[label].square().sum())
        if self.bias_factor:
            square += (float(self.bias[label]) / self.bias_factor) ** 2
        return 0.5 * square

    def _score_all(self, label: int) -> float:
        """Score all rows of a class; return the primal objective."""
        total = self._half_square(label)
        for block in self.blocks:
            rows = block.find_rows(label)
            values = self._read(block, rows)
            scores = (torch.mv(values, self.weights[label]) + self.bias[label]).double().numpy()
            block.scores[rows, label] = scores
            low, high = block.low[rows, label], block.high[rows, label]
            losses = np.maximum(1 - np.sign(high + low) * scores, 0)
            total += float(((high - low) * losses).sum())
        return total
