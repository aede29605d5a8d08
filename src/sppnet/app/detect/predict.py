"""The work of ``sppnet detect val`` and ``sppnet detect predict``: a detector over many images."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sppnet.app.console import (
    Tally,
    human_seconds,
    note,
    options_to_blame,
    report_problems,
    say,
    say_table,
    warn,
)
from sppnet.app.options import choose_device
from sppnet.app.progress import track
from sppnet.detection import Detector, ExternalProposals
from sppnet.detection.detector import AnyDetector, CombinedDetector
from sppnet.errors import InputError, NothingUsableError, Problem
from sppnet.evaluation import (
    DetectionFigures,
    draw_detections,
    proposal_recall_curve,
    to_jpeg_bytes,
    write_coco_results,
    write_csv,
    write_detection_report,
)
from sppnet.evaluation.report import MEASURES, score_text, seen_warnings
from sppnet.geometry import Detections
from sppnet.images import (
    DetectionDataset,
    LabelledImage,
    list_images,
    open_detection_dataset,
)
from sppnet.images.decode import content_number, decode_content, read_content
from sppnet.storage import (
    FeatureCache,
    ensure_output_folder,
    sha256_bytes,
    write_bytes,
    write_json,
)
from sppnet.storage.runs import environment
from sppnet.storage.tensors import digest_of

STAGES = ("decode", "features", "proposals", "windows")
OUTCOME_VERSION = 3  # raise it whenever the same model finds other things in the same file
LONGEST_STEM = 240  # bytes; with a number and an ending it must fit into the 255 of a name
OVERLAY_SIDE = 1600  # pixels; larger photos are drawn smaller


@dataclass(frozen=True)
class ImageOutcome:
    """What a detector did with one image.

    Args:
        detections: What was found.
        proposals: (W, 4) boxes that were scored, xyxy in pixels.
        seconds: Time of each of :data:`STAGES`.
        number: The number by which the file's content is known again.
    """

    detections: Detections
    proposals: Tensor
    seconds: tuple[float, ...]
    number: int


@dataclass(frozen=True)
class ReadImage:
    """An image file that was read once, so that what is hashed, decoded and drawn is one photo.

    Args:
        path: The file.
        data: Its bytes.
    """

    path: Path
    data: bytes

    @classmethod
    def of(cls, path: Path) -> "ReadImage":
        """Read a file; raises ``InputError``."""
        return cls(path, read_content(path))

    @cached_property
    def pixels(self) -> Tensor:
        """The image, (3, H, W) float32 RGB 0..1; raises ``InputError``."""
        return decode_content(self.data, self.path)


def detect_image(
    detector: AnyDetector, image: ReadImage, external: ExternalProposals | None = None
) -> ImageOutcome:
    """Run a detector on one image, from its bytes to its boxes.

    Args:
        detector: The detector, or several as one.
        image: The image file.
        external: Proposals from a file, used instead of a search in the pixels.

    Returns:
        Detections, proposals and times.

    Raises:
        InputError: If the file cannot be decoded.
    """
    times = [time.perf_counter()]
    pixels = image.pixels
    times.append(time.perf_counter())
    encoded = detector.encode(pixels)
    times.append(time.perf_counter())
    size_hw = (pixels.shape[1], pixels.shape[2])
    given = None if external is None else external.look_up(image.path, size_hw)
    proposals = detector.propose(pixels, encoded, given)
    times.append(time.perf_counter())
    detections = detector.detect(encoded, proposals)
    times.append(time.perf_counter())
    return ImageOutcome(
        detections,
        proposals,
        tuple(end - start for start, end in pairwise(times)),
        content_number(image.data),
    )


def open_detectors(
    models: Sequence[Path], device: str, overrides: Mapping[str, Any] = MappingProxyType({})
) -> AnyDetector:
    """Read the detectors that options name; several are combined into one.

    Args:
        models: Folders of the detectors.
        device: Where to compute, as the option says it.
        overrides: Fields of their :class:`InferenceConfig` to change.

    Returns:
        The detector.

    Raises:
        UnusableFileError: If a folder is no detector.
        UsageError: If the detectors have different classes, or a value is out of range.
    """
    detectors = [Detector.load(model, choose_device(device)) for model in models]
    with options_to_blame():
        for detector in detectors:
            detector.inference = detector.inference.changed(overrides)
        return detectors[0] if len(detectors) == 1 else CombinedDetector(detectors)


class OutcomeStore:
    """Keeps the outcomes of images on disk, so that a run that was stopped continues.

    An outcome is found again only under all that it depends on: the numbers and constants of the
    detector, the bytes of the image, its proposals in the file of proposals, the kind of device and
    the number of threads, which change the last bits, and the versions of the software.

    Args:
        folder: Where the records are kept.
        detector: The detector, or several as one.
        proposals_file: File of proposals; None if the detectors search for them.
        fresh: Whether to compute everything again.
    """

    def __init__(
        self,
        folder: Path,
        detector: AnyDetector,
        proposals_file: Path | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.cache = FeatureCache(folder)
        self.detector = detector
        self.external = None if proposals_file is None else ExternalProposals.open(proposals_file)
        self.fresh = fresh
        tensors = detector.tensors()
        self._digest = digest_of(detector.config(), tensors)
        self._devices = tuple(sorted({tensor.device.type for tensor in tensors.values()}))

    def detect(self, image: ReadImage) -> ImageOutcome:
        """Look the image up, or run the detector on it and keep the outcome.

        Args:
            image: The image file.

        Returns:
            Its outcome; the times are those of the run that computed it.

        Raises:
            InputError: If the file cannot be decoded.
        """
        key = self._key(image)
        record = None if self.fresh else self.cache.get(key)
        if record is None:
            outcome = detect_image(self.detector, image, self.external)
            self.cache.put(key, _to_record(outcome))
            return outcome
        return ImageOutcome(
            Detections(record["boxes"], record["scores"], record["labels"]),
            record["windows"],
            tuple(record["seconds"].tolist()),
            content_number(image.data),
        )

    def _key(self, image: ReadImage) -> str:
        """Everything that an outcome depends on."""
        return self.cache.make_key(
            kind="outcome",
            version=OUTCOME_VERSION,
            detector=self._digest,
            proposals=None if self.external is None else self.external.digest(image.path),
            image=sha256_bytes(image.data),
            devices=self._devices,
            threads=torch.get_num_threads(),
        )


def _to_record(outcome: ImageOutcome) -> dict[str, Tensor]:
    """Write an outcome as named tensors."""
    seconds = torch.tensor(outcome.seconds, dtype=torch.float64)
    return {**outcome.detections, "windows": outcome.proposals, "seconds": seconds}


@dataclass
class PredictionJob:
    """What ``detect predict`` was asked to do.

    Args:
        models: Folders of the detectors; several are combined.
        sources: Files, folders and globs.
        out: Folder for the results.
        device: Where to compute, as the option says it.
        overrides: Fields of the detectors' :class:`InferenceConfig` to change.
        proposals_file: File of proposals; None if the detectors search for them.
        score_threshold: Detections that score less are not reported.
        show_above: Detections that score less are not drawn.
    """

    models: Sequence[Path]
    sources: list[str]
    out: Path
    device: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    proposals_file: Path | None = None
    score_threshold: float = -1.0
    show_above: float = 0.0

    def explain(self) -> None:
        """Say what would be done; write nothing."""
        detector = open_detectors(self.models, self.device, self.overrides)
        listing = list_images(self.sources, self.out)
        seconds = 0.0
        for path in listing.paths[:2]:
            try:
                seconds = max(seconds, sum(detect_image(detector, ReadImage.of(path)).seconds))
            except InputError:
                continue
        count = len(listing.paths)
        say(f"would look at {count} images in about {human_seconds(seconds * count)}")

    def run(self, *, fresh: bool = False) -> None:
        """Detect, draw and write the results; ends the command with its exit code."""
        listing = list_images(self.sources, self.out)
        if listing.own_words:
            note(listing.own_words)
        tally = Tally(listed=len(listing.paths) + len(listing.problems))
        for problem in listing.problems:
            tally.add_failed(problem)
        if not listing.paths:
            tally.finish()
        detector = open_detectors(self.models, self.device, self.overrides)
        ensure_output_folder(self.out / "overlays")
        store = OutcomeStore(self.out / "cache", detector, self.proposals_file, fresh=fresh)
        found: dict[str, Detections] = {}
        names = overlay_names(list(listing.paths))
        for path in track(listing.paths, "detecting", total=len(listing.paths)):
            try:
                image = ReadImage.of(path)
                outcome = store.detect(image)
                self._draw(image, names[path], outcome, detector.names)
            except InputError as error:
                tally.add_failed(error)
                continue
            found[names[path]] = self._reported(outcome.detections)
            tally.add_ok()
        if found:
            write_coco_results(self.out / "detections.json", found, detector.names)
            write_csv(self.out / "detections.csv", found, detector.names)
            say(f"{sum(each.count for each in found.values())} detections in {len(found)} images")
            say(f"results: {self.out / 'detections.json'}")
        tally.finish()

    def _reported(self, detections: Detections) -> Detections:
        """Drop detections whose score is too low to report."""
        return detections.select(detections.scores >= self.score_threshold)

    def _draw(
        self, image: ReadImage, name: str, outcome: ImageOutcome, names: tuple[str, ...]
    ) -> None:
        """Write the picture of one image with its detections."""
        picture = draw_detections(image.pixels, outcome.detections, names, self.show_above)
        write_bytes(self.out / "overlays" / f"{name}.jpg", to_jpeg_bytes(picture, OVERLAY_SIDE))


def overlay_names(paths: list[Path]) -> dict[Path, str]:
    """Name each image in the results by its stem; equal stems get a number.

    A stem too long for a file's name with a number and an ending ends in a digest of the path.

    Example:
        >>> sorted(overlay_names([Path("a/x.jpg"), Path("b/x.png"), Path("y.jpg")]).values())
        ['x', 'x-2', 'y']
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = next(n for n in _numbered(_short_stem(path)) if n.lower() not in taken)
        taken.add(name.lower())
        names[path] = name
    return names


def _short_stem(path: Path) -> str:
    """The stem in at most ``LONGEST_STEM`` bytes."""
    data = os.fsencode(path.stem)
    if len(data) <= LONGEST_STEM:
        return path.stem
    digest = sha256_bytes(os.fsencode(path))[:16]
    return data[: LONGEST_STEM - 17].decode("utf-8", errors="ignore") + f"-{digest}"


def _numbered(stem: str) -> Iterator[str]:
    """Yield a stem, then the stem with 2, 3, ... behind it."""
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


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
    """

    models: Sequence[Path]
    data: Path
    split: str | None
    out: Path
    device: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    proposals_file: Path | None = None

    def explain(self) -> None:
        """Say what scoring would do; write nothing."""
        detector, dataset = self._open()
        seconds = 0.0
        for image in dataset.images[:2]:
            try:
                outcome = detect_image(detector, ReadImage.of(image.path))
                seconds = max(seconds, sum(outcome.seconds))
            except InputError:
                continue  # reported where the image is scored
        say(f"would score {len(dataset)} images in about {human_seconds(seconds * len(dataset))}")
        report_problems(dataset.problems)

    def run(self, *, fresh: bool = False) -> int:
        """Detect, score and write; returns the exit code.

        Raises:
            NothingUsableError: If no image of the split could be scored.
        """
        detector, dataset = self._open()
        ensure_output_folder(self.out)
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
        return self._write(detector, outcomes, problems)

    def _open(self) -> tuple[AnyDetector, DetectionDataset]:
        """Read the model, and the annotations with the classes of the model."""
        detector = open_detectors(self.models, self.device, self.overrides)
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
        self._write_metrics(images, figures, seen)
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

    def _write_metrics(
        self, images: list[LabelledImage], figures: DetectionFigures, seen: int | None
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
        for warning in figures.warnings:
            warn(warning)
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
