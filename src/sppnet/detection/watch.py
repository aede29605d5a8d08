"""A detector that looks at a video or a camera, frame by frame."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sppnet.evaluation.operating_point import reaches
from sppnet.geometry import Detections
from sppnet.images.video import VideoFrame, read_frames
from sppnet.progress import no_tracking

if TYPE_CHECKING:
    from sppnet.detection.combined import AnyDetector

NO_POINT = 0.0  # the score at which a box as likely shows the class as not


@dataclass(frozen=True, eq=False)
class WatchedFrame(VideoFrame):
    """A frame of a video with what was found in it.

    Args:
        detections: Those that count by the detector's operating point, or from a score of 0 on.
        counts: How many there are of each class, zeros too.
    """

    detections: Detections
    counts: dict[str, int]


def usual_thresholds(detector: "AnyDetector") -> tuple[float, ...]:
    """(K,) least score of each class that counts: of the operating point, else 0."""
    points = detector.operating_points
    return (NO_POINT,) * len(detector.names) if points is None else points.thresholds


def watch_frames(
    detector: "AnyDetector",
    source: str | Path | int,
    every: int = 1,
    thresholds: Sequence[float] | None = None,
) -> Iterator[WatchedFrame]:
    """Run a detector, or several as one, over a video or a camera; see :meth:`Detector.watch`.

    Args:
        detector: The detector.
        source: Path of a video, or the number of a camera.
        every: Look at one of so many frames.
        thresholds: (K,) least score of each class that counts; the detector's own if None.
    """
    names = detector.names
    least = usual_thresholds(detector) if thresholds is None else thresholds
    for frame in read_frames(source, every=every):
        found = detector.predict(frame.image, track=no_tracking)
        found = found.select(reaches(found, least))
        numbers = found.labels.bincount(minlength=len(names)).tolist()
        counts = dict(zip(names, numbers, strict=True))
        yield WatchedFrame(frame.number, frame.seconds, frame.image, found, counts)
