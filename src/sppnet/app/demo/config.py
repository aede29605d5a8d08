"""How much ``sppnet demo`` draws and trains: chosen to end in under two minutes on two cores."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sppnet.classification import SplitConfig, TrainConfig
from sppnet.detection import DetectionConfig

TRUNK = "small5"  # learns from nothing in seconds
UNTRAINED = "none"  # the word for random weights
# Fields whose names in JSON files are older than the names here.
_JSON_NAMES = {
    "train_images": "train_things",
    "test_images": "test_things",
    "region_levels": "window_levels",
}


@dataclass(frozen=True)
class DemoConfig:
    """Counts and settings of the demo; a test may ask for less.

    Args:
        train_scenes: Scenes that the detector learns from.
        test_scenes: Scenes that are kept back to score it on.
        train_images: Images of each class that the classifier learns from.
        test_images: Images of each class that are kept back to score it on.
        sizes: Sides of the classifier's training input; they take turns, one epoch each.
        epochs: Passes of the classifier over its images.
        rate: Its highest learning rate.
        class_levels: Pyramid of the classifier, bins along each side.
        short_sides: Sizes at which the detector convolves a scene.
        region_levels: Pyramid of the detector.
        target_side: Size in pixels that a proposal should have at its scale.
        max_proposals: The most proposals per scene.
        svm_cost: C of the detector's SVMs; vectors of 2,016 numbers need a larger one than those
            of 25,600 that are usual.
        box_strength: Ridge penalty of its box regression; they need a smaller one.
    """

    train_scenes: int = 100
    test_scenes: int = 50
    train_images: int = 84
    test_images: int = 20
    sizes: tuple[int, ...] = (64, 96)
    epochs: int = 26
    rate: float = 0.05
    class_levels: tuple[int, ...] = (1, 2, 3)
    short_sides: tuple[int, ...] = (256, 448)
    region_levels: tuple[int, ...] = (1, 2, 4)
    target_side: int = 96
    max_proposals: int = 500
    svm_cost: float = 0.01
    box_strength: float = 100.0

    def to_json(self) -> dict[str, Any]:
        """All of it, under the names that run.json and metrics.json have."""
        return {_JSON_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @property
    def scenes(self) -> int:
        """Scenes to draw."""
        return self.train_scenes + self.test_scenes

    @property
    def images_per_class(self) -> int:
        """Images of each class to draw."""
        return self.train_images + self.test_images

    def scene_splits(self) -> dict[str, float]:
        """Share of the scenes in each split."""
        train = self.train_scenes / self.scenes
        return {"train": train, "test": 1 - train}

    def split_config(self, seed: int) -> SplitConfig:
        """How the class folders are divided: as by ``--train-per-class`` of the command line."""
        return SplitConfig(self.train_images, self.test_images, 1, seed)

    def train_config(self, seed: int) -> TrainConfig:
        """The settings that ``sppnet classify train`` would get."""
        return TrainConfig(
            backbone=TRUNK,
            weights=UNTRAINED,
            levels=self.class_levels,
            imgsz=",".join(map(str, self.sizes)),
            dropout=0.0,
            epochs=self.epochs,
            lr=self.rate,
            schedule="cosine",
            colour_noise=0.0,
            seed=seed,
        )

    def detection_config(self, weights: Path | str, seed: int) -> DetectionConfig:
        """The settings that ``sppnet detect train`` would get.

        Args:
            weights: File of the trunk's weights, or ``"none"`` for random ones.
            seed: Of everything that is random.
        """
        return DetectionConfig(
            backbone=TRUNK,
            weights=str(weights),
            imgsz=self.short_sides,
            levels=self.region_levels,
            target_side=self.target_side,
            max_proposals=self.max_proposals,
            anchors=False,  # the drawn objects have contours that segmentation finds
            mirror="off",
            svm_cost=self.svm_cost,
            box_strength=self.box_strength,
            seed=seed,
        )
