"""What the tables are measured with: data, networks, and how much of the protocol is done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone, build_backbone
from sppnet.classification import (
    Block,
    Classifier,
    FeatureEncoder,
    FeatureRecipe,
    SplitConfig,
    draw_sample,
    open_class_data,
    scoring_split,
)
from sppnet.config.classification import FitConfig
from sppnet.config.detection import RECIPES, DetectionConfig
from sppnet.images import (
    ClassificationDataset,
    find_layout,
    list_class_splits,
    read_class_folders,
)
from sppnet.storage import is_model

IMAGENET, CALTECH, VOC07 = "imagenet", "caltech101", "VOCdevkit/VOC2007"
FULL_SIZES = {IMAGENET: "ImageNet 2012", CALTECH: "Caltech-101", VOC07: "VOC 2007"}
BACKBONES = {
    "ZF-5": "zf5",
    "Convnet*-5": "convnet5",
    "Overfeat-5": "overfeat5",
    "Overfeat-7": "overfeat7",
}
TRAINED_BY = 2  # the table whose --train makes every network of KINDS
NEEDS_HIDDEN = "the stand-in has no fully connected layers"
NEEDS_NO_SPP = "a stand-in trunk was not trained without SPP"
NEEDS_CLASSES = "class folders (a folder of photos for each class)"
KINDS = {
    "no-spp": "(a) no SPP",
    "single": "(b) SPP single-size trained",
    "multi": "(c) SPP multi-size trained",
}


@dataclass(frozen=True)
class NetworkTrainingConfig:
    """How a network of the paper that is not there is trained.

    Args:
        epochs: Passes over the images; None for the paper's, 70 for ZF-5 and 90 for the others.
        sizes: Training sizes, the largest for single-size training, all for multi-size.
        hidden: Widths of the fully connected layers.
        batch: Images in one update.
    """

    epochs: int | None = None
    sizes: tuple[int, ...] = (180, 224)
    hidden: tuple[int, ...] = (4096, 4096)
    batch: int = 128


@dataclass(frozen=True)
class Budget:
    """How much of the detection protocol is done, for tables 9 to 12; by default all of it.

    Args:
        proposals: Method that proposes regions; None for that of the recipe.
        max_proposals: Most proposals per image; None for the recipe's.
        updates: Updates in the fine-tuning of the fully connected layers; None for the recipe's.
        widths: Outputs of fc6 and fc7 where the network has none that were trained.
        timed: Images that are timed.
        share: Part of the proposals that R-CNN is timed on; its seconds are scaled up.
        parts: ``precision``, ``speed``, or both.
        recipes: ``paper`` (the rows that the paper prints), ``best`` (a row of ours), or both.
    """

    proposals: str | None = None
    max_proposals: int | None = None
    updates: int | None = None
    widths: tuple[int, int] = (4096, 4096)
    timed: int = 100
    share: float = 1.0
    parts: tuple[str, ...] = ("precision", "speed")
    recipes: tuple[str, ...] = RECIPES

    def settings(self, recipe: str, seed: int = 0, **more: Any) -> DetectionConfig:
        """Make the settings of a recipe, with as much of it as this says.

        Example:
            >>> Budget(updates=50).settings("paper").tune_updates, Budget().settings("best").tune
            (50, 'none')
        """
        wishes = {
            "proposals": self.proposals,
            "max_proposals": self.max_proposals,
            "tune_updates": self.updates,
        }
        given = {name: value for name, value in wishes.items() if value is not None}
        return DetectionConfig(recipe=recipe, seed=seed, **{**given, "widths": self.widths, **more})


@dataclass(frozen=True)
class Resources:
    """Data and networks at hand, what stands in for missing ones, and how much is done.

    Args:
        out: Folder for caches and for networks that are trained here.
        data: Folder that holds ``imagenet``, ``caltech101`` and ``VOCdevkit/VOC2007``, or is one
            data set itself.
        models: Folder of trained networks, one folder each; None is ``out / "models"``.
        backbone: A trunk that stands in where the paper's networks are not there.
        weights: Its weights.
        second: A trunk that stands in for the second network of table 12.
        second_weights: Its weights.
        training: How to train networks that are not there; None trains none.
        networks: Names of the networks to measure; empty means all of a table.
        limit: Most images to score on, drawn with the seed, and for detection to learn from; None
            takes all.
        splits: Random splits of the Caltech-101 protocol.
        train_per_class: Images of each class that SVMs are fitted to there; None for the paper's
            30, or two thirds of the smallest class.
        repeats: Seeds with which each detector is trained; of several the mean is shown.
        seed: Of draws and training.
        device: Where to compute.
        budget: How much of the detection protocol is done.
        download: Whether weights that are not on disk may be downloaded.
        part: How many of the images of a claim are taken where ``limit`` does not say it; 1 is all.
    """

    out: Path
    data: Path | None = None
    models: Path | None = None
    backbone: str = ""
    weights: str = "DEFAULT"
    second: str = ""
    second_weights: str = "DEFAULT"
    training: NetworkTrainingConfig | None = None
    networks: tuple[str, ...] = ()
    limit: int | None = None
    splits: int = 10
    train_per_class: int | None = None
    repeats: int = 1
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device never changes
    budget: Budget = Budget()
    download: bool = False
    part: float = 1.0

    def most(self, usual: int) -> int:
        """Most images of a claim: the limit, or as many as usual, or the part of them.

        Example:
            >>> Resources(Path("out"), part=0.5).most(24), Resources(Path("out"), limit=7).most(24)
            (12, 7)
        """
        return self.limit or max(2, round(self.part * usual))

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

    def find_classes(self) -> Path | str:
        """Find class folders of any kind to learn from, or say what is missing."""
        for place in (CALTECH, IMAGENET):
            root = self.find_data(place)
            if root is not None and find_layout(root) is None:
                return root / "train" if "train" in list_class_splits(root) else root
        return f"{NEEDS_CLASSES} are not there; --data DIR names them"

    def with_trunk(self) -> "Resources":
        """The same, with the package's own trunk where none is named to stand in."""
        return self if self.backbone else replace(self, backbone=FitConfig().backbone)

    def missing_data(self, place: str) -> str:
        """Say what is missing and where it goes."""
        root = self.data if self.data is not None else Path("DATA")
        return f"{FULL_SIZES[place]} is not there; it goes to {root / place} (--data {root})"

    def is_stand_in(self, place: str) -> bool:
        """Tell whether ``data`` itself is taken in place of the named data set."""
        return self.data is not None and self.find_data(place) == self.data

    @property
    def seeds(self) -> Sequence[int]:
        """Seeds of the repeats."""
        return range(self.seed, self.seed + self.repeats)

    @property
    def models_folder(self) -> Path:
        """Where trained networks are looked for and written to."""
        return self.out / "models" if self.models is None else self.models

    def wants(self, network: str) -> bool:
        """Tell whether a network is to be measured.

        Args:
            network: The paper's name of it.
        """
        return not self.networks or network in self.networks


def _holds_voc(folder: Path) -> bool:
    """Tell a folder in VOC layout."""
    return (folder / "ImageSets" / "Main").is_dir()


def _holds_classes(folder: Path) -> bool:
    """Tell a folder of class folders, or of train and val folders of these."""
    if _holds_voc(folder):
        return False
    return bool(list_class_splits(folder)) or any(path.is_dir() for path in folder.iterdir())


@dataclass(frozen=True)
class ModelSpec:
    """One network of the paper, trained in one of three ways.

    Args:
        network: The paper's name of it.
        kind: ``"no-spp"``, ``"single"`` or ``"multi"``; ``"multi-2"`` is a second one.
    """

    network: str
    kind: str

    @property
    def name(self) -> str:
        """Name of its folder.

        Example:
            >>> ModelSpec("Overfeat-7", "multi").name
            'overfeat7-multi'
        """
        return f"{BACKBONES[self.network]}-{self.kind}"

    def find(self, models: Path) -> Path | None:
        """Find its folder, or the ``model`` folder of its run, in a folder of networks."""
        for candidate in (models / self.name / "model", models / self.name):
            if is_model(candidate):
                return candidate
        return None

    def load(self, models: Path, device: torch.device) -> Classifier | None:
        """Load the network from a folder of networks; None if it is not there.

        Raises:
            UnusableFileError: If it is there and cannot be used.
        """
        folder = self.find(models)
        return None if folder is None else Classifier.load(folder, device)

    def missing(self, models: Path, *, can_train: bool = False) -> str:
        """Say what is missing and how it gets into the folder of networks.

        Args:
            models: The folder.
            can_train: Whether the table that needs it trains it with ``--train``.
        """
        trains = "--train" if can_train else f"'sppnet reproduce {TRAINED_BY} --train'"
        trains = f", or {trains}" if self.kind in KINDS else ""
        return (
            f"the network {self.name} is not there; 'sppnet classify train' writes it{trains}; "
            f"it goes to {models / self.name}"
        )


@dataclass(frozen=True)
class FrozenNetwork:
    """The network that a column is measured with.

    Args:
        backbone: Its trunk.
        pool: The trained network's own pooling; None for a bare trunk.
        head: The trained network's head; None for a bare trunk.
        differs: What is not as in the paper.
        name: What it is called where its numbers stand.
    """

    backbone: Backbone
    pool: nn.Module | None = None
    head: nn.Module | None = None
    differs: str = ""
    name: str = ""

    @property
    def is_stand_in(self) -> bool:
        """Whether it is not one of the paper's networks."""
        return bool(self.differs)

    def encoder(self, blocks: tuple[Block, ...]) -> FeatureEncoder:
        """Features of some of its layers."""
        return FeatureEncoder(self.backbone, FeatureRecipe(blocks), self.pool, self.head)


def find_network(spec: ModelSpec, resources: Resources) -> FrozenNetwork | str:
    """Find a trained network, or what stands in for it, or say what is missing."""
    found = spec.load(resources.models_folder, resources.device)
    if found is not None:
        return _of_classifier(found, "", spec.name)
    if not resources.backbone:
        return f"{spec.missing(resources.models_folder)}; or let --backbone NAME stand in"
    if spec.kind == "no-spp":
        return NEEDS_NO_SPP
    return load_stand_in(resources.backbone, resources.weights, resources)


def load_stand_in(name: str, weights: str, resources: Resources) -> FrozenNetwork:
    """Build a trunk by its name, or load a trained network from its folder.

    Args:
        name: Name or folder.
        weights: Weights of a trunk.
        resources: Where to put it, the seed of random weights, and whether to download others.
    """
    if is_model(name):
        found = Classifier.load(name, resources.device)
        return _of_classifier(found, f"network of {name}", Path(name).name)
    torch.manual_seed(resources.seed)
    backbone = build_backbone(name, weights, download=resources.download).to(resources.device)
    return FrozenNetwork(backbone.eval(), differs=f"{name}, weights {weights}", name=name)


def _of_classifier(classifier: Classifier, differs: str, name: str) -> FrozenNetwork:
    """The parts of a trained network."""
    network = classifier.network
    return FrozenNetwork(network.backbone, network.pool, network.head, differs, name)  # type: ignore[arg-type]


def describe_machine(device: torch.device) -> str:
    """Say what computes: the GPU by its name, or the CPU and its threads.

    Example:
        >>> describe_machine(torch.device("cpu")).split(",")[0]
        'CPU'
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def images_to_score(root: Path, seed: int) -> ClassificationDataset:
    """List the images to score on.

    Args:
        root: Folder with a ``val`` or ``test`` folder of class folders, or plain class folders, of
            which a fifth is held out.
        seed: Decides which fifth.

    Raises:
        UsageError: If there is no such folder.
        NothingUsableError: If there is no image in it.
    """
    part = scoring_split(list_class_splits(root))
    return _divided(root, seed)[1] if part is None else read_class_folders(root, part)


def images_to_train(root: Path, seed: int) -> ClassificationDataset:
    """List the images to train on: the ``train`` folder, or what :func:`images_to_score` leaves.

    Raises:
        UsageError: If there is no such folder.
        NothingUsableError: If there is no image in it.
    """
    return _divided(root, seed)[0]


def draw_images(
    dataset: ClassificationDataset, limit: int | None, seed: int
) -> ClassificationDataset:
    """Keep at most ``limit`` images, drawn with a seed, in their order; None keeps all."""
    return _take(dataset, draw_sample(len(dataset), limit, seed))


def _divided(root: Path, seed: int) -> tuple[ClassificationDataset, ClassificationDataset]:
    """The images to train on and those to score."""
    data = open_class_data(root, SplitConfig(seed=seed))
    every = ClassificationDataset(data.paths, data.labels, data.names, data.problems, root)
    split = data.splits()[0]
    return _take(every, split.train), _take(every, split.test)


def _take(dataset: ClassificationDataset, positions: Tensor) -> ClassificationDataset:
    """Keep the images at some positions."""
    paths = tuple(dataset.paths[index] for index in positions.tolist())
    return replace(dataset, paths=paths, labels=dataset.labels[positions])
