"""What a training keeps: states that a run goes on from, seeds, and what it writes down.

Seeds let a run that goes on draw the same again. Its figures stand in log.csv and log.jsonl, and in
TensorBoard on request.
"""

import csv
import hashlib
import io
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sppnet.config.fields import CountOrNone, Within, restore_fields
from sppnet.errors import MissingPackageError, OutputError, UnusableFileError
from sppnet.storage import put_under, restore_model, save_model, tensors_under, write_text
from sppnet.storage.tensors import bytes_to_tensors, tensors_to_bytes

EVERY = 10  # updates between two rows inside an epoch
KIND = "training state"
KEPT = 2  # the newest, and the one before in case the newest is damaged
SAVE_SECONDS = 60.0
PARTS = ("network.", "optimizer.", "average.", "best.")  # how the names of tensors begin
MOMENTUM = "momentum_buffer"  # what SGD remembers of each parameter
MOST = 1e300  # of a figure; sums of such could overflow


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


@dataclass(frozen=True)
class TrainingState:
    """All that the next update depends on besides the settings and the data.

    Random numbers are no part of it: every update draws its own from the seed and its place. The
    schedule follows from the losses in ``history``.

    Args:
        epochs_done: Whole epochs finished.
        updates_done: Updates of the epoch after them.
        loss_sum: Losses of this epoch so far.
        right: How many examples of this epoch were right so far.
        seconds: How long this epoch has taken so far.
        history: One dict of figures for each whole epoch.
        threads: CPU threads that computed it; other counts give other last bits.
        averaged: Updates in the moving average of the weights.
        counted: What ``loss_sum`` and ``right`` are divided by for a mean.
        tensors: Weights, optimizer, average and best weights; empty while the training runs.
    """

    epochs_done: CountOrNone = 0
    updates_done: CountOrNone = 0
    loss_sum: float = 0.0
    right: float = 0
    seconds: Annotated[float, Within(0)] = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    threads: Annotated[int, Within(1, 4096)] = 1
    averaged: CountOrNone = 0
    counted: CountOrNone = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {name: value for name, value in vars(self).items() if name != "tensors"}

    def to_bytes(self) -> bytes:
        """Everything in one piece, for the other processes; floats come back to the last bit."""
        plain = json.dumps(self.plain()).encode()
        return b"%d\n" % len(plain) + plain + tensors_to_bytes(self.tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> "TrainingState":
        """Read what :meth:`to_bytes` wrote."""
        length, _, rest = data.partition(b"\n")
        plain, tensors = rest[: int(length)], rest[int(length) :]
        return cls(**json.loads(plain), tensors=bytes_to_tensors(tensors))


class Checkpoints:
    """The training states of one run.

    Args:
        folder: Where they are; made when the first is saved.
        every_seconds: How often a state is saved inside long epochs.

    Attributes:
        damaged: Folders that could not be used, found by :meth:`newest`.
    """

    def __init__(self, folder: str | Path, every_seconds: float = SAVE_SECONDS) -> None:
        self.folder = Path(folder)
        self.every_seconds = every_seconds
        self.damaged: list[Path] = []
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last state is old enough for the next one."""
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state: TrainingState) -> None:
        """Write a state and remove all but the newest two.

        Raises:
            OutputError: If it cannot be written.
        """
        inside = f"-update-{state.updates_done:07d}" if state.updates_done else ""
        name = f"epoch-{state.epochs_done:05d}{inside}"
        save_model(self.folder / name, KIND, state.plain(), state.tensors)
        for old in self._folders()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        self._saved_at = time.monotonic()

    def newest(self) -> TrainingState | None:
        """Read the newest state that is whole; None if there is none."""
        self.damaged = []
        for folder in self._folders():
            try:
                return restore_model(folder, KIND, _restore_state)
            except UnusableFileError:
                self.damaged.append(folder)
        return None

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-[0-9]*"), reverse=True)


def _restore_state(config: dict[str, Any], tensors: dict[str, Tensor]) -> TrainingState:
    """Make a state of what was saved; ValueError for a field that breaks its rule."""
    if "tensors" in config:
        raise ValueError("tensors is no field of a training state")
    state = replace(restore_fields(TrainingState, config), tensors=tensors)
    if len(state.history) != state.epochs_done:
        rows = len(state.history)
        raise ValueError(f"history must have a row for each epoch, has {rows}")
    if unknown := [name for name in tensors if not name.startswith(PARTS)]:
        raise ValueError(f"tensor {unknown[0]!r} is no part of a training state")
    for row in state.history:
        if row.keys() != state.history[0].keys() or not all(map(_is_number, row.values())):
            raise ValueError("history must have rows of the same figures, all numbers")
    return state


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < MOST


def copy_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, so that they stay as they are while the training goes on."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def pack_tensors(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Copy weights, buffers and the optimizer's memory to the CPU, one name each."""
    tensors = put_under("network.", network.state_dict())
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
    return copy_tensors(tensors)


def unpack_tensors(tensors: Mapping[str, Tensor], network: nn.Module, optimizer: Optimizer) -> None:
    """Put back what :func:`pack_tensors` copied.

    Raises:
        KeyError: If it names parameters that this network lacks.
        RuntimeError: If it is not of this network and this optimizer.
    """
    weights = tensors_under("network.", tensors)
    check_alike(weights, network.state_dict(), "weights")
    parameters: dict[str, Tensor] = {**dict(network.named_parameters())}
    memory: dict[str, dict[str, Tensor]] = {}
    for place, tensor in tensors_under("optimizer.", tensors).items():
        key, _, name = place.partition(".")
        memory.setdefault(name, {})[key] = tensor
    for name, kept in memory.items():
        wanted = dict.fromkeys(_memory_keys(optimizer), parameters[name])
        if "step" in wanted and "step" in kept:
            wanted["step"] = torch.zeros(())
        check_alike(kept, wanted, f"the optimizer's memory of {name}")
    network.load_state_dict(weights)
    for name, kept in memory.items():
        device = parameters[name].device
        for key, tensor in kept.items():
            moved = tensor if key == "step" else tensor.to(device)
            optimizer.state[parameters[name]][key] = moved.clone()


def _memory_keys(optimizer: Optimizer) -> tuple[str, ...]:
    """What an optimizer remembers of each parameter."""
    return ("step", "exp_avg", "exp_avg_sq") if isinstance(optimizer, AdamW) else (MOMENTUM,)


def check_alike(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors of other names, shapes or types than those that are wanted.

    Raises:
        RuntimeError: Names what they are and the first that differs.

    Example:
        >>> check_alike({"a": torch.ones(1)}, {"a": torch.zeros(1)}, "weights")
    """
    for name in sorted({*found, *wanted}):
        here, there = found.get(name), wanted.get(name)
        if here is None or there is None:
            raise RuntimeError(f"{what}: {name!r} is {'missing' if here is None else 'unknown'}")
        if here.shape != there.shape or here.dtype != there.dtype:
            raise RuntimeError(f"{what}: {name!r} is {tuple(here.shape)} {here.dtype}")


def derive_seed(*parts: int | str) -> int:
    """Make a seed out of what shall decide random numbers: the run's seed, a purpose, a place.

    Nothing that was drawn before matters, so a run can begin anywhere and draw the same.

    Example:
        >>> derive_seed(0, "order", 1) != derive_seed(1, "order", 0)
        True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
