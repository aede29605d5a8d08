"""Which part of a data set a command means when it is not told."""

from pathlib import Path

from sppnet.app.console import note
from sppnet.errors import UsageError


def choose_split(data: Path, given: str | None, preferred: tuple[str, ...]) -> str | None:
    """Take the split that was asked for, else the usual one, else the whole of an undivided set.

    Args:
        data: Folder of the data set.
        given: What ``--split`` says; None if it was not given.
        preferred: Names to look for, the best first.

    Returns:
        Name of the split; None for all images of a data set without splits.

    Raises:
        UsageError: If the data set does not exist, or has only splits of other names.
    """
    from sppnet.images import list_splits  # here, so that --help stays quick

    if given is not None:
        return given
    splits = list_splits(data)
    usual = next((name for name in preferred if name in splits), None)
    if usual is None and splits:
        raise UsageError(f"choose one with --split: {', '.join(splits)}", path=data)
    note(f"using split {usual!r}" if usual else "no splits here: using every image")
    return usual
