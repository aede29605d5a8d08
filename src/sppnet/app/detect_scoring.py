"""``sppnet detect val``: detections of a labelled split, their score, and the report."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sppnet.app.console import human_seconds, report_problems, say, say_table
from sppnet.app.detect_images import STAGES, ImageOutcome, OutcomeStore, detect_file
from sppnet.app.device import choose_device
from sppnet.app.progress import track
from sppnet.detection import Detector
from sppnet.errors import InputError, NothingUsableError, Problem
from sppnet.evaluation import evaluate_detections, proposal_recall_curve, summarise_detections
from sppnet.evaluation.detection_report import DetectionFigures, write_detection_report
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.storage import ensure_output_folder, write_json


@dataclass
class ScoringJob:
    """What ``detect val`` was asked to do.

    Args:
        model: Folder of the detector.
        data: Folder of the data set.
        split: Part of it to score on.
        out: Folder for the figures and the report.
        device: Where to compute, as the option says it.
    """

    model: Path
    data: Path
    split: str
    out: Path
    device: str = "auto"

    def explain(self) -> None:
        """Say what scoring would do; write nothing."""
        detector, dataset = self._open()
        seconds = 0.0
        for image in dataset.images[:2]:
            seconds = max(seconds, sum(detect_file(detector, image.path).seconds))
        say(f"would score {len(dataset)} images in about {human_seconds(seconds * len(dataset))}")
        report_problems(dataset.problems)

    def run(self, *, fresh: bool = False) -> int:
        """Detect, score, write; returns the exit code."""
        detector, dataset = self._open()
        ensure_output_folder(self.out)
        store = OutcomeStore(self.out / "cache", self.model, fresh=fresh)
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

    def _open(self) -> tuple[Detector, DetectionDataset]:
        """Read the model, and the annotations with the classes of the model."""
        detector = Detector.load(self.model, choose_device(self.device))
        dataset = open_detection_dataset(self.data, self.split, names=detector.names)
        return detector, dataset

    def _write(
        self, detector: Detector, outcomes: dict[LabelledImage, ImageOutcome], problems: list[Problem]
    ) -> int:
        """Write the figures and the report, and print the table."""
        images = list(outcomes)
        found = {image.image_id: outcome.detections for image, outcome in outcomes.items()}
        summary = summarise_detections(images, found, detector.names)
        seconds = {
            name: median(outcome.seconds[i] for outcome in outcomes.values())
            for i, name in enumerate(STAGES)
        }
        metrics: dict[str, Any] = {
            **summary,
            "images": len(images),
            "objects": sum(len(image.boxes) for image in images),
            "seconds_per_image": median(sum(o.seconds) for o in outcomes.values()),
            "seconds_per_stage": seconds,
            "threads": torch.get_num_threads(),
            "problems": [str(problem) for problem in problems],
        }
        write_json(self.out / "metrics.json", metrics)
