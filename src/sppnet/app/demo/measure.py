"""Scores of the demo's models on held-out drawings, beside untrained models and chance."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sppnet.app.demo.scores import CHANCE, TRAINED, UNTRAINED, Curve, DemoScores
from sppnet.app.demo.steps import DemoSteps
from sppnet.app.detect.outcomes import ImageOutcome
from sppnet.app.options import choose_device
from sppnet.app.progress import track
from sppnet.classification import Classifier, View, predict_files, score_predictions
from sppnet.detection import InferenceConfig
from sppnet.evaluation import (
    evaluate_detections,
    match_detections,
    proposal_recall_curve,
    summarise_detections,
)
from sppnet.geometry import Detections, nms_per_class
from sppnet.images import LabelledImage, load_image

TEST_SHORT_SIDES = (32, 48, 64, 96, 128, 192, 256)


def measure(steps: DemoSteps) -> DemoScores:
    """Score trained, untrained and random answers on the same held-out drawings.

    Args:
        steps: All done.

    Returns:
        The figures.
    """
    folder = steps.folder
    scenes = folder.scenes_of("test")
    outcomes = steps.detect(folder.detector, scenes)
    untrained = steps.detect(folder.work / "untrained-detector", scenes)
    proposals = {name: outcome.proposals for name, outcome in outcomes.items()}
    inference = InferenceConfig()
    detections = {
        TRAINED: {name: outcome.detections for name, outcome in outcomes.items()},
        UNTRAINED: {name: outcome.detections for name, outcome in untrained.items()},
        CHANCE: guess(proposals, len(scenes.names), inference, steps.seed),
    }
    classifier, by_size, tested = _score_classifiers(steps)
    images = scenes.images
    return DemoScores(
        names=scenes.names,
        images=images,
        detections=detections,
        detector={
            name: summarise_detections(images, found, scenes.names)
            for name, found in detections.items()
        },
        classifier=classifier,
        curves={name: joint_curve(images, found) for name, found in detections.items()},
        class_curves=evaluate_detections(
            images, detections[TRAINED], scenes.names, "area", 0.5
        ).curves,
        proposals=proposal_recall_curve(images, proposals),
        accuracy_by_size=by_size,
        num_test_images=tested,
        seconds_per_image=_seconds_per_image(outcomes),
    )


def guess(
    proposals: Mapping[Any, Tensor], num_classes: int, inference: InferenceConfig, seed: int
) -> dict[Any, Detections]:
    """Give every proposal a random score for every class, as a detector that knows nothing.

    Args:
        proposals: (K, 4) by image id.
        num_classes: Number of classes.
        inference: Says which scored proposals become detections.
        seed: Of the scores.

    Returns:
        Detections by image id.

    Example:
        >>> found = guess({"a": torch.tensor([[0.0, 0.0, 9.0, 9.0]])}, 2, InferenceConfig(), 0)
        >>> found["a"].count
        2
    """
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, boxes in proposals.items():
        scores = torch.rand(len(boxes) * num_classes, generator=draw)
        labels = torch.arange(num_classes).repeat(len(boxes))
        every = boxes.repeat_interleave(num_classes, 0)
        kept = nms_per_class(every, scores, labels, inference.nms_threshold)[
            : inference.max_detections
        ]
        found[name] = Detections(every[kept], scores[kept], labels[kept])
    return found


def joint_curve(images: tuple[LabelledImage, ...], detections: Mapping[Any, Detections]) -> Curve:
    """Recall and precision of all classes together, at overlap 0.5.

    Args:
        images: With their truth.
        detections: By image id.

    Returns:
        Recall and precision after each detection, best score first.
    """
    scores, is_right = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    for image in images:
        found = detections[image.image_id]
        scores.append(found.scores)
        is_right.append(match_detections(image.boxes, image.labels, found).is_true_positive)
    order = torch.cat(scores).sort(descending=True, stable=True).indices
    right = torch.cat(is_right)[order].double().cumsum(0)
    asked = max(1, sum(len(image.labels) for image in images))
    precision = right / torch.arange(1, len(right) + 1)
    return (right / asked).numpy(), precision.numpy()


def _score_classifiers(
    steps: DemoSteps,
) -> tuple[dict[str, dict[str, Any]], dict[int, float], int]:
    """Scores of both classifiers and of chance, and of the trained one at other input sizes."""
    data, split = steps.open_class_folders()
    paths = [data.paths[index] for index in split.test.tolist()]
    labels = data.labels[split.test]
    device = choose_device(steps.device)
    figures: dict[str, dict[str, Any]] = {}
    trained = Classifier.load(steps.folder.classifier, device)
    untrained = Classifier.load(steps.folder.work / "untrained-classifier", device)
    for name, classifier in ((TRAINED, trained), (UNTRAINED, untrained)):
        rows = predict_files(classifier, paths, track=track).rows
        figures[name] = score_predictions(rows, labels, data.names)
    figures[CHANCE] = {"top1": 1 / len(data.names)}
    pixels = [load_image(path) for path in paths]
    return figures, _accuracy_by_size(trained, pixels, labels), len(paths)


def _accuracy_by_size(
    classifier: Classifier, pixels: Sequence[Tensor], labels: Tensor
) -> dict[int, float]:
    """Top-1 of one network at several short sides of its input."""
    accuracy = {}
    for side in track(TEST_SHORT_SIDES, "trying other sizes"):
        view = View("full", side)
        best = classifier.score_views([view.apply(each) for each in pixels]).argmax(1)
        accuracy[side] = float((best == labels).double().mean())
    return accuracy


def _seconds_per_image(outcomes: Mapping[Any, ImageOutcome]) -> float:
    """Median time from a file to its boxes."""
    return median(sum(outcome.seconds) for outcome in outcomes.values())
