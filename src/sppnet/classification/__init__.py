"""Names images of any size: the network, its training, frozen features with linear SVMs."""

from sppnet.classification.augmentation import Augmentation
from sppnet.classification.class_data import ClassData, SplitRule, open_class_data
from sppnet.classification.classifier import Classifier
from sppnet.classification.conversion import convert_classifier
from sppnet.classification.feature_encoder import FeatureEncoder
from sppnet.classification.feature_recipe import Block, FeatureRecipe, load_recipe
from sppnet.classification.features import FeatureSet, extract_features
from sppnet.classification.fitting import FitResult, fit_svm_classifier
from sppnet.classification.linear_svm import LinearSvm
from sppnet.classification.map_views import score_on_crops, score_on_maps
from sppnet.classification.network import (
    AverageAndPyramid,
    FixedNorm,
    GlobalAveragePool,
    SppNet,
    build_classifier,
    build_head,
    build_pool,
)
from sppnet.classification.paper_networks import build_paper_network, layer_table
from sppnet.classification.prediction import load_classifier, predict_files
from sppnet.classification.protocol import Split, holdout_split, protocol_splits
from sppnet.classification.schedule import InputSizes
from sppnet.classification.scoring import score_predictions
from sppnet.classification.settings import FitSettings, TrainSettings
from sppnet.classification.training import train_network
from sppnet.classification.training_images import TrainingImages
from sppnet.classification.training_plan import TrainingPlan
from sppnet.classification.transfer import TransferClassifier
from sppnet.classification.view_plans import ViewPlan, view_plan
from sppnet.classification.views import View
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
    "FitResult",
    "FitSettings",
    "FixedNorm",
    "GlobalAveragePool",
    "InputSizes",
    "LinearSvm",
    "Processes",
    "Split",
    "SplitRule",
    "SppNet",
    "TrainSettings",
    "TrainingImages",
    "TrainingLog",
    "TrainingPlan",
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
