"""The choice of a feature set and of the SVMs' cost, on parts of the training images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from torch import Tensor

from sppnet.classification.data import Split, draw_sample, holdout_split
from sppnet.classification.transfer.svm import GRAM_ROWS, LinearSvm, fit_dual, gram_matrix
from sppnet.config.classification import COSTS
from sppnet.progress import Track, no_tracking

DRAWS = 3  # validation parts whose figures are averaged
ONE_DRAW_ROWS = 2000  # a fifth of so many images tells enough by itself
Figure = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Choice:
    """What was chosen on validation parts, and the figures behind it.

    Args:
        candidate: Position of the feature set.
        c: Cost of a margin violation.
        figures: The mean figure of every (candidate, cost) that was tried; empty where there was
            nothing to choose.
    """

    candidate: int
    c: float
    figures: dict[tuple[int, float], float] = field(default_factory=dict)


def fit_best(
    candidates: Sequence[Tensor],
    targets: Tensor,
    figure: Figure,
    *,
    costs: Sequence[float] = COSTS,
    loss: str = "hinge",
    seed: int = 0,
    track: Track = no_tracking,
    weights: Tensor | None = None,
) -> tuple[LinearSvm, Choice]:
    """Choose one of several feature sets of the same images and the cost of the SVMs; fit these.

    Three times a fifth of the images is held out (once, of 2,000 images and more); SVMs fitted on
    the others are scored on it. Of equal figures the earlier candidate wins, then the earlier cost.
    Of more than 8,000 images a draw of 8,000 decides. The SVMs that are returned are fitted on all
    images.

    Args:
        candidates: At least one (N, D) float32, training images only, scaled as the SVMs will see
            them; D may differ.
        targets: (N, K): 1 yes, -1 no, 0 left out.
        figure: From scores (n, K) and targets (n, K) to a number, larger is better.
        costs: Costs of a margin violation to try, the likely ones first.
        loss: ``"hinge"`` or ``"squares"``.
        seed: Decides what is held out.
        track: Shows the progress of the last fit over the classes.
        weights: (N,) above 0, of the images in the fits; held-out ones count alike.

    Returns:
        The SVMs and the choice.

    Raises:
        ValueError: If there is no candidate or no cost.
    """
    choice, gram = _choose(candidates, targets, figure, costs, loss, seed, weights)
    rows = candidates[choice.candidate]
    return LinearSvm(choice.c, loss).fit_targets(rows, targets, track, gram, weights), choice


def _choose(
    candidates: Sequence[Tensor],
    targets: Tensor,
    figure: Figure,
    costs: Sequence[float],
    loss: str,
    seed: int,
    weights: Tensor | None,
) -> tuple[Choice, Tensor | None]:
    """The choice, and the inner products of all images if they were computed on the way."""
    if not candidates or not costs:
        raise ValueError(
            f"candidates and costs must be at least one, got {len(candidates)} and {len(costs)}"
        )
    if len(candidates) == len(costs) == 1:
        return Choice(0, costs[0]), None
    drawn = draw_sample(len(targets), GRAM_ROWS, seed)
    figures: dict[tuple[int, float], float] = {}
    for candidate, rows in enumerate(candidates):
        gram = gram_matrix(rows if len(drawn) == len(rows) else rows[drawn])
        own = None if weights is None else weights[drawn]
        options: dict[str, Any] = {"costs": costs, "loss": loss, "seed": seed, "weights": own}
        found = validate_costs(gram, targets[drawn], figure, **options)
        figures |= {(candidate, c): value for c, value in found.items()}
    best = max(figures, key=lambda key: figures[key])  # the first of equal ones
    serves = len(candidates) == 1 and len(drawn) == len(targets)
    return Choice(*best, figures), gram if serves else None


def validate_costs(
    gram: Tensor,
    targets: Tensor,
    figure: Figure,
    *,
    costs: Sequence[float] = COSTS,
    loss: str = "hinge",
    seed: int = 0,
    weights: Tensor | None = None,
) -> dict[float, float]:
    """Work out the figure on held-out parts for every cost, from inner products alone.

    Args:
        gram: (N, N) float64 inner products of training images.
        targets: (N, K): 1 yes, -1 no, 0 left out.
        figure: From scores (n, K) and targets (n, K) to a number, larger is better.
        costs: What to try.
        loss: ``"hinge"`` or ``"squares"``.
        seed: Decides what is held out.
        weights: (N,) above 0, of the images in the fits; None for 1 each.

    Returns:
        The mean figure over the parts, by cost.
    """
    strata = targets.argmax(dim=1)  # an image of several classes counts as one of the first
    draws = DRAWS if len(targets) < ONE_DRAW_ROWS else 1
    splits = [holdout_split(strata, seed=seed + draw) for draw in range(draws)]

    def score(split: Split, c: float) -> float:
        held_out = score_held_out(gram, targets, split, c, loss, weights)
        return figure(held_out, targets[split.test])

    return {c: mean(score(split, c) for split in splits) for c in costs}


def score_held_out(
    gram: Tensor, targets: Tensor, split: Split, c: float, loss: str, weights: Tensor | None = None
) -> Tensor:
    """Fit on one part and score the other, (n, K), from inner products alone."""
    inner = gram[split.train][:, split.train].contiguous()
    own = None if weights is None else weights[split.train]
    dual, bias = fit_dual(inner, targets[split.train], c, loss, weights=own)
    return gram[split.test][:, split.train].float() @ dual + bias
