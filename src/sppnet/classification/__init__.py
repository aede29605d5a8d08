"""Names images of any size: the network, its training, frozen features with linear SVMs."""

from sppnet.classification.classifier import Classifier
from sppnet.classification.convert import convert_classifier
from sppnet.classification.data import ClassData, SplitConfig, open_class_data
from sppnet.classification.multi_view import score_on_crops, score_on_maps
from sppnet.classification.network import (
    AverageAndPyramid,
    FixedNorm,
    GlobalAveragePool,
    SppNet,
    build_classifier,
    build_head,
    build_paper_network,
    build_pool,
    layer_table,
)
from sppnet.classification.predict import load_classifier, predict_files
from sppnet.classification.scoring import score_predictions
from sppnet.classification.splits import Split, holdout_split, protocol_splits
from sppnet.classification.train.augmentation import Augmentation
from sppnet.classification.train.config import InputSizes, TrainerConfig
from sppnet.classification.train.loader import TrainingImages
from sppnet.classification.train.trainer import train_network
from sppnet.classification.transfer.classifier import TransferClassifier
from sppnet.classification.transfer.features import FeatureEncoder, FeatureSet, extract_features
from sppnet.classification.transfer.fit import FitResult, fit_svm_classifier
from sppnet.classification.transfer.recipe import Block, FeatureRecipe, load_recipe
from sppnet.classification.transfer.svm import LinearSvm
from sppnet.classification.views import View, ViewPlan, view_plan
from sppnet.config.classification import FitConfig, TrainConfig
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.distributed import Processes, join_processes
from sppnet.training.log import TrainingLog

__all__ = [
    "Augmentation",
    "AverageAndPyramid",
    "Block",
    "Checkpoints",
    "ClassData",
    "Classifier",
    "FeatureEncoder",
    "FeatureRecipe",
    "FeatureSet",
    "FitConfig",
    "FitResult",
    "FixedNorm",
    "GlobalAveragePool",
    "InputSizes",
    "LinearSvm",
    "Processes",
    "Split",
    "SplitConfig",
    "SppNet",
    "TrainConfig",
    "TrainerConfig",
    "TrainingImages",
    "TrainingLog",
    "TransferClassifier",
    "View",
    "ViewPlan",
    "build_classifier",
    "build_head",
    "build_paper_network",
    "build_pool",
    "convert_classifier",
    "extract_features",
    "fit_svm_classifier",
    "holdout_split",
    "join_processes",
    "layer_table",
    "load_classifier",
    "load_recipe",
    "open_class_data",
    "predict_files",
    "protocol_splits",
    "score_on_crops",
    "score_on_maps",
    "score_predictions",
    "train_network",
    "view_plan",
]
