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
PROPOSAL_FILES = (".npz", ".json", ".mat")
LAYERS = ("pooled", "fc6", "fc7")  # of what is known about a region
# A window is best seen at the size that the trunk was trained on (section 4.1 of the paper).
TARGET_SIDE = 224
COMPACT_WIDTHS = (256, 256)
PROJECTIONS = ("released", "paper_v4")
Source = Annotated[str, Flag("METHODS|FILE", "Proposals")]
Side = Within(16, 10**6)  # smaller images leave no map
Overlap = Annotated[float, Within(0, 1, above=True)]


def split_methods(text: str) -> list[str]:
    """Names of the methods that are joined by "+".

    Args:
        text: Such as "graph" or "graph+grid".

    Returns:
        The names, each of `PROPOSAL_METHODS`.

    Raises:
        ValueError: If one of them does not exist or comes twice; lists those that do.

    Example:
        >>> split_methods("graph+grid")
        ['graph', 'grid']
    """
    names = text.split("+")
    if not set(names) <= set(PROPOSAL_METHODS) or len(set(names)) < len(names):
        legal = f"one of {sorted(PROPOSAL_METHODS)}, or different ones joined by +"
        raise ValueError(f"method must be {legal}, got {text!r}")
    return names


def windows_file(text: str) -> Path | None:
    """Tell the name of a file of windows from that of a method.

    Args:
        text: What a user gave.

    Returns:
        The path, or None if it has not the ending of such a file.

    Example:
        >>> windows_file("graph+grid"), windows_file("runs/boxes.npz").name
        (None, 'boxes.npz')
    """
    path = Path(text)
    return path if path.suffix.lower() in PROPOSAL_FILES else None


def check_proposals(text: str) -> None:
    """Refuse what is neither a file of windows nor made of methods that exist.

    Raises:
        ValueError: Lists the methods.

    Example:
        >>> check_proposals("graph+grid")
    """
    if windows_file(text) is None:
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
    """Short sides at which images are convolved; each window uses the one that suits its size. If
    none are given, the sizes of the labelled objects choose them."""
    max_long_side: CountOrNone = 2000
    """Cap on the long side of a convolved image, in pixels; 0 for none, as in the paper."""
    levels: Levels = (1, 2, 3, 6)
    """Bins along each side of a window, one number per pyramid level."""
    projection: Annotated[str, OneOf(PROJECTIONS)] = "released"
    """Rule from pixels to cells: released (the authors' code) or paper_v4 (the appendix)."""
    target_side: Positive = TARGET_SIDE
    """Size that a window should have at its scale, in pixels; 208 in the released code for ZF-5."""
    proposals: Source = "graph"
    """Where windows come from: graph, selective_search, selective_search_quality, edge_boxes, grid,
    or several joined by +; or a file of windows (npz, mat, COCO json)."""
    max_proposals: Count = 1000
    """The most windows per image from the pixels; 2000 in the paper."""
    anchors: bool = True
    """Whether a second proposer is learnt from the labelled boxes, on the feature maps."""
    max_anchors: Count = 400
    """The most windows per image from the feature maps."""
    tune: Annotated[str, OneOf(("none", "head", "network")), Flag(group="Fine-tuning")] = "none"
    """What is fine-tuned first: none, head (fc6 and fc7 on cached maps, as in the paper), or
    network (the convolutions, too, through the pooling)."""
    tune_updates: Count = 300
    """Steps of the optimizer in fine-tuning."""
    tune_rate: Positive = 0.01
    """Learning rate of the fine-tuning."""
    tune_from: Annotated[str, Flag("NAME")] = ""
    """With tune = network: first layer of the trunk that learns; empty for all."""
    widths: Annotated[tuple[int, int], Each(Within(1, 10**6), 2, 2), Flag("N,N")] = COMPACT_WIDTHS
    """Outputs of fc6 and fc7 of a tuned head; 4096 and 4096 in the paper."""
    ranks: Annotated[tuple[int, int], Each(Within(0, 10**6), 2, 2), Flag("N,N")] = (0, 0)
    """Ranks of fc6 and fc7; 0 for full matrices."""
    features: Annotated[str, OneOf(("auto", *LAYERS)), Flag(group="Classifier")] = "auto"
    """What the SVMs see of a window: pooled, or fc6 or fc7 of the tuned head; auto is pooled
    without a head and fc7 with one."""
    classifier: Annotated[str, OneOf(("svm", "softmax", "kernel"))] = "svm"
    """What judges windows: svm (one per class), softmax (of the tuned head), or kernel."""
    prefilter: CountOrNone = 0
    """With softmax or kernel: so many windows are picked by the linear SVMs first; 0 for all."""
    mirror: Annotated[str, OneOf(("auto", "on", "off"))] = "auto"
    """Whether mirror images teach the SVMs and the box regression, too: on, off, or auto: where
    labels are few."""
    use_difficult: Annotated[bool, Flag(group="SVM")] = False
    """Whether objects marked difficult are positives."""
    extra_positives: CountOrNone = 6
    """Windows per object that overlap it by at least positive_from and are positives, too; fewer in
    classes with many objects; 0 in the paper."""
    positive_from: Overlap = 0.75
    """Least overlap of the extra positives."""
    negative_below: Overlap = 0.3
    """A window is a negative of a class when it overlaps no object of it by this much."""
    feature_norm: Positive = 20.0
    """Features are scaled to this mean length before the SVMs."""
    svm_cost: Positive = 1e-3
    """C of the SVMs."""
    positive_weight: Positive = 2.0
    """Cost of a positive relative to that of a negative."""
    box_regression: Annotated[bool, Flag(group="Boxes")] = True
    """Whether boxes are moved by regression after scoring."""
    box_strength: Positive = 4000.0
    """Ridge penalty of the box regression."""
    box_overlap: Annotated[float, Within(0, 1, above=True, below=True)] = 0.5
    """Windows that overlap an object by more than this teach the box regression."""
    max_box_samples: Count = 2500
    """The most windows per class that teach the box regression; 20,000 over all classes."""
    box_stages: Count = 2
    """How often boxes are moved, each time by a regression of its own; 1 in the released code."""
    box_agnostic: bool = False
    """Whether one box regression serves all classes."""
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
    def windows_file(self) -> Path | None:
        """The file that windows come from; None if a method finds them."""
        return windows_file(self.proposals)


@dataclass(frozen=True)
class InferenceConfig:
    """Constants of testing: which windows are scored, and which boxes become detections.

    Raises:
        ValueError: If a value breaks its rule, or there is no such method of proposals.

    Source:
        SPP-net, section 4.1; spp_test.m of the authors' code. Soft: Bodla et al. 2017.
    """

    proposals: Source = "graph"
    """Where windows come from: graph, selective_search, selective_search_quality, edge_boxes, grid,
    or several joined by +; or a file of windows (npz, mat, COCO json)."""
    max_proposals: Count = 1000
    """The most windows per image from the pixels."""
    seed: Seed = 0
    """Seed of the order of proposals."""
    max_anchors: Annotated[Count, Flag(group="Proposals")] = 400
    """The most windows per image from the feature maps, if the detector learnt any."""
    score_threshold: Annotated[float, Flag(group="Detections")] = -1.5
    """Windows that score lower are dropped."""
    nms: Annotated[str, OneOf(("hard", "soft"))] = "hard"
    """What becomes of a box that overlaps a better one of its class: hard drops it, soft lowers its
    score."""
    nms_threshold: Annotated[float, Within(0, 1)] = 0.3
    """Of two detections of a class that overlap by more, the worse is dropped."""
    soft_sigma: Positive = 0.5
    """With soft suppression: width of the bell by which scores fall with the overlap."""
    max_detections: Count = 100
    """The most detections per image."""
    moved_per_class: CountOrNone = 150
    """Windows of each class, best first, that box regression moves before copies are suppressed."""
    vote_overlap: Annotated[float, Within(0, 1)] = 0.7
    """A box that was moved becomes the mean of those that overlap it by this or more; 1 for no
    voting."""
    flip: bool = False
    """Whether scores are averaged over the image and its mirror image."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_proposals(self.proposals)
