"""Settings of detector training: one frozen dataclass, filled from a TOML file and from flags."""

from dataclasses import dataclass
from math import inf

from sppnet.detection.proposals import PROPOSERS
from sppnet.detection.scales import TARGET_SIDE

POSITIVE = ("target_side", "feature_norm", "svm_cost", "positive_weight", "box_strength")


@dataclass(frozen=True)
class DetectionSettings:
    """Everything that decides what a trained detector is, besides the data."""

    backbone: str = "squeezenet1_1"
    """Convolution trunk, by name."""
    layer: str = ""
    """Node of the trunk to cut after; empty for the trunk's last map before its pooling."""
    weights: str = "DEFAULT"
    """Weights of the trunk: a name that torchvision knows, none, or a safetensors file."""
    imgsz: tuple[int, ...] = (600,)
    """Short sides at which images are convolved; each window uses the one that suits its size."""
    max_long_side: int = 2000
    """Cap on the long side of a convolved image, in pixels."""
    levels: tuple[int, ...] = (1, 2, 3, 6)
    """Bins along each side of a window, one number per pyramid level."""
    projection: str = "released"
    """Rule from pixels to cells: released (the authors' code) or paper_v4 (the appendix)."""
    target_side: float = TARGET_SIDE
    """Size that a window should have at its scale; 208 in the released code for ZF-5."""
    proposals: str = "selective_search"
    """Where windows come from: selective_search, grid (needs no OpenCV), or both."""
    max_proposals: int = 2000
    """The most windows per image."""
    use_difficult: bool = False
    """Whether objects marked difficult are positives."""
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
    max_box_samples: int = 3000
    """The most windows per class that teach the box regression; 20,000 over all classes."""

    def __post_init__(self) -> None:
        if not self.imgsz or min(self.imgsz) < 16:
            raise ValueError(f"imgsz must be one or more sizes of at least 16, got {self.imgsz}")
        if not self.levels or min(self.levels) < 1:
            raise ValueError(f"levels must be one or more numbers from 1 on, got {self.levels}")
        if self.proposals not in PROPOSERS:
            raise ValueError(
                f"proposals must be one of {sorted(PROPOSERS)}, got {self.proposals!r}"
            )
        for name in ("max_long_side", "max_proposals", "max_box_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.negative_below <= 1 or not 0 < self.box_overlap < 1:
            raise ValueError("negative_below and box_overlap must lie in 0..1")
