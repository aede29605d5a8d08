"""The work of ``sppnet detect val``: scores a detector, and finds its operating point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sppnet.app.console import human_seconds, note, report_problems, say, say_table, warn
from sppnet.app.detect.outcomes import (
    STAGES,
    ImageOutcome,
    OutcomeStore,
    ReadImage,
    estimate_seconds,
)
from sppnet.app.detect.predict import open_detectors
from sppnet.app.progress import track
from sppnet.detection.combined import AnyDetector
from sppnet.detection.detector import keep_operating_points
from sppnet.errors import InputError, NothingUsableError, OutputError, Problem, UsageError, count_of
from sppnet.evaluation import (
    DetectionFigures,
    OperatingPoints,
    proposal_recall_curve,
    write_coco_results,
    write_detection_report,
)
from sppnet.evaluation.report import MEASURES, score_text, seen_warnings
from sppnet.geometry import Detections
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.images.listing import DETECTIONS
from sppnet.storage import ensure_output_folder, write_json
from sppnet.storage.runs import environment
from sppnet.storage.temp_files import remove_leftovers


@dataclass
class ScoringJob:
    """What ``detect val`` was asked to do.

    Args:
        models: Folders of the detectors; several are combined.
        data: Folder of the data set.
        split: Part of it to score on.
        out: Folder for the figures and the report.
        device: Where to compute, as the option says it.
        overrides: Fields of the detectors' :class:`InferenceConfig` to change.
        proposals_file: File of proposals; None if the detectors search for them.
        keep: Whether the operating point that is found is kept in the model; None to keep it if
            ``predict`` would find the same on photos that were not trained on.
    """

    models: Sequence[Path]
    data: Path
    split: str | None
    out: Path
    device: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    proposals_file: Path | None = None
    keep: bool | None = None

    def explain(self) -> None:
        """Say what scoring would do; write nothing."""
        detector, dataset = self._open()
        seconds = estimate_seconds(detector, [image.path for image in dataset.images])
        say(f"would score {count_of(len(dataset), 'image')} in about {human_seconds(seconds)}")
        report_problems(dataset.problems)

    def run(self, *, fresh: bool = False) -> int:
        """Detect, score and write; returns the exit code.

        Raises:
            NothingUsableError: If no image of the split could be scored.
        """
        detector, dataset = self._open()
        remove_leftovers(ensure_output_folder(self.out))
        store = OutcomeStore(self.out / "cache", detector, self.proposals_file, fresh=fresh)
        problems = list(dataset.problems)
        outcomes: dict[LabelledImage, ImageOutcome] = {}
        for image in track(dataset.images, "detecting", total=len(dataset)):
            try:
                outcomes[image] = store.detect(ReadImage.of(image.path))
            except InputError as error:
                problems.append(Problem.of(error, "image left out"))
        if not outcomes:
            report_problems(problems)
            raise NothingUsableError("no image of the split could be scored", path=self.data)
        return self._write(detector, dataset, outcomes, problems)

    def _open(self) -> tuple[AnyDetector, DetectionDataset]:
        """Read the model, and the annotations with the classes of the model."""
        if self.keep and len(self.models) > 1:
            raise UsageError("--keep is for one model; a combination has no folder to keep it in")
        detector = open_detectors(self.models, self.device, self.overrides)
        dataset = open_detection_dataset(self.data, self.split, names=detector.names)
        return detector, dataset

    def _write(
        self,
        detector: AnyDetector,
        dataset: DetectionDataset,
        outcomes: dict[LabelledImage, ImageOutcome],
        problems: list[Problem],
    ) -> int:
        """Write the figures and the report, and print the table."""
        images = list(outcomes)
        found = {image.image_id: outcome.detections for image, outcome in outcomes.items()}
        proposals = {image.image_id: outcome.proposals for image, outcome in outcomes.items()}
        seen = count_seen(detector, list(outcomes.values()))
        figures = DetectionFigures.measure(
            images,
            found,
            detector.names,
            proposal_recall=proposal_recall_curve(images, proposals),
            seconds=median_seconds(list(outcomes.values())),
            seconds_per_image=median(sum(outcome.seconds) for outcome in outcomes.values()),
            problems=problems,
            config=detector.config(),
            versions=environment()["versions"],
            warnings=seen_warnings(seen, len(images)),
        )
        points = OperatingPoints.fit(images, found, detector.names, "val")
        self._write_metrics(images, figures, seen, points)
        with_confidence = found
        if points is not None:
            with_confidence = {key: points.with_confidence(each) for key, each in found.items()}
        numbers = write_detection_report(
            self.out / "report.html",
            images,
            with_confidence,
            figures,
            files=dataset.files,
            title=f"Detection of {', '.join(detector.names[:4])}",
            subtitle=self.data.name + (f", split {self.split}" if self.split else ""),
        )
        self._write_detections(dataset, with_confidence, points)
        self._say(figures, str(numbers["sentence"]))
        self._keep(points, detector.names, seen)
        return report_problems(problems)

    def _write_detections(
        self,
        dataset: DetectionDataset,
        found: Mapping[Any, Detections],
        points: OperatingPoints | None,
    ) -> None:
        """Leave all that was found, as ``predict`` does; confidences are of these images."""
        write_coco_results(
            self.out / DETECTIONS,
            found,
            dataset.names,
            dataset.category_ids,
            files=dataset.files,
            thresholds=None if points is None else points.thresholds,
        )

    def _keep(self, points: OperatingPoints | None, names: Sequence[str], seen: int | None) -> None:
        """Keep the operating point in the model, or say why it is not."""
        if points is None:
            note("no operating point: too few detections are right to find one")
            return
        reasons = {
            "--no-keep": self.keep is False,
            "a combination has no folder": len(self.models) > 1,
            "options of testing were given": bool(self.overrides or self.proposals_file),
            "the model was trained on some of these images": bool(seen),
            "the model does not say which images it was trained on": seen is None,
        }
        found = points.describe(names)
        reason = next((text for text, holds in reasons.items() if holds), None)
        if reason is not None and not self.keep:
            note(f"{found}; not kept in the model: {reason}")
            return
        try:
            keep_operating_points(self.models[0], points)
        except OutputError as error:  # such as a folder that may be read only
            warn(f"{found}; not kept: {error}")
            return
        say(f"kept in {self.models[0]} for predict: {found} (--no-keep leaves a model as it is)")

    def _write_metrics(
        self,
        images: list[LabelledImage],
        figures: DetectionFigures,
        seen: int | None,
        points: OperatingPoints | None,
    ) -> None:
        """Leave every figure as JSON."""
        metrics: dict[str, Any] = {
            **figures.mean,
            "per_class": figures.per_class["ap50"],
            "per_class_by_measure": figures.per_class,
            "images": len(images),
            "seen_in_training": seen,
            "warnings": list(figures.warnings),
            "objects": sum(len(image.boxes) for image in images),
            "seconds_per_image": figures.seconds_per_image,
            "seconds_per_stage": dict(figures.seconds),
            "threads": torch.get_num_threads(),
            "problems": [str(problem) for problem in figures.problems],
            **(figures.analysis.to_json() if figures.analysis else {}),
            "operating_points": None if points is None else points.config(),
        }
        write_json(self.out / "metrics.json", metrics)

    def _say(self, figures: DetectionFigures, sentence: str) -> None:
        """Print the scores, the speed and where the report is."""
        measures = list(MEASURES)
        rows = [
            [name, *(score_text(figures.per_class[measure][name]) for measure in measures)]
            for name in figures.names
        ]
        rows.append(["mean", *(score_text(figures.mean[measure]) for measure in measures)])
        say_table(["class", *measures], rows)
        for warning in figures.warnings:
            warn(warning)
        say(sentence)
        say(f"{figures.seconds_per_image:.2f} s per image")
        say(f"report: {self.out / 'report.html'}")


def count_seen(detector: AnyDetector, outcomes: Sequence[ImageOutcome]) -> int | None:
    """Count the images that a detector was trained on; None if it does not say."""
    if detector.seen is None:
        return None
    seen = set(detector.seen.tolist())
    return sum(outcome.number in seen for outcome in outcomes)


def median_seconds(outcomes: list[ImageOutcome]) -> dict[str, float]:
    """Take the median time of each stage over the images."""
    return {
        name: median(outcome.seconds[i] for outcome in outcomes) for i, name in enumerate(STAGES)
    }
