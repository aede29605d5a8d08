"""The steps of ``sppnet demo``: draw, train, score; each is kept, so that a killed run goes on.

The classifier and the detector are learnt by the same functions as those of ``sppnet classify
train`` and ``sppnet detect train``; the demo only chooses the numbers
(:class:`DemoConfig`), so that it ends in under two minutes on two cores.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sppnet.app.classify.shared import RunOptions
from sppnet.app.classify.train import make_network
from sppnet.app.detect.outcomes import ImageOutcome, OutcomeStore
from sppnet.app.options import choose_device
from sppnet.app.progress import Plan, track
from sppnet.backbones import build_backbone
from sppnet.classification import (
    ClassData,
    Classifier,
    Split,
    SplitConfig,
    TrainConfig,
    TrainerConfig,
    TrainingImages,
    View,
    build_pool,
    extract_features,
    fit_svm_classifier,
    open_class_data,
    train_network,
)
from sppnet.detection import (
    DetectionConfig,
    Detector,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.images import (
    DetectionDataset,
    draw_class_folders,
    draw_detection_set,
    open_detection_dataset,
)
from sppnet.storage import FeatureCache, RunFolder, read_json, write_bytes, write_json
from sppnet.storage.tensors import tensors_to_bytes
from sppnet.training.checkpoints import Checkpoints

STEPS = ("draw", "classifier", "detector", "untrained", "score")
WORK = "work"  # what the demo keeps for a run that goes on; everything else is for the user
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
            crops="off",
            svm_cost=self.svm_cost,
            box_strength=self.box_strength,
            box_bins="cells",  # the strength was chosen for these
            seed=seed,
        )


@dataclass(frozen=True)
class DemoFolder:
    """Where the demo puts its files.

    Args:
        path: The folder of ``--out``.
    """

    path: Path

    @property
    def scenes(self) -> Path:
        """Drawn scenes in VOC layout."""
        return self.path / "scenes"

    @property
    def class_folders(self) -> Path:
        """Drawn class folders."""
        return self.path / "things"

    @property
    def classifier(self) -> Path:
        """Model folder."""
        return self.path / "classifier"

    @property
    def detector(self) -> Path:
        """Model folder."""
        return self.path / "detector"

    @property
    def trunk(self) -> Path:
        """Weights of the classifier's convolutions, which the detector starts from."""
        return self.path / "trunk.safetensors"

    @property
    def work(self) -> Path:
        """Caches, training states and the untrained baselines."""
        return self.path / WORK

    def parts(self) -> tuple[Path, ...]:
        """Everything that the demo makes besides its report."""
        return (
            self.scenes,
            self.class_folders,
            self.classifier,
            self.detector,
            self.trunk,
            self.work,
        )

    def forget(self) -> None:
        """Remove what an earlier demo made here, so that it does not mix with the next one."""
        for part in self.parts():
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)

    def scenes_of(self, split: str) -> DetectionDataset:
        """Read the scenes of a split."""
        return open_detection_dataset(self.scenes, split)


class DemoSteps:
    """Runs the steps that an earlier run did not finish.

    Args:
        folder: Where the files go.
        config: How much to draw and to train.
        seed: Of everything that is random.
        device: Word of ``--device``.
        run: Remembers finished steps.
        plan: Times the steps and says what is left.
    """

    def __init__(
        self,
        folder: DemoFolder,
        config: DemoConfig,
        seed: int,
        device: str,
        run: RunFolder,
        plan: Plan,
    ) -> None:
        self.folder = folder
        self.config = config
        self.seed = seed
        self.device = device
        self.run = run
        self.plan = plan

    def do_all(self) -> None:
        """Run the steps that are not done yet, in order."""
        steps: dict[str, Callable[[], None]] = {
            "draw": self.draw,
            "classifier": self.train_classifier,
            "detector": self.train_detector,
            "untrained": self.fit_untrained,
        }
        for name, step in steps.items():
            if not self.run.is_done(name):
                with self.plan.stage(name):
                    step()
                self.run.mark_done(name)

    def draw(self) -> None:
        """Draw scenes and class folders; a run that was killed here draws the same ones again."""
        config, folder = self.config, self.folder
        folder.forget()
        draw_detection_set(
            folder.scenes, config.scenes, self.seed, config.scene_splits(), track=track
        )
        draw_class_folders(folder.class_folders, config.images_per_class, self.seed, track=track)

    def train_classifier(self) -> None:
        """Train trunk and head from random weights, at several sizes."""
        settings = self.config.train_config(self.seed)
        data, split = self.open_class_folders()
        training = TrainerConfig.of(settings)
        network = make_network(settings, len(data.names), self._options())
        images = TrainingImages(
            [data.paths[index] for index in split.train.tolist()], training.short_side, track=track
        )
        checkpoints = Checkpoints(self.folder.work / "checkpoints")
        history = train_network(
            network,
            images,
            data.labels[split.train],
            training,
            checkpoints=checkpoints,
            track=track,
        )
        about = {"command": "demo", "settings": asdict(settings)}
        view = View("full", settings.test_imgsz or training.short_side)
        classifier = Classifier(network, view, data.names, seen=images.digests, about=about)
        classifier.save(self.folder.classifier)
        write_bytes(self.folder.trunk, tensors_to_bytes(network.backbone.state_dict()))
        write_json(self.folder.work / "history.json", history)
        shutil.rmtree(checkpoints.folder, ignore_errors=True)

    def train_detector(self) -> None:
        """Train the detector on the trunk of the classifier."""
        self._train_detector(self.folder.trunk, self.folder.detector)

    def fit_untrained(self) -> None:
        """Train both on a trunk of random weights, to compare with."""
        self._train_detector(UNTRAINED, self.folder.work / "untrained-detector")
        data, split = self.open_class_folders()
        settings = self.config.train_config(self.seed)
        view = View("full", settings.test_imgsz or TrainerConfig.of(settings).short_side)
        pool = build_pool("spp", self.config.class_levels)
        torch.manual_seed(self.seed)
        trunk = build_backbone("small5").to(choose_device(self.device))
        features = extract_features(data.paths, trunk, pool, view, track=track)
        fitted = fit_svm_classifier(
            features, data.labels, data.names, trunk, pool, view, [split], track=track
        )
        fitted.classifier.save(self.folder.work / "untrained-classifier")

    def open_class_folders(self) -> tuple[ClassData, Split]:
        """Open the class folders and divide their images into training and test."""
        data = open_class_data(self.folder.class_folders, self.config.split_config(self.seed))
        return data, data.splits()[0]

    def history(self) -> list[dict[str, float]]:
        """Size, loss and accuracy of each epoch of the classifier."""
        return list(read_json(self.folder.work / "history.json"))

    def detect(self, model: Path, dataset: DetectionDataset) -> dict[str | int, ImageOutcome]:
        """Run a detector on held-out scenes; each finished scene is kept."""
        detector = Detector.load(model, choose_device(self.device))
        store = OutcomeStore(self.folder.work / "outcomes", detector)
        images = track(dataset.images, "detecting", total=len(dataset))
        seen = store.detect_ahead(image.path for image in images)
        return {
            image.image_id: look.result()[1]
            for image, (_, look) in zip(dataset.images, seen, strict=True)
        }

    def _train_detector(self, weights: Path | str, model: Path) -> None:
        """Train a detector on the scenes and save it."""
        settings = self.config.detection_config(weights, self.seed)
        if weights == UNTRAINED:  # it is only scored
            settings = replace(settings, operating_point=False)
        dataset = self.folder.scenes_of("train")
        torch.manual_seed(settings.seed)
        encoder = build_encoder(settings)
        encoder.backbone.to(choose_device(self.device))
        cache_folder = self.folder.work / "cache"
        cache = FeatureCache(cache_folder)
        cached = build_cached_features(settings, dataset.images, encoder, cache)
        detector = train_detector(cached, dataset.names, settings, track=track)
        detector.save(model, extra=asdict(settings))
        shutil.rmtree(cache_folder, ignore_errors=True)  # hundreds of megabytes, not needed again

    def _options(self) -> RunOptions:
        """The options as the steps of ``classify train`` take them."""
        return RunOptions(
            data=self.folder.class_folders,
            out=self.folder.path,
            device=self.device,
            download=False,
            fresh=False,
            dry_run=False,
        )
