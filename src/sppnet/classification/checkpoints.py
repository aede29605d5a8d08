"""Training states on disk, one folder per epoch, each whole or not there."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sppnet.errors import UnusableFileError
from sppnet.storage import load_model, save_model

KIND = "training state"
KEPT = 2  # the newest, and the one before in case the newest is damaged


@dataclass
class TrainingState:
    """All that the next epoch depends on besides the settings.

    Random numbers are no part of it: every epoch draws its own from the seed and its number.

    Args:
        epochs_done: Whole epochs finished.
        tensors: Weights and buffers of the network (``network.*``) and momenta (``momentum.*``).
        history: One dict of figures for each epoch.
        threads: CPU threads that computed it; other counts give other last bits.
    """

    epochs_done: int
    tensors: dict[str, Tensor]
    history: list[dict[str, Any]] = field(default_factory=list)
    threads: int = 1


class Checkpoints:
    """The training states of one run.

    Args:
        folder: Where they are; made when the first is saved.

    Attributes:
        damaged: Folders that could not be used, found by :meth:`newest`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.damaged: list[Path] = []

    def save(self, state: TrainingState) -> None:
        """Write a state and remove all but the newest two.

        Raises:
            OutputError: If it cannot be written.
        """
        config = {
            "epochs_done": state.epochs_done,
            "history": state.history,
            "threads": state.threads,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        save_model(self.folder / f"epoch-{state.epochs_done:05d}", KIND, config, state.tensors)
        for old in self._folders()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def newest(self) -> TrainingState | None:
        """Read the newest state that is whole; None if there is none."""
        self.damaged = []
        for folder in self._folders():
            try:
                config, tensors = load_model(folder, KIND)
            except UnusableFileError:
                self.damaged.append(folder)
                continue
            return TrainingState(tensors=tensors, **config)
        return None

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-[0-9]*"), reverse=True)


def pack_tensors(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Copy weights, buffers and momenta to the CPU under one name each."""
    tensors = {f"network.{name}": t.detach().cpu() for name, t in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum.detach().cpu()
    return {name: tensor.clone() for name, tensor in tensors.items()}


def unpack_tensors(tensors: dict[str, Tensor], network: nn.Module, optimizer: Optimizer) -> None:
    """Put weights, buffers and momenta back.

    Raises:
        UnusableFileError: If they are not those of this network.
    """
    weights = {
        k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")
    }
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UnusableFileError(
            "the training state is not of this network", code="E_WEIGHTS_ARCH"
        ) from error
    for name, parameter in network.named_parameters():
        if f"momentum.{name}" in tensors:
            momentum = tensors[f"momentum.{name}"].to(parameter.device)
            optimizer.state[parameter]["momentum_buffer"] = momentum.clone()
