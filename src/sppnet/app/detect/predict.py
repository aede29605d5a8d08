"""The work of ``sppnet detect predict``: a detector over many images, and what it leaves."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np

from sppnet.app.console import Tally, human_seconds, note, options_to_blame, say, say_table
from sppnet.app.detect.outcomes import (
    OutcomeStore,
    PerImage,
    ReadImage,
    Seen,
    estimate_seconds,
)
from sppnet.app.options import choose_device
from sppnet.app.progress import track
from sppnet.detection.combined import AnyDetector, load_detectors
from sppnet.detection.watch import usual_thresholds, watch_frames
from sppnet.errors import InputError, UsageError, count_of
from sppnet.evaluation import (
    draw_detections,
    to_jpeg_bytes,
    write_coco_results,
    write_counts,
    write_csv,
)
from sppnet.evaluation.operating_point import reaches
from sppnet.evaluation.report import write_found_page
from sppnet.evaluation.result_formats import write_table
from sppnet.geometry import Detections
from sppnet.images import list_images
from sppnet.images.listing import DETECTIONS, OVERLAYS, Listing, distinct_ids
from sppnet.images.video import VideoWriter, frame_rate
from sppnet.progress import Track
from sppnet.storage import ensure_output_folder, sha256_bytes, write_bytes
from sppnet.storage.temp_files import remove_leftovers
from sppnet.storage.tensors import digest_of

LONGEST_STEM = 240  # bytes; with a number and an ending it must fit into the 255 of a name
OVERLAY_SIDE = 1600  # pixels; larger photos are drawn smaller
FIRST_BYTES = 1024  # of a JPEG file, which hold its comment


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
    chosen = choose_device(device)
    with options_to_blame():
        return load_detectors(models, chosen, overrides)


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
            some = "every frame" if self.every == 1 else f"one of {self.every} frames"
            say(f"would look at {some} of {video}, {rate:g} a second")

    def run(self) -> None:
        """Write, for each video, a table of counts, one of detections, and a video of both."""
        stems = [video.stem for video in self.videos]
        if len(set(stems)) < len(stems):
            raise UsageError("videos of one name need calls of their own, each with its --out")
        for video in self.videos:
            if (self.out / f"{video.stem}.mp4").resolve() == video.resolve():
                raise UsageError(f"--out {self.out} would put what is drawn over it", path=video)
        detector = open_detectors(self.models, self.device, self.overrides)
        remove_leftovers(ensure_output_folder(self.out))
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
        frames_of = f"{count_of(len(found), 'frame')} of {video.name}"
        say(f"{count_of(total, 'detection')} in {frames_of}")
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
        seconds = estimate_seconds(detector, listing.paths)
        images = count_of(len(listing.paths), "image")
        say(f"would look at {images} in about {human_seconds(seconds)}")

    def run(self, *, fresh: bool = False) -> None:
        """Detect, draw and write the results; ends the command with its exit code."""
        listing = list_images(self.sources, self.out)
        tally = Tally.of(listing)
        if not listing.paths:
            tally.finish()
        detector = open_detectors(self.models, self.device, self.overrides)
        thresholds, why = self._thresholds(detector)
        note(why)
        remove_leftovers(ensure_output_folder(self.out), OVERLAYS)
        store = OutcomeStore(
            self.out / "cache",
            detector,
            self.proposals_file,
            fresh=fresh,
            keep_proposals=False,
        )
        pictures = overlay_names(listing.files.values())
        found = self._look_at_all(listing, store, pictures, thresholds, tally)
        if found:
            paths = {file: path for path, file in listing.files.items()}
            failed = [file for file in listing.files.values() if file not in found]

            def reported(file: str) -> Detections:
                detections = store.recall(found[file].key, paths[file])
                return self._reported(detector, detections, thresholds)

            everything = PerImage(list(found), reported)
            self._write(found, everything, failed, pictures, detector.names, thresholds, why)
        tally.finish()

    def _look_at_all(
        self,
        listing: Listing,
        store: OutcomeStore,
        pictures: Mapping[str, str],
        thresholds: Sequence[float],
        tally: Tally,
    ) -> dict[str, Seen]:
        """Detect and draw; while one image is drawn, the next ones are looked at."""
        found: dict[str, Seen] = {}
        drawn: tuple[str, Seen, Future[None]] | None = None

        def settle() -> None:
            if drawn is not None:
                file, seen, drawing = drawn
                try:
                    drawing.result()
                except InputError as error:
                    tally.add_failed(error)
                else:
                    found[file] = seen
                    tally.add_ok()

        with ThreadPoolExecutor(1) as drawer:
            ahead = store.detect_ahead(listing.paths)
            for path, looking in self.track(ahead, "detecting", total=len(listing.paths)):
                try:
                    image, outcome = looking.result()
                except InputError as error:
                    tally.add_failed(error)
                    continue
                reported = self._reported(store.detector, outcome.detections, thresholds)
                counted = reported.labels[reaches(reported, thresholds)].unique(return_counts=True)
                counts = dict(zip(*(each.tolist() for each in counted), strict=True))
                file, seen = listing.files[path], Seen(store.key(image), counts)
                settle()
                words = (store, image, seen.key, pictures[file], reported, thresholds)
                drawn = file, seen, drawer.submit(self._draw, *words)
            settle()
        return found

    def _thresholds(self, detector: AnyDetector) -> tuple[tuple[float, ...], str]:
        """Least score of each class that counts, and where it is from."""
        if self.score_threshold is not None:
            given = self.score_threshold
            words = f"detections count from a score of {given:g}, as asked for"
            return (given,) * len(detector.names), words
        usual, points = usual_thresholds(detector), detector.operating_points
        if points is not None:
            return usual, f"{points.describe(detector.names)}; {points.expect()}"
        kind = "model has" if len(self.models) == 1 else "combination of models has"
        return usual, (
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
        store: OutcomeStore,
        image: ReadImage,
        key: str,
        name: str,
        found: Detections,
        thresholds: Sequence[float],
    ) -> None:
        """Write the picture of one image with its detections, unless the very same is there."""
        detector, path = store.detector, self.out / OVERLAYS / name
        points = detector.operating_points
        about = {
            "outcome": key,
            "names": detector.names,
            "shown": list(thresholds) if self.show_above is None else self.show_above,
            "confidence": None if points is None else points.config(),
            "given": self.score_threshold,
        }
        mark = f"sppnet {digest_of(about, {})}"
        if not store.fresh and _begins_with(path, mark):
            return
        if self.show_above is None:
            shown = found.select(reaches(found, thresholds))
        else:
            shown = found.select(found.scores >= self.show_above)
        with image.held() as pixels:
            jpeg = to_jpeg_bytes(
                draw_detections(pixels, shown, detector.names), OVERLAY_SIDE, comment=mark
            )
        ensure_output_folder(path.parent)
        write_bytes(path, jpeg)

    def _write(
        self,
        found: Mapping[str, Seen],
        reported: Mapping[str, Detections],
        failed: Sequence[str],
        pictures: Mapping[str, str],
        names: tuple[str, ...],
        thresholds: Sequence[float],
        why: str,
    ) -> None:
        """Write tables and page, and print how many there are of each class."""
        ids = result_ids([*found, *failed])
        files = {ids[file]: file for file in found}
        everything = PerImage(list(files), lambda image: reported[files[image]])

        def select_counted(image: str) -> Detections:
            each = everything[image]  # once: it is read from the disk
            return each.select(reaches(each, thresholds))

        counted = PerImage(list(files), select_counted)
        counts: Mapping[str, list[int] | None] = PerImage(
            sorted([*found, *failed]),
            lambda file: found[file].all_counts(len(names)) if file in found else None,
        )
        write_coco_results(
            self.out / DETECTIONS, everything, names, files=files, thresholds=thresholds
        )
        write_csv(self.out / "detections.csv", counted, names, files=files)
        write_counts(self.out / "counts.csv", counts, names)
        links = {file: f"{OVERLAYS}/{pictures[file]}" for file in found}
        page_line = why[0].upper() + why[1:]
        write_found_page(self.out / "index.html", counts, names, links, subtitle=page_line)
        totals, shown_in = Counter[int](), Counter[int]()
        for each in found.values():
            totals.update(each.counts)
            shown_in.update(each.counts.keys())
        rows = [(name, totals[label], shown_in[label]) for label, name in enumerate(names)]
        say_table(["class", "found", "in images"], rows)
        say(f"{count_of(totals.total(), 'detection')} in {count_of(len(found), 'image')}")
        for name in ("index.html", "counts.csv", "detections.csv", DETECTIONS):
            say(f"wrote {self.out / name}")


def _begins_with(path: Path, mark: str) -> bool:
    """Whether a file is there that has a mark among its first bytes."""
    with suppress(OSError), path.open("rb") as file:
        return mark.encode() in file.read(FIRST_BYTES)
    return False


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
