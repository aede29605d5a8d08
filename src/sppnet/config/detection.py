"""Settings of detection: of training, and the constants of testing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sppnet.config.fields import (
    Count,
    CountOrNone,
    Each,
    Flag,
    Levels,
    OneOf,
    Positive,
    Seed,
    Within,
    check_fields,
)

PROPOSAL_METHODS = ("graph", "selective_search", "selective_search_quality", "edge_boxes", "grid")
PROPOSAL_SUFFIXES = (".npz", ".json", ".mat")
LAYERS = ("pooled", "fc6", "fc7")  # of what is known about a region
# A region is best seen at the size that the trunk was trained on (section 4.1 of the paper).
TARGET_SIDE = 224
COMPACT_WIDTHS = (256, 256)
PROJECTIONS = ("released", "paper_v4")
Source = Annotated[str, Flag("METHODS|FILE", "Proposals")]
Side = Within(16, 20_000)  # smaller images leave no map, larger ones fit no memory
Overlap = Annotated[float, Within(0, 1, above=True)]


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


@dataclass(frozen=True)
class DetectionConfig:
    """Everything that decides what a trained detector is, besides the data."""

    backbone: Annotated[str, Flag("NAME", "Trunk")] = "squeezenet1_1"
    """Convolution trunk, by name."""
    layer: Annotated[str, Flag("NAME")] = ""
    """Node of the trunk to cut after; empty for the trunk's last map before its pooling."""
    weights: Annotated[str, Flag("DEFAULT|none|FILE")] = "DEFAULT"
    """Weights of the trunk: a name that torchvision knows, none, or a safetensors file."""
    imgsz: Annotated[tuple[int, ...], Each(Side), Flag("N,N,...")] = ()
    """Short sides at which images are convolved; each region uses the one that suits its size. If
    none is given, the sizes of the labelled objects choose them."""
    max_long_side: CountOrNone = 2000
    """Cap on the long side of a convolved image, in pixels; 0 for none, as in the paper."""
    levels: Levels = (1, 2, 3, 6)
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
    anchors: bool = True
    """Whether to learn a second proposer on the feature maps, from the labelled boxes."""
    max_anchors: Count = 400
    """The most proposals per image from the feature maps."""
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
    features: Annotated[str, OneOf(("auto", *LAYERS)), Flag(group="Classifier")] = "auto"
    """Features that the SVMs see: pooled, or fc6 or fc7 of the tuned head; auto is pooled without
    a head and fc7 with one."""
    classifier: Annotated[str, OneOf(("svm", "softmax", "kernel"))] = "svm"
    """What scores regions: svm (one per class), softmax (of the tuned head), or kernel."""
    prefilter: CountOrNone = 0
    """With softmax or kernel: how many regions the linear SVMs select first; 0 for all."""
    mirror: Annotated[str, OneOf(("auto", "on", "off"))] = "auto"
    """Whether SVMs and box regression also learn from mirror images; auto: where labels are few."""
    use_difficult: Annotated[bool, Flag(group="SVM")] = False
    """Whether objects marked difficult are positives."""
    extra_positives: CountOrNone = 6
    """Proposals near an object that count as positives besides it; fewer in classes with many
    objects; 0 in the paper."""
    positive_from: Overlap = 0.75
    """Least overlap of such a proposal with the object."""
    negative_below: Overlap = 0.3
    """A proposal is a negative of a class if it overlaps every object of it by less than this."""
    feature_norm: Positive = 20.0
    """Mean length to which features are scaled before the SVMs."""
    svm_cost: Positive = 1e-3
    """Cost C of the SVMs."""
    positive_weight: Positive = 2.0
    """Cost of a positive relative to that of a negative."""
    box_regression: Annotated[bool, Flag(group="Boxes")] = True
    """Whether boxes are refined by regression after scoring."""
    box_strength: Positive = 4000.0
    """Ridge penalty of the box regression."""
    box_overlap: Annotated[float, Within(0, 1, above=True, below=True)] = 0.5
    """Box regression learns from proposals that overlap an object by more than this."""
    max_box_samples: Count = 2500
    """The most proposals per class that box regression learns from; 20,000 over all classes."""
    box_stages: Count = 2
    """How often boxes are refined, each time by a regression of its own; 1 in the released code."""
    box_agnostic: bool = False
    """Whether one box regression serves all classes."""
    operating_point: Annotated[bool, Flag(group="Operating point")] = True
    """Whether parts of the photos are held out in turn, to find from which score on a detection
    counts and how sure it is; takes about as long as the SVMs once more. Not with tune."""
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


@dataclass(frozen=True)
class InferenceConfig:
    """Constants of a detector at test time: what is proposed, and which boxes are kept.

    Raises:
        ValueError: If a value breaks its rule, or there is no such method of proposals.

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
    score_threshold: Annotated[float, Flag(group="Detections")] = -1.5
    """Boxes with a score that is not above this are dropped."""
    nms: Annotated[str, OneOf(("hard", "soft"))] = "hard"
    """What becomes of a box that overlaps a better one of its class: hard drops it, soft lowers
    its score."""
    nms_threshold: Annotated[float, Within(0, 1)] = 0.3
    """Of two detections of a class with an IoU above this, the worse is dropped."""
    soft_sigma: Positive = 0.5
    """Width of the Gaussian of soft suppression."""
    max_detections: Count = 100
    """The most detections per image."""
    moved_per_class: CountOrNone = 150
    """The most boxes of each class, best first, that box regression refines."""
    vote_overlap: Annotated[float, Within(0, 1)] = 0.7
    """Least IoU of the boxes that vote for a refined box; 1 for no voting."""
    flip: bool = False
    """Whether scores are averaged over the image and its mirror image."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_proposals(self.proposals)
