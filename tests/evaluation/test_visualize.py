"""Boxes and their labels on images: each kind where it is, in its colour."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.evaluation.visualize import (
    CLASS_COLOURS,
    FALSE_NEGATIVE_COLOUR,
    FALSE_POSITIVE_COLOUR,
    TRUE_POSITIVE_COLOUR,
    BoxPainter,
    draw_detections,
    draw_matches,
    fit_picture,
    to_jpeg_bytes,
    to_picture,
)
from sppnet.geometry import Detections

WHITE = torch.ones(3, 480, 640)
TRUTH = torch.tensor([[100.0, 100.0, 200.0, 200.0], [400.0, 300.0, 500.0, 400.0]])


def found(boxes, scores, labels):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def count_colour(picture, colour):
    return int((np.asarray(picture) == np.array(colour)).all(axis=2).sum())


def test_each_kind_is_drawn_in_its_colour():
    labels = torch.tensor([0, 0])
    right, wrong = [100, 100, 200, 200], [300, 50, 360, 110]
    nothing = draw_matches(WHITE, TRUTH, labels, Detections.empty(), ["a"])
    assert count_colour(nothing, FALSE_NEGATIVE_COLOUR) > 500
    assert (
        count_colour(nothing, TRUE_POSITIVE_COLOUR)
        == count_colour(nothing, FALSE_POSITIVE_COLOUR)
        == 0
    )
    both = draw_matches(WHITE, TRUTH, labels, found([right, wrong], [0.9, 0.8], [0, 0]), ["a"])
    assert both.getpixel((100, 150)) == TRUE_POSITIVE_COLOUR
    assert both.getpixel((300, 80)) == FALSE_POSITIVE_COLOUR
    assert count_colour(both, FALSE_NEGATIVE_COLOUR) > 200


def test_a_false_negative_is_dashed_and_a_true_positive_is_not():
    labels = torch.tensor([0, 0])
    missed = draw_matches(WHITE, TRUTH, labels, Detections.empty(), ["a"])
    right = draw_matches(WHITE, TRUTH, labels, found([TRUTH[0].tolist()], [0.9], [0]), ["a"])
    edge = [(100, y) for y in range(110, 190)]
    assert {missed.getpixel(p) for p in edge} > {FALSE_NEGATIVE_COLOUR, (255, 255, 255)}
    assert {right.getpixel(p) for p in edge} == {TRUE_POSITIVE_COLOUR}


def test_line_runs_through_the_last_pixel_inside_a_half_open_box():
    drawn = draw_detections(WHITE, found([[100, 100, 200, 200]], [0.9], [0]), ["a"])
    assert drawn.getpixel((199, 150)) == CLASS_COLOURS[0]
    assert drawn.getpixel((150, 199)) == CLASS_COLOURS[0]
    assert drawn.getpixel((150, 150)) == (255, 255, 255)


def test_scores_below_the_threshold_are_not_drawn():
    detections = found([[100, 100, 200, 200]], [0.3], [0])
    assert count_colour(draw_detections(WHITE, detections, ["a"], 0.5), CLASS_COLOURS[0]) == 0
    assert count_colour(draw_detections(WHITE, detections, ["a"], 0.3), CLASS_COLOURS[0]) > 0


def test_the_image_itself_is_not_changed():
    picture = Image.new("RGB", (400, 300), "white")
    draw_detections(picture, found([[10, 10, 90, 90]], [0.9], [0]), ["a"])
    assert picture.getcolors() == [(120_000, (255, 255, 255))]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (319, 10), (1500, 2000)])
def test_any_size_is_drawn(size):
    height, width = size
    box = [[0.0, 0.0, float(width), float(height)]]
    labels = torch.tensor([0])
    drawn = draw_matches(
        torch.rand(3, height, width), torch.tensor(box), labels, found(box, [1.0], [0]), ["a", "b"]
    )
    assert drawn.width * height == drawn.height * width
    assert max(drawn.size) >= 320


def test_boxes_of_small_images_are_enlarged_with_them():
    drawn = draw_detections(torch.ones(3, 24, 32), found([[8, 8, 24, 16]], [0.9], [0]), ["a"])
    assert drawn.size == (320, 240)
    assert drawn.getpixel((80, 120)) == CLASS_COLOURS[0]


def test_boxes_beyond_the_border_and_without_area():
    boxes = [[-50, -50, 5000, 5000], [700, 500, 800, 600], [10, 10, 10, 10]]
    draw_detections(WHITE, found(boxes, [0.9, 0.8, 0.7], [0, 0, 0]), ["a"])


def test_labels_do_not_cover_each_other():
    painter = BoxPainter(Image.new("RGB", (640, 480)))
    for i in range(30):
        painter.box((100 + i, 100 + i, 300 + i, 300 + i), f"name {i}", (200, 200, 200))
    places, draw = [], painter._label
    painter._label = lambda place, *rest: (places.append(place), draw(place, *rest))
    painter.finish()
    assert 1 < len(places) < 30
    for i, a in enumerate(places):
        assert a[0] >= 0
        assert a[2] <= 640
        for b in places[:i]:
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            smaller = min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
            assert max(0, width) * max(0, height) <= 0.15 * smaller + 1e-6


def test_classes_without_a_name_and_odd_names_are_drawn():
    detections = found([[10, 40, 90, 90], [200, 60, 300, 150]], [0.9, 0.8], [7, 0])
    draw_detections(WHITE, detections, ["\u6f22\u5b57\n<b>\x00\udcff"])


def test_jpeg_is_reduced_and_carries_no_metadata():
    picture = Image.new("RGB", (1000, 500), "white")
    picture.info["comment"] = b"secret"
    data = to_jpeg_bytes(picture, 100)
    assert Image.open(io.BytesIO(data)).size == (100, 50)
    assert b"secret" not in data
    assert Image.open(io.BytesIO(to_jpeg_bytes(torch.zeros(3, 1, 3000), 100))).size == (100, 1)


def test_boxes_follow_a_reduced_picture_exactly():
    picture, scale = fit_picture(Image.new("RGB", (999, 333)), 100)
    assert picture.size == (100, 33)
    assert scale == (100 / 999, 33 / 333)


def test_floating_point_and_bytes_give_the_same_picture():
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    same = np.asarray(to_picture(pixels.float() / 255))
    assert np.array_equal(np.asarray(to_picture(pixels)), same)
    assert np.array_equal(same, pixels.permute(1, 2, 0).numpy())


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match="got list"):
        to_picture([1])
    with pytest.raises(ValueError, match=r"\(1, 5, 7\)"):
        to_picture(torch.zeros(1, 5, 7))
    with pytest.raises(ValueError, match=r"\(3, 0, 7\)"):
        to_picture(torch.zeros(3, 0, 7))
