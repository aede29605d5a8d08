"""What ``sppnet demo`` does: run the steps, measure, write the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sppnet.app.console import human_seconds, note, say, say_table, warn
from sppnet.app.demo.figures import (
    CHANCE,
    CONTENDERS,
    TRAINED,
    UNTRAINED,
    Curve,
    DemoScores,
    draw_montage,
)
from sppnet.app.demo.report import write_demo_report
from sppnet.app.demo.steps import STEPS, DemoConfig, DemoFolder, DemoSteps
from sppnet.app.detect.outcomes import ImageOutcome
from sppnet.app.options import choose_device
from sppnet.app.progress import Plan, Stage, announce, track
from sppnet.classification import Classifier, View, predict_files, score_predictions
from sppnet.detection import Detector, InferenceConfig
from sppnet.errors import UsageError, count_of
from sppnet.evaluation import (
    best_operating_point,
    evaluate_detections,
    match_detections,
    proposal_recall_curve,
    summarise_detections,
    to_jpeg_bytes,
)
from sppnet.geometry import Detections, nms_per_class
from sppnet.images import LabelledImage, load_image
from sppnet.storage import (
    RunFolder,
    ensure_output_folder,
    holds_run_of,
    read_json,
    write_bytes,
    write_json,
)

COMMAND = "demo"
# Seconds of each step on two quiet cores, for the time left; the times taken are in metrics.json.
USUAL_SECONDS = {"draw": 15, "classifier": 16, "detector": 25, "untrained": 17, "score": 12}
MONTAGE_SCENES = 12
TEST_SHORT_SIDES = (32, 48, 64, 96, 128, 192, 256)


@dataclass
class DemoJob:
    """What ``sppnet demo`` was asked to do.

    Args:
        out: Folder for everything.
        seed: Of everything that is random.
        device: Where to compute, as the option says it.
        config: How much to draw and to learn.
    """

    out: Path
    seed: int = 0
    device: str = "auto"
    config: DemoConfig = field(default_factory=DemoConfig)

    def explain(self) -> None:
        """Say what the demo would do; write nothing."""
        config, seconds = self.config, sum(USUAL_SECONDS.values())
        choose_device(self.device)
        images = count_of(config.images_per_class, "image")
        say(f"would draw {count_of(config.scenes, 'scene')} and {images} of each class")
        epochs, scenes = count_of(config.epochs, "epoch"), count_of(config.train_scenes, "scene")
        say(f"would train a classifier for {epochs}, sizes {_in_turn(config.sizes)}")
        say(f"would train a detector on {scenes}, score on {config.test_scenes}")
        say(f"would write 30 MB to {self.out}, ten times that while it runs")
        say(f"about {human_seconds(seconds)} on two cores, without a download")

    def run(self, *, fresh: bool = False) -> None:
        """Run it, or go on where an earlier run stopped, and say where the report is."""
        choose_device(self.device)
        folder = DemoFolder(ensure_output_folder(self.out))
        _check_ours(folder)
        with RunFolder.open(
            self.out, COMMAND, self.config.to_json(), self.seed, fresh=fresh
        ) as run:
            for change in run.changes:
                warn(change)
            if run.is_done("score"):
                note(f"{self.out} holds a finished demo; --fresh does it again")
            else:
                stages = [Stage(name, USUAL_SECONDS[name], run.is_done(name)) for name in STEPS]
                announce(stages)
                plan = Plan(stages, run.stage)
                steps = DemoSteps(folder, self.config, self.seed, self.device, run, plan)
                steps.do_all()
                self._finish(steps, run)
        self._summarise()

    def _finish(self, steps: DemoSteps, run: RunFolder) -> None:
        """Score, and write the report and the figures."""
        with steps.plan.stage("score"):
            scores = measure(steps)
            write_bytes(self.out / "detections.jpg", _montage(scores))
        seconds = {name: run.seconds().get(name, 0.0) for name in STEPS}
        seconds["total"] = sum(seconds.values())
        detector = Detector.load(steps.folder.detector, choose_device(self.device))
        about = read_json(self.out / "run.json")
        write_demo_report(self.out / "report.html", steps, scores, seconds, detector, about)
        metrics: dict[str, Any] = {
            **scores.to_json(),
            "history": steps.history(),
            "seconds": seconds,
            "threads": torch.get_num_threads(),
            "seed": self.seed,
            "plan": self.config.to_json(),
        }
        write_json(self.out / "metrics.json", metrics)
        run.mark_done("score")

    def _summarise(self) -> None:
        """Print the figures and where the report is."""
        metrics = read_json(self.out / "metrics.json")
        rows = [
            (
                name,
                f"{metrics['detector'][name]['ap50']:.3f}",
                f"{metrics['classifier'][name]['top1']:.3f}",
            )
            for name in CONTENDERS
        ]
        say_table(("on held-out drawings", "detector AP50", "classifier top-1"), rows)
        say(f"took {human_seconds(metrics['seconds']['total'])}, from nothing")
        say(f"report: {self.out / 'report.html'}")


def _check_ours(folder: DemoFolder) -> None:
    """Refuse a folder in which what the demo writes would mix with something else."""
    if holds_run_of(COMMAND, folder.path, "the demo"):
        return
    for part in folder.parts():
        if part.exists():
            raise UsageError(
                f"holds {part.name!r} already; choose another folder", path=folder.path
            )


def _montage(scores: DemoScores) -> bytes:
    """The first held-out scenes with at least two objects, as one JPEG; nothing is picked."""
    scenes = [image for image in scores.images if len(image.labels) > 1][:MONTAGE_SCENES]
    found = scores.detections[TRAINED]
    threshold = best_operating_point(scores.images, found).score_threshold
    picture = draw_montage(scenes, found, scores.names, threshold)
    return to_jpeg_bytes(picture, max_side=picture.width, quality=82)


def _in_turn(sizes: tuple[int, ...]) -> str:
    """Sizes in words."""
    return " and ".join(map(str, sizes)) + " in turn"


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
