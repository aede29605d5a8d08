"""Kernel classifier of regions: Gaussian kernel, Nystroem approximation, mined hard negatives."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sppnet.config.fields import Positive, restore_fields
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.heads.region_head import RegionFeatures, check_length
from sppnet.errors import NothingUsableError
from sppnet.storage import put_under, tensors_under

# Regions whose vectors are in memory at a time.
CHUNK = 512
# Added to the diagonal, relative to its mean, when a matrix is factored.
JITTER = 1e-6
# Score of a region that is similar to none of the centres.
FAR = -1.0
Examples = tuple[Tensor, Tensor]


def gaussian_kernel(rows: Tensor, centres: Tensor, width: float) -> Tensor:
    """exp(-|row - centre|^2 / (2 width^2)) of each row and centre.

    Args:
        rows: (N, D).
        centres: (M, D).
        width: Distance at which the kernel has fallen to 0.61.

    Returns:
        (N, M) in 0..1.

    Example:
        >>> gaussian_kernel(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [0.0, 2.0]]), 2.0)
        tensor([[1.0000, 0.6065]])
    """
    squares = rows.square().sum(1)[:, None] + centres.square().sum(1) - 2 * rows @ centres.T
    return (-squares.clamp(min=0) / (2 * width**2)).exp()


@dataclass(frozen=True)
class SavedKernel:
    """What :meth:`KernelRegionClassifier.config` writes."""

    kind: str
    width: Positive
    features: dict[str, Any]


@dataclass(frozen=True)
class KernelRegionClassifier:
    """Classifies regions by weighted sums of their similarities to M centres, one sum per class.

    Args:
        centres: (M, D) features of proposals that were chosen in training.
        width: Width of the Gaussian kernel.
        weights: (M, K).
        bias: (K,).
        features: What the kernel compares.

    Raises:
        ValueError: If the shapes do not fit together.

    Source:
        Maiettini et al. 2018, arXiv 1803.08740, with the FALKON solver of Rudi et al. 2017.
    """

    centres: Tensor
    width: float
    weights: Tensor
    bias: Tensor
    features: RegionFeatures = field(default_factory=RegionFeatures)

    def __post_init__(self) -> None:
        shape = (len(self.centres), *self.bias.shape)
        if self.weights.shape != shape or self.bias.ndim != 1 or self.centres.ndim != 2:
            raise ValueError(
                f"weights must have shape {shape} for these centres and biases, "
                f"got {tuple(self.weights.shape)}"
            )

    @property
    def classes_compete(self) -> bool:
        """Each class is scored alone."""
        return False

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.bias)

    def check(self, encoder: Encoder) -> None:
        """Check the length of the encoder's vectors; ValueError if it is another."""
        check_length(self.features.length(encoder), self.centres.shape[1])

    @torch.no_grad()
    def score(self, encoder: Encoder, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Score regions: (W, K); the targets of the fit were 1 for the class and -1 for others."""
        parts = [torch.zeros(0, self.num_classes)]
        for chunk in regions.split(CHUNK):
            rows = self.features.describe(encoder, encoded, chunk)
            parts.append(self.decision_function(rows).cpu())
        return torch.cat(parts)

    def decision_function(self, rows: Tensor) -> Tensor:
        """Score (N, D) features: (N, K)."""
        return gaussian_kernel(rows, self.centres, self.width) @ self.weights + self.bias

    def to(self, device: torch.device | str) -> "KernelRegionClassifier":
        """Return a copy on a device."""
        centres, weights, bias = (t.to(device) for t in (self.centres, self.weights, self.bias))
        return KernelRegionClassifier(centres, self.width, weights, bias, self.features.to(device))

    def config(self) -> dict[str, Any]:
        """Width and features, in JSON values."""
        features = self.features.config()
        return {"kind": "kernel", "width": self.width, "features": features}

    def tensors(self) -> dict[str, Tensor]:
        """Centres, weights, biases, and the head's weights."""
        own = {"centres": self.centres, "weights": self.weights, "bias": self.bias}
        return own | put_under("features.", self.features.tensors())

    @classmethod
    def from_config(
        cls, config: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "KernelRegionClassifier":
        """Restore from :meth:`config` and :meth:`tensors`."""
        saved = restore_fields(SavedKernel, config, "scorer")
        features = RegionFeatures.from_config(saved.features, tensors_under("features.", tensors))
        own = (tensors[name] for name in ("centres", "weights", "bias"))
        centres, weights, bias = own
        return cls(centres, saved.width, weights, bias, features)


@dataclass(frozen=True)
class KernelSvmConfig:
    """Constants of the kernel classifier.

    Args:
        centres: The most centres.
        width: Width of the kernel, relative to the median distance between centres.
        strength: Ridge penalty, relative to the number of examples.
        positive_share: Share of the positives of a class in the total weight of its examples.
        hard_above: A negative with a score above this is kept for the next fit.
        easy_below: A kept negative is dropped once its score falls below this.
        batch: Negatives that are collected before the next fit.
        seed: Seed of the choice of centres.

    Source:
        Maiettini et al. 2018, arXiv 1803.08740.
    """

    centres: int = 500
    width: float = 1.0
    strength: float = 1e-3
    positive_share: float = 0.3
    hard_above: float = -0.9
    easy_below: float = -0.95
    batch: int = 4000
    seed: int = 0


def fit_kernel(
    rows: Tensor,
    targets: Tensor,
    config: KernelSvmConfig,
    features: RegionFeatures | None = None,
) -> KernelRegionClassifier:
    """Fit all classes on the same centres, in closed form.

    Args:
        rows: (N, D) features of proposals.
        targets: (N, K): 1 for proposals of the class, -1 for others, 0 for those left out.
        config: The constants.
        features: What the rows are; the pooled vectors if None.

    Returns:
        The classifier; it scores near 1 for the class, and -1 what is similar to no centre.

    Raises:
        NothingUsableError: If no row is of any class.

    Example:
        >>> rows = torch.tensor([[0.0], [5.0]])
        >>> classifier = fit_kernel(rows, torch.tensor([[1], [-1]]), KernelSvmConfig())
        >>> classifier.decision_function(rows)[:, 0].round().tolist()
        [1.0, -1.0]

    Source:
        Rudi et al. 2017, "FALKON"; the system is small enough here to be solved directly.
    """
    if not bool((targets > 0).any()):
        raise NothingUsableError("no proposal shows an object to learn from")
    centres = _choose_centres(rows, targets, config)
    width = config.width * _median_distance(centres)
    similarity = gaussian_kernel(rows, centres, width).double()  # (N, M)
    among = gaussian_kernel(centres, centres, width).double()
    solutions = [_solve(similarity, among, column, config) for column in targets.T]
    bias = torch.full((targets.shape[1],), FAR)
    return KernelRegionClassifier(
        centres, width, torch.stack(solutions, 1).float(), bias, features or RegionFeatures()
    )


def mine_kernel(
    positives: list[Tensor],
    images: Iterable[tuple[Tensor, Tensor]],
    config: KernelSvmConfig | None = None,
    features: RegionFeatures | None = None,
) -> KernelRegionClassifier:
    """Fit on the first batch of negatives, then again with the hard ones of each further batch.

    Args:
        positives: Per class, (P, D) features.
        images: Per image, (W, D) features of proposals, and (W, K) bool: whether each is a negative
            of each class.
        config: The constants.
        features: What the rows are; the pooled vectors if None.

    Returns:
        The classifier after the last batch.

    Raises:
        NothingUsableError: If there is no positive.
    """
    config = config or KernelSvmConfig()
    rows, targets = _positive_examples(positives)
    classifier = fit_kernel(rows, targets, config, features)
    held = (rows[:0], targets[:0])
    for batch in _batches(images, config.batch):
        keep = _is_hard(classifier, batch, config.hard_above if len(held[0]) else -torch.inf)
        joined = _join(held, _take(batch, keep))
        classifier = fit_kernel(*_join((rows, targets), joined), config, features)
        held = _take(joined, _is_hard(classifier, joined, config.easy_below))
    return classifier


def _solve(similarity: Tensor, among: Tensor, targets: Tensor, config: KernelSvmConfig) -> Tensor:
    """(M,) weights of one class; zeros for a class without positives."""
    is_positive, is_used = targets > 0, targets != 0
    if not bool(is_positive.any()):
        return torch.zeros(len(among), dtype=among.dtype)
    shares = is_positive * config.positive_share / is_positive.sum()
    is_other = is_used & ~is_positive
    shares = shares + is_other * (1 - config.positive_share) / is_other.sum().clamp(min=1)
    weighted = similarity * shares[:, None]
    system = weighted.T @ similarity + config.strength * among
    system.diagonal().add_(JITTER * float(system.diagonal().mean()))
    wanted = weighted.T @ (targets.double() - FAR)
    return torch.cholesky_solve(wanted[:, None], torch.linalg.cholesky(system))[:, 0]


def _choose_centres(rows: Tensor, targets: Tensor, config: KernelSvmConfig) -> Tensor:
    """Draw centres from the rows, half of them positives if there are enough: (M, D)."""
    draw = torch.Generator().manual_seed(config.seed)
    is_positive = (targets > 0).any(1)
    positives, others = (
        chosen[torch.randperm(len(chosen), generator=draw)]
        for chosen in (is_positive.nonzero().flatten(), (~is_positive).nonzero().flatten())
    )
    half = max(config.centres // 2, config.centres - len(others))
    positives = positives[:half]
    return rows[torch.cat([positives, others[: config.centres - len(positives)]])]


def _median_distance(centres: Tensor) -> float:
    """Median distance between different centres; 1 where there is none."""
    distances = torch.pdist(centres)
    return float(distances.median().clamp(min=1e-6)) if len(distances) else 1.0


def _positive_examples(positives: list[Tensor]) -> Examples:
    """Join the positives of all classes; a positive of one class is left out of the others."""
    count = len(positives)
    targets = [
        torch.zeros(len(rows), count).index_fill_(1, torch.tensor([k]), 1.0)
        for k, rows in enumerate(positives)
    ]
    return torch.cat(positives), torch.cat(targets)


def _batches(images: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterable[Examples]:
    """Join the negatives of images until a batch is full."""
    parts: list[Examples] = []
    for rows, is_negative in images:
        parts.append((rows, -is_negative.float()))
        if sum(len(part[0]) for part in parts) >= size:
            yield _join(*parts)
            parts = []
    if parts:
        yield _join(*parts)


def _is_hard(classifier: KernelRegionClassifier, examples: Examples, above: float) -> Tensor:
    """(N, K) which examples are negatives of a class and have a score above a bound."""
    rows, targets = examples
    return (targets < 0) & (classifier.decision_function(rows) > above)


def _take(examples: Examples, keep: Tensor) -> Examples:
    """Keep the marked targets, and the rows that have any."""
    rows = keep.any(1)
    return examples[0][rows], (examples[1] * keep)[rows]


def _join(*parts: Examples) -> Examples:
    return torch.cat([rows for rows, _ in parts]), torch.cat([targets for _, targets in parts])
