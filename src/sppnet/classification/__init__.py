"""Names images of any size: the network, its training, frozen features with linear SVMs."""

from sppnet.classification.class_data import ClassData, SplitRule, open_class_data
from sppnet.classification.classifier import Classifier
from sppnet.classification.features import FeatureSet, extract_features
from sppnet.classification.fitting import FitResult, fit_svm_classifier
from sppnet.classification.linear_svm import LinearSvm
from sppnet.classification.network import (
    FixedNorm,
    GlobalAveragePool,
    SppNet,
    build_classifier,
    build_head,
    build_pool,
)
from sppnet.classification.prediction import predict_files
from sppnet.classification.protocol import Split, holdout_split, protocol_splits
from sppnet.classification.schedule import learning_rate, size_of_epoch
from sppnet.classification.scoring import score_predictions
from sppnet.classification.settings import FitSettings, TrainSettings
from sppnet.classification.training import TrainingPlan, train_network
from sppnet.classification.training_images import TrainingImages
from sppnet.classification.views import View

__all__ = [
    "ClassData",
    "Classifier",
    "FeatureSet",
    "FitResult",
    "FitSettings",
    "FixedNorm",
    "GlobalAveragePool",
    "LinearSvm",
    "Split",
    "SplitRule",
    "SppNet",
    "TrainSettings",
    "TrainingImages",
    "TrainingPlan",
    "View",
    "build_classifier",
    "build_head",
    "build_pool",
    "extract_features",
    "fit_svm_classifier",
    "holdout_split",
    "learning_rate",
    "open_class_data",
    "predict_files",
    "protocol_splits",
    "score_predictions",
    "size_of_epoch",
    "train_network",
]
