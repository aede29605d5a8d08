"""Names of whole photos from frozen features: a least-squares SVM that knows its held-out scores.

Rows are computed once per photo and kept on disk. A fit is one linear system of as many equations
as there are labelled photos; its inverse gives, for every labelled photo, the score of the model
that is fitted without it (Cawley 2006), so nothing is ever fitted again to be judged.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sppnet.backbones import build_backbone
from sppnet.classification import (
    FeatureEncoder,
    FeatureExtractor,
    FitConfig,
    ImageClassifier,
    LinearSvm,
    NetworkExtractor,
    RecipeExtractor,
    View,
    build_pool,
)
from sppnet.classification.network import FixedNorm
from sppnet.classification.transfer.recipe import recipes_of
from sppnet.classification.transfer.svm import svm_head
from sppnet.errors import InputError
from sppnet.labelling.folds import Doubt, Expectation, bootstrap_share
from sppnet.storage import FeatureCache

SURE = 0.5  # probability from which on a class counts as found
STEEPNESS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # of the probabilities; the one that fits is taken
USUAL_STEEPNESS, FEW = 4.0, 10  # until so many photos are labelled


@dataclass(frozen=True)
class ClassSuggestions:
    """Classes of a photo, the likeliest first.

    Args:
        names: (K,) class names.
        scores: (K,) 1 for yes, -1 for no.
        confidence: (K,) probabilities.
        model: Version of the model; empty before there is one.
    """

    names: tuple[str, ...]
    scores: Tensor
    confidence: Tensor
    model: str

    @property
    def sureness(self) -> Tensor:
        """The confidence, as of boxes (:attr:`Detections.sureness`)."""
        return self.confidence


@dataclass(frozen=True)
class ClassModel:
    """A fitted classifier at one time.

    Args:
        names: K class names.
        photos: N photos that it was fitted on.
        targets: (N, K), 1 or -1.
        held_out: (N, K) scores by models that were fitted without the photo.
        weights: (D, K).
        bias: (K,).
        steepness: Of the probabilities.
        one_each: Whether each photo shows one class.
        version: ``warm N``; another for every fit.
    """

    names: tuple[str, ...]
    photos: tuple[str, ...]
    targets: Tensor
    held_out: Tensor
    weights: Tensor
    bias: Tensor
    steepness: float
    one_each: bool
    version: str

    def probabilities(self, scores: Tensor) -> Tensor:
        """Turn scores into probabilities: (n, K) -> (n, K)."""
        return to_probabilities(scores, self.steepness, one_each=self.one_each)


def to_probabilities(scores: Tensor, steepness: float, *, one_each: bool) -> Tensor:
    """Turn scores into probabilities.

    Args:
        scores: (N, K), 1 for yes and -1 for no.
        steepness: Factor of the scores.
        one_each: Whether each photo shows one class: then rows sum to 1.

    Returns:
        (N, K), 0..1.
    """
    if one_each and scores.shape[1] > 1:
        return (steepness * scores).softmax(1)
    return (2 * steepness * scores).sigmoid()


def choose_steepness(held_out: Tensor, targets: Tensor, *, one_each: bool) -> float:
    """Choose how sure scores are by photos that the model was fitted without.

    Args:
        held_out: (N, K) scores.
        targets: (N, K), 1 or -1.
        one_each: Whether each photo shows one class.
    """
    if len(held_out) < FEW:
        return USUAL_STEEPNESS

    def loss(steepness: float) -> float:
        sure = to_probabilities(held_out, steepness, one_each=one_each).clamp(1e-6, 1 - 1e-6)
        no = torch.zeros_like(sure) if one_each else (1 - sure).log()
        return -float(torch.where(targets > 0, sure.log(), no).sum())

    return min(STEEPNESS, key=loss)


def summarise_classes(model: ClassModel) -> Expectation:
    """Measure what a model says of its photos when it was fitted without them.

    Args:
        model: Fitted on two photos or more.
    """
    truth = model.targets > 0
    sure = model.probabilities(model.held_out)
    found = sure >= SURE
    right = (found & truth).sum(1)
    recall, spread = bootstrap_share(right.numpy(), truth.sum(1).numpy())
    has_one = truth.any(1)
    best = truth.gather(1, sure.argmax(1, keepdim=True))[:, 0]
    per_class: dict[str, float] = {}
    for column, name in enumerate(model.names):
        shown = truth[:, column]
        per_class[name] = best[shown].double().mean().item()
    precision = float(right.sum() / found.sum()) if found.any() else float("nan")
    accuracy = float(best[has_one].double().mean())
    return Expectation(
        len(model.photos), int(truth.sum()), accuracy, recall, spread, precision, per_class
    )


def doubt_classes(model: ClassModel) -> list[Doubt]:
    """Doubt names that models fitted without the photo deny; the most doubtful first.

    Args:
        model: Fitted.
    """
    sure = model.probabilities(model.held_out)
    doubts = []
    for photo, row, truth in zip(model.photos, sure, model.targets > 0, strict=True):
        others = torch.where(truth, -1.0, row)
        best = int(others.argmax())
        for column in truth.nonzero().flatten().tolist():
            other = max(0.0, float(others[best]))
            instead = model.names[best] if other > float(row[column]) else ""
            probability = (1 - float(row[column])) * (0.5 + 0.5 * other)
            doubts.append(Doubt(photo, "label", None, model.names[column], instead, probability))
        if not truth.any():
            doubts.append(Doubt(photo, "missing", None, model.names[best], "", float(row[best])))
    return sorted(doubts, key=lambda doubt: -doubt.probability)


ROWS_IN_MEMORY = 200_000_000  # bytes of photos that are not labelled


@dataclass(frozen=True)
class HeldOutFit:
    """A fitted least-squares SVM for each class, and what it would say of photos left out.

    Args:
        dual: (N, K) float64, what each photo adds to each class's weights.
        bias: (K,) float64.
        held_out: (N, K) float64, scores of each photo by the model fitted without it.
    """

    dual: Tensor
    bias: Tensor
    held_out: Tensor


def fit_held_out(gram: Tensor, targets: Tensor, c: float = 10.0) -> HeldOutFit:
    """Fit least-squares SVMs, and score every photo by the model fitted without it.

    Args:
        gram: (N, N) float64 inner products of the photos' rows.
        targets: (N, K): 1 the photo shows the class, -1 it does not.
        c: Cost of a squared error.

    Returns:
        The fit; with one photo, held-out scores are 0.

    Raises:
        ValueError: If there is no photo.

    Example:
        >>> rows = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]).double()
        >>> targets = torch.tensor([[1, -1], [1, -1], [-1, 1], [-1, 1]])
        >>> fit_held_out(rows @ rows.T, targets).held_out.argmax(1).tolist()
        [0, 0, 1, 1]

    Source:
        Cawley, "Leave-one-out cross-validation based model selection criteria for weighted
        LS-SVMs", 2006.
    """
    count = len(gram)
    if not count:
        raise ValueError("gram must be of one photo or more, got none")
    wanted = targets.double()
    system = torch.ones(count + 1, count + 1, dtype=torch.float64)
    system[:count, :count] = gram + torch.eye(count, dtype=torch.float64) / c
    system[count, count] = 0.0
    inverse = torch.linalg.inv(system)
    solution = inverse[:, :count] @ wanted
    dual, bias = solution[:count], solution[count]
    if count == 1:
        return HeldOutFit(dual, bias, torch.zeros_like(wanted))
    residuals = dual / inverse.diagonal()[:count, None]
    return HeldOutFit(dual, bias, wanted - residuals)


class FrozenRows:
    """Rows of photos by a frozen trunk, from memory, from the disk, or computed.

    Args:
        folder: The photos.
        config: Trunk and recipe, as of ``classify fit``; a size to be chosen is 224.
        cache: Where rows are kept.

    Raises:
        UsageError: If the trunk's weights are not there.
    """

    def __init__(self, folder: Path, config: FitConfig, cache: FeatureCache) -> None:
        self.folder, self.cache = folder, cache
        self.extractor = _build_extractor(config)
        self.digests: dict[str, int] = {}
        self._rows: OrderedDict[str, Tensor] = OrderedDict()

    def row(self, photo: str) -> Tensor:
        """Give the row of a photo: (D,) float32 of length 1.

        Raises:
            InputError: If the photo cannot be decoded.
        """
        found = self._rows.get(photo)
        if found is None:
            made = self.extractor.extract([self.folder / photo], cache=self.cache)
            if not len(made.rows):
                problem = made.problems[0]
                raise InputError(problem.rule, path=photo, code=problem.code)
            length = self.extractor.feature_norm
            found = (made.rows if length is None else FixedNorm(length)(made.rows))[0]
            self.digests[photo] = int(made.digests[0])
        self._rows[photo] = found
        self._rows.move_to_end(photo)
        while len(self._rows) > max(2, ROWS_IN_MEMORY // (4 * len(found))):
            self._rows.popitem(last=False)
        return found


class ClassLearner:
    """Fits names of whole photos; inner products of photos are worked out once.

    Args:
        rows: Gives rows of photos.
    """

    def __init__(self, rows: FrozenRows) -> None:
        self.rows = rows
        self._known: dict[str, int] = {}  # photo -> place in the tables below
        self._table = torch.zeros(0, 0)
        self._gram = torch.zeros(0, 0, dtype=torch.float64)

    def learn(self, photo: str) -> None:
        """Take a photo in; nothing if it is in already.

        Raises:
            InputError: If it cannot be decoded.
        """
        if photo in self._known:
            return
        row = self.rows.row(photo)
        place = len(self._known)
        if place == len(self._table):
            self._make_room(len(row))
        self._table[place] = row
        products = (self._table[: place + 1] @ row[:, None]).double()[:, 0]
        self._gram[place, : place + 1] = self._gram[: place + 1, place] = products
        self._known[photo] = place

    def _make_room(self, length: int) -> None:
        """Grow by a quarter, so that the tables are not copied for every photo."""
        count = len(self._table)
        size = count + max(64, count // 4)
        table, gram = torch.zeros(size, length), torch.zeros(size, size, dtype=torch.float64)
        table[:count], gram[:count, :count] = self._table.reshape(count, length), self._gram
        self._table, self._gram = table, gram

    def knows(self, photo: str) -> bool:
        """Whether a photo was taken in."""
        return photo in self._known

    def fit(self, photos: Sequence[str], targets: Tensor, c: float) -> HeldOutFit:
        """Fit on photos that are taken in: (N, K) targets, 1 or -1."""
        places = torch.tensor([self._known[photo] for photo in photos])
        return fit_held_out(self._gram[places][:, places], targets, c)

    def svm(self, photos: Sequence[str], fitted: HeldOutFit) -> LinearSvm:
        """Give the same as weights: (D, K) and (K,)."""
        places = torch.tensor([self._known[photo] for photo in photos])
        svm = LinearSvm()
        svm.weights_ = (self._table[places].double().T @ fitted.dual).float()
        svm.bias_ = fitted.bias.float()
        return svm

    def assemble(self, svm: LinearSvm, names: Sequence[str], **about: object) -> ImageClassifier:
        """Make the classifier that ``classify predict`` reads."""
        extractor = self.rows.extractor
        seen = torch.tensor([self.rows.digests[p] for p in self._known if p in self.rows.digests])
        head = svm_head(svm, extractor.feature_norm)
        return extractor.assemble(head, names, seen=seen, about=dict(about))


def _build_extractor(config: FitConfig) -> FeatureExtractor:
    """Trunk and recipe; one pooled map makes an ordinary network, which has an ONNX."""
    recipe = recipes_of(config)[0]
    block = recipe.blocks[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        layer = block.layer if recipe.is_plain else None
        trunk = build_backbone(config.backbone, config.weights, layer=layer).eval()
    trunk = trunk.with_engine(config.engine)
    if recipe.is_plain:
        pool = build_pool(block.pool, block.levels)
        return NetworkExtractor(trunk, pool, View(block.view, block.short_side))
    return RecipeExtractor(FeatureEncoder(trunk, recipe))
