"""The trained networks that the tables ask for: where each lies, and how one is trained here."""

from dataclasses import dataclass
from pathlib import Path

from sppnet.classification import Classifier
from sppnet.paper.supplies import Supplies
from sppnet.storage import is_model

BACKBONES = {
    "ZF-5": "zf5",
    "Convnet*-5": "convnet5",
    "Overfeat-5": "overfeat5",
    "Overfeat-7": "overfeat7",
}
KINDS = {
    "no-spp": "(a) no SPP",
    "single": "(b) SPP single-size trained",
    "multi": "(c) SPP multi-size trained",
}


@dataclass(frozen=True)
class Slot:
    """One network of the paper in one way of training.

    Args:
        network: The paper's name of it.
        kind: ``"no-spp"``, ``"single"`` or ``"multi"``.
    """

    network: str
    kind: str

    @property
    def name(self) -> str:
        """Name of its folder.

        Example:
            >>> Slot("Overfeat-7", "multi").name
            'overfeat7-multi'
        """
        return f"{BACKBONES[self.network]}-{self.kind}"

    def find(self, supplies: Supplies) -> Path | None:
        """Return its folder, or the ``model`` folder in a run's folder; None if there is none."""
        folder = supplies.models_folder / self.name
        for candidate in (folder / "model", folder):
            if is_model(candidate):
                return candidate
        return None

    def load(self, supplies: Supplies) -> Classifier | None:
        """Read the network; None if there is none.

        Raises:
            UnusableFileError: If it is there and cannot be used.
        """
        folder = self.find(supplies)
        return None if folder is None else Classifier.load(folder, supplies.device)

    def missing(self, supplies: Supplies) -> str:
        """Say what is missing and how it gets there."""
        return (
            f"the network {self.name} is not there; 'sppnet classify train' writes it, or --train; "
            f"it goes to {supplies.models_folder / self.name}"
        )
