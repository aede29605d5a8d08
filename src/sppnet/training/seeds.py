"""Seeds that depend on what they are for and on a place, and on nothing that was drawn before."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Make a seed out of what shall decide random numbers: the run's seed, a purpose, a place.

    Nothing that was drawn before matters, so a run can begin anywhere and draw the same.

    Example:
        >>> derive_seed(0, "order", 1) != derive_seed(1, "order", 0)
        True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
