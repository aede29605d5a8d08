"""Settings of detection: of training, and the constants of testing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from sppnet.config.fields import (
    Count,
    CountOrNone,
    Each,
    Engine,
    Flag,
    Levels,
    OneOf,
    Positive,
    Seed,
    Share,
    Within,
    check_fields,
)
from sppnet.config.recipes import PAPER_TESTING, PAPER_TRAINING, with_recipes

PROPOSAL_METHODS = ("graph", "selective_search", "selective_search_quality", "edge_boxes", "grid")
PROPOSAL_SUFFIXES = (".npz", ".json", ".mat")
LAYERS = ("pooled", "fc6", "fc7")  # of what is known about a region
# A region is best seen at the size that the trunk was trained on (section 4.1 of the paper).
TARGET_SIDE = 224
COMPACT_WIDTHS = (256, 256)
# Strides 16 and 32: the one says where an object ends, the other what it is.
LITE_LAYERS = "stage5+stage7"
PROJECTIONS = ("released", "paper_v4")
RECIPES = ("best", "paper")
BOX_BINS = ("points", "cells")
Source = Annotated[str, Flag("METHODS|FILE", "Proposals")]
Side = Within(16, 20_000)  # smaller images leave no map, larger ones fit no memory
Overlap = Annotated[float, Within(0, 1, above=True)]
ZeroToOne = Annotated[float, Within(0, 1)]
AnyNumber = Annotated[float, Within()]
AtLeastZero = Annotated[float, Within(0)]


def split_methods(text: str) -> list[str]:
    """Split a name such as "graph+grid" into the methods that "+" joins.

    Args:
        text: One name, or several joined by "+".

    Returns:
        The names, each of `PROPOSAL_METHODS`.

    Raises:
        ValueError: If there is no such method, or one is named twice; the message lists them.

    Example:
        >>> split_methods("graph+grid")
        ['graph', 'grid']
    """
    names = text.split("+")
    if not set(names) <= set(PROPOSAL_METHODS) or len(set(names)) < len(names):
        files = ", ".join(PROPOSAL_SUFFIXES)
        legal = (
            f"one of {sorted(PROPOSAL_METHODS)}, different ones joined by +, or a file ({files})"
        )
        raise ValueError(f"proposals must be {legal}, got {text!r}")
    return names


def proposals_file(text: str) -> Path | None:
    """Tell a file of proposals from the name of a method.

    Args:
        text: A method, or a path.

    Returns:
        The path, or None if the text does not have the suffix of such a file.

    Example:
        >>> proposals_file("graph+grid"), proposals_file("runs/boxes.npz").name
        (None, 'boxes.npz')
    """
    path = Path(text)
    return path if path.suffix.lower() in PROPOSAL_SUFFIXES else None


def check_proposals(text: str) -> None:
    """Refuse what is neither a file of proposals nor made of methods that exist.

    Raises:
        ValueError: Lists the methods.

    Example:
        >>> check_proposals("graph+grid")
    """
    if proposals_file(text) is None:
        split_methods(text)


@with_recipes({"paper": PAPER_TRAINING})
@dataclass(frozen=True)
class DetectionConfig:
    """Everything that decides what a trained detector is, besides the data.

    What is not given is as the recipe says.

    Raises:
        ValueError: If a value breaks its rule; names the field and the rule.

    Example:
        >>> config = DetectionConfig(recipe="paper", tune_updates=500)
        >>> config.box_stages, config.tune_updates, DetectionConfig().box_stages
        (1, 500, 2)

    Source:
        SPP-net, section 4.3, for the recipe ``paper``; docs/results/detection.md for what ``best``
        changes.
    """

    backbone: Annotated[str, Flag("NAME", "Trunk")] = "efficientnet_lite0"
    """Convolution trunk, by name."""
    layer: Annotated[str, Flag("NAME[+NAME]")] = ""
    """Node of the trunk to cut after, or several joined by +, whose maps are pooled side by side;
    empty for stage5+stage7 of efficientnet_lite (not with recipe = paper), and the last map before
    the pooling of others."""
    weights: Annotated[str, Flag("DEFAULT|none|FILE")] = "DEFAULT"
    """Weights of the trunk: a name that torchvision knows, none, or a safetensors file."""
    engine: Engine = "auto"
    """What convolves by a frozen trunk on a CPU: onnxruntime, torch, or auto, which is onnxruntime
    where it is installed and knows all layers of the trunk; the model keeps the choice."""
    imgsz: Annotated[tuple[int, ...], Each(Side), Flag("N,N,...")] = ()
    """Short sides at which images are convolved; each region uses the one that suits its size. If
    none is given, the sizes of the labelled objects choose them."""
    max_long_side: CountOrNone = 2000
    """Cap on the long side of a convolved image, in pixels; 0 for none, as in the paper."""
    levels: Levels = (1, 2, 4)
    """Bins along each side of a region, one number per pyramid level."""
    projection: Annotated[str, OneOf(PROJECTIONS)] = "released"
    """Rule from pixels to cells: released (the authors' code) or paper_v4 (the appendix)."""
    target_side: Positive = TARGET_SIDE
    """Size that a region should have at its scale, in pixels; 208 in the released code for ZF-5."""
    proposals: Source = "graph"
    """Where proposals come from: graph, selective_search, selective_search_quality, edge_boxes,
    grid, or several joined by +; or a file (npz, mat, COCO json)."""
    max_proposals: Annotated[int, Within(1, 100_000)] = 1000
    """The most proposals per image from the pixels; 2000 in the paper."""
    search_side: CountOrNone = 500
    """Longest side, in pixels, of the copy that is searched for proposals; 0 searches the image
    itself, as in the released code, up to 2 million pixels."""
    least_side: CountOrNone = 0
    """Proposals with a side of less than so many pixels are dropped, besides those below 2 % of
    the image's short side; 20 in the released code."""
    anchors: bool = True
    """Whether to learn a second proposer on the feature maps, from the labelled boxes."""
    max_anchors: Count = 400
    """The most proposals per image from the feature maps."""
    anchor_shapes: Annotated[Count, Flag(group="Anchors")] = 9
    """The most shapes of anchors per scale."""
    anchor_bins: Annotated[int, Within(1, 100)] = 3
    """Bins along each side of an anchor, over which the map is averaged."""
    anchor_channels: Count = 64
    """Principal components of the map's channels that anchors see."""
    anchor_strength: AtLeastZero = 0.05
    """Ridge penalty of the anchors' linear models."""
    anchor_positive_from: ZeroToOne = 0.5
    """An anchor is a positive if it overlaps an object by at least this."""
    anchor_negative_below: ZeroToOne = 0.3
    """An anchor is a negative if it overlaps every object by less than this."""
    anchor_positives: CountOrNone = 100
    """The most positives per image and shape of anchor."""
    anchor_negatives: CountOrNone = 16
    """The most negatives per image and shape of anchor."""
    anchor_nms_threshold: ZeroToOne = 0.7
    """Of two proposals from the maps with an IoU above this, the worse is dropped."""
    anchor_candidates: Count = 2500
    """Anchors of an image, the best ones, among which copies are dropped."""
    anchor_cells: Count = 200
    """Cells of each map from which the principal components are estimated."""
    tune: Annotated[str, OneOf(("none", "head", "network")), Flag(group="Fine-tuning")] = "none"
    """What is fine-tuned first: none, head (fc6 and fc7 on cached maps, as in the paper), or
    network (the convolutions as well, through the pooling)."""
    tune_updates: Count = 300
    """Updates of the fine-tuning."""
    tune_rate: Positive = 0.01
    """Learning rate of the fine-tuning."""
    tune_from: Annotated[str, Flag("NAME")] = ""
    """With tune = network: first layer of the trunk that learns; empty for all."""
    widths: Annotated[tuple[int, int], Each(Within(1, 10**6), 2, 2), Flag("N,N")] = COMPACT_WIDTHS
    """Outputs of fc6 and fc7 of a tuned head; 4096 and 4096 in the paper."""
    ranks: Annotated[tuple[int, int], Each(Within(0, 10**6), 2, 2), Flag("N,N")] = (0, 0)
    """Ranks of fc6 and fc7; 0 for full matrices."""
    tune_batch: Count = 128
    """Proposals of an update."""
    tune_positive_share: Annotated[float, Within(0, 1, above=True, below=True)] = 0.25
    """Share of positives among the proposals of an update."""
    tune_positive_from: ZeroToOne = 0.5
    """In fine-tuning a proposal shows an object that it overlaps by at least this."""
    tune_negative_from: ZeroToOne = 0.1
    """A proposal is background if its largest overlap with an object is at least this,"""
    tune_negative_below: ZeroToOne = 0.5
    """and less than this."""
    tune_drops: Annotated[tuple[int, ...], Each(Within(0, 100)), Flag("N,N,...")] = ()
    """Percent of the updates after which the rate falls to a tenth; if none is given, 50 and 85
    for a head, and 75 for a network."""
    tune_dropout: Share = 0.5
    """Share of the outputs of fc6 and fc7 that fine-tuning drops."""
    tune_momentum: Share = 0.9
    """Momentum of the gradient descent."""
    tune_weight_decay: AtLeastZero = 5e-4
    """Pull of the weights towards zero."""
    tune_clip_norm: Positive = 10.0
    """Longest gradient of an update; longer ones are shortened to it."""
    tune_flip: Annotated[str, OneOf(("auto", "on", "off"))] = "auto"
    """Whether fine-tuning learns from mirror images; auto: with tune = network."""
    tune_check_every: Count = 50
    """Updates between two looks at the images that choose the best weights."""
    tune_validation: Share = 0.1
    """Share of the images that choose the best weights and teach nothing."""
    tune_per_image: Count = 64
    """With tune = head: the most proposals of an image that are learnt from."""
    tune_images: Annotated[int, Within(1, 10**4)] = 2
    """With tune = network: images that share the proposals of an update."""
    tune_trunk_rate: AtLeastZero = 0.1
    """With tune = network: the trunk's rate over the head's."""
    tune_box_weight: AtLeastZero = 1.0
    """With tune = network: what the loss of the boxes counts beside that of the classes."""
    features: Annotated[str, OneOf(("auto", *LAYERS)), Flag(group="Classifier")] = "auto"
    """Features that the SVMs see: pooled, or fc6 or fc7 of the tuned head; auto is pooled without
    a head and fc7 with one."""
    classifier: Annotated[str, OneOf(("svm", "softmax", "kernel"))] = "svm"
    """What scores regions: svm (one per class), softmax (of the tuned head), or kernel."""
    prefilter: CountOrNone = 0
    """With softmax or kernel: how many regions the linear SVMs select first; 0 for all."""
    mirror: Annotated[str, OneOf(("auto", "on", "off"))] = "auto"
    """Whether SVMs and box regression also learn from mirror images; auto: where labels are few."""
    few_objects: CountOrNone = 400
    """Labels are few where a class has fewer objects than this on average."""
    crops: Annotated[str, OneOf(("auto", "on", "off"))] = "auto"
    """Whether they also learn from a part of each photo, cut out at random; auto: where labels are
    very few."""
    very_few_objects: CountOrNone = 75
    """Labels are very few where a class has fewer objects than this on average."""
    use_difficult: Annotated[bool, Flag(group="SVM")] = False
    """Whether objects marked difficult are positives."""
    extra_positives: CountOrNone = 6
    """Proposals near an object that count as positives besides it; fewer in classes with many
    objects; 0 in the paper."""
    positive_from: Overlap = 0.75
    """Least overlap of such a proposal with the object."""
    negative_below: Overlap = 0.3
    """A proposal is a negative of a class if it overlaps every object of it by less than this."""
    negative_overlap: Overlap = 1.0
    """A negative that overlaps an earlier one of the image by more than this is left out; 0.7 in
    the paper, 1 keeps all."""
    enough_positives: CountOrNone = 1200
    """A class with more objects than this gets no proposals as further positives."""
    feature_norm: Positive = 20.0
    """Mean length to which features are scaled before the SVMs."""
    norm_images: Count = 200
    """Images on which the mean length of features is measured."""
    norm_proposals: Count = 200
    """Proposals of each of these images."""
    svm_cost: Positive = 1e-3
    """Cost C of the SVMs."""
    positive_weight: Positive = 2.0
    """Cost of a positive relative to that of a negative."""
    bias_factor: AtLeastZero = 10.0
    """Value of the constant feature that stands for the bias of an SVM."""
    hard_above: AnyNumber = -1.0001
    """A negative that scores above this is hard, and is learnt from."""
    easy_below: AnyNumber = -1.2
    """A hard negative that comes to score below this is dropped."""
    refit_after: CountOrNone = 2000
    """New hard negatives of a class after which its SVM is fitted again."""
    svm_tolerance: Positive = 1e-3
    """A fit ends when a pass raises the dual objective by no more than this share."""
    svm_memory: Annotated[int, Within(1, 10**6)] = 800
    """Memory for the features of positives and hard negatives, in MB; what is beyond is dropped."""
    kernel_centres: Annotated[Count, Flag(group="Kernel")] = 500
    """The most centres of the kernel."""
    kernel_width: Positive = 1.0
    """Width of the kernel, relative to the median distance between centres."""
    kernel_strength: Positive = 1e-3
    """Ridge penalty of the kernel, relative to the number of examples."""
    kernel_positive_share: Annotated[float, Within(0, 1, above=True, below=True)] = 0.3
    """Share of the positives of a class in the total weight of its examples."""
    kernel_hard_above: AnyNumber = -0.9
    """A negative that the kernel scores above this is kept for the next fit."""
    kernel_easy_below: AnyNumber = -0.95
    """A kept negative that the kernel comes to score below this is dropped."""
    kernel_batch: Count = 4000
    """Negatives that are collected before the next fit of the kernel."""
    kernel_proposals: Count = 100
    """Proposals of an image that may be negatives of the kernel."""
    box_regression: Annotated[bool, Flag(group="Boxes")] = True
    """Whether boxes are refined by regression after scoring."""
    box_strength: Positive = 100.0
    """Ridge penalty of the box regression, where vectors of cells have a mean norm of 20, and those
    of points one of about 10; 4000 in the paper."""
    box_overlap: Annotated[float, Within(0, 1, above=True, below=True)] = 0.5
    """Box regression learns from proposals that overlap an object by more than this."""
    max_box_samples: Count = 2500
    """The most proposals per class that box regression learns from."""
    box_total: Count = 20_000
    """The most proposals over all classes that box regression learns from."""
    box_per_image: Count = 60
    """The most proposals of an image that box regression learns from."""
    box_spread: Positive = 1e-3
    """Added to the variances of the box deltas before they are whitened."""
    box_stages: Count = 2
    """How often boxes are refined, each time by a regression of its own; 1 in the released code."""
    box_bins: Annotated[str, OneOf(BOX_BINS)] = "points"
    """What box regression sees: points, means of the map interpolated inside the box, which follow
    it by fractions of a cell; or cells, the maxima that the SVMs see, as in the paper."""
    box_agnostic: Annotated[str, OneOf(("auto", "on", "off"))] = "auto"
    """Whether one box regression serves all classes; auto: if it fits boxes of photos that are left
    out better than one for each class, as in the paper."""
    operating_point: Annotated[bool, Flag(group="Operating point")] = True
    """Whether parts of the photos are held out in turn, to find from which score on a detection
    counts and how sure it is; not with tune."""
    recipe: Annotated[str, OneOf(RECIPES), Flag(group="Recipe")] = "best"
    """Whose constants hold where none are given: best (ours) or paper (SPP-net's)."""
    seed: Seed = 0
    """Seed of everything that is random."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_proposals(self.proposals)
        needs_head = self.features in ("fc6", "fc7") or self.classifier == "softmax"
        if self.tune == "none" and needs_head:
            raise ValueError("fc6, fc7 and the softmax need tune to be head or network, got none")
        if self.negative_below > self.positive_from:
            most = f"at most positive_from, {self.positive_from}"
            raise ValueError(f"negative_below must be {most}, got {self.negative_below}")
        bounds = (self.tune_negative_from, self.tune_negative_below, self.tune_positive_from)
        if not bounds[0] < bounds[1] <= bounds[2]:
            names = "tune_negative_from, tune_negative_below and tune_positive_from"
            raise ValueError(f"{names} must rise, got {bounds}")

    @property
    def layer_of_trunk(self) -> str | None:
        """The layer that the trunk is cut after; None for its last map."""
        joined = self.backbone.startswith("efficientnet_lite") and self.recipe == "best"
        return self.layer or (LITE_LAYERS if joined else None)

    @property
    def layer_of_features(self) -> str:
        """The layer that the SVMs see: pooled, fc6 or fc7."""
        if self.features != "auto":
            return self.features
        return "pooled" if self.tune == "none" else "fc7"

    @property
    def proposals_file(self) -> Path | None:
        """The file that proposals come from; None if a method finds them."""
        return proposals_file(self.proposals)


@with_recipes({"paper": PAPER_TESTING})
@dataclass(frozen=True)
class InferenceConfig:
    """Constants of a detector at test time: what is proposed, and which boxes are kept.

    Raises:
        ValueError: If a value breaks its rule, or there is no such method of proposals.

    Example:
        >>> InferenceConfig(proposals="grid").max_proposals
        1000

    Source:
        SPP-net, section 4.1; spp_test.m of the authors' code. Soft: Bodla et al. 2017.
    """

    proposals: Source = "graph"
    """Where proposals come from: graph, selective_search, selective_search_quality, edge_boxes,
    grid, or several joined by +; or a file (npz, mat, COCO json)."""
    max_proposals: Annotated[int, Within(1, 100_000)] = 1000
    """The most proposals per image from the pixels."""
    seed: Seed = 0
    """Seed of the order of proposals."""
    max_anchors: Annotated[Count, Flag(group="Proposals")] = 400
    """The most proposals per image from the feature maps, if anchors were learnt."""
    search_side: CountOrNone = 500
    """Longest side, in pixels, of the copy that is searched for proposals; 0 searches the image
    itself, up to 2 million pixels."""
    least_side: CountOrNone = 0
    """Proposals with a side of less than so many pixels are dropped, besides those below 2 % of
    the image's short side."""
    score_threshold: Annotated[float, Flag(group="Detections")] = -1.5
    """Boxes with a score that is not above this are dropped."""
    nms: Annotated[str, OneOf(("hard", "soft"))] = "soft"
    """What becomes of a box that overlaps a better one of its class: hard drops it, soft lowers
    its score."""
    nms_threshold: Annotated[float, Within(0, 1)] = 0.3
    """Of two detections of a class with an IoU above this, the worse is dropped."""
    soft_sigma: Positive = 0.5
    """Width of the Gaussian of soft suppression."""
    max_detections: Count = 100
    """The most detections per image, or per class and image."""
    max_per: Annotated[str, OneOf(("image", "class"))] = "image"
    """Whether max-detections is of an image, or of each class in it, as in the released code."""
    refined: Annotated[str, OneOf(("scored", "kept"))] = "scored"
    """Which boxes are refined: those that were scored, best first, or those that suppression
    kept, as in the released code."""
    moved_per_class: CountOrNone = 150
    """The most boxes of each class, best first, that box regression refines; 0 for all."""
    rescore: bool = True
    """Whether a refined box is scored again; its score is then the mean of both."""
    vote_overlap: Annotated[float, Within(0, 1)] = 0.8
    """Least IoU of the boxes that vote for a refined box; 1 for no voting."""
    softmax_temperature: AtLeastZero = 0.125
    """Temperature of a softmax in which the classes of SVMs compete for a box, so that what one
    claims counts less for the others; 0 lets each SVM score alone, as in the paper."""
    flip: bool = False
    """Whether scores are averaged over the image and its mirror image."""
    recipe: Annotated[str, OneOf(RECIPES), Flag(group="Recipe")] = "best"
    """Whose constants of testing hold where none are given: best (ours) or paper (SPP-net's)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_proposals(self.proposals)

    def changed(self, changes: Mapping[str, Any]) -> "InferenceConfig":
        """Change some fields; a change of the recipe changes all that it decides.

        Args:
            changes: Field -> value; a field that is named outranks the recipe.

        Raises:
            ValueError: If a value breaks its rule.

        Example:
            >>> InferenceConfig().changed({"recipe": "paper", "vote_overlap": 0.8}).rescore
            False
        """
        decided: dict[str, Any] = {}
        if "recipe" in changes:
            usual = InferenceConfig(recipe=changes["recipe"])
            decided = {name: getattr(usual, name) for name in PAPER_TESTING}
        return replace(self, **{**decided, **changes})
