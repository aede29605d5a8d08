"""Frames of videos: their order, colours and times, and files that are none."""

from pathlib import Path

import numpy as np
import pytest

from sppnet.errors import InputError
from sppnet.images.video import VideoWriter, find_videos, frame_rate, is_video, read_frames

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    with VideoWriter(tmp_path / "colours.mp4", 8) as written:
        for colour in COLOURS:
            written.write(np.full((48, 64, 3), colour, np.uint8))
    return tmp_path / "colours.mp4"


def test_frames_come_in_order_in_rgb_with_their_times(video: Path) -> None:
    frames = list(read_frames(video))
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    assert [frame.seconds for frame in frames] == [0, 0.125, 0.25, 0.375]
    assert [tuple(frame.image.shape) for frame in frames] == [(3, 48, 64)] * 4
    for frame, colour in zip(frames, COLOURS, strict=True):
        seen = frame.image.mean((1, 2)) * 255
        assert seen.tolist() == pytest.approx(colour, abs=12)  # of a lossy codec
    assert frame_rate(video) == 8


def test_some_are_left_out(video: Path) -> None:
    assert [frame.number for frame in read_frames(str(video), every=3)] == [0, 3]
    with pytest.raises(ValueError, match="every must be 1 or more, got 0"):
        next(read_frames(video, every=0))


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4': this is no video that can be decoded"):
        next(read_frames(tmp_path / "text.mp4"))
    with pytest.raises(InputError, match="there is no such file"):
        next(read_frames("http://127.0.0.1:1/a.mp4"))  # an address is no file
    with pytest.raises(InputError, match="camera 97 cannot be opened"):
        next(read_frames(97))


def write_sizes(path: Path, *widths: int) -> None:
    with VideoWriter(path, 8) as written:
        for width in widths:
            written.write(np.zeros((32, width, 3), np.uint8))


def test_a_video_that_was_not_finished_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames must have"):
        write_sizes(tmp_path / "a.mp4", 32, 64)
    assert list(tmp_path.iterdir()) == []
    with VideoWriter(tmp_path / "empty.mp4", 8):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "rule"), [(None, "source must be a path"), (True, "path, got True"), (-1, "from 0")]
)
def test_what_is_neither_a_path_nor_a_camera_is_named(source, rule: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rule):
        next(read_frames(source))


def test_patterns_find_videos_and_names_stay(video: Path) -> None:
    folder = video.parent
    (folder / "b.mp4").write_bytes(video.read_bytes())
    found = find_videos([folder / "*.mp4", video, folder / "no.mp4"])
    assert [path.name for path in found] == ["b.mp4", "colours.mp4", "no.mp4"]
    (folder / "[x].mp4").write_bytes(b"")
    assert find_videos([folder / "[x].mp4"]) == [folder / "[x].mp4"]


def test_videos_are_told_by_their_ending() -> None:
    assert [is_video(name) for name in ("a.MP4", Path("b/c.webm"), 0, "a.jpg", "mp4")] == [
        *(True,) * 3,
        *(False,) * 2,
    ]
