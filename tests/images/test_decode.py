"""Every mode, format and orientation gives the same picture; what is no image is said so."""

import io
import os
import random
import socket
import struct
import threading
import time
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from image_files import encode, encoded_formats, photo
from sppnet.errors import InputError
from sppnet.images import decode, decode_image, load_image, read_image_size, to_image
from sppnet.images.decode import decode_content, read_content, read_stored_size
from sppnet.images.transforms import as_floats

PICTURE = photo()
TRUTH = torch.from_numpy(np.array(PICTURE)).permute(2, 0, 1).float() / 255
ONE_STEP = 1.01 / 255


def distance(image, truth=TRUTH):
    assert image.shape == truth.shape
    return float((image - truth).abs().max())


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PNG", "WEBP", "BMP", "TIFF", "TIFF-LZW"])
def test_lossless_formats_are_bit_equal(name):
    image = decode_image(encoded_formats(PICTURE)[name])
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert torch.equal(image, TRUTH)


@pytest.mark.parametrize("name", ["JPEG", "progressive", "GIF"])
def test_lossy_formats_are_close(name):
    image = decode_image(encoded_formats(PICTURE)[name])
    assert image.shape == TRUTH.shape
    assert float((image - TRUTH).abs().mean()) < 0.05


@pytest.mark.parametrize("name", ["text.jpg", "photo.txt", "no_ending"])
def test_format_is_told_by_content(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encoded_formats(PICTURE)["PNG"])
    assert torch.equal(load_image(path), TRUTH)


REFUSED = {
    "text": b"this is no image\n" * 10,
    "zero bytes": bytes(100),
    "html": b"<html><body>404 not found</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>' * 3,
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "pdf": b"%PDF-1.7\n" + bytes(50),
    "psd": b"8BPS\x00\x01" + bytes(50),
    "ico": b"\x00\x00\x01\x00\x01\x00" + bytes(50),
    "pfm": b"PF 2 2 255\n" + bytes(12),
    "jpeg 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(50),
    "fits": b"SIMPLE  =                    T" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(50),
    "pickle": b"\x80\x04\x95" + bytes(50),
    "wav": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(50),
    "words that start like BMP": b"BMW cars are made in Munich, and elsewhere\n",
    "one byte": b"x",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_by_content_is_refused(tmp_path, name):
    path = tmp_path / "picture.jpg"
    path.write_bytes(REFUSED[name])
    with pytest.raises(InputError, match=r"by content \(E_FORMAT\)") as caught:
        load_image(path)
    assert caught.value.code == "E_FORMAT"
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


def test_a_zip_behind_a_jpeg_is_a_jpeg():
    data = encoded_formats(PICTURE)["JPEG"]
    assert torch.equal(decode_image(data + b"PK\x03\x04" + bytes(99)), decode_image(data))


# --- modes ---------------------------------------------------------------------------------------


def grey_truth(grey):
    return (torch.from_numpy(np.asarray(grey, np.float64)).float())[None].expand(3, -1, -1)


def over_white(rgba):
    pixels = torch.from_numpy(np.asarray(rgba, np.float32) / 255).permute(2, 0, 1)
    return pixels[:3] * pixels[3:] + 1 - pixels[3:]


GREY = np.asarray(PICTURE.convert("L"))
ALPHA = np.tile(np.linspace(0, 255, 36).astype(np.uint8), (24, 1))
RGBA = Image.fromarray(np.dstack([np.asarray(PICTURE), ALPHA]))
LA = Image.merge("LA", (PICTURE.convert("L"), Image.fromarray(ALPHA)))
SIXTEEN = GREY.astype(np.uint16) * 257
PALETTE = PICTURE.quantize(64)
BIT = PICTURE.convert("1")


def clear_palette():
    image = PALETTE.copy()
    rgba = np.asarray(PALETTE.convert("RGBA")).copy()
    rgba[np.asarray(PALETTE) == 3, 3] = 0
    return encode(image, "PNG", transparency=3), over_white(rgba)


MODES = {
    "1": (encode(BIT, "PNG"), grey_truth(np.asarray(BIT))),
    "1 tiff": (encode(BIT, "TIFF", compression="group4"), grey_truth(np.asarray(BIT))),
    "L": (encode(PICTURE.convert("L"), "PNG"), grey_truth(GREY / 255)),
    "L bmp": (encode(PICTURE.convert("L"), "BMP"), grey_truth(GREY / 255)),
    "LA": (encode(LA, "PNG"), over_white(LA.convert("RGBA"))),
    "P": (encode(PALETTE, "PNG"), None),
    "P 4 bit": (encode(PICTURE.quantize(16), "PNG", bits=4), None),
    "P 2 bit": (encode(PICTURE.quantize(4), "PNG", bits=2), None),
    "P clear": clear_palette(),
    "RGBA": (encode(RGBA, "PNG"), over_white(RGBA)),
    "RGBA webp": (encode(RGBA, "WEBP", lossless=True, exact=True), over_white(RGBA)),
    "RGBA tiff": (encode(RGBA, "TIFF"), over_white(RGBA)),
    "I;16": (encode(Image.fromarray(SIXTEEN), "PNG"), grey_truth(GREY / 255)),
    "I;16 tiff": (encode(Image.fromarray(SIXTEEN), "TIFF"), grey_truth(GREY / 255)),
    "F tiff": (
        encode(Image.fromarray((GREY / 255).astype(np.float32)), "TIFF"),
        grey_truth(GREY / 255),
    ),
    "I tiff": (encode(Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"), grey_truth(GREY / 255)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_the_same_picture(name):
    data, truth = MODES[name]
    if truth is None:
        with Image.open(io.BytesIO(data)) as image:
            truth = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    assert distance(decode_image(data), truth) <= ONE_STEP


def test_cmyk_jpeg_and_tiff():
    # Saturated CMYK from RGB is exactly invertible but for JPEG's own loss.
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    truth = torch.tensor([200, 40, 90]).view(3, 1, 1).expand(3, 16, 16) / 255
    assert distance(decode_image(encode(flat.convert("CMYK"), "TIFF")), truth) <= 2.01 / 255
    jpeg = encode(flat.convert("CMYK"), "JPEG", quality=100)
    assert distance(decode_image(jpeg), truth) <= 2.01 / 255


def png_chunks(width, height, depth, colour, rows, extra=b""):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + extra + data + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_scaled():
    values = (SIXTEEN[:, :, None] * np.ones(3, np.uint16)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    assert (
        distance(decode_image(png_chunks(36, 24, 16, 2, rows)), grey_truth(GREY / 255)) <= ONE_STEP
    )


def test_sixteen_bit_grey_keeps_its_depth():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16))
    image = decode_image(encode(ramp, "PNG"))
    assert len(image.unique()) == 256
    assert float(image.max()) == pytest.approx(255 / 65535)


def test_clear_value_of_sixteen_bit_grey_is_white():
    rows = b"\0" + np.array([100, 40000], ">u2").tobytes()
    clear = b"tRNS" + struct.pack(">H", 100)
    chunk = struct.pack(">I", 2) + clear + struct.pack(">I", zlib.crc32(clear))
    image = decode_image(png_chunks(2, 1, 16, 0, rows, chunk))
    assert image[0, 0].tolist() == pytest.approx([1.0, 40000 / 65535])


@pytest.mark.parametrize(
    ("pixels", "shown"),
    [
        (np.full((4, 4), 255, np.float32), "255"),
        (np.full((4, 4), np.nan, np.float32), "nan"),
        (np.full((4, 4), -1, np.float32), "-1"),
        (np.full((4, 4), 70000, np.int32), "70000"),
    ],
)
def test_pixels_without_a_known_range_are_refused_not_clipped(pixels, shown):
    with pytest.raises(InputError, match=shown) as caught:
        decode_image(encode(Image.fromarray(pixels), "TIFF"))
    assert caught.value.code == "E_FORMAT"


FRAMES = [photo(seed=seed) for seed in (0, 1, 2)]


@pytest.mark.parametrize("name", ["WEBP", "PNG", "TIFF", "GIF", "MPO"])
def test_the_first_frame_is_taken(name):
    options = {"lossless": True} if name == "WEBP" else {}
    data = encode(FRAMES[0], name, save_all=True, append_images=FRAMES[1:], **options)
    image = decode_image(data)
    tolerance = 0 if name in ("WEBP", "PNG", "TIFF") else 0.25
    assert distance(image) <= tolerance
    assert float((image - TRUTH).abs().mean()) < 0.03


def animation(name):
    first, *others = (photo(seed=seed) for seed in (0, 1, 2))
    return encode(first, name, save_all=True, append_images=others)


def multi_frame_mpo(kind):
    """A file of three JPEGs whose index calls the second and third by the MPF number of a kind."""
    data = bytearray(animation("MPO"))
    at = data.index(b"MPF\0") + 4 + 8 + 2 + 3 * 12 + 4  # behind the three tags of the index
    assert data[at : at + 4] == struct.pack("<L", 0x030000)
    for number in (1, 2):
        data[at + 16 * number : at + 16 * number + 4] = struct.pack("<L", kind)
    return bytes(data)


@pytest.fixture
def told(monkeypatch, caplog):
    monkeypatch.setattr(decode, "_told", set())
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("name", ["WEBP", "PNG", "TIFF", "GIF", "MPO"])
def test_frames_that_are_passed_over_are_told_once_a_file(tmp_path, told, name):
    path = tmp_path / "a"
    path.write_bytes(multi_frame_mpo(0x020003) if name == "MPO" else animation(name))
    load_image(path)
    decode_content(path.read_bytes(), path)
    assert told() == [f"{str(path)!r}: only the first of its frames is used"]


@pytest.mark.parametrize("name", ["WEBP", "PNG", "TIFF", "GIF", "JPEG", "BMP", "PPM"])
def test_a_file_of_one_frame_tells_nothing(tmp_path, told, name):
    (tmp_path / "a").write_bytes(encode(photo(), name))
    load_image(tmp_path / "a")
    assert told() == []


@pytest.mark.parametrize("kind", [0, 0x010001, 0x010002])
def test_thumbnails_of_a_jpeg_are_no_frames(tmp_path, told, kind):
    (tmp_path / "a").write_bytes(multi_frame_mpo(kind))
    load_image(tmp_path / "a")
    assert told() == []


def test_what_stands_behind_the_first_frame_of_a_gif_spoils_nothing(tmp_path, told):
    data = encode(photo(), "GIF")
    whole = decode_image(data)
    generator = random.Random(0)
    for _ in range(300):
        tail = generator.choice([b",", b"!", b"!\xf9", b"!\xff"]) + generator.randbytes(
            generator.randrange(30)
        )
        (tmp_path / "a").write_bytes(data[:-1] + tail)
        assert torch.equal(load_image(tmp_path / "a"), whole)


def test_a_folder_of_animations_is_told_of_with_an_end(tmp_path, told):
    data = animation("GIF")
    for number in range(decode.MOST_TOLD + 5):
        decode_content(data, tmp_path / f"{number}.gif")
    assert len(told()) == decode.MOST_TOLD
    assert told()[-1].endswith(
        "19.gif': only the first of its frames is used; further files are not named"
    )


# --- orientation ---------------------------------------------------------------------------------

# What a viewer does with the stored pixels for each value, written out from the EXIF standard.
STORED_TO_SEEN = {
    1: lambda x: x,
    2: lambda x: x.flip(2),
    3: lambda x: x.flip(1, 2),
    4: lambda x: x.flip(1),
    5: lambda x: x.transpose(1, 2),
    6: lambda x: x.transpose(1, 2).flip(2),
    7: lambda x: x.transpose(1, 2).flip(1, 2),
    8: lambda x: x.transpose(1, 2).flip(1),
}


def exif_block(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_orientation_is_applied_exactly(tmp_path, name, value):
    plain = decode_image(encode(PICTURE, name, **({"lossless": True} if name == "WEBP" else {})))
    options = {"lossless": True} if name == "WEBP" else {}
    path = tmp_path / "turned"
    path.write_bytes(encode(PICTURE, name, exif=exif_block(value), **options))
    image = load_image(path)
    assert torch.equal(image, STORED_TO_SEEN[value](plain))
    assert read_image_size(path) == tuple(image.shape[1:])
    if name != "TIFF":
        assert read_stored_size(path) == (24, 36)


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    plain = encode(PICTURE, "PNG")
    block = exif_block(6).tobytes().removeprefix(b"Exif\0\0")
    body = b"eXIf" + block
    chunk = struct.pack(">I", len(block)) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "late.png"
    path.write_bytes(plain[:-12] + chunk + plain[-12:])
    assert read_image_size(path) == (36, 24)
    assert torch.equal(load_image(path), STORED_TO_SEEN[6](TRUTH))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_meaningless_orientation_is_none(value):
    assert decode_image(encode(PICTURE, "PNG", exif=exif_block(value))).equal(TRUTH)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80))
def test_damaged_exif_never_spoils_an_image(block):
    for prefix in (b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0"):
        assert decode_image(encode(PICTURE, "PNG", exif=prefix + block)).numel() == TRUTH.numel()


# --- limits --------------------------------------------------------------------------------------


def huge_png(side):
    """Only the header of a picture of this size, and a little data."""
    return png_chunks(side, side, 8, 2, bytes(100))


@pytest.mark.parametrize("side", [10_001, 13_000, 14_000, 50_000, 2**31 - 1])
def test_bombs_are_refused_from_the_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side))
    start = time.perf_counter()
    for function in (load_image, read_image_size):
        with pytest.raises(InputError) as caught:
            function(path)
        assert caught.value.code == "E_TOO_LARGE"
    assert time.perf_counter() - start < 1.0


def test_limit_is_inclusive_and_named():
    data = encode(PICTURE, "PNG")
    assert decode_image(data, max_pixels=24 * 36).shape == (3, 24, 36)
    with pytest.raises(InputError, match="at most 863 pixels, has 36 x 24"):
        decode_image(data, max_pixels=24 * 36 - 1)


@pytest.mark.parametrize("limit", [0, -1, 178_956_971])
def test_limit_that_cannot_be_kept(limit):
    with pytest.raises(ValueError, match=f"max_pixels must be in 1..178956970, got {limit}"):
        decode_image(b"", max_pixels=limit)


def test_the_limit_can_be_set_for_a_process_and_its_children(monkeypatch, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(PICTURE, "PNG"))
    monkeypatch.setenv("SPPNET_MAX_PIXELS", "863")
    for function in (load_image, read_image_size):
        with pytest.raises(InputError, match="at most 863 pixels"):
            function(path)
    monkeypatch.setenv("SPPNET_MAX_PIXELS", "864")
    assert torch.equal(load_image(path), TRUTH)


IN_BYTES = {"1", "1 tiff", "L", "L bmp", "P", "P 4 bit", "P 2 bit", *encoded_formats(PICTURE)}


@pytest.mark.parametrize("name", [*MODES, *encoded_formats(PICTURE)])
def test_what_has_eight_bits_may_stay_bytes_and_has_the_same_pixels(monkeypatch, name):
    data = MODES[name][0] if name in MODES else encoded_formats(PICTURE)[name]
    whole, small = decode_image(data), decode_image(data, compact=True)
    assert whole.dtype == torch.float32
    assert small.dtype == (torch.uint8 if name in IN_BYTES else torch.float32)
    assert torch.equal(as_floats(small), whole)
    monkeypatch.setattr("sppnet.images.decode.LARGE_PIXELS", 100)
    assert torch.equal(decode_image(data), whole)
    rounded = decode_image(data, compact=True)
    assert rounded.dtype == torch.uint8
    assert distance(as_floats(rounded), whole) <= (0 if name in IN_BYTES else 0.51 / 255)


WEBP_BOMBS = {
    "VP8X": b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xfe\x3f\x00" * 2,
    "VP8L": b"VP8L" + struct.pack("<I", 10) + b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(5),
    "VP8 ": b"VP8 "
    + struct.pack("<I", 10)
    + bytes(3)
    + b"\x9d\x01\x2a"
    + struct.pack("<HH", 16383, 16383),
}


@pytest.mark.parametrize("kind", WEBP_BOMBS)
def test_large_webp_is_refused_before_its_decoder_allocates(kind):
    body = b"WEBP" + WEBP_BOMBS[kind] + bytes(20)
    with pytest.raises(InputError) as caught:
        decode_image(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert caught.value.code == "E_TOO_LARGE"


@pytest.mark.parametrize("place", [24, 27])  # of the width less one, and of the height
def test_webp_canvas_longer_than_any_picture_is_refused(place):
    frames = [PICTURE, PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(file.getvalue())
    assert decode_image(bytes(data)).shape == (3, 24, 36)
    data[place : place + 3] = (1 << 20).to_bytes(3, "little")
    with pytest.raises(InputError, match="at most 16,383 pixels") as caught:
        decode_image(bytes(data))
    assert caught.value.code == "E_TOO_LARGE"


def test_webp_canvas_agrees_with_the_decoder():
    for options in ({"lossless": True}, {"quality": 50}, {"lossless": True, "exif": exif_block(6)}):
        data = encode(PICTURE, "WEBP", **options)
        with pytest.raises(InputError, match="36 x 24"):
            decode_image(data, max_pixels=10)


def test_large_gif_screen_is_refused():
    data = bytearray(encode(PICTURE.quantize(8), "GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(InputError, match="4,294,836,225") as caught:
        decode_image(bytes(data))
    assert caught.value.code == "E_TOO_LARGE"


def test_tiff_of_a_million_strips_is_refused_at_once(tmp_path):
    count = 1_000_000
    tags = [(256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, count, 200), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, 200)]
    folder = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path = tmp_path / "strips.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + folder + bytes(4 * count))
    start = time.perf_counter()
    with pytest.raises(InputError, match="strips") as caught:
        load_image(path)
    assert caught.value.code == "E_TOO_LARGE"
    assert time.perf_counter() - start < 1.0


NOISE = np.random.default_rng(0).bytes(2_500_000)
TEXTS = {
    "bomb": b"iCCPx\0\0" + zlib.compress(bytes(50_000_000)),
    "profile": b"iCCPx\0\0" + zlib.compress(NOISE),
    "zTXt": b"zTXtx\0\0" + zlib.compress(NOISE),
    "iTXt": b"iTXtx\0\1\0\0\0" + zlib.compress(NOISE),
    "iTXt plain": b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + NOISE,
    "tEXt": b"tEXtx\0" + bytes(70_000_000),
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("name", TEXTS)
def test_texts_and_profiles_of_a_png_are_never_read(tmp_path, name, place):
    text = TEXTS[name]
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    plain = encode(PICTURE, "PNG", exif=exif_block(6))
    at = 33 if place == "before" else len(plain) - 12
    path = tmp_path / "a.png"
    path.write_bytes(plain[:at] + chunk + plain[at:])
    assert torch.equal(load_image(path), STORED_TO_SEEN[6](TRUTH))
    assert read_image_size(path) == (36, 24)


# --- kinds of files ------------------------------------------------------------------------------


def code_of(path):
    with pytest.raises(InputError) as caught:
        load_image(path)
    with pytest.raises(InputError) as by_header:
        read_image_size(path)
    assert by_header.value.code == caught.value.code
    return caught.value.code


def test_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert code_of(tmp_path / "a.jpg") == "E_EMPTY"
    with pytest.raises(InputError) as caught:
        decode_image(b"")
    assert caught.value.code == "E_EMPTY"


def test_fifo_never_blocks(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    start = time.perf_counter()
    assert code_of(tmp_path / "a.jpg") == "E_UNREADABLE"
    assert time.perf_counter() - start < 1


class MeddledFile(io.FileIO):
    """A file to which something happens before one of its blocks is read."""

    def __init__(self, path, at, act):
        super().__init__(path)
        self.reads, self.at, self.act = 0, at, act

    def readinto(self, block):
        if self.reads == self.at:
            self.act()
        self.reads += 1
        return super().readinto(block)


def read_or_code(path):
    try:
        return load_image(path), ""
    except InputError as error:
        return None, error.code


OTHER = photo(seed=5)


def meddle(path, name, how):
    """Let the file grow, shrink, vanish, be replaced, or be written over where it lies."""
    other = encode(OTHER, name)
    if how == "grows":
        with path.open("ab") as file:
            file.write(b"more" * 2000)
    elif how in ("shrinks", "empties"):
        os.truncate(path, path.stat().st_size // 2 if how == "shrinks" else 0)
    elif how == "vanishes":
        path.unlink()
    elif how == "replaced":
        path.with_suffix(".new").write_bytes(other)
        path.with_suffix(".new").replace(path)
    else:
        with path.open("r+b") as file:
            file.write(other)


@pytest.mark.parametrize(
    "how", ["grows", "shrinks", "empties", "vanishes", "replaced", "written over"]
)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_may_change_at_every_block_that_is_read(tmp_path, monkeypatch, name, how):
    path, data = tmp_path / "a", encode(PICTURE, name)
    whole, other = decode_image(data), decode_image(encode(OTHER, name))
    ended = 0
    for at in range(400):
        path.write_bytes(data)
        act = partial(meddle, path, name, how)
        file = MeddledFile(path, at, act)
        monkeypatch.setattr(
            decode, "open_regular_file", lambda _, file=file: io.BufferedReader(file, 64)
        )
        image, code = read_or_code(path)
        if image is None:
            assert how in ("shrinks", "empties", "written over")
            assert code in ("E_EMPTY", "E_TRUNCATED", "E_UNREADABLE", "E_FORMAT")
            ended += 1
            continue
        if how == "written over":
            assert image.isfinite().all()
        elif how in ("shrinks", "empties"):
            assert torch.equal(image, whole)
        else:  # what was opened is read to its end, whoever has the name now
            assert torch.equal(image, whole)
            assert not torch.equal(image, other)
        if file.reads <= at:
            break
    assert at > 0
    assert ended or how not in ("shrinks", "empties")


def test_a_file_that_changes_between_two_readings_is_one_of_both(tmp_path):
    path, stop = tmp_path / "a.png", threading.Event()
    pictures = [photo(40, 50, seed) for seed in (1, 2)]
    contents = [encode(picture, "PNG") for picture in pictures]
    path.write_bytes(contents[0])

    def replace():
        number = 0
        while not stop.is_set():
            number += 1
            path.with_suffix(".new").write_bytes(contents[number % 2])
            path.with_suffix(".new").replace(path)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        found = [load_image(path) for _ in range(150)]
        found += [as_floats(decode_content(read_content(path), path)) for _ in range(150)]
    finally:
        stop.set()
        thread.join()
    wanted = [decode_image(content) for content in contents]
    assert all(any(torch.equal(image, each) for each in wanted) for image in found)


def test_folder_socket_device_missing_and_odd_names(tmp_path, monkeypatch):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("s.jpg")
        for path in ("folder.jpg", "s.jpg", "loop.jpg", "gone.jpg", "a" * 300, "a\0b"):
            assert code_of(path) == "E_UNREADABLE", path
    assert code_of("/dev/zero") == "E_UNREADABLE"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(PICTURE, "JPEG"))
    path.chmod(0)
    assert code_of(path) == "E_UNREADABLE"


@pytest.mark.parametrize(
    "name", ["a\nb.png", "\x1b[31mred.png", b"\xff\xfe.png", "-rf.png", "n" * 251 + ".png"]
)
def test_odd_names_are_read_and_escaped_in_messages(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(encode(PICTURE, "PNG"))
    assert torch.equal(load_image(path), TRUTH)
    path.write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        load_image(path)
    line = str(caught.value)
    assert line.isprintable()
    line.encode("utf-8")


def test_errors_do_not_pass_on_addresses_or_reasons_of_the_decoder():
    with pytest.raises(InputError) as caught:
        decode_image(b"\xff\xd8\xff\xe0" + bytes(100) + b"\xff\xd9")
    assert "0x" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def test_no_warning_leaks_from_several_threads():
    wide = Image.new("1", (10_000, 9_500))  # large enough for Pillow's own warning
    data = encode(wide, "PNG")
    small = encode(PICTURE, "PNG")
    filters = list(warnings.filters)
    failures = []

    def work():
        try:
            decode_image(data, max_pixels=100_000)
        except InputError:
            pass
        except Exception as error:
            failures.append(error)
        for _ in range(20):
            decode_image(small)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(warnings.filters) == filters


# --- to_image ------------------------------------------------------------------------------------


def test_to_image_takes_every_kind(tmp_path):
    path = tmp_path / "a.png"
    PICTURE.save(path)
    sources = [path, str(path), PICTURE, np.array(PICTURE), TRUTH, (TRUTH * 255).round().byte()]
    sources += [TRUTH.double(), np.array(PICTURE)[:, ::-1][:, ::-1]]
    for source in sources:
        assert distance(to_image(source)) < 1e-6
    assert to_image(TRUTH) is TRUTH
    turned = PICTURE.copy()
    turned.info["exif"] = exif_block(6).tobytes()
    assert to_image(turned).equal(STORED_TO_SEEN[6](TRUTH))


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        (None, TypeError, "got NoneType"),
        (np.zeros((4, 4, 3)), TypeError, "uint8 array, got float64"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\(H, W, 3\), got \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "shape"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(4, 4, 3), ValueError, r"\(3, H, W\), got \(4, 4, 3\)"),
        (torch.zeros(3, 0, 4), ValueError, "shape"),
        (torch.full((3, 2, 2), float("nan")), ValueError, "0..1, got nan"),
        (torch.full((3, 2, 2), 1.5), ValueError, "0..1, got 1.5"),
        (torch.full((3, 2, 2), -0.5), ValueError, "0..1, got -0.5"),
        (Image.new("RGB", (0, 3)), ValueError, "empty"),
    ],
)
def test_to_image_refuses(source, error, text):
    with pytest.raises(error, match=text):
        to_image(source)


def test_an_array_is_copied():
    array = np.array(PICTURE)
    image = to_image(array)
    array[:] = 0
    assert distance(image) < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2000, 1), (1, 2000), (3, 2)])
@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_extreme_shapes(tmp_path, name, size):
    path = tmp_path / "a"
    path.write_bytes(encode(Image.new("RGB", (size[1], size[0]), "teal"), name))
    assert load_image(path).shape == (3, *size)
    assert read_image_size(path) == size


def test_real_photos_have_the_size_that_their_header_says(shared_data: Path):
    for path in sorted((shared_data / "photos").iterdir())[:10]:
        image = load_image(path)
        assert read_image_size(path) == tuple(image.shape[1:])
        assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_the_decoders_that_are_needed_are_there():
    assert features.check("webp")
    assert features.check("jpg")
