"""What a classifier of whole photos says, how sure it is, and what it is worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.labelling.folds import Expectation, bootstrap_share
from sppnet.labelling.order import Doubt

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
