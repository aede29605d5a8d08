"""``sppnet detect val``: detections of a labelled split, their score, and the report."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sppnet.app.console import human_seconds, report_problems, say
from sppnet.app.progress import track
from sppnet.errors import InputError, NothingUsableError, Problem
from sppnet.geometry import Detections
from sppnet.images import LabelledImage
from sppnet.storage import FeatureCache, ensure_output_folder, read_json, write_json

STAGES = ("decode", "proposals", "features", "windows")


@dataclass(frozen=True)
class ScoredImage:
    """What a detector did with one image.

    Args:
        image: The image and its truth.
        detections: What was found.
        windows: The proposals that were scored, (W, 4).
        seconds: Time of each of :data:`STAGES`.
    """

    image: LabelledImage
    detections: Detections
    windows: Tensor
    seconds: tuple[float, ...]


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
        dataset, detector = self._open()
        seconds = 0.0
        for image in dataset.images[:2]:
            seconds = max(seconds, sum(detect_one(detector, image).seconds))
        say(f"would score {len(dataset)} images in about {human_seconds(seconds * len(dataset))}")
        report_problems(dataset.problems)

    def run(self, *, fresh: bool = False) -> int:
        """Detect, score, write; returns the exit code."""
        from sppnet.evaluation.detection_report import write_detection_report

        dataset, detector = self._open()
        ensure_output_folder(self.out)
        cache = FeatureCache(self.out / "cache")
        digest = read_json(self.model / "manifest.json")
        scored, problems = [], list(dataset.problems)
        for image in track(dataset.images, "detecting", total=len(dataset)):
            try:
                scored.append(self._detect_cached(detector, image, cache, repr(digest), fresh))
            except InputError as error:
                problems.append(Problem.of(error, "image left out"))
        if not scored:
            raise NothingUsableError("no image of the split could be scored", path=self.data)
        metrics = summarise(scored, dataset.names, problems)
        write_json(self.out / "metrics.json", metrics)
        write_detection_report(self.out / "report.html", scored, dataset.names, metrics)
        self._say(metrics)
        return report_problems(problems)
