"""Settings of detector training: one frozen dataclass, filled from a TOML file and from flags."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from sppnet.detection.encoder import TARGET_SIDE
from sppnet.detection.heads.region_head import COMPACT_WIDTHS, LAYERS
from sppnet.detection.proposals.precomputed import proposals_file
from sppnet.detection.proposals.propose import split_methods
from sppnet.training.seeds import check_seed

CHOICES = {
    "tune": ("none", "head", "network"),
    "classifier": ("svm", "softmax", "kernel"),
    "features": ("auto", *LAYERS),
    "mirror": ("auto", "on", "off"),
}
POSITIVE = (
    "target_side",
    "tune_rate",
    "feature_norm",
    "svm_cost",
    "positive_weight",
    "box_strength",
)


@dataclass(frozen=True)
class DetectionConfig:
    """Everything that decides what a trained detector is, besides the data."""

    backbone: str = "squeezenet1_1"
    """Convolution trunk, by name."""
    layer: str = ""
    """Node of the trunk to cut after; empty for the trunk's last map before its pooling."""
    weights: str = "DEFAULT"
    """Weights of the trunk: a name that torchvision knows, none, or a safetensors file."""
    imgsz: tuple[int, ...] = ()
    """Short sides at which images are convolved; each window uses the one that suits its size. If
    none are given, the sizes of the labelled objects choose them."""
    max_long_side: int = 2000
    """Cap on the long side of a convolved image, in pixels; 0 for none, as in the paper."""
    levels: tuple[int, ...] = (1, 2, 3, 6)
    """Bins along each side of a window, one number per pyramid level."""
    projection: str = "released"
    """Rule from pixels to cells: released (the authors' code) or paper_v4 (the appendix)."""
    target_side: float = TARGET_SIDE
    """Size that a window should have at its scale; 208 in the released code for ZF-5."""
    proposals: str = "graph"
    """Where windows come from: graph, selective_search, selective_search_quality, edge_boxes, grid,
    or several joined by +; or a file of windows (npz, mat, COCO json)."""
    max_proposals: int = 1000
    """The most windows per image from the pixels; 2000 in the paper."""
    anchors: bool = True
    """Whether a second proposer is learnt from the labelled boxes, on the feature maps."""
    max_anchors: int = 400
    """The most windows per image from the feature maps."""
    tune: str = "none"
    """What is fine-tuned first: none, head (fc6 and fc7 on cached maps, as in the paper), or
    network (the convolutions, too, through the pooling)."""
    tune_updates: int = 300
    """Steps of the optimizer in fine-tuning."""
    tune_rate: float = 0.01
    """Learning rate of the fine-tuning."""
    tune_from: str = ""
    """With tune = network: first layer of the trunk that learns; empty for all."""
    widths: tuple[int, int] = COMPACT_WIDTHS
    """Outputs of fc6 and fc7 of a tuned head; 4096 and 4096 in the paper."""
    ranks: tuple[int, int] = (0, 0)
    """Ranks of fc6 and fc7; 0 for full matrices."""
    features: str = "auto"
    """What the SVMs see of a window: pooled, or fc6 or fc7 of the tuned head; auto is pooled
    without a head and fc7 with one."""
    classifier: str = "svm"
    """What judges windows: svm (one per class), softmax (of the tuned head), or kernel."""
    prefilter: int = 0
    """With softmax or kernel: so many windows are picked by the linear SVMs first; 0 for all."""
    mirror: str = "auto"
    """Whether mirror images teach the SVMs and the box regression, too: on, off, or auto: where
    labels are few."""
    use_difficult: bool = False
    """Whether objects marked difficult are positives."""
    extra_positives: int = 6
    """Windows per object that overlap it by at least positive_from and are positives, too; fewer in
    classes with many objects; 0 in the paper."""
    positive_from: float = 0.75
    """Least overlap of the extra positives."""
    negative_below: float = 0.3
    """A window is a negative of a class when it overlaps no object of it by this much."""
    feature_norm: float = 20.0
    """Features are scaled to this mean length before the SVMs."""
    svm_cost: float = 1e-3
    """C of the SVMs."""
    positive_weight: float = 2.0
    """Cost of a positive relative to that of a negative."""
    box_regression: bool = True
    """Whether boxes are moved by regression after scoring."""
    box_strength: float = 4000.0
    """Ridge penalty of the box regression."""
    box_overlap: float = 0.5
    """Windows that overlap an object by more than this teach the box regression."""
    max_box_samples: int = 2500
    """The most windows per class that teach the box regression; 20,000 over all classes."""
    box_stages: int = 2
    """How often boxes are moved, each time by a regression of its own; 1 in the released code."""
    box_agnostic: bool = False
    """Whether one box regression serves all classes."""
    seed: int = 0
    """Seed of everything that is random."""

    @property
    def layer_of_features(self) -> str:
        """The layer that the SVMs see: pooled, fc6 or fc7."""
        if self.features != "auto":
            return self.features
        return "pooled" if self.tune == "none" else "fc7"

    @property
    def proposals_file(self) -> Path | None:
        """The file that windows come from; None if a method finds them."""
        return proposals_file(self.proposals)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.imgsz and min(self.imgsz) < 16:
            raise ValueError(f"imgsz must be sizes of at least 16, got {self.imgsz}")
        if not self.levels or min(self.levels) < 1:
            raise ValueError(f"levels must be one or more numbers from 1 on, got {self.levels}")
        if self.proposals_file is None:
            split_methods(self.proposals)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                legal = ", ".join(choices)
                raise ValueError(f"{name} must be one of {legal}, got {getattr(self, name)!r}")
        needs_head = self.features in ("fc6", "fc7") or self.classifier == "softmax"
        if self.tune == "none" and needs_head:
            raise ValueError("fc6, fc7 and the softmax need tune to be head or network, got none")
        for name in (
            "max_proposals",
            "max_anchors",
            "tune_updates",
            "max_box_samples",
            "box_stages",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_long_side", "prefilter", "extra_positives"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.negative_below <= self.positive_from <= 1:
            raise ValueError("negative_below and positive_from must rise within 0..1")
        if not 0 < self.box_overlap < 1:
            raise ValueError(f"box_overlap must lie in 0..1, got {self.box_overlap}")
