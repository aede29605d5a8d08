"""Frozen features for tables 6 to 8: the network of a column, and features of its layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from sppnet.backbones import Backbone, build_backbone
from sppnet.classification import (
    Block,
    ClassData,
    Classifier,
    ExtractedFeatures,
    FeatureEncoder,
    FeatureRecipe,
    FeatureSet,
    FitResult,
    RecipeExtractor,
    VocData,
    fit_splits,
)
from sppnet.classification.transfer.svm import COSTS
from sppnet.paper.resources import ModelSpec, Resources
from sppnet.progress import Track
from sppnet.storage import FeatureCache, is_model

TransferData = ClassData | VocData

NEEDS_NO_SPP = "a stand-in trunk was not trained without SPP"
NEEDS_HIDDEN = "the stand-in has no fully connected layers"
NEEDS_CONV4 = "a stand-in has no fourth of five convolution layers"


@dataclass(frozen=True)
class Column:
    """One column of tables 6 and 7: a network and what it sees of an image.

    Args:
        name: As printed.
        network: The paper's network.
        kind: How it was trained.
        view: ``"crop"`` or ``"full"``.
        short_side: Short side of the image in pixels.
    """

    name: str
    network: str
    kind: str
    view: str
    short_side: int

    @property
    def spec(self) -> ModelSpec:
        """The trained network."""
        return ModelSpec(self.network, self.kind)


@dataclass(frozen=True)
class FrozenNetwork:
    """The network that a column is measured with.

    Args:
        backbone: Its trunk.
        pool: The trained network's own pooling; None for a bare trunk.
        head: The trained network's head; None for a bare trunk.
        differs: What is not as in the paper.
    """

    backbone: Backbone
    pool: nn.Module | None = None
    head: nn.Module | None = None
    differs: str = ""

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
        return _of_classifier(found, "")
    if not resources.backbone:
        return f"{spec.missing(resources.models_folder)}; or let --backbone NAME stand in"
    if spec.kind == "no-spp":
        return NEEDS_NO_SPP
    return load_stand_in(resources.backbone, resources.weights, resources.seed, resources.device)


def load_stand_in(name: str, weights: str, seed: int, device: torch.device) -> FrozenNetwork:
    """Build a trunk by its name, or load a trained network from its folder.

    Args:
        name: Name or folder.
        weights: Weights of a trunk.
        seed: Of random weights.
        device: Where to put it.
    """
    if is_model(name):
        return _of_classifier(Classifier.load(name, device), f"network of {name}")
    torch.manual_seed(seed)
    backbone = build_backbone(name, weights)
    return FrozenNetwork(backbone.to(device).eval(), differs=f"{name}, weights {weights}")


def _of_classifier(classifier: Classifier, differs: str) -> FrozenNetwork:
    """The parts of a trained network."""
    network = classifier.network
    return FrozenNetwork(network.backbone, network.pool, network.head, differs)  # type: ignore[arg-type]


def row_blocks(column: Column, network: FrozenNetwork) -> dict[str, Block | str]:
    """Say which block of features each row of the tables asks for, or why there is none."""
    side = network.backbone.grid_hw((column.short_side, column.short_side))[0]
    seen = Block(view=column.view, short_side=column.short_side)
    whole_map = replace(seen, levels=(side,))  # as many bins as cells: the map itself
    conv4: Block | str = NEEDS_CONV4 if network.is_stand_in else replace(whole_map, layer="relu4")
    hidden = NEEDS_HIDDEN if network.head is None else ""
    return {
        "conv4": conv4,
        "conv5": whole_map,
        "pool5/7 (6x6)": replace(seen, pool="6x6"),
        "SPP pool5/7": seen,
        "fc6/8": hidden or replace(seen, layer="fc6"),
        "fc7/9": hidden or replace(seen, layer="fc7"),
    }


def extract_blocks(
    blocks: Mapping[str, Block],
    network: FrozenNetwork,
    data: TransferData,
    cache: FeatureCache,
    track: Track,
) -> FeatureSet:
    """Extract several layers of all images; each image goes through the trunk once for all."""
    encoder = network.encoder(tuple(blocks.values()))
    return encoder.extract(data.paths, cache=cache, track=track)


def fit_blocks(
    blocks: Mapping[str, Block],
    features: FeatureSet,
    network: FrozenNetwork,
    data: TransferData,
    seed: int,
    track: Track,
) -> Iterator[tuple[str, FitResult]]:
    """Fit SVMs on each of several layers.

    Args:
        blocks: The block of each row.
        features: From :func:`extract_blocks`, the blocks side by side.
        network: The frozen network.
        data: Images, task and splits.
        seed: Decides what is held out to choose C.
        track: Shows the progress.

    Yields:
        The row, and its figures.
    """
    task, splits = data.task(features.kept), data.splits(features.kept)
    begin = 0
    for row, block in blocks.items():
        encoder = network.encoder((block,))
        end = begin + encoder.num_features
        part = replace(features, rows=features.rows[:, begin:end].contiguous())
        extracted = ExtractedFeatures(part, RecipeExtractor(encoder))
        yield row, fit_splits([extracted], task, splits, costs=COSTS, seed=seed, track=track)
        begin = end
