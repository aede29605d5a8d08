"""Cut and damaged files: an image or an InputError with the right code, never anything else."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from image_files import encode, encoded_formats, photo
from sppnet.errors import InputError
from sppnet.images import decode_image, formats, load_image, read_image_size

FILES = encoded_formats(photo(20, 30))
CODES = {"E_EMPTY", "E_TRUNCATED", "E_FORMAT", "E_TOO_LARGE", "E_UNREADABLE"}


def outcome(data):
    """The image, or the code of the error."""
    try:
        return decode_image(data)
    except InputError as error:
        return error.code


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_rejected_or_changes_nothing(name):
    data = FILES[name]
    whole = decode_image(data)
    step = max(1, len(data) // 150)
    late = set(range(max(1, len(data) - 60), len(data)))
    codes = []
    for length in sorted({*range(1, 40), *range(1, len(data), step), *late}):
        found = outcome(data[:length])
        if isinstance(found, str):
            codes.append(found)
            # A file cut behind its first dozen bytes is known to be an image, and to be cut.
            assert found == "E_TRUNCATED", (length, found)
        else:
            assert torch.equal(found, whole), f"cut at {length} of {len(data)} gave other pixels"
            assert length > len(data) * 0.9
    assert len(codes) > 40


def test_a_planted_cut_is_noticed():
    """The check above can fail: half a JPEG, accepted on request, is another picture."""
    data = FILES["JPEG"]
    half = decode_image(data[: len(data) * 3 // 4], allow_truncated=True)
    assert not torch.equal(half, decode_image(data))


@pytest.mark.parametrize("name", ["JPEG", "progressive", "PNG", "BMP", "GIF"])
def test_cut_files_are_accepted_on_request(tmp_path, name):
    data = encoded_formats(photo(200, 200))[name]
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(InputError, match="ends early") as caught:
        load_image(path)
    assert caught.value.code == "E_TRUNCATED"
    image = load_image(path, allow_truncated=True)
    assert image.shape == (3, 200, 200)
    assert image.isfinite().all()
    if name == "PNG":
        assert torch.equal(image[:, :50], decode_image(data)[:, :50])


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_give_an_image_or_an_error(name):
    data = FILES[name]
    rng = np.random.default_rng(len(data))
    places = {*range(0, min(len(data), 64) * 8, 3), *rng.integers(0, len(data) * 8, 150).tolist()}
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        found = outcome(bytes(flipped))
        again = outcome(bytes(flipped))
        if isinstance(found, str):
            assert found in CODES
            assert found == again
        else:
            assert found.isfinite().all()
            assert 0 <= float(found.min()) <= float(found.max()) <= 1
            assert torch.equal(found, again)


@pytest.mark.parametrize("name", FILES)
def test_noise_behind_a_good_start(name):
    rng = np.random.default_rng(1)
    for length in (4, 12, 30, 60, 120):
        found = outcome(FILES[name][:length] + rng.bytes(300))
        assert not isinstance(found, str) or found in CODES


def test_libtiff_and_pillow_write_nothing_to_stderr(capfd):
    data = bytearray(FILES["TIFF-LZW"])
    for place in range(8, len(data) - 1, max(1, len(data) // 300)):
        outcome(bytes(data[:place]) + b"\xff\xff" + bytes(data[place + 2 :]))
    assert capfd.readouterr().err == ""


def test_a_tiff_without_the_strips_for_its_rows_is_refused():
    data = bytearray(FILES["TIFF"])
    height = data.index(b"\x01\x01", data.index(b"\x00\x01"))  # tag 257 behind tag 256
    data[height + 8 : height + 12] = (2_000_000).to_bytes(4, "little")
    with pytest.raises(InputError, match="strips are needed for 2,000,000 rows") as caught:
        decode_image(bytes(data))
    assert caught.value.code == "E_UNREADABLE"


def test_a_damaged_file_that_is_whole_is_not_called_cut():
    data = bytearray(encode(Image.new("RGB", (64, 64), "red"), "PNG"))
    place = data.index(b"IDAT") + 8
    data[place : place + 8] = b"\xff" * 8
    assert outcome(bytes(data)) == "E_UNREADABLE"


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_portable_pixmaps_are_read(mode):
    picture = photo().convert(mode)
    expected = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(decode_image(encode(picture, "PPM")), expected)
    assert outcome(encode(picture, "PPM")[:-9]) == "E_TRUNCATED"
    assert outcome(b"P6\n99999 99999\n255\n") == "E_TOO_LARGE"


def heic() -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return encode(photo(48, 64), "HEIF", quality=95)


def test_heic_is_read_with_its_extra(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(heic())
    expected = torch.from_numpy(np.array(photo(48, 64))).permute(2, 0, 1) / 255
    found = load_image(tmp_path / "a.HEIC")
    assert (found - expected).abs().mean() < 0.02
    assert read_image_size(tmp_path / "a.HEIC") == (48, 64)
    with pytest.raises(InputError, match="at most 99 pixels"):
        load_image(tmp_path / "a.HEIC", max_pixels=99)


def test_heic_is_as_large_as_its_header_says_or_damaged(tmp_path):
    """The limit of pixels is held against the header, so the pixels must not be others."""
    data, sizes = heic(), set()
    for place in range(data.index(b"ispe") - 40, data.index(b"mdat")):
        spoiled = bytearray(data)
        spoiled[place] ^= 32
        (tmp_path / "a.heic").write_bytes(spoiled)
        try:
            size = read_image_size(tmp_path / "a.heic")
            image = load_image(tmp_path / "a.heic")
        except InputError:
            continue
        assert tuple(image.shape[1:]) == size, place
        sizes.add(size)
    assert len(sizes) > 1


@pytest.mark.parametrize("length", [12, 40, 200, 400])
def test_heic_that_is_cut_is_an_error(length):
    assert outcome(heic()[:length]) in CODES


def test_heic_without_its_extra_says_what_to_install(monkeypatch):
    data = heic()
    monkeypatch.setattr(formats, "HEIF_MODULE", "no_such_module")
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(InputError, match=r"needs an extra: pip install 'sppnet\[heif\]'"):
        decode_image(data)


def many_scans(count):
    """A progressive JPEG whose last scan comes so many times."""
    data = encode(photo(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def test_a_jpeg_of_very_many_scans_is_refused():
    assert torch.equal(
        decode_image(many_scans(1)), decode_image(encode(photo(), "JPEG", progressive=True))
    )
    with pytest.raises(InputError, match="at most 50 scans") as caught:
        decode_image(many_scans(60))
    assert caught.value.code == "E_TOO_LARGE"


def test_what_stands_behind_a_jpeg_is_no_scan():
    plain = encode(photo(), "JPEG", progressive=True)
    assert torch.equal(decode_image(plain + b"\xff\xda" * 1000), decode_image(plain))
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2002) + b"\xff\xda" * 1000
    assert torch.equal(decode_image(plain[:2] + thumbnail + plain[2:]), decode_image(plain))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"\xff\xc0\0\x11\x08", b"\xff\xc3\0\x11\x08", "SOF3"),
        (b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c", "12 bits"),
    ],
)
def test_kinds_of_jpeg_that_no_decoder_reads_are_called_so(old, new, words):
    data = encode(photo(), "JPEG")
    assert old in data
    with pytest.raises(InputError, match=f"{words}.* is not supported") as caught:
        decode_image(data.replace(old, new))
    assert caught.value.code == "E_FORMAT"
