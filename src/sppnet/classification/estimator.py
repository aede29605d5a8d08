"""A scikit-learn estimator: ``SppClassifier().fit(folder).predict(images)``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sppnet.backbones import build_backbone
from sppnet.classification.classifier import Classifier, as_list
from sppnet.classification.data import as_files, content_numbers, read_labelled
from sppnet.classification.network import SppNet, build_classifier, build_pool
from sppnet.classification.train.config import InputSizes, TrainerConfig
from sppnet.classification.train.loader import TrainingImages
from sppnet.classification.train.trainer import train_network
from sppnet.classification.transfer.estimators import (
    SppFeatures,
    SppHead,
    pooled_rows,
    probabilities,
    sklearn_margins,
    takes_images,
)
from sppnet.classification.views import View
from sppnet.errors import InputError
from sppnet.training.optimizers import OptimizerConfig

METHODS = ("svm", "train")
SCALE = "probability_scale"  # name of the calibration in a saved classifier


def _gives_margins(estimator: "SppClassifier") -> bool:
    """Offer a method only where the scores are margins, as scikit-learn's SVC does."""
    if estimator.method != "svm":
        rule = f"method={estimator.method!r} gives a probability for each class, no margin"
        raise AttributeError(rule)
    return True


class SppClassifier(ClassifierMixin, BaseEstimator):
    """Names images of any size, as a scikit-learn estimator.

    An image may be a path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) tensor; an array
    of paths makes it work in ``cross_val_score`` and ``GridSearchCV``.

    Args:
        backbone: Convolution trunk, by name.
        weights: Weights of the trunk: ``"DEFAULT"``, ``"none"`` or a safetensors file.
        method: ``"svm"`` fits least-squares SVMs on frozen features, in minutes on a CPU;
            ``"train"`` trains trunk and head together.
        levels: Bins along each side, one number per level of the pyramid.
        view: What of an image the SVMs see: ``"full"``, ``"crop"`` or ``"warp"``.
        short_side: Short side of that in pixels.
        c: Cost of a margin violation of the SVMs; None chooses it on held-out parts of the images.
        memory: Folder in which the SVMs' maps are kept, so that a search of settings convolves each
            image once; or a ``joblib.Memory``; None keeps none.
        epochs: Passes over all images in training.
        sizes: Sides of the square training input, which take turns.
        batch: Images in one update.
        rate: Highest learning rate of the head.
        trunk_rate: The trunk's learning rate as a share of that; 0 freezes the trunk.
        test_view: Views to average in prediction: ``"crop"``, ``"10"``, ``"full"``, ``"96"``,
            ``"98"``; None is the one that was fitted on.
        seed: Seed of everything that is random.
        device: Where to compute.

    Attributes:
        classes_: (K,) the labels, sorted.
        classifier_: The fitted :class:`Classifier`.

    Example:
        >>> images, labels = [torch.rand(3, 40, 60), torch.zeros(3, 50, 30)] * 4, ["wild", "dark"]
        >>> model = SppClassifier("small5", "none", short_side=32).fit(images, labels * 4)
        >>> model.predict(images[:2])
        array(['wild', 'dark'], dtype='<U4')

    Source:
        SPP-net, sections 3.1 and 3.3.
    """

    classes_: np.ndarray
    classifier_: Classifier

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        weights: str = "DEFAULT",
        *,
        method: str = "svm",
        levels: Sequence[int] = (1, 2, 3, 6),
        view: str = "full",
        short_side: int = 224,
        c: float | None = None,
        memory: Any = None,
        epochs: int = 30,
        sizes: Sequence[int] = (180, 224),
        batch: int = 32,
        rate: float = 0.02,
        trunk_rate: float = 0.1,
        test_view: str | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.method = method
        self.levels = levels
        self.view = view
        self.short_side = short_side
        self.c = c
        self.memory = memory
        self.epochs = epochs
        self.sizes = sizes
        self.batch = batch
        self.rate = rate
        self.trunk_rate = trunk_rate
        self.test_view = test_view
        self.seed = seed
        self.device = device

    def fit(self, images: Any, y: Any = None, sample_weight: Any = None) -> "SppClassifier":
        """Learn to name images.

        Args:
            images: A folder of class folders (of its ``train`` part, if it has one), or N images.
            y: N labels; None with a folder.
            sample_weight: (N,) at least 0, how much each image counts for the SVMs.

        Returns:
            The classifier itself.

        Raises:
            ValueError: If a setting is out of range, there are fewer than two classes, not one
                label for each image, or weights where a network is trained.
            InputError: If an image cannot be read; names the file.
        """
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        images, y = read_labelled(images, "train") if y is None else (as_list(images), y)
        self.classes_, numbers = np.unique(np.asarray(y), return_inverse=True)
        if len(images) != len(numbers):
            raise ValueError(f"y must be {len(images)}, one for each image, got {len(numbers)}")
        if len(self.classes_) < 2:
            raise ValueError(f"y must be of at least 2 classes, got {self.classes_.tolist()}")
        about: dict[str, Any] = {"settings": self._settings()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.method == "svm":
                network, view, about[SCALE] = self._fit_svm(images, numbers, sample_weight)
            elif sample_weight is not None:
                raise ValueError("sample_weight must be None with method='train'")
            else:
                network, view = self._fit_network(images, torch.from_numpy(numbers))
        about["labels"] = self.classes_.tolist()
        self.classifier_ = Classifier(
            network,
            view,
            [str(name) for name in self.classes_],
            score_kind="margin" if self.method == "svm" else "probability",
            seen=content_numbers(images),
            about=about,
        )
        return self

    def _settings(self) -> dict[str, Any]:
        """The settings that a saved classifier names; where maps were kept is no part of it."""
        return {**self.get_params(), "memory": None}

    def predict(self, images: Any) -> np.ndarray:
        """Name images: N of them, or one -> (N,) labels."""
        best = self._scores(images).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, images: Any) -> np.ndarray:
        """Probabilities of the classes: (N, K); those of SVMs are calibrated on held-out folds.

        Raises:
            ValueError: If SVMs had no two images of a class, so that nothing could be held out.
        """
        scores = self._scores(images)
        if self.classifier_.score_kind == "probability":
            return scores
        return probabilities(scores, self.classifier_.about.get(SCALE))

    @available_if(_gives_margins)
    def decision_function(self, images: Any) -> np.ndarray:
        """Margins of the SVMs: (N, K), or (N,) for two classes, above 0 for the second."""
        return sklearn_margins(self._scores(images))

    def score(self, images: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Share of images that get the right name.

        Args:
            images: N images, or a folder of class folders (its ``test`` part, if it has one).
            y: N labels; None with a folder.
            sample_weight: (N,) weights of the images.

        Returns:
            0..1.
        """
        if y is None:
            images, y = read_labelled(images, "test")
        return float(super().score(images, y, sample_weight))

    def save(self, path: str | Path) -> None:
        """Write the fitted classifier into a folder that ``sppnet classify predict`` reads, too."""
        check_is_fitted(self, "classifier_")
        self.classifier_.save(path)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "SppClassifier":
        """Read a saved classifier; one that was made otherwise comes with default settings."""
        classifier = Classifier.load(path, device)
        about = classifier.about
        found = about.get("settings", {}) if "labels" in about else {}
        method = "svm" if classifier.score_kind == "margin" else "train"
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        estimator = cls().set_params(**{**settings, "method": method, "device": device})
        estimator.classifier_ = classifier
        estimator.classes_ = np.asarray(about.get("labels", classifier.names))
        return estimator

    def __sklearn_tags__(self) -> Any:
        return takes_images(super().__sklearn_tags__())

    def _scores(self, images: Any) -> np.ndarray:
        check_is_fitted(self, "classifier_")
        classifier = self.classifier_
        if self.memory is None or self.test_view is not None or self.method != "svm":
            return classifier.scores(images, self.test_view).numpy()
        network: Any = classifier.network
        rows = pooled_rows(
            as_list(images), network.backbone, network.pool, classifier.view, self.memory
        )
        return classifier.score_rows(rows).numpy()

    def _fit_svm(
        self, images: list[Any], numbers: np.ndarray, sample_weight: Any
    ) -> tuple[SppNet, View, float | None]:
        """Fit SVMs on pooled features of the frozen trunk."""
        settings = {
            name: getattr(self, name) for name in SppFeatures().get_params() if name != "pool"
        }
        features = SppFeatures(**settings)
        head = SppHead(self.c, seed=self.seed)
        head.fit(features.fit_transform(images), numbers, sample_weight)
        self.classes_ = self.classes_[head.classes_]  # those whose images count
        pool, view = build_pool("spp", self.levels), View(self.view, self.short_side)
        network = SppNet(features.backbone_, pool, head.head_.to(self.device))
        return network, view, head.scale_

    def _fit_network(self, images: list[Any], labels: Tensor) -> tuple[SppNet, View]:
        """Train trunk and head together."""
        config = TrainerConfig(
            epochs=self.epochs,
            sizes=InputSizes(tuple(self.sizes)),
            batch=self.batch,
            optimizer=OptimizerConfig(self.rate),
            trunk_rate=self.trunk_rate,
            seed=self.seed,
        )
        backbone = build_backbone(self.backbone, self.weights)
        network = build_classifier(backbone, len(self.classes_), self.levels, dropout=0.5)
        with as_files(images) as paths:
            photos = TrainingImages(paths, config.short_side)
            for problem in photos.problems:
                raise InputError(problem.rule, path=problem.path, code=problem.code)
            train_network(network.to(self.device), photos, labels, config)
        return network, View("full", config.short_side)
