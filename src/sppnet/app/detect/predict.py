"""The work of ``sppnet detect predict``: a detector over many images, and what it leaves."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.app.console import Tally, human_seconds, note, options_to_blame, say, say_table
from sppnet.app.options import choose_device
from sppnet.app.progress import track
from sppnet.detection import CombinedDetector, Detector, ExternalProposals
from sppnet.detection.combined import AnyDetector
from sppnet.detection.watch import NO_POINT, watch_frames
from sppnet.errors import InputError, UsageError
from sppnet.evaluation import (
    draw_detections,
    to_jpeg_bytes,
    write_coco_results,
    write_counts,
    write_csv,
)
from sppnet.evaluation.operating_point import reaches
from sppnet.evaluation.report import write_found_page
from sppnet.evaluation.results_writing import write_table
from sppnet.geometry import Detections
from sppnet.images import list_images
from sppnet.images.decode import content_number, decode_content, read_content
from sppnet.images.listing import DETECTIONS, OVERLAYS, distinct_ids
from sppnet.images.video import VideoWriter, frame_rate
from sppnet.progress import Track
from sppnet.storage import FeatureCache, ensure_output_folder, sha256_bytes, write_bytes
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
class VideoJob:
    """What ``detect predict`` was asked to do with videos.

    Args:
        models: Folders of the detectors; several are combined.
        videos: Files.
        out: Folder for the results.
        device: Where to compute, as the option says it.
        overrides: Fields of the detectors' :class:`InferenceConfig` to change.
        score_threshold: Least score that counts; None for the model's operating point.
        every: Look at one of so many frames.
    """

    models: Sequence[Path]
    videos: Sequence[Path]
    out: Path
    device: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    score_threshold: float | None = None
    every: int = 1

    def explain(self) -> None:
        """Say what would be done; write nothing."""
        open_detectors(self.models, self.device, self.overrides)
        for video in self.videos:
            rate = frame_rate(video)
            say(f"would look at one of {self.every} frames of {video}, {rate:g} a second")

    def run(self) -> None:
        """Write, for each video, a table of counts, one of detections, and a video of both."""
        stems = [video.stem for video in self.videos]
        if len(set(stems)) < len(stems):
            raise UsageError("videos of one name need calls of their own, each with its --out")
        detector = open_detectors(self.models, self.device, self.overrides)
        ensure_output_folder(self.out)
        tally = Tally(listed=len(self.videos))
        for video in self.videos:
            try:
                self._watch(detector, video)
            except InputError as error:
                tally.add_failed(error)
            else:
                tally.add_ok()
        tally.finish()

    def _watch(self, detector: AnyDetector, video: Path) -> None:
        names, given, target = detector.names, self.score_threshold, self.out / video.stem
        least = None if given is None else (given,) * len(names)
        frames = watch_frames(detector, video, self.every, least)
        found: dict[int, Detections] = {}
        rows: list[list[object]] = []
        with VideoWriter(Path(f"{target}.mp4"), frame_rate(video) / self.every) as film:
            for frame in track(frames, f"watching {video.name}"):
                numbers = list(frame.counts.values())
                rows.append([frame.number, round(frame.seconds, 3), *numbers, sum(numbers)])
                found[frame.number] = frame.detections
                film.write(np.asarray(draw_detections(frame.image, frame.detections, names)))
        write_table(f"{target}-counts.csv", ["frame", "seconds", *names, "total"], rows)
        write_csv(f"{target}-detections.csv", found, names)
        total = sum(each.count for each in found.values())
        say(f"{total} detections in {len(found)} frames of {video.name}")
        for ending in (".mp4", "-counts.csv", "-detections.csv"):
            say(f"wrote {target}{ending}")


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
        score_threshold: Detections of less are not reported at all; None for the model's operating
            point, below which detections are in the JSON file only.
        show_above: Detections that score less are not drawn; None to draw what counts.
        track: Shows the progress.
    """

    models: Sequence[Path]
    sources: list[str]
    out: Path
    device: str = "auto"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    proposals_file: Path | None = None
    score_threshold: float | None = None
    show_above: float | None = None
    track: Track = track

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
        thresholds, why = self._thresholds(detector)
        note(why)
        store = OutcomeStore(
            ensure_output_folder(self.out) / "cache", detector, self.proposals_file, fresh=fresh
        )
        found: dict[str, Detections] = {}
        pictures = overlay_names(listing.files.values())
        for path in self.track(listing.paths, "detecting", total=len(listing.paths)):
            file = listing.files[path]
            try:
                image = ReadImage.of(path)
                detections = self._reported(detector, store.detect(image).detections, thresholds)
                self._draw(image, pictures[file], detections, detector.names, thresholds)
            except InputError as error:
                tally.add_failed(error)
                continue
            found[file] = detections
            tally.add_ok()
        if found:
            failed = [file for file in listing.files.values() if file not in found]
            self._write(found, failed, pictures, detector.names, thresholds, why)
        tally.finish()

    def _thresholds(self, detector: AnyDetector) -> tuple[tuple[float, ...], str]:
        """Least score of each class that counts, and where it is from."""
        points, count = detector.operating_points, len(detector.names)
        if self.score_threshold is not None:
            given = self.score_threshold
            return (given,) * count, f"detections count from a score of {given:g}, as asked for"
        if points is not None:
            return points.thresholds, points.describe(detector.names)
        kind = "model has" if len(self.models) == 1 else "combination of models has"
        return (NO_POINT,) * count, (
            f"this {kind} no operating point: detections count from a score of 0, without a "
            "confidence; `sppnet detect val` finds one, --score-threshold sets one"
        )

    def _reported(
        self, detector: AnyDetector, detections: Detections, thresholds: Sequence[float]
    ) -> Detections:
        """Give confidences, and drop what is not to be reported at all."""
        if self.score_threshold is not None:
            detections = detections.select(reaches(detections, thresholds))
        points = detector.operating_points
        return detections if points is None else points.with_confidence(detections)

    def _draw(
        self,
        image: ReadImage,
        name: str,
        found: Detections,
        names: tuple[str, ...],
        thresholds: Sequence[float],
    ) -> None:
        """Write the picture of one image with its detections."""
        if self.show_above is None:
            shown = found.select(reaches(found, thresholds))
        else:
            shown = found.select(found.scores >= self.show_above)
        picture = draw_detections(image.pixels, shown, names)
        path = self.out / OVERLAYS / name
        ensure_output_folder(path.parent)
        write_bytes(path, to_jpeg_bytes(picture, OVERLAY_SIDE))

    def _write(
        self,
        found: Mapping[str, Detections],
        failed: Sequence[str],
        pictures: Mapping[str, str],
        names: tuple[str, ...],
        thresholds: Sequence[float],
        why: str,
    ) -> None:
        """Write tables and page, and print how many there are of each class."""
        ids = result_ids([*found, *failed])
        files = {ids[file]: file for file in found}
        everything = {ids[file]: each for file, each in found.items()}
        counted = {
            image: each.select(reaches(each, thresholds)) for image, each in everything.items()
        }
        counts: dict[str, list[int] | None] = {
            file: counted[ids[file]].labels.bincount(minlength=len(names)).tolist()
            for file in found
        }
        counts |= dict.fromkeys(failed)
        counts = dict(sorted(counts.items()))
        write_coco_results(
            self.out / DETECTIONS, everything, names, files=files, thresholds=thresholds
        )
        write_csv(self.out / "detections.csv", counted, names, files=files)
        write_counts(self.out / "counts.csv", counts, names)
        links = {file: f"{OVERLAYS}/{pictures[file]}" for file in found}
        page_line = why[0].upper() + why[1:]
        write_found_page(self.out / "index.html", counts, names, links, subtitle=page_line)
        numbers = torch.tensor([each for each in counts.values() if each is not None])
        rows = zip(names, numbers.sum(0).tolist(), (numbers > 0).sum(0).tolist(), strict=True)
        say_table(["class", "found", "in images"], rows)
        say(f"{int(numbers.sum())} detections in {len(found)} images")
        for name in ("index.html", "counts.csv", "detections.csv", DETECTIONS):
            say(f"wrote {self.out / name}")


def result_ids(files: Iterable[str]) -> dict[str, str]:
    """Give each image an id for results, as data sets do.

    The file's stem where one file only has it, else its path without the ending, else its path.

    Example:
        >>> list(result_ids(["a/x.jpg", "b/x.jpg", "b/y.jpg", "b/y.png"]).values())
        ['a/x', 'b/x', 'b/y.jpg', 'b/y.png']
    """
    files = list(files)
    stems = [PurePosixPath(file).stem for file in files]
    return dict(zip(files, distinct_ids(stems, files), strict=True))


def overlay_names(files: Iterable[str]) -> dict[str, str]:
    """Name the overlay of each image: its path with the ending ``.jpg``.

    Where two paths differ in nothing but the ending, the second keeps its own one, too. A stem too
    long for the name of a file ends in a digest.

    Args:
        files: Paths with ``/``, all different.

    Example:
        >>> list(overlay_names(["a/x.jpg", "a/x.png", "b/x.png"]).values())
        ['a/x.jpg', 'a/x.png.jpg', 'b/x.jpg']
    """
    files = list(files)
    paths = [PurePosixPath(file.replace(":", "")) for file in files]
    taken = {str(folder).lower() for path in paths for folder in path.parents}
    names: dict[str, str] = {}
    for file, path in zip(files, paths, strict=True):
        folder = PurePosixPath(*(part for part in path.parent.parts if part != "/"))
        stems = (path.stem, path.name, *(f"{path.stem}-{n}" for n in range(2, len(paths) + 2)))
        spellings = (str(folder / f"{_short(stem)}.jpg") for stem in stems)
        names[file] = next(name for name in spellings if name.lower() not in taken)
        taken.add(names[file].lower())
    return names


def _short(stem: str) -> str:
    """A stem in at most ``LONGEST_STEM`` bytes; a longer one ends in a digest of itself."""
    data = os.fsencode(stem)
    if len(data) <= LONGEST_STEM:
        return stem
    kept = data[: LONGEST_STEM - 17].decode("utf-8", errors="ignore")
    return f"{kept}-{sha256_bytes(data)[:16]}"
