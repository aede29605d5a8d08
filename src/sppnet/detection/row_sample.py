"""A fair sample of more rows than fit into memory."""

import torch
from torch import Tensor


class RowSample:
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
        >>> sample = RowSample(limit=2, length=3)
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
