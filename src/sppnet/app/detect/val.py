"""``sppnet detect val``: detections of a labelled split, their score, and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sppnet.app.console import human_seconds, report_problems, say, say_table
from sppnet.app.detect.predict import (
    STAGES,
    ImageOutcome,
    OutcomeStore,
    detect_file,
    open_detectors,
)
from sppnet.app.progress import track
from sppnet.detection.detector import AnyDetector
from sppnet.errors import InputError, NothingUsableError, Problem
from sppnet.evaluation import DetectionFigures, proposal_recall_curve, write_detection_report
from sppnet.evaluation.report import MEASURES, score_text
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.storage import ensure_output_folder, write_json
from sppnet.storage.runs import environment


@dataclass
class ScoringJob:
    """What ``detect val`` was asked to do.

    Args:
        models: Folders of the detectors; several are combined.
        data: Folder of the data set.
        split: Part of it to score on.
        out: Folder for the figures and the report.
        device: Where to compute, as the option says it.
        rule: Fields of the detectors' :class:`InferenceConfig` that are to be others.
        windows_file: Where windows come from; None if the detectors find them.
    """

    models: Sequence[Path]
    data: Path
    split: str | None
    out: Path
    device: str = "auto"
    rule: Mapping[str, Any] = field(default_factory=dict)
    windows_file: Path | None = None

    def explain(self) -> None:
        """Say what scoring would do; write nothing."""
        detector, dataset = self._open()
        seconds = 0.0
        for image in dataset.images[:2]:
            try:
                seconds = max(seconds, sum(detect_file(detector, image.path).seconds))
            except InputError:
                continue  # reported where the image is scored
        say(f"would score {len(dataset)} images in about {human_seconds(seconds * len(dataset))}")
        report_problems(dataset.problems)

    def run(self, *, fresh: bool = False) -> int:
        """Detect, score, write; returns the exit code."""
        detector, dataset = self._open()
        ensure_output_folder(self.out)
        store = OutcomeStore(self.out / "cache", self.models, self.windows_file, fresh=fresh)
        problems = list(dataset.problems)
        outcomes: dict[LabelledImage, ImageOutcome] = {}
        for image in track(dataset.images, "detecting", total=len(dataset)):
            try:
                outcomes[image] = store.detect(detector, image.path)
            except InputError as error:
                problems.append(Problem.of(error, "image left out"))
        if not outcomes:
            report_problems(problems)
            raise NothingUsableError("no image of the split could be scored", path=self.data)
        return self._write(detector, outcomes, problems)

    def _open(self) -> tuple[AnyDetector, DetectionDataset]:
        """Read the model, and the annotations with the classes of the model."""
        detector = open_detectors(self.models, self.device, self.rule)
        dataset = open_detection_dataset(self.data, self.split, names=detector.names)
        return detector, dataset

    def _write(
        self,
        detector: AnyDetector,
        outcomes: dict[LabelledImage, ImageOutcome],
        problems: list[Problem],
    ) -> int:
        """Write the figures and the report, and print the table."""
        images = list(outcomes)
        found = {image.image_id: outcome.detections for image, outcome in outcomes.items()}
        windows = {image.image_id: outcome.windows for image, outcome in outcomes.items()}
        figures = DetectionFigures.measure(
            images,
            found,
            detector.names,
            proposal_recall=proposal_recall_curve(images, windows),
            seconds=median_seconds(list(outcomes.values())),
            seconds_per_image=median(sum(outcome.seconds) for outcome in outcomes.values()),
            problems=problems,
            config=detector.config(),
            versions=environment()["versions"],
        )
        self._write_metrics(images, figures)
        write_detection_report(
            self.out / "report.html",
            images,
            found,
            figures,
            title=f"Detection of {', '.join(detector.names[:4])}",
            subtitle=self.data.name + (f", split {self.split}" if self.split else ""),
        )
        self._say(figures)
        return report_problems(problems)

    def _write_metrics(self, images: list[LabelledImage], figures: DetectionFigures) -> None:
        """Leave every figure as JSON."""
        metrics: dict[str, Any] = {
            **figures.mean,
            "per_class": figures.per_class["ap50"],
            "per_class_by_measure": figures.per_class,
            "images": len(images),
            "objects": sum(len(image.boxes) for image in images),
            "seconds_per_image": figures.seconds_per_image,
            "seconds_per_stage": dict(figures.seconds),
            "threads": torch.get_num_threads(),
            "problems": [str(problem) for problem in figures.problems],
            **(figures.analysis.to_json() if figures.analysis else {}),
        }
        write_json(self.out / "metrics.json", metrics)

    def _say(self, figures: DetectionFigures) -> None:
        """Print the scores, the speed and where the report is."""
        measures = list(MEASURES)
        rows = [
            [name, *(score_text(figures.per_class[measure][name]) for measure in measures)]
            for name in figures.names
        ]
        rows.append(["mean", *(score_text(figures.mean[measure]) for measure in measures)])
        say_table(["class", *measures], rows)
        say(f"{figures.seconds_per_image:.2f} s per image")
        say(f"report: {self.out / 'report.html'}")


def median_seconds(outcomes: list[ImageOutcome]) -> dict[str, float]:
    """Take the median time of each stage over the images."""
    return {
        name: median(outcome.seconds[i] for outcome in outcomes) for i, name in enumerate(STAGES)
    }
