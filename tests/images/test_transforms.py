"""Pixels of every format are those that were written; resizing keeps range and names its scales."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_files import build_bmp, build_png, build_tiff
from sppnet.errors import InputError
from sppnet.images import (
    centre_crop,
    decode_image,
    flip_left_right,
    group_equal_sizes,
    resize_image,
    resize_short_side,
    short_side_size,
    stack_images,
    to_image,
    transforms,
)
from sppnet.images.transforms import pixels_to_tensor

SIDES = st.integers(1, 60)


def test_resizing_is_pillows_bilinear():
    image = torch.rand(3, 37, 53, generator=torch.Generator().manual_seed(0))
    image = (image * 255).round() / 255
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    for size in ((20, 20), (74, 30), (37, 10)):
        theirs = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
        assert (resize_image(image, size) - to_image(theirs)).abs().max() <= 1.6 / 255


@given(SIDES, SIDES, SIDES, SIDES)
def test_resized_images_stay_in_range_and_flat_ones_flat(height, width, new_height, new_width):
    image = torch.rand(3, height, width)
    resized = resize_image(image, (new_height, new_width))
    assert resized.shape == (3, new_height, new_width)
    assert resized.min() >= image.min() - 1e-5
    assert resized.max() <= image.max() + 1e-5
    flat = resize_image(torch.full((1, height, width), 0.3), (new_height, new_width))
    assert torch.allclose(flat, torch.tensor(0.3), atol=1e-6)


def test_batches_and_equal_sizes():
    batch = torch.rand(2, 3, 8, 9)
    assert resize_image(batch, (4, 5))[1].equal(resize_image(batch[1], (4, 5)))
    assert resize_image(batch, (8, 9)) is batch


@given(SIDES, SIDES, st.integers(1, 80), st.none() | st.integers(1, 100))
def test_short_side(height, width, short_side, max_long_side):
    image, (scale_y, scale_x) = resize_short_side(
        torch.zeros(1, height, width), short_side, max_long_side
    )
    new = tuple(image.shape[1:])
    assert min(new) >= 1
    assert new == (round(height * scale_y), round(width * scale_x))
    if max_long_side is None:
        assert min(new) == short_side
    else:
        assert max(new) <= max(max_long_side, 1)
        assert min(new) <= short_side


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((1, 1), 1, None, (1, 1)),
        ((375, 500), 600, None, (600, 800)),
        ((500, 375), 600, 1000, (800, 600)),
        ((100, 1000), 600, 1000, (100, 1000)),
        ((1, 5000), 224, 500, (1, 500)),
        ((3, 2), 3, None, (5, 3)),  # 4.5 rounds up
    ],
)
def test_short_side_table(size, short, longest, expected):
    assert short_side_size(size, short, longest) == expected


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: short_side_size((0, 5), 10), "size_hw must be at least 1, got 0"),
        (lambda: short_side_size((5, 5), 0), "short_side must be at least 1, got 0"),
        (lambda: short_side_size((5, 5), 5, 0), "max_long_side must be at least 1, got 0"),
        (lambda: resize_image(torch.zeros(3, 4, 4), (0, 4)), "size_hw"),
        (lambda: resize_image(torch.zeros(4, 4), (2, 2)), "dimensions"),
        (lambda: centre_crop(torch.zeros(3, 4, 4), (5, 4)), "got 5 x 4"),
        (lambda: centre_crop(torch.zeros(3, 4, 4), (0, 4)), "got 0 x 4"),
        (lambda: group_equal_sizes([], 0), "batch_size must be at least 1, got 0"),
        (lambda: stack_images([]), "one shape"),
        (lambda: stack_images([torch.zeros(3, 1, 1), torch.zeros(3, 1, 2)]), "one shape"),
    ],
)
def test_callers_mistakes(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_centre_crop_and_flip():
    image = torch.arange(20).reshape(1, 4, 5)
    assert centre_crop(image, (2, 3)).tolist() == [[[6, 7, 8], [11, 12, 13]]]
    assert centre_crop(image, (4, 5)).equal(image)
    assert flip_left_right(image)[0, 0].tolist() == [4, 3, 2, 1, 0]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30), st.integers(1, 5))
def test_groups_hold_every_index_once_and_one_size_each(sizes, batch_size):
    batches = group_equal_sizes(sizes, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert [batch[0] for batch in batches] == sorted(batch[0] for batch in batches)
    for batch in batches:
        assert len(batch) <= batch_size
        assert len({sizes[index] for index in batch}) == 1
    smaller = [batch for batch in batches if len(batch) < batch_size]
    assert len({sizes[batch[0]] for batch in smaller}) == len(smaller)


def test_stack():
    assert stack_images([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]).shape == (2, 3, 2, 2)


# --- from files whose pixels are known: format x bits x channels x layout x byte order ------------

ROOM = np.random.default_rng(5)
GRID_HW = (19, 23)
SLACK = 1.01 / 255
CUT_TWICE = 4.01 / 255  # colour and alpha, or ink and black, of 16 bits are both cut to 8


def draw(bits, channels=1):
    """Samples with both ends in them."""
    samples = ROOM.integers(0, 2**bits, (*GRID_HW, channels), dtype=np.uint32)
    samples[0, 0], samples[0, 1] = 0, 2**bits - 1
    return samples


def seen(values):
    """(H, W) or (H, W, 3) of 0..1 as the image that it is."""
    values = torch.from_numpy(np.array(values, np.float32, order="C"))
    return values.expand(3, -1, -1) if values.ndim == 2 else values.permute(2, 0, 1)


def check_pixels(data, truth, tolerance=SLACK):
    image = decode_image(data)
    assert image.shape == truth.shape
    assert float((image - truth).abs().max()) <= tolerance


def check_right_or_unsupported(data, truth, tolerance=SLACK):
    """The right picture, or one line that says that this kind is not supported."""
    try:
        image = decode_image(data)
    except InputError as error:
        is_named = error.code == "E_FORMAT" and "not supported" in str(error)
        return False if is_named else pytest.fail(str(error))
    assert float((image - truth).abs().max()) <= tolerance
    return True


LAYOUTS = [{}, {"rows": 19}, {"tile": 16}, {"deflate": True}, {"tile": 16, "deflate": True}]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("colour", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 24])
def test_grey_tiffs(bits, colour, order):
    samples = draw(bits)
    grey = samples[..., 0] / (2**bits - 1)
    truth = seen(1 - grey if colour == 0 else grey)
    read = {
        check_right_or_unsupported(build_tiff(samples, bits, colour, order=order, **layout), truth)
        for layout in LAYOUTS
    }
    assert read == {
        bits <= 8
        or (bits == 16 and (order, colour) != (">", 0))
        or (bits, colour, order) == (12, 1, "<")
    }


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("colour", [0, 1])
def test_float_tiffs(colour, order):
    grey = ROOM.random((*GRID_HW, 1)).astype(np.float32)
    truth = seen(1 - grey[..., 0] if colour == 0 else grey[..., 0])
    for layout in LAYOUTS:
        data = build_tiff(grey, 32, colour, order=order, kind=3, **layout)
        assert check_right_or_unsupported(data, truth) or (order, colour) == (">", 0)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("bits", [16, 32])
def test_whole_numbers_of_many_bits(bits, kind, order):
    samples = draw(15)
    for layout in LAYOUTS:
        data = build_tiff(samples, bits, 1, order=order, kind=kind, **layout)
        check_right_or_unsupported(data, seen(samples[..., 0] / 65535))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_colour_tiffs(extra, bits, planar, order):
    samples = draw(bits, 3 if extra is None else 4)
    values = samples / (2**bits - 1)
    if extra in (1, 2):
        alpha = values[..., 3:]
        if extra == 1:  # premultiplied
            samples[..., :3] = (samples[..., :3] * alpha).round()
        values = values[..., :3] * alpha + 1 - alpha
    for layout in LAYOUTS:
        data = build_tiff(samples, bits, 2, order=order, planar=planar, extra=extra, **layout)
        check_right_or_unsupported(data, seen(values[..., :3]), CUT_TWICE)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palette_tiffs(bits, order):
    samples = draw(bits)
    palette = ROOM.integers(0, 256, (3, 2**bits)) * 257
    for layout in LAYOUTS:
        data = build_tiff(samples, bits, 3, order=order, palette=palette, **layout)
        check_right_or_unsupported(
            data, seen(palette[:, samples[..., 0]].transpose(1, 2, 0) / 65535)
        )


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_and_grey_with_alpha_tiffs(bits, order):
    ink = draw(bits, 4)
    values = ink / (2**bits - 1)
    for layout in LAYOUTS:
        data = build_tiff(ink, bits, 5, order=order, **layout)
        check_right_or_unsupported(
            data, seen((1 - values[..., :3]) * (1 - values[..., 3:])), CUT_TWICE
        )
        for extra in (0, 1, 2):
            two = ink[..., :2].copy()
            alpha = values[..., 1] if extra else 1
            if extra == 1:
                two[..., 0] = (two[..., 0] * alpha).round()
            data = build_tiff(two, bits, 1, order=order, extra=extra, **layout)
            check_right_or_unsupported(data, seen(values[..., 0] * alpha + 1 - alpha), CUT_TWICE)


def test_min_is_white_of_sixteen_bits():  # the case that was seen
    data = build_tiff(np.full((*GRID_HW, 1), 60030, np.uint16), 16, 0)
    assert float(decode_image(data).mean()) == pytest.approx(1 - 60030 / 65535)


@pytest.mark.parametrize("is_clear", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_pngs(bits, is_clear):
    samples = draw(bits)
    clear = int(samples[4, 4, 0])
    chunks = {b"tRNS": struct.pack(">H", clear)} if is_clear else {}
    grey = samples[..., 0] / (2**bits - 1)
    truth = np.where(samples[..., 0] == clear, 1, grey) if is_clear else grey
    data = build_png(samples, bits, 0, chunks)
    check_pixels(data, seen(truth), 1e-6)
    with Image.open(io.BytesIO(data)) as opened:
        assert torch.equal(to_image(opened), decode_image(data))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_pngs_with_alpha(bits):
    samples = draw(bits)
    palette = ROOM.integers(0, 256, (2**bits, 4)).astype(np.uint8)
    chunks = {b"PLTE": palette[:, :3].tobytes(), b"tRNS": palette[:, 3].tobytes()}
    rgba = palette[samples[..., 0]] / 255
    check_pixels(
        build_png(samples, bits, 3, chunks), seen(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:])
    )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colour_pngs(colour, channels, bits):
    samples = draw(bits, channels)
    values = samples / (2**bits - 1)
    alpha = values[..., -1:] if colour & 4 else np.ones(1)
    check_pixels(
        build_png(samples, bits, colour),
        seen(
            (values[..., : channels - (colour >> 2)] * alpha + 1 - alpha).repeat(
                1 if colour & 2 else 3, -1
            )
        ),
        CUT_TWICE if bits == 16 else SLACK,
    )
    if colour == 2:
        samples = samples >> (bits - 1) << (bits - 1)
        chunks = {b"tRNS": struct.pack(">3H", *samples[3, 3].tolist())}
        clear = (samples == samples[3, 3]).all(-1, keepdims=True)
        truth = np.where(clear, 1, samples / (2**bits - 1))
        check_pixels(build_png(samples, bits, 2, chunks), seen(truth))


MASKS = {
    "BGRA": (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    "BGRX": (0xFF0000, 0xFF00, 0xFF, 0),
    "RGBA": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    "RGBX": (0xFF, 0xFF00, 0xFF0000, 0),
    "ABGR": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    "XBGR": (0xFF000000, 0xFF0000, 0xFF00, 0),
    "ten bits": (0x3FF00000, 0xFFC00, 0x3FF, 0),
}


def masked(values, mask):
    low = (mask & -mask).bit_length() - 1
    return ((values & mask) >> low) / (mask >> low)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("name", MASKS)
def test_bmps_of_32_bits(name, header, top_down):
    masks = MASKS[name]
    values = draw(32)[..., 0].astype(np.int64)
    truth = np.dstack([masked(values, mask) for mask in masks[:3]])
    if masks[3] and header >= 56:
        alpha = masked(values, masks[3])[..., None]
        truth = truth * alpha + 1 - alpha
    data = build_bmp(values, 32, header=header, masks=masks, top_down=top_down)
    is_read = check_right_or_unsupported(data, seen(truth))
    assert is_read or name in ("ten bits", "RGBX", "RGBA", "ABGR")


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("name", ["BGRA", "RGBA", "BGRX", "none"])
def test_an_alpha_that_is_0_everywhere_was_never_written(name, header):
    masks = MASKS.get(name)
    values = draw(24)[..., 0].astype(np.int64)
    truth = np.dstack([masked(values, mask) for mask in (masks or MASKS["BGRX"])[:3]])
    data = build_bmp(values, 32, header=header, masks=masks)
    assert check_right_or_unsupported(data, seen(truth)) or (name, header) in {
        ("RGBA", 40),
        ("RGBA", 52),
    }


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize(
    "masks", [None, (0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xF00, 0xF0, 0xF, 0)]
)
def test_bmps_of_16_bits(masks, header):
    values = draw(16)[..., 0].astype(np.int64)
    truth = np.dstack([masked(values, mask) for mask in (masks or (0x7C00, 0x3E0, 0x1F))[:3]])
    data = build_bmp(values, 16, header=header, masks=masks)
    assert check_right_or_unsupported(data, seen(truth)) == (masks is None or masks[0] != 0xF00)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8, 24])
def test_bmps_with_and_without_a_palette(bits, top_down):
    values = draw(bits)[..., 0].astype(np.int64)
    colours = ROOM.integers(0, 256, (2**bits if bits <= 8 else 0, 4)).astype(np.uint8)
    if bits <= 8:
        truth = colours[values][..., 2::-1] / 255
    else:
        truth = np.dstack([masked(values, mask) for mask in MASKS["BGRX"][:3]])
    check_pixels(build_bmp(values, bits, palette=colours.tobytes(), top_down=top_down), seen(truth))


# --- large photos --------------------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [(30, 41), (300, 50), (7, 400), (133, 211)])
def test_bytes_resize_to_the_bits_that_floats_give(monkeypatch, size_hw):
    monkeypatch.setattr(transforms, "_BAND_PIXELS", 2000)
    stored = torch.from_numpy(ROOM.integers(0, 256, (3, 133, 211)).astype(np.uint8))
    assert torch.equal(resize_image(stored, size_hw), resize_image(stored.float() / 255, size_hw))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_bands_change_no_pixel(monkeypatch, mode, orientation):
    grey = ROOM.integers(0, 256, (31, 17)).astype(np.uint8)
    kinds = {"I;16": grey.astype(np.uint16) * 200, "F": grey.astype(np.float32) / 255}
    picture = Image.fromarray(kinds.get(mode, grey))
    picture = picture if mode in kinds else picture.convert("RGB").convert(mode)
    whole = pixels_to_tensor(picture, orientation)
    monkeypatch.setattr(transforms, "_BAND_PIXELS", 100)
    assert torch.equal(pixels_to_tensor(picture, orientation), whole)
    small = pixels_to_tensor(picture, orientation, as_bytes=True)
    assert small.dtype == torch.uint8
    assert float((small.float() / 255 - whole).abs().max()) <= 0.51 / 255


PEAK = """
import resource, sys
from sppnet.images import decode, load_compact, resize_short_side
decode.LARGE_PIXELS = 1_000_000
load_compact(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resize_short_side(load_compact(sys.argv[1]), 600)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("ending", "most"), [("png", 8.5), ("jpg", 8.5), ("webp", 13.5)])
def test_a_large_photo_takes_few_bytes_a_pixel(tmp_path, ending, most):
    side = 4000
    small, large = tmp_path / f"small.{ending}", tmp_path / f"large.{ending}"
    Image.new("RGB", (1200, 900), "red").save(small)
    Image.new("RGB", (side, side), "red").save(large)
    command = [sys.executable, "-c", PEAK, str(large), str(small)]
    peak = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout) * 1024
    assert peak / side**2 <= most  # in floats it would be 16 and more
