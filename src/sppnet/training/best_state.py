"""What every fine-tuning remembers: how far it is, and the weights that were best so far."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sppnet.storage import put_under, tensors_under
from sppnet.training.checkpoints import Checkpoints, TrainingState, pack_tensors, unpack_tensors


class TuningStates:
    """The state of a fine-tuning, kept on disk if wanted.

    Args:
        network: What learns.
        optimizer: What teaches it.
        checkpoints: Where states are kept and taken up again; None keeps none.

    Attributes:
        is_resumed: Whether an earlier run's state was taken up.

    Raises:
        UnusableFileError: If the newest state is of another network.
    """

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, checkpoints: Checkpoints | None
    ) -> None:
        self.network, self.optimizer, self.checkpoints = network, optimizer, checkpoints
        self.state = TrainingState(threads=torch.get_num_threads())
        self._best: dict[str, Tensor] = {}
        found = checkpoints.newest() if checkpoints is not None else None
        self.is_resumed = found is not None
        if found is not None:
            unpack_tensors(found, network, optimizer, None)
            self._best = tensors_under("best.", found.tensors)
            self.state = replace(found, tensors={})

    @property
    def checks(self) -> int:
        """How often the validation windows were looked at."""
        return self.state.epochs_done

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row for each look."""
        return self.state.history

    def add(self, row: dict[str, Any]) -> None:
        """Take in a row with a ``validation_loss``: the weights of the least are kept."""
        least = min(
            (each["validation_loss"] for each in self.history), default=row["validation_loss"]
        )
        history = [*self.history, row]
        self.state = replace(self.state, epochs_done=self.checks + 1, history=history)
        if row["validation_loss"] <= least:
            weights = self.network.state_dict()
            self._best = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
        if self.checkpoints is not None:
            tensors = pack_tensors(self.network, self.optimizer, None)
            tensors |= put_under("best.", self._best)
            self.checkpoints.save(replace(self.state, tensors=tensors))

    def put_best_back(self) -> None:
        """Give the network its best weights, and freeze it."""
        self.network.load_state_dict(self._best)
        self.network.eval().requires_grad_(False)
