"""How often a classifier is right, and its report: one HTML file, its numbers as JSON beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from sppnet.errors import Problem
from sppnet.evaluation.report.axes import score_text
from sppnet.evaluation.report.charts import confusion_chart
from sppnet.evaluation.report.html import (
    Page,
    Tile,
    details,
    figure,
    heading,
    paragraph,
    pictures,
    table,
    tiles,
)
from sppnet.evaluation.report.sections import (
    MOST_BARS,
    LoadImage,
    add_origin_section,
    add_problem_section,
    add_time_section,
    add_warning_section,
    class_bars,
    counted,
    in_columns,
    thumbnails,
)
from sppnet.images.decode import load_compact
from sppnet.storage.files import write_json, write_text

NUM_THUMBNAILS = 12
NUM_CONFUSIONS = 8


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share of the images whose true class is among the k best scores.

    Among equal scores the lower class number comes first, so a classifier that says nothing earns
    nothing.

    Args:
        scores: (N, C) finite.
        labels: (N,) true classes, 0..C-1.
        k: At least 1; with k >= C every image counts.

    Returns:
        0..1; NaN without images.

    Raises:
        ValueError: If the shapes do not fit, a score is not finite or a label is no class.

    Example:
        >>> top_k_accuracy([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [1, 1]), top_k_accuracy(
        ...     [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [1, 1], k=2
        ... )
        (0.5, 1.0)
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite and of shape (N, C), got {values.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    truth = _checked_labels(labels, values.shape[1], "labels")
    if len(truth) != len(values):
        raise ValueError(f"labels must have shape ({len(values)},), got {truth.shape}")
    own = values[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(values.shape[1]) < truth[:, None]
    rank = ((values > own) | ((values == own) & earlier)).sum(1)
    return _mean(rank < k)


def confusion_matrix(
    predicted: ArrayLike, labels: ArrayLike, num_classes: int
) -> NDArray[np.int64]:
    """Count how often each class was taken for each class.

    Args:
        predicted: (N,) classes, 0..num_classes-1.
        labels: (N,) true classes.
        num_classes: Number of classes C.

    Returns:
        (C, C); rows are true classes, columns predicted ones.

    Raises:
        ValueError: If the lengths differ or a number is no class.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 0, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    guesses = _checked_labels(predicted, num_classes, "predicted")
    truth = _checked_labels(labels, num_classes, "labels")
    if len(guesses) != len(truth):
        raise ValueError(f"predicted must have shape ({len(truth)},), got {guesses.shape}")
    counts = np.bincount(truth * num_classes + guesses, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class_accuracy(
    predicted: ArrayLike, labels: ArrayLike, num_classes: int
) -> NDArray[np.float64]:
    """Share of each class's images that were recognised.

    Args:
        predicted: (N,) classes, 0..num_classes-1.
        labels: (N,) true classes.
        num_classes: Number of classes C.

    Returns:
        (C,) 0..1; NaN for a class without images.

    Raises:
        ValueError: As for :func:`confusion_matrix`.

    Example:
        >>> per_class_accuracy([0, 1, 1], [0, 0, 1], 3).tolist()
        [0.5, 1.0, nan]
    """
    counts = confusion_matrix(predicted, labels, num_classes)
    images = counts.sum(1)
    shares = np.full(num_classes, np.nan)
    np.divide(counts.diagonal(), images, out=shares, where=images > 0)
    return shares


def mean_class_accuracy(predicted: ArrayLike, labels: ArrayLike, num_classes: int) -> float:
    """Mean over the classes that have images of the share that was recognised.

    Args:
        predicted: (N,) classes, 0..num_classes-1.
        labels: (N,) true classes.
        num_classes: Number of classes.

    Returns:
        0..1; NaN without images.

    Raises:
        ValueError: As for :func:`confusion_matrix`.

    Example:
        >>> mean_class_accuracy([0, 1, 1], [0, 0, 1], 3)
        0.75

    Source:
        The measure of Caltech-101; SPP-net, section 3.3.
    """
    shares = per_class_accuracy(predicted, labels, num_classes)
    return _mean(shares[~np.isnan(shares)])


def _checked_labels(labels: ArrayLike, num_classes: int, name: str) -> NDArray[np.int64]:
    """Return class numbers as integers, all of them inside 0..num_classes-1."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {values.shape}")
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    bad = values[(values < 0) | (values >= num_classes)]
    if bad.size:
        raise ValueError(f"{name} must be 0..{num_classes - 1}, got {bad[0]}")
    return values.astype(np.int64)


def _mean(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    """Mean, NaN for nothing."""
    return float(values.mean()) if len(values) else float("nan")


@dataclass(frozen=True)
class ClassificationFigures:
    """Everything that a report of a classifier shows, apart from the images.

    Args:
        names: K class names.
        labels: (N,) true classes.
        scores: (N, K) score of each class; the highest is the answer.
        seconds: By stage, in the order of the work.
        problems: Findings about input files.
        config: Every setting of the run.
        versions: Of the packages.
        extra: Further key figures to show, such as the accuracy over several splits.
        warnings: What has to be known before any figure, a sentence each.
    """

    names: Sequence[str]
    labels: ArrayLike
    scores: ArrayLike
    seconds: Mapping[str, float] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Sequence[Tile] = ()
    warnings: Sequence[str] = ()


class _Answers(NamedTuple):
    """The answers of a classifier, compared with the truth."""

    labels: NDArray[np.int64]  # (N,)
    predicted: NDArray[np.int64]  # (N,)
    confidence: NDArray[np.float64]  # (N,)
    confusion: NDArray[np.int64]  # (K, K)
    class_accuracy: NDArray[np.float64]  # (K,)
    mean_class_accuracy: float
    top1: float
    top5: float

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """(N,) whether the answer is the truth."""
        return self.predicted == self.labels


def write_classification_report(
    path: Path,
    image_paths: Sequence[str | Path],
    figures: ClassificationFigures,
    *,
    title: str = "Classification report",
    subtitle: str = "",
    load: LoadImage = load_compact,
) -> dict[str, object]:
    """Write ``report.html`` and, beside it, ``report.json`` with the numbers of its plots.

    The page shows top-1 and top-5 accuracy, the accuracy of each class, the confusion matrix, and
    the answers that the classifier was surest of, wrong and right. It needs nothing but itself.

    Args:
        path: The HTML file; the JSON file has its name with another ending.
        image_paths: N files, in the order of the labels.
        figures: What was measured.
        title: Heading of the page.
        subtitle: What was scored on what.
        load: Reads the images that are shown; one that fails is left out.

    Returns:
        The numbers in the JSON file.

    Raises:
        ValueError: If the numbers of paths, labels and scores differ.
        OutputError: If a file cannot be written.
    """
    answers = _answers(figures, len(image_paths))
    counts = [counted(len(image_paths), "image"), counted(len(figures.names), "class")]
    page = Page(
        title,
        " \u00b7 ".join([*filter(None, [subtitle]), *counts]),
        f"The numbers behind every plot are in {path.with_suffix('.json').name}, beside this page.",
    )
    add_warning_section(page, figures.warnings)
    page.add_section("", tiles(_key_figures(figures, answers)))
    page.add_section("By class", *_class_blocks(figures.names, answers))
    _add_picture_sections(page, image_paths, figures.names, answers, load)
    add_time_section(page, figures.seconds)
    add_problem_section(page, figures.problems)
    add_origin_section(page, figures.config, figures.versions)
    numbers = _numbers(figures, answers)
    write_text(path, page.render())
    write_json(path.with_suffix(".json"), numbers)
    return numbers


def _answers(figures: ClassificationFigures, num_images: int) -> _Answers:
    """Check the shapes and compare answers with the truth."""
    num_classes = len(figures.names)
    labels = np.asarray(figures.labels, dtype=np.int64).reshape(-1)
    scores = np.asarray(figures.scores, dtype=np.float64)
    if scores.shape != (num_images, num_classes) or labels.shape != (num_images,):
        raise ValueError(
            f"labels and scores must have shapes ({num_images},) and ({num_images}, "
            f"{num_classes}), got {labels.shape} and {scores.shape}"
        )
    # argmax takes the first of equals, as top_k_accuracy does
    predicted = scores.argmax(axis=1) if scores.size else np.zeros(0, dtype=np.int64)
    given = (predicted, labels, num_classes)
    return _Answers(
        labels,
        predicted,
        scores.max(axis=1) if scores.size else np.zeros(0),
        confusion_matrix(*given),
        per_class_accuracy(*given),
        mean_class_accuracy(*given),
        top_k_accuracy(scores, labels),
        top_k_accuracy(scores, labels, k=5),
    )


def _key_figures(figures: ClassificationFigures, answers: _Answers) -> list[Tile]:
    """Top-1, top-5 with more than five classes, mean class accuracy, and what the caller adds."""
    num_classes = len(figures.names)
    chance = f"chance {score_text(1 / num_classes)}" if num_classes else ""
    entries = [Tile("Top-1 accuracy", score_text(answers.top1), chance)]
    if num_classes > 5:
        entries.append(
            Tile("Top-5 accuracy", score_text(answers.top5), "truth among the best five")
        )
    mean = score_text(answers.mean_class_accuracy)
    entries.append(Tile("Mean class accuracy", mean, "every class counts the same"))
    return [*entries, *figures.extra]


def _class_blocks(names: Sequence[str], answers: _Answers) -> list[Markup]:
    """Bars of the classes beside the confusion matrix, and the pairs most often confused."""
    accuracy = dict(zip(names, answers.class_accuracy.tolist(), strict=True))
    matrix = confusion_chart(answers.confusion, names) if names else None
    blocks = [
        in_columns(
            class_bars(accuracy, "Accuracy") if names else None,
            figure(
                matrix,
                "Confusion",
                "Blue is right, orange wrong; the shade is the share of the row.",
            )
            if matrix
            else None,
        )
    ]
    pairs = _confused_pairs(names, answers)
    if pairs:
        columns = ("class", "taken for", "images", "of")
        blocks += [heading("Most frequent confusions"), table(columns, pairs)]
    if len(names) > MOST_BARS:
        totals = answers.confusion.sum(axis=1).tolist()
        rows = list(zip(names, totals, accuracy.values(), strict=True))
        every = table(("class", "images", "accuracy"), rows)
        blocks.append(details(f"All {len(names)} classes", every))
    return blocks


def _confused_pairs(names: Sequence[str], answers: _Answers) -> list[tuple[str, str, int, int]]:
    """(Class, what it was taken for, how often, of how many), the most frequent first."""
    mistakes = answers.confusion - np.diag(np.diag(answers.confusion))
    flat = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_CONFUSIONS]
    cells = zip(*np.unravel_index(flat, mistakes.shape), strict=True)
    totals = answers.confusion.sum(axis=1)
    return [
        (names[i], names[j], int(mistakes[i, j]), int(totals[i]))
        for i, j in cells
        if mistakes[i, j]
    ]


def _add_picture_sections(
    page: Page,
    image_paths: Sequence[str | Path],
    names: Sequence[str],
    answers: _Answers,
    load: LoadImage,
) -> None:
    """Append the wrong and the right answers with the highest scores."""
    kinds = (
        ("Surest mistakes", "The wrong answers with the highest scores.", ~answers.is_right),
        ("Surest correct answers", "The right answers with the highest scores.", answers.is_right),
    )
    for title, text, mask in kinds:
        rows = np.flatnonzero(mask)
        rows = rows[np.argsort(-answers.confidence[rows], kind="stable")][:NUM_THUMBNAILS]
        entries = [_thumbnail(image_paths[i], names, answers, i) for i in rows.tolist()]
        shown = thumbnails(entries, load)
        if shown:
            page.add_section(title, paragraph(text), pictures(shown, small=True))


def _thumbnail(
    path: str | Path, names: Sequence[str], answers: _Answers, row: int
) -> tuple[str, str, str]:
    """Path, answer with its score, and the truth where it differs."""
    title = f"{names[answers.predicted[row]]} {answers.confidence[row]:.2f}"
    return str(path), title, "" if answers.is_right[row] else f"is {names[answers.labels[row]]}"


def _numbers(figures: ClassificationFigures, answers: _Answers) -> dict[str, object]:
    """What was drawn, as plain lists."""
    accuracy = answers.class_accuracy.tolist()
    return {
        "top1": answers.top1,
        "top5": answers.top5,
        "mean_class_accuracy": answers.mean_class_accuracy,
        "per_class": dict(zip(figures.names, accuracy, strict=True)),
        "confusion": {"names": list(figures.names), "counts": answers.confusion.tolist()},
        "seconds": dict(figures.seconds),
        "warnings": list(figures.warnings),
        "problems": [vars(problem) for problem in figures.problems],
    }
