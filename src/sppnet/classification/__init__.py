"""Names images of any size.

A classifier is a network (``network.py``: trunk, pooling, head) with the view of an image that it
sees (``views.py``; the means of many views, too) and the names of its classes
(``classifier.py``). There are two ways to get one:

- ``transfer/``: features of a frozen trunk and linear SVMs, in minutes on a CPU;
- ``train/``: trunk and head together, at one input size or at many.

``convert.py`` gives a trained network of torchvision or timm a pyramid. ``data.py`` says what is
learnt from and what is scored on, ``scoring.py`` how good it is, ``predict.py`` goes over many
files, ``onnx.py`` exports, ``estimator.py`` is the form of scikit-learn. Start reading with
``network.py``, then ``classifier.py``.
"""

from sppnet.classification.classifier import Classifier, ImageClassifier, rank_scores
from sppnet.classification.convert import convert_classifier
from sppnet.classification.data import (
    ClassData,
    Split,
    SplitConfig,
    VocData,
    draw_sample,
    holdout_split,
    match_classes,
    open_class_data,
    open_voc_data,
    protocol_splits,
    scoring_split,
    training_split,
)
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
from sppnet.classification.predict import load_classifier, predict_each, predict_files
from sppnet.classification.scoring import mean_figures, score_predictions
from sppnet.classification.train.config import Augmentation, InputSizes, TrainerConfig
from sppnet.classification.train.loader import TrainingImages
from sppnet.classification.train.trainer import train_network
from sppnet.classification.transfer.features import FeatureEncoder, FeatureSet, extract_features
from sppnet.classification.transfer.fit import (
    ExtractedFeatures,
    FeatureExtractor,
    FitResult,
    NetworkExtractor,
    RecipeExtractor,
    TransferClassifier,
    fit_splits,
    fit_svm_classifier,
)
from sppnet.classification.transfer.recipe import RECIPES, Block, FeatureRecipe, load_recipe
from sppnet.classification.transfer.svm import LinearSvm, RidgeSums
from sppnet.classification.views import (
    PLANS,
    View,
    ViewPlan,
    score_on_crops,
    score_on_maps,
    view_plan,
)
from sppnet.config.classification import COSTS, FitConfig, TrainConfig
from sppnet.training.checkpoints import Checkpoints, TrainingLog
from sppnet.training.distributed import Processes, join_processes

__all__ = [
    "COSTS",
    "PLANS",
    "RECIPES",
    "Augmentation",
    "AverageAndPyramid",
    "Block",
    "Checkpoints",
    "ClassData",
    "Classifier",
    "ExtractedFeatures",
    "FeatureEncoder",
    "FeatureExtractor",
    "FeatureRecipe",
    "FeatureSet",
    "FitConfig",
    "FitResult",
    "FixedNorm",
    "GlobalAveragePool",
    "ImageClassifier",
    "InputSizes",
    "LinearSvm",
    "NetworkExtractor",
    "Processes",
    "RecipeExtractor",
    "RidgeSums",
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
    "VocData",
    "build_classifier",
    "build_head",
    "build_paper_network",
    "build_pool",
    "convert_classifier",
    "draw_sample",
    "extract_features",
    "fit_splits",
    "fit_svm_classifier",
    "holdout_split",
    "join_processes",
    "layer_table",
    "load_classifier",
    "load_recipe",
    "match_classes",
    "mean_figures",
    "open_class_data",
    "open_voc_data",
    "predict_each",
    "predict_files",
    "protocol_splits",
    "rank_scores",
    "score_on_crops",
    "score_on_maps",
    "score_predictions",
    "scoring_split",
    "train_network",
    "training_split",
    "view_plan",
]
