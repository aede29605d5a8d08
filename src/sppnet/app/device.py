"""``--device auto|cpu|cuda:N|mps`` -> torch.device; an error names what this machine has."""

from typing import TYPE_CHECKING

from sppnet.errors import UsageError

if TYPE_CHECKING:
    import torch


def list_devices() -> list[str]:
    """Name the devices that torch can use here, the preferred one first.

    Returns:
        Names for ``--device``; ``"cpu"`` is always the last.

    Example:
        >>> list_devices()[-1]
        'cpu'
    """
    import torch  # imported here so that --help stays quick

    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def choose_device(name: str) -> "torch.device":
    """Turn the word of ``--device`` into a device that exists.

    Args:
        name: ``"auto"`` (the best there is), ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.

    Returns:
        The device.

    Raises:
        UsageError: If this machine has no such device; the message names those it has.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    import torch

    present = list_devices()
    wanted = {"auto": present[0], "cuda": "cuda:0"}.get(name, name)
    if wanted not in present:
        raise UsageError(
            f"--device must be one of auto, {', '.join(present)} on this machine, got {name!r}",
            code="E_DEVICE",
        )
    return torch.device(wanted)
