"""A fair sample of more rows than fit into memory."""

import torch
from torch import Tensor

# So many times the limit are held before the surplus is dropped.
SLACK = 1.25


class RowSample:
    """Some of the rows that come by, each with the same chance to stay.

    Each row draws a priority when it comes; those of the highest priority stay.

    Args:
        limit: Rows to keep.
        length: D, numbers per row.

    Attributes:
        seen: Rows that came by.

    Raises:
        ValueError: If ``limit`` is below 1.

    Example:
        >>> sample = RowSample(limit=2, length=3)
        >>> for _ in range(5):
        ...     sample.add(torch.rand(1, 3), torch.default_generator)
        >>> sample.seen, sample.take().shape
        (5, torch.Size([2, 3]))
    """

    def __init__(self, limit: int, length: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit = limit
        self.seen = 0
        self._held = 0
        self._blocks = [(torch.zeros(0), torch.zeros(0, length, dtype=torch.float16))]

    def add(self, rows: Tensor, draw: torch.Generator) -> None:
        """Show it (S, D) rows."""
        self._blocks.append((torch.rand(len(rows), generator=draw), rows.half()))
        self.seen += len(rows)
        self._held += len(rows)
        if self._held > SLACK * self.limit:
            self._trim()

    def take(self) -> Tensor:
        """Give at most ``limit`` rows, float16, in the order in which they came."""
        self._trim()
        return self._blocks[0][1]

    def _trim(self) -> None:
        """Join the blocks and drop the lowest priorities beyond the limit."""
        priorities, rows = (torch.cat(part) for part in zip(*self._blocks, strict=True))
        best = priorities.argsort(descending=True, stable=True)[: self.limit].sort().values
        self._blocks = [(priorities[best], rows[best])]
        self._held = len(best)
