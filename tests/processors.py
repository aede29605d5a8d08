"""What the processor of this machine can run."""

import torch


def capabilities_to_ask_for() -> list[str]:
    """Values of ATEN_CPU_CAPABILITY that work here; torch dies of the instructions of another."""
    known = ["default", "avx2", "avx512"]
    best = torch.backends.cpu.get_cpu_capability().lower()
    return known[: known.index(best) + 1] if best in known else known[:1]
