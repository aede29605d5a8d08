"""A part of a photo has the pixels, the boxes and the marks that are seen in it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sppnet.config.detection import DetectionConfig
from sppnet.detection.assign import Views, choose_views
from sppnet.images import LabelledImage


def _photo(boxes: list[list[float]], name: str = "a.jpg", size=(100, 200)) -> LabelledImage:
    no = torch.zeros(len(boxes), dtype=torch.bool)
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return LabelledImage(Path(name), name, size, rows, torch.arange(len(boxes)), no, no, no)


def test_objects_are_clipped_and_those_that_are_hardly_seen_are_difficult() -> None:
    photo = _photo([[60, 30, 80, 50], [40, 30, 60, 40], [0, 0, 50.5, 20.5], [0, 0, 10, 10]])
    part = photo.crop((50, 20), (60, 100))
    assert part.boxes.tolist() == [[10, 10, 30, 30], [0, 10, 10, 20]]  # half a pixel is no box
    assert part.labels.tolist() == [0, 1]
    assert part.difficult.tolist() == [False, True]
    assert part.truncated.tolist() == [False, True]
    assert (part.size_hw, part.corner_xy, part.part_of) == ((60, 100), (50, 20), photo)
    assert part.mirror().boxes.tolist() == [[70, 10, 90, 30], [90, 10, 100, 20]]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 2), (480, 640)])
def test_random_parts_lie_inside_and_show_an_object(size: tuple[int, int]) -> None:
    height, width = size
    for number in range(40):
        for boxes in ([], [[0, 0, min(width, 3), min(height, 2)]]):
            photo = _photo(boxes, f"{number}.jpg", size)
            part = photo.crop_at_random()
            (left, top), (down, across) = part.corner_xy, part.size_hw
            assert 0 <= left <= left + across <= width
            assert 0 <= top <= top + down <= height
            assert down >= int(0.6 * height)
            assert across >= int(0.6 * width)
            assert len(part.boxes) <= len(boxes)
            again = photo.crop_at_random()
            assert (again.corner_xy, again.size_hw) == (part.corner_xy, part.size_hw)
    shown = [_photo([[9, 9, 30, 30]], f"{n}.jpg").crop_at_random() for n in range(40)]
    assert all(len(each.boxes) and not each.difficult.any() for each in shown)
    assert len({each.corner_xy for each in shown}) > 20


def test_a_part_is_the_same_in_another_folder_and_with_labels_that_it_shows_as_well() -> None:
    photo = _photo([[90, 40, 110, 60]])
    moved = replace(photo, path=Path("elsewhere") / photo.path)
    more = _photo([[90, 40, 110, 60], [91, 41, 111, 61]])
    assert len({each.crop_at_random().corner_xy for each in (photo, moved, more)}) == 1


@pytest.mark.parametrize(
    ("objects", "wish", "expected"),
    [
        (10, ("auto", "auto"), Views(mirror=True, crops=True)),
        (100, ("auto", "auto"), Views(mirror=True, crops=False)),
        (400, ("auto", "auto"), Views()),
        (400, ("on", "on"), Views(mirror=True, crops=True)),
        (10, ("off", "on"), Views(mirror=False, crops=True)),
        (10, ("on", "off"), Views(mirror=True, crops=False)),
    ],
)
def test_views_are_as_many_as_labels_are_few(
    objects: int, wish: tuple[str, str], expected: Views
) -> None:
    config = DetectionConfig(mirror=wish[0], crops=wish[1], few_objects=400, very_few_objects=100)
    photos = [_photo([[0, 0, 9, 9]] * objects)]
    found = choose_views(photos, 1, config)
    assert found == expected
    assert len(list(found.of(photos[0]))) == found.each
    assert choose_views(photos, 1, found.fix(config)) == found
