"""How much ``sppnet demo`` draws and learns: chosen to end in under two minutes on two cores."""

from dataclasses import dataclass
from pathlib import Path

from sppnet.classification import SplitConfig, TrainConfig
from sppnet.detection import DetectionConfig

TRUNK = "small5"  # learns from nothing in seconds
UNTRAINED = "none"  # the word for random weights


@dataclass(frozen=True)
class DemoConfig:
    """Counts and settings of the demo; a test may ask for less.

    Args:
        train_scenes: Scenes that the detector learns from.
        test_scenes: Scenes that are kept back to score it on.
        train_things: Images of each class that the classifier learns from.
        test_things: Images of each class that are kept back to score it on.
        sizes: Sides of the classifier's training input; they take turns, one epoch each.
        epochs: Passes of the classifier over its images.
        rate: Its highest learning rate.
        class_levels: Pyramid of the classifier, bins along each side.
        short_sides: Sizes at which the detector convolves a scene.
        window_levels: Pyramid of the detector.
        target_side: Size in pixels that a window should have at its scale.
        max_proposals: The most windows per scene.
        svm_cost: C of the detector's SVMs; 2,016 numbers need more than 25,600 do.
        box_strength: Ridge penalty of its box regression; they need less.
    """

    train_scenes: int = 100
    test_scenes: int = 50
    train_things: int = 84
    test_things: int = 20
    sizes: tuple[int, ...] = (64, 96)
    epochs: int = 26
    rate: float = 0.05
    class_levels: tuple[int, ...] = (1, 2, 3)
    short_sides: tuple[int, ...] = (256, 448)
    window_levels: tuple[int, ...] = (1, 2, 4)
    target_side: int = 96
    max_proposals: int = 500
    svm_cost: float = 0.01
    box_strength: float = 100.0

    @property
    def scenes(self) -> int:
        """Scenes to draw."""
        return self.train_scenes + self.test_scenes

    @property
    def things_per_class(self) -> int:
        """Images of each class to draw."""
        return self.train_things + self.test_things

    def scene_splits(self) -> dict[str, float]:
        """Share of the scenes in each split."""
        train = self.train_scenes / self.scenes
        return {"train": train, "test": 1 - train}

    def split_rule(self, seed: int) -> SplitConfig:
        """How the class folders are divided: as by ``--train-per-class`` of the command line."""
        return SplitConfig(self.train_things, self.test_things, 1, seed)

    def classifier_settings(self, seed: int) -> TrainConfig:
        """What ``sppnet classify train`` would be given."""
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

    def detector_settings(self, weights: Path | str, seed: int) -> DetectionConfig:
        """What ``sppnet detect train`` would be given.

        Args:
            weights: File of the trunk's weights, or ``"none"`` for random ones.
            seed: Of everything that is random.
        """
        return DetectionConfig(
            backbone=TRUNK,
            weights=str(weights),
            imgsz=self.short_sides,
            levels=self.window_levels,
            target_side=self.target_side,
            max_proposals=self.max_proposals,
            anchors=False,  # the drawn things have contours that segmentation finds
            mirror="off",
            svm_cost=self.svm_cost,
            box_strength=self.box_strength,
            seed=seed,
        )
