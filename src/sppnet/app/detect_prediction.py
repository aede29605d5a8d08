"""``sppnet detect predict``: detections of any images as JSON, CSV and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sppnet.app.console import Tally, human_seconds, say
from sppnet.app.detect_images import ImageOutcome, OutcomeStore, detect_file, open_detectors
from sppnet.app.progress import track
from sppnet.errors import InputError
from sppnet.evaluation import write_coco_results, write_csv
from sppnet.evaluation.visualize import draw_detections, to_jpeg_bytes
from sppnet.geometry import Detections
from sppnet.images import list_images, load_image
from sppnet.storage import ensure_output_folder, write_bytes

OVERLAY_SIDE = 1600  # pixels; larger photos are drawn smaller


@dataclass
class PredictionJob:
    """What ``detect predict`` was asked to do.

    Args:
        models: Folders of the detectors; several are combined.
        sources: Files, folders and globs.
        out: Folder for the results.
        device: Where to compute, as the option says it.
        rule: Fields of the detectors' :class:`DetectionRule` that are to be others.
        windows_file: Where windows come from; None if the detectors find them.
        score_threshold: Detections that score less are not reported.
        show_above: Detections that score less are not drawn.
    """

    models: Sequence[Path]
    sources: list[str]
    out: Path
    device: str = "auto"
    rule: Mapping[str, Any] = field(default_factory=dict)
    windows_file: Path | None = None
    score_threshold: float = -1.0
    show_above: float = 0.0

    def explain(self) -> None:
        """Say what would be done; write nothing."""
        detector = open_detectors(self.models, self.device, self.rule)
        listing = list_images(self.sources)
        seconds = 0.0
        for path in listing.paths[:2]:
            try:
                seconds = max(seconds, sum(detect_file(detector, path).seconds))
            except InputError:
                continue
        count = len(listing.paths)
        say(f"would look at {count} images in about {human_seconds(seconds * count)}")

    def run(self, *, fresh: bool = False) -> None:
        """Detect, draw and write the results; ends the command with its exit code."""
        listing = list_images(self.sources)
        tally = Tally(listed=len(listing.paths) + len(listing.problems))
        for problem in listing.problems:
            tally.add_failed(problem)
        if not listing.paths:
            tally.finish()
        detector = open_detectors(self.models, self.device, self.rule)
        ensure_output_folder(self.out / "overlays")
        store = OutcomeStore(self.out / "cache", self.models, self.windows_file, fresh=fresh)
        found: dict[str, Detections] = {}
        names = overlay_names(list(listing.paths))
        for path in track(listing.paths, "detecting", total=len(listing.paths)):
            try:
                outcome = store.detect(detector, path)
                self._draw(path, names[path], outcome, detector.names)
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
        """Leave out what scores too low to report."""
        return detections.select(detections.scores >= self.score_threshold)

    def _draw(self, path: Path, name: str, outcome: ImageOutcome, names: tuple[str, ...]) -> None:
        """Write the picture of one image with its detections."""
        picture = draw_detections(load_image(path), outcome.detections, names, self.show_above)
        write_bytes(self.out / "overlays" / f"{name}.jpg", to_jpeg_bytes(picture, OVERLAY_SIDE))


def overlay_names(paths: list[Path]) -> dict[Path, str]:
    """Name each image in the results by its stem; twins get a number.

    Example:
        >>> sorted(overlay_names([Path("a/x.jpg"), Path("b/x.png"), Path("y.jpg")]).values())
        ['x', 'x-2', 'y']
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = next(n for n in _numbered(path.stem) if n.lower() not in taken)
        taken.add(name.lower())
        names[path] = name
    return names


def _numbered(stem: str) -> Iterator[str]:
    """Yield a stem, then the stem with 2, 3, ... behind it."""
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
