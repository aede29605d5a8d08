"""The stages of a long piece of work: which are done, how long they took. No torch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sppnet.errors import UnusableFileError
from sppnet.storage.atomic import write_json
from sppnet.storage.reading import read_json

_MAX_BYTES = 16 * 2**20


class Stages:
    """Names the stages of a long piece of work, times them, and remembers which are done.

    Args:
        path: A JSON file that is rewritten whole after every change; None keeps all in memory.

    Raises:
        UnusableFileError: If the file is there but is not a record of stages.

    Example:
        >>> stages = Stages()
        >>> with stages.stage("proposals"):
        ...     stages.mark_done("proposals")
        >>> stages.is_done("proposals"), list(stages.seconds())
        (True, ['proposals'])
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        self._done: set[str] = set()
        if path is not None and path.exists():
            self._seconds, self._done = _read_stages(path)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of a ``with`` block to a stage, over all resumes, even when it fails.

        A process killed inside the block loses the seconds of that block only.

        Args:
            name: The stage.

        Raises:
            OutputError: If the record cannot be written.
        """
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start
            self._save()

    def is_done(self, name: str) -> bool:
        """Tell whether a stage was finished, in this process or an earlier one.

        Args:
            name: The stage.
        """
        return name in self._done

    def mark_done(self, name: str) -> None:
        """Remember that a stage is finished; call it after the stage's results are safely written.

        Args:
            name: The stage.

        Raises:
            OutputError: If the record cannot be written.
        """
        self._done.add(name)
        self._save()

    def seconds(self) -> dict[str, float]:
        """Seconds per stage, in the order of their first start to end."""
        return dict(self._seconds)

    def _save(self) -> None:
        """Rewrite the record, if there is one."""
        if self._path is not None:
            write_json(self._path, {"seconds": self._seconds, "done": sorted(self._done)})


def _read_stages(path: Path) -> tuple[dict[str, float], set[str]]:
    """Read seconds and finished stages, checking every type."""
    record = read_json(path, _MAX_BYTES)
    try:
        seconds = {name: float(value) for name, value in record["seconds"].items()}
        done = {name for name in record["done"] if isinstance(name, str)}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        rule = "is not a record of stages; begin again with --fresh"
        raise UnusableFileError(rule, path=path, code="E_FORMAT") from error
    return seconds, done
