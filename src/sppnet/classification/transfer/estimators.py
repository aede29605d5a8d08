"""The two halves of ``SppClassifier`` as scikit-learn takes them: rows of images, and their names.

``SppFeatures`` turns images into rows of numbers, ``SppHead`` names rows; each goes into a pipeline
or a search of settings by itself.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from sppnet.backbones import Backbone, build_backbone
from sppnet.classification.classifier import as_list
from sppnet.classification.data import Split, draw_sample
from sppnet.classification.network import (
    FixedNorm,
    apply_in_blocks,
    bins_of,
    build_pool,
    device_of,
    pool_images,
)
from sppnet.classification.scoring import class_task
from sppnet.classification.transfer.choice import fit_best, score_held_out
from sppnet.classification.transfer.features import backbone_digest
from sppnet.classification.transfer.svm import GRAM_ROWS, gram_matrix, svm_head
from sppnet.classification.views import View
from sppnet.config.classification import COSTS
from sppnet.images import to_image
from sppnet.images.decode import decode_content, read_content
from sppnet.storage import FeatureCache

FOLDS = 5  # parts of the images whose scores calibrate probabilities
MAP_VERSION = 1  # raise it when the same image, weights and view would give another map


class SppFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turns images of any size into rows of pooled features, as a scikit-learn transformer.

    With ``memory``, maps are kept under the image's content, the trunk and the view: a search of
    levels and poolings over folds convolves each image once.

    Args:
        backbone: Convolution trunk, by name; it stays as it is.
        weights: Weights of the trunk: ``"DEFAULT"``, ``"none"`` or a safetensors file.
        pool: ``"spp"``, ``"spp+avg"``, ``"6x6"``, ``"avg"`` or ``"max"``.
        levels: Bins along each side, one number per level of the pyramid.
        view: What of an image the trunk sees: ``"full"``, ``"crop"``, ``"warp"`` or ``"native"``.
        short_side: Short side of that in pixels.
        memory: Folder in which maps are kept, or a ``joblib.Memory`` whose folder is taken; None
            keeps none.
        seed: Seed of weights that are random.
        device: Where to compute.

    Attributes:
        backbone_: The trunk, after ``fit``, which learns nothing from the images.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> model = make_pipeline(SppFeatures("small5", "none", short_side=32), SppHead())
        >>> images, labels = [torch.rand(3, 40, 60), torch.zeros(3, 50, 30)] * 4, ["wild", "dark"]
        >>> model.fit(images, labels * 4).predict(images[:2])
        array(['wild', 'dark'], dtype='<U4')

    Source:
        SPP-net, section 3.3.
    """

    backbone_: Backbone

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        weights: str = "DEFAULT",
        *,
        pool: str = "spp",
        levels: Sequence[int] = (1, 2, 3, 6),
        view: str = "full",
        short_side: int = 224,
        memory: Any = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.pool = pool
        self.levels = levels
        self.view = view
        self.short_side = short_side
        self.memory = memory
        self.seed = seed
        self.device = device

    def fit(self, images: Any = None, y: Any = None) -> "SppFeatures":  # noqa: ARG002
        """Build the trunk; images and labels are not looked at.

        Raises:
            ValueError: If a setting is out of range.
        """
        View(self.view, self.short_side)
        build_pool(self.pool, self.levels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            backbone = build_backbone(self.backbone, self.weights).with_engine()
        self.backbone_ = backbone.to(self.device).eval()
        return self

    def transform(self, images: Any) -> np.ndarray:
        """Turn images into rows: N of them, or one -> (N, D) float32, not scaled.

        Args:
            images: Paths, PIL images, (H, W, 3) uint8 arrays or (3, H, W) tensors.

        Raises:
            InputError: If a file cannot be read as an image; names the file.
        """
        check_is_fitted(self, "backbone_")
        pool, view = build_pool(self.pool, self.levels), View(self.view, self.short_side)
        return pooled_rows(as_list(images), self.backbone_, pool, view, self.memory).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.backbone_.channels * bins_of(build_pool(self.pool, self.levels))

    def __sklearn_tags__(self) -> Any:
        return takes_images(super().__sklearn_tags__())


def pooled_rows(
    images: Sequence[Any], backbone: Backbone, pool: nn.Module, view: View, memory: Any = None
) -> Tensor:
    """Convolve and pool images; maps that are in memory are not computed again.

    Args:
        images: N of what :func:`sppnet.images.to_image` takes.
        backbone: Frozen trunk in evaluation mode.
        pool: From (n, C, h, w) to (n, D).
        view: What of an image the trunk sees.
        memory: Folder, ``joblib.Memory``, or None.

    Returns:
        (N, D) float32 on the CPU; on the CPU a row depends on its own image only, bit for bit.
    """
    folder = getattr(memory, "location", memory)
    if not len(images):
        return torch.empty(0, backbone.channels * bins_of(pool))
    if folder is None:
        seen = (view.apply(to_image(image)) for image in images)
        return torch.cat([pool_images(backbone, pool, [each]) for each in seen])
    make_key = partial(
        FeatureCache.make_key,
        what="map",
        version=MAP_VERSION,
        weights=backbone_digest(backbone),
        view=json.dumps(view.config(), sort_keys=True),
        device=device_of(backbone).type,
    )
    cache = FeatureCache(folder)
    with torch.inference_mode():
        maps = (_map_of(image, backbone, view, make_key, cache) for image in images)
        return torch.cat([pool(each).float() for each in maps])


def _map_of(
    image: Any, backbone: Backbone, view: View, make_key: Callable[..., str], cache: FeatureCache
) -> Tensor:
    """The map of one image, (1, C, h, w) on the CPU, from the cache if it is there."""
    file = image if isinstance(image, str | Path) else None
    pixels = torch.empty(0) if file is not None else to_image(image)
    data = pixels.contiguous().numpy().tobytes() if file is None else read_content(file)
    digest = hashlib.sha256(data).hexdigest()
    key = make_key(image=digest, shape=tuple(pixels.shape) if file is None else None)
    record = cache.get(key)
    if record is not None:
        return record["map"]
    pixels = pixels if file is None else decode_content(data, file)
    batch = view.apply(pixels)[None].to(device_of(backbone))
    found = backbone(batch.contiguous(memory_format=torch.channels_last)).float().cpu()
    cache.put(key, {"map": found.contiguous()})
    return found


class SppHead(ClassifierMixin, BaseEstimator):
    """Least-squares SVMs on rows of numbers, with probabilities, as a scikit-learn classifier.

    Args:
        c: Cost of a margin violation; None chooses it on held-out parts of the rows.
        norm: Length to which each row is scaled first; None leaves it.
        probability: Whether ``predict_proba`` is there: five times a fifth of the rows is scored by
            SVMs of the others, and one number is fitted to these scores.
        seed: Decides what is held out.

    Attributes:
        classes_: (K,) the labels, sorted.
        c_: The cost that was given or chosen.
        head_: From (N, D) rows to (N, K) margins.
        scale_: Margins times this are logits of a softmax; None if no class has two rows.

    Example:
        >>> rows = np.array([[0.0, 1.0], [0.2, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> head = SppHead().fit(rows, ["up", "up", "flat", "flat"])
        >>> head.predict([[0.1, 2.0]]), head.predict_proba([[0.1, 2.0]]).shape
        (array(['up'], dtype='<U4'), (1, 2))

    Source:
        SPP-net, section 3.3; Suykens and Vandewalle 1999 (least squares); Guo et al. 2017
        (one temperature for all classes).
    """

    classes_: np.ndarray
    head_: nn.Sequential
    c_: float
    scale_: float | None

    def __init__(
        self,
        c: float | None = None,
        *,
        norm: float | None = 1.0,
        probability: bool = True,
        seed: int = 0,
    ) -> None:
        self.c = c
        self.norm = norm
        self.probability = probability
        self.seed = seed

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SppHead":  # noqa: N803
        """Learn to name rows.

        Args:
            X: (N, D) finite numbers.
            y: (N,) labels of at least two classes.
            sample_weight: (N,) at least 0: a row of weight 2 counts as two, one of 0 not at all.

        Raises:
            ValueError: If a shape or a number is not so, or there are fewer than two classes.
        """
        X, y = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)  # noqa: N806
        check_classification_targets(y)
        weights = None
        if sample_weight is not None:
            own = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            used = own > 0
            X, y, weights = X[used], y[used], torch.from_numpy(own[used]).double()  # noqa: N806
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            found = self.classes_.tolist()
            raise ValueError(f"y must be of at least 2 classes, got only one class: {found}")
        task = class_task(torch.from_numpy(numbers), [str(name) for name in self.classes_])
        rows = torch.from_numpy(np.array(X))
        shift = rows.mean(0)  # rows far from zero would leave float32 nothing to tell them apart by
        rows = rows - shift if self.norm is None else FixedNorm(self.norm)(rows)
        costs = COSTS if self.c is None else (self.c,)
        options: dict[str, Any] = {"costs": costs, "loss": "squares", "seed": self.seed}
        svm, choice = fit_best([rows], task.targets, task.figure, weights=weights, **options)
        if self.norm is None:
            svm.bias_ = (svm.bias_ - shift.double() @ svm.weights_.double()).float()
        self.c_, self.head_ = choice.c, svm_head(svm, self.norm)
        self.scale_ = self._calibrate(rows, task.targets, weights) if self.probability else None
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Margins: (N, D) -> (N, K), or (N,) for two classes, above 0 for the second."""
        return sklearn_margins(self._margins(X))

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Name rows: (N, D) -> (N,) labels."""
        best = self._margins(X).argmax(axis=1)
        return self.classes_[best]

    @available_if(lambda head: head.probability)
    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities of the classes: (N, D) -> (N, K).

        Raises:
            ValueError: If no class had two rows, so that nothing could be held out.
        """
        return probabilities(self._margins(X), self.scale_)

    def _margins(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self, "head_")
        X = validate_data(self, X, dtype=np.float32, reset=False)  # noqa: N806
        with torch.inference_mode():
            return apply_in_blocks(self.head_, torch.from_numpy(np.array(X))).numpy()

    def _calibrate(self, rows: Tensor, targets: Tensor, weights: Tensor | None) -> float | None:
        """Fit the scale of the logits to scores of rows that the SVMs were not fitted on."""
        drawn = draw_sample(len(rows), GRAM_ROWS, self.seed)
        targets, gram = targets[drawn], gram_matrix(rows[drawn])
        weights = torch.ones(len(drawn)).double() if weights is None else weights[drawn]
        labels = targets.argmax(dim=1)
        margins, known = torch.zeros(targets.shape), torch.zeros(len(labels), dtype=torch.bool)
        for split in _folds(labels, self.seed):
            margins[split.test] = score_held_out(gram, targets, split, self.c_, "squares", weights)
            known[split.test] = torch.isin(labels[split.test], labels[split.train])
        if not known.any():
            return None
        held_out, truth, weights = margins[known].double(), labels[known], weights[known]

        def loss(log_scale: float) -> float:
            logits = held_out * np.exp(log_scale)
            each = nn.functional.cross_entropy(logits, truth, reduction="none")
            return float((each * weights).sum())

        return float(np.exp(minimize_scalar(loss, bounds=(-5.0, 5.0), method="bounded").x))


def _folds(labels: Tensor, seed: int) -> list[Split]:
    """Parts of (N,) labels, each class spread evenly over them."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    part = torch.empty_like(order)
    part[order] = torch.arange(len(order)) % FOLDS
    numbers = range(min(FOLDS, len(labels)))
    return [
        Split((part != n).nonzero().flatten(), (part == n).nonzero().flatten()) for n in numbers
    ]


def probabilities(margins: np.ndarray, scale: float | None) -> np.ndarray:
    """Softmax of scaled margins: (N, K) -> (N, K).

    Raises:
        ValueError: If there is no scale.
    """
    if scale is None:
        raise ValueError("predict_proba must have two images of a class to be calibrated on")
    return torch.from_numpy(margins).double().mul(scale).softmax(dim=1).numpy()


def sklearn_margins(margins: np.ndarray) -> np.ndarray:
    """(N, K), or (N,) for two classes, above 0 for the second."""
    return margins if margins.shape[1] > 2 else (margins[:, 1] - margins[:, 0]) / 2


def takes_images(tags: Any) -> Any:
    """Say in scikit-learn's tags that images are no table of numbers, and may be paths."""
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    return tags
