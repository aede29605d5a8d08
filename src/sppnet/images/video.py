"""Videos and cameras frame by frame, and videos that are written; OpenCV decodes and encodes.

A file of its own: what a frame is, and what may be opened, is the same for every model.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from sppnet.errors import InputError, OutputError, as_path
from sppnet.images.listing import match_pattern
from sppnet.images.transforms import array_to_tensor
from sppnet.storage.temp_files import temporary_path

VIDEO_ENDINGS = frozenset(
    {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp"}
)
USUAL_RATE = 25.0  # frames a second of a file that does not say


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One picture of a video or camera.

    Args:
        number: From 0, counted over all frames of the source, skipped ones, too.
        seconds: Since the start of the video; since the first frame of a camera.
        image: (3, H, W) float RGB 0..1.
    """

    number: int
    seconds: float
    image: Tensor


def is_video(source: str | Path | int) -> bool:
    """Tell a video by the ending of its name, and a camera by its number.

    Example:
        >>> is_video("walk.MP4"), is_video(0), is_video("walk.jpg")
        (True, True, False)
    """
    return isinstance(source, int) or Path(source).suffix.lower() in VIDEO_ENDINGS


def find_videos(sources: Sequence[str | Path]) -> list[Path]:
    """Find the videos that names and patterns mean.

    Args:
        sources: Files, or patterns such as ``cam1/*.mp4``; a name that exists is never a pattern.

    Returns:
        Their paths, each once; a name that fits nothing stays as it is.

    Example:
        >>> [path.name for path in find_videos(["no/such.mp4"])]
        ['such.mp4']
    """
    found: list[str] = []
    for source in map(str, sources):
        is_pattern = has_magic(source) and not Path(source).exists()
        found += (match_pattern(source) if is_pattern else []) or [source]
    return [Path(name) for name in dict.fromkeys(found)]


def read_frames(source: str | Path | int, *, every: int = 1) -> Iterator[VideoFrame]:
    """Read a video or a camera frame by frame; one frame is in memory at a time.

    Args:
        source: Path of a file, or the number of a camera, 0 for the first.
        every: Take one of so many frames; the others are decoded and dropped.

    Yields:
        The frames. A damaged video ends where it can no longer be decoded; a camera never ends.

    Raises:
        InputError: If it cannot be opened, or has no frame that can be decoded.
        ValueError: If ``every`` is below 1.

    Example:
        >>> next(read_frames("nothing.mp4"))
        Traceback (most recent call last):
        sppnet.errors.InputError: 'nothing.mp4': there is no such file (E_INPUT)
    """
    if not hasattr(every, "__index__"):
        raise TypeError(f"every must be a whole number, got {every!r}")
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every}")
    capture, name = _open(source)
    try:
        yield from _frames(capture, name, every, live=isinstance(source, int))
    finally:
        capture.release()


def _open(source: str | Path | int) -> tuple[Any, Path | None]:
    import cv2

    if isinstance(source, int) and not isinstance(source, bool):
        if source < 0:
            raise ValueError(f"source must be a path or a camera from 0 on, got {source}")
        capture, path = cv2.VideoCapture(source), None
        rule = f"camera {source} cannot be opened"
    else:
        path = as_path(source, "source")
        if not path.is_file():  # OpenCV would take an address in the network, too
            raise InputError("there is no such file", path=path)
        capture, rule = cv2.VideoCapture(str(path)), "this is no video that can be decoded"
    if not capture.isOpened():
        raise InputError(rule, path=path)
    return capture, path


def _frames(capture: Any, path: Path | None, every: int, *, live: bool) -> Iterator[VideoFrame]:
    import cv2

    rate, begin = frame_rate(capture), time.monotonic()
    number = 0
    while capture.grab():
        seconds = time.monotonic() - begin if live else number / rate
        if number % every == 0:
            ok, pixels = capture.retrieve()
            if not ok:
                break
            rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            yield VideoFrame(number, seconds, array_to_tensor(rgb))
        number += 1
    if not number:
        raise InputError("it holds no frame that can be decoded", path=path)


def frame_rate(source: Any) -> float:
    """Frames a second of a video, 25 if it does not say.

    Args:
        source: Path of a file, or an open capture of OpenCV.

    Raises:
        InputError: If the file cannot be opened.
    """
    import cv2

    if not isinstance(source, str | Path):
        rate = float(source.get(cv2.CAP_PROP_FPS))
        return rate if 0 < rate < 1000 else USUAL_RATE  # also if it is no number
    capture, _ = _open(source)
    try:
        return frame_rate(capture)
    finally:
        capture.release()


class VideoWriter:
    """Writes an MP4 video; the file has its name once it is complete.

    The codec takes even sides: of an odd one the last row or column is left out.

    Args:
        path: The file, ending in ``.mp4``.
        rate: Frames a second.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "grey.mp4"
        >>> with VideoWriter(path, 10) as video:
        ...     video.write(np.full((32, 48, 3), 99, np.uint8))
        >>> [tuple(frame.image.shape) for frame in read_frames(path)]
        [(3, 32, 48)]
    """

    def __init__(self, path: str | Path, rate: float) -> None:
        path = as_path(path, "path")
        self._path, self._rate = path, rate
        # OpenCV chooses the container by the ending
        unfinished = temporary_path(path)
        self._unfinished = unfinished.with_name(f"{unfinished.name}.mp4")
        self._writer: Any = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, picture: np.ndarray) -> None:
        """Append a frame, uint8 (H, W, 3) RGB; all have the size of the first.

        Raises:
            OutputError: If the file cannot be made.
            ValueError: If the size is another.
        """
        import cv2

        height, width = picture.shape[:2]
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._size = (width, height)
            self._writer = cv2.VideoWriter(str(self._unfinished), code, self._rate, self._size)
            if not self._writer.isOpened():
                raise OutputError("this video cannot be written", path=self._path)
        if (width, height) != self._size:
            raise ValueError(f"frames must have {self._size} pixels, got {(width, height)}")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None:
            self._unfinished.replace(self._path)
        else:
            self._unfinished.unlink(missing_ok=True)
