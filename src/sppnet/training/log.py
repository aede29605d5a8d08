"""What a training writes down while it runs: log.csv, log.jsonl, and TensorBoard on request."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sppnet.errors import MissingPackageError, OutputError
from sppnet.storage import write_text

EVERY = 10  # updates between two rows inside an epoch


class TrainingLog:
    """The logs of one training.

    ``log.csv`` has a row for each epoch. ``log.jsonl`` has the same rows and one for every tenth
    update. A run that goes on first forgets the rows of updates that it will do again, so every
    epoch and update stands there once.

    Args:
        folder: Where the files are; it must exist.
        tensorboard: Write TensorBoard's files as well, into ``folder/tensorboard``.

    Raises:
        MissingPackageError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: str | Path, *, tensorboard: bool = False) -> None:
        self.folder = Path(folder)
        self._writer_class = _tensorboard_writer() if tensorboard else None
        self._writer: Any = None

    def begin(self, history: Sequence[Mapping[str, Any]], updates: int, per_epoch: int) -> None:
        """Keep the rows of what is done, drop those of what comes again.

        Args:
            history: Rows of the whole epochs.
            updates: Updates of the epoch after them.
            per_epoch: Updates of an epoch.
        """
        kept = [row for row in self._rows() if _is_before(row, len(history), updates)]
        write_text(self._jsonl, "".join(json.dumps(row) + "\n" for row in kept))
        self._write_csv(history)
        if self._writer_class is not None:
            place = self.folder / "tensorboard"
            done = len(history) * per_epoch + updates
            self._writer = self._writer_class(str(place), purge_step=done)

    def add_update(self, epoch: int, update: int, step: int, row: Mapping[str, float]) -> None:
        """Write down an update, every tenth one.

        Args:
            epoch: 0 for the first.
            update: 0 for the first of the epoch.
            step: 0 for the first of the training.
            row: Loss and rate.
        """
        if update % EVERY:
            return
        self._append({"kind": "update", "epoch": epoch, "update": update, **row})
        self._draw("update", row, step)

    def add_epoch(self, history: Sequence[Mapping[str, Any]], step: int) -> None:
        """Write down the last epoch of the history; ``step`` is its last update."""
        self._append({"kind": "epoch", **history[-1]})
        self._write_csv(history)
        figures = {k: v for k, v in history[-1].items() if k != "epoch"}
        self._draw("epoch", figures, step)

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()

    @property
    def _jsonl(self) -> Path:
        return self.folder / "log.jsonl"

    def _rows(self) -> list[dict[str, Any]]:
        """Rows of an earlier run; the last one may be torn by a kill."""
        if not self._jsonl.exists():
            return []
        lines = self._jsonl.read_text(encoding="utf-8", errors="replace").splitlines()
        return [row for line in lines if (row := _parse(line))]

    def _append(self, row: Mapping[str, Any]) -> None:
        try:
            with self._jsonl.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot be written: {reason}", path=self._jsonl) from error

    def _write_csv(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write all rows anew: the file is always whole."""
        if not history:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        write_text(self.folder / "log.csv", text.getvalue())

    def _draw(self, group: str, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items() if self._writer is not None else ():
            self._writer.add_scalar(f"{group}/{name}", value, step)


def _is_before(row: Mapping[str, Any], epochs: int, updates: int) -> bool:
    """Whether a row belongs to what is done."""
    if row["kind"] == "epoch" or row["epoch"] != epochs:
        return bool(row["epoch"] < epochs)
    return bool(row["update"] < updates)


def _parse(line: str) -> dict[str, Any]:
    """Read a row; what is none is an empty one."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    is_row = isinstance(row, dict) and "kind" in row and isinstance(row.get("epoch"), int)
    return row if is_row and (row["kind"] == "epoch" or isinstance(row.get("update"), int)) else {}


def _tensorboard_writer() -> Any:
    """Import TensorBoard's writer; it is an extra."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        rule = "--tensorboard needs TensorBoard: pip install 'sppnet[tensorboard]'"
        raise MissingPackageError(rule) from error
    return SummaryWriter
