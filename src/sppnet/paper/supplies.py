"""What a table is measured with: where data and networks lie, and how much of them is taken."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sppnet.images import list_class_splits

IMAGENET, CALTECH, VOC07 = "imagenet", "caltech101", "VOCdevkit/VOC2007"
FULL_SIZES = {IMAGENET: "ImageNet 2012", CALTECH: "Caltech-101", VOC07: "VOC 2007"}


@dataclass(frozen=True)
class Training:
    """How a network that is not there is trained.

    Args:
        epochs: Passes over the images.
        sizes: Training sizes, the largest for single-size training, all for multi-size.
        hidden: Widths of the fully connected layers.
        batch: Images in one update.
    """

    epochs: int
    sizes: tuple[int, ...] = (180, 224)
    hidden: tuple[int, ...] = (4096, 4096)
    batch: int = 128


@dataclass(frozen=True)
class Effort:
    """How much of the detection protocol is done, for tables 9 to 12; as in the paper by default.

    Args:
        proposals: Where windows come from.
        windows: The most windows per image.
        updates: Steps of the fine-tuning of the fully connected layers.
        widths: Outputs of fc6 and fc7 where the network has none that were trained.
        timed: Images that are timed.
        share: Part of the windows that R-CNN's way is timed on; its seconds are scaled up.
        parts: ``precision``, ``speed``, or both.
    """

    proposals: str = "selective_search"
    windows: int = 2000
    updates: int = 200_000
    widths: tuple[int, int] = (4096, 4096)
    timed: int = 100
    share: float = 1.0
    parts: tuple[str, ...] = ("precision", "speed")


@dataclass(frozen=True)
class Supplies:
    """Where everything is.

    Args:
        out: Folder for caches and for networks that are trained here.
        data: Folder that holds ``imagenet``, ``caltech101`` and ``VOCdevkit/VOC2007``, or is one
            data set itself.
        models: Folder of trained networks, one folder each; None is ``out / "models"``.
        backbone: A trunk that stands in where the paper's networks are not there.
        weights: Its weights.
        second: A trunk that stands in for the second network of table 12.
        second_weights: Its weights.
        training: How to train what is not there; None does not.
        networks: Names of the networks to take; empty takes all of a table.
        limit: Most images to score on, drawn with the seed, for detection also to learn from; None
            takes all.
        splits: Random splits of the Caltech-101 protocol.
        seed: Of draws and training.
        device: Where to compute.
        effort: How much of the detection protocol is done.
    """

    out: Path
    data: Path | None = None
    models: Path | None = None
    backbone: str = ""
    weights: str = "DEFAULT"
    second: str = ""
    second_weights: str = "DEFAULT"
    training: Training | None = None
    networks: tuple[str, ...] = ()
    limit: int | None = None
    splits: int = 10
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device never changes
    effort: Effort = Effort()

    def find_data(self, place: str) -> Path | None:
        """Find a data set: in its place below ``data``, or ``data`` itself if it looks like one.

        Args:
            place: ``IMAGENET``, ``CALTECH`` or ``VOC07``.
        """
        if self.data is None or not self.data.is_dir():
            return None
        if (self.data / place).is_dir():
            return self.data / place
        others = [other for other in FULL_SIZES if (self.data / other).is_dir()]
        looks_right = _holds_voc(self.data) if place == VOC07 else _holds_classes(self.data)
        return self.data if looks_right and not others else None

    def missing_data(self, place: str) -> str:
        """Say what is missing and where it goes."""
        root = self.data if self.data is not None else Path("DATA")
        return f"{FULL_SIZES[place]} is not there; it goes to {root / place} (--data {root})"

    def is_stand_in(self, place: str) -> bool:
        """Tell whether ``data`` itself is taken in place of the named data set."""
        return self.data is not None and self.find_data(place) == self.data

    @property
    def models_folder(self) -> Path:
        """Where trained networks are looked for and written to."""
        return self.out / "models" if self.models is None else self.models


def _holds_voc(folder: Path) -> bool:
    """Tell a folder in VOC layout."""
    return (folder / "ImageSets" / "Main").is_dir()


def _holds_classes(folder: Path) -> bool:
    """Tell a folder of class folders, or of train and val folders of these."""
    if _holds_voc(folder):
        return False
    return bool(list_class_splits(folder)) or any(path.is_dir() for path in folder.iterdir())
