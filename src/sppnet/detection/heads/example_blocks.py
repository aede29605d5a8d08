"""A block of examples that SVMs share, and one visit of it: scores, dual variables, weights."""

import ctypes
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.pooling.kernels.native_library import NativeLibrary
from sppnet.storage.tensors import Places, RowStore

LIBRARY = NativeLibrary(Path(__file__).parent / "native", "dual_ascent")

INNER_PASSES = 2  # over the rows of a block at each visit
Labels = NDArray[np.int64]
Floats = NDArray[np.float64]


def ascend_block(duals: Floats, step: Floats, low: Floats, high: Floats, effect: Floats) -> None:
    """Set the dual variables of some rows to their best values, one row after the other.

    Args:
        duals: (R, L) those of each class, changed in place.
        step: (R, L) how far each would move if it were free, changed in place.
        low: (R, L) their least values.
        high: (R, L) their greatest ones.
        effect: (R, R) by how much a change of the second row's shortens the first row's step.
    """
    for _ in range(INNER_PASSES):
        for row in range(len(duals)):
            best = np.minimum(np.maximum(duals[row] + step[row], low[row]), high[row])
            if (change := best - duals[row]).any():
                step -= effect[:, row, None] * change
                duals[row] = best


@cache
def _compiled() -> Any:
    """The functions in C++ by name; None where nothing was compiled."""
    if LIBRARY.generation() is None:
        return None
    pointer, number, double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    visit = [*[pointer] * 2, number, number, *[pointer] * 6, number, *[pointer] * 4, number]
    return LIBRARY.functions(
        {
            "sppnet_visit": [*visit, double, *[number] * 3],
            "sppnet_row_products": [pointer, number, number, double, pointer, number],
        }
    )


def row_products(store: RowStore, places: Places, constant: float) -> Floats:
    """(B, B) inner products of rows of a store, each with a constant added."""
    if (library := _compiled()) is not None:
        addresses, products = store.addresses(places), np.empty((len(places), len(places)))
        failed = library["sppnet_row_products"](
            addresses.ctypes.data,
            len(places),
            store.length,
            constant,
            products.ctypes.data,
            torch.get_num_threads(),
        )
        if not failed:
            return products
    values = store.take(places).float()
    return (values @ values.T).double().numpy() + constant


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
    products: Floats
    labels: NDArray[np.int32]
    rows: NDArray[np.int32]
    bounds: Floats
    duals: Floats

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
        self, entries: Places, columns: Places, rows: Places, scores: Floats
    ) -> tuple[Floats, Floats]:
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
        curvature = np.maximum(products.diagonal(), 1e-12)[:, None]
        ascend_block(duals, missing / curvature, low, high, products / curvature)
        added = duals - before
        gain = (added * (missing - 0.5 * (products @ added))).sum(0)
        self.duals[entries] = duals[at]
        self.active[entries] = added[at] != 0
        return added, np.maximum(gain, 0)

    def copy(self) -> "ExampleBlock":
        """A block with the same rows, whose classes go their own way."""
        other = replace(self, bounds=self.bounds.copy(), duals=self.duals.copy())
        other.active, other.scores = self.active.copy(), self.scores.copy()
        return other


@dataclass
class FittedTogether:
    """Classes that are fitted at the same time: a row is read once for all of them.

    Args:
        labels: (L,) the classes, rising.
        weights: (L, D) their present weights.
        bias: (L,) their present biases.
        num_classes: K, of all classes.
        bias_square: Square of the constant feature that stands for the bias.

    Attributes:
        columns: (K,) int32 of every class, its place among ``labels``, or -1.
    """

    labels: Labels
    weights: Tensor
    bias: Floats
    num_classes: int
    bias_square: float

    def __post_init__(self) -> None:
        self.columns = np.full(self.num_classes, -1, dtype=np.int32)
        self.columns[self.labels] = np.arange(len(self.labels))

    def only(self, keep: NDArray[np.bool_]) -> "FittedTogether":
        """Those of them that go on."""
        places = np.flatnonzero(keep)
        chosen = self.labels[places], self.weights[places], self.bias[places]
        return FittedTogether(*chosen, self.num_classes, self.bias_square)

    def improve(
        self, block: ExampleBlock, store: RowStore, gain: Floats, *, only_active: bool = False
    ) -> None:
        """Bring the dual variables of a block to their best values, and the weights with them.

        Args:
            block: The block.
            store: Its rows.
            gain: (L,) the rise of each dual objective is added to it.
            only_active: Whether entries that the last visit left alone are passed over.
        """
        if self._visit(block, store, gain, INNER_PASSES, only_active=only_active):
            return
        entries, columns = block.find(self.labels, only_active=only_active)
        if len(entries):
            rows, values, scores = self._score(block, entries, store)
            added, gained = block.ascend(entries, columns, rows, scores)
            self.weights.addmm_(torch.from_numpy(added.T).float(), values)
            self.bias += self.bias_square * added.sum(0)
            gain += gained

    def score(self, block: ExampleBlock, store: RowStore, losses: Floats) -> None:
        """Score the entries of a block.

        Args:
            block: The block; its ``scores`` are written.
            store: Its rows.
            losses: (L,) the losses of each class are added to it.
        """
        if self._visit(block, store, losses, 0):
            return
        entries, columns = block.find(self.labels)
        if len(entries):
            rows, _, all_scores = self._score(block, entries, store)
            scores = all_scores[np.searchsorted(rows, block.rows[entries]), columns]
            block.scores[entries] = scores
            bounds = block.bounds[entries]
            each = np.abs(bounds) * np.maximum(1 - np.sign(bounds) * scores, 0)
            losses += np.bincount(columns, each, len(self.labels))

    def _score(
        self, block: ExampleBlock, entries: Places, store: RowStore
    ) -> tuple[Places, Tensor, Floats]:
        """(R,) the rows of some entries, (R, D) what they hold, (R, L) their scores."""
        rows = np.unique(block.rows[entries]).astype(np.int64)
        values = store.take(block.places[rows]).float()
        return rows, values, (values @ self.weights.T).double().numpy() + self.bias

    def _visit(
        self,
        block: ExampleBlock,
        store: RowStore,
        total: Floats,
        passes: int,
        *,
        only_active: bool = False,
    ) -> bool:
        """Do it in C++; False where nothing was compiled, or there is no memory."""
        if (library := _compiled()) is None:
            return False
        addresses = store.addresses(block.places)
        arrays = (block.labels, block.rows, block.bounds, block.duals, block.active, block.scores)
        status = library["sppnet_visit"](
            addresses.ctypes.data,
            block.products.ctypes.data,
            len(addresses),
            self.weights.shape[1],
            *(array.ctypes.data for array in arrays),
            len(block.labels),
            self.columns.ctypes.data,
            self.weights.data_ptr(),
            self.bias.ctypes.data,
            total.ctypes.data,
            len(self.labels),
            self.bias_square,
            passes,
            only_active,
            torch.get_num_threads(),
        )
        return bool(status == 0)
