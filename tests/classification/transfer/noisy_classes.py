"""Three classes of rows that say more or less clearly which class they are of."""

import torch

from sppnet.classification.network import FixedNorm

NAMES = ("a", "b", "c")


def noisy_rows(labels: torch.Tensor, noise: float, seed: int = 0) -> torch.Tensor:
    """Rows of length 1 that say the class more or less clearly."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.eye(3)[labels].repeat(1, 20)
    return FixedNorm()(rows + noise * torch.randn(rows.shape, generator=generator))
