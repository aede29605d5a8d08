"""Small files of every format that `fuzz.py` spoils: images, proposals, detections."""

import contextlib
import io
import json
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from fuzz_mutations import spoil_bytes
from image_files import build_bmp, build_png, build_tiff, photo

MOST_PHOTO_BYTES, MOST_PHOTOS = 300_000, 30
BOXES = np.array([[3.0, 4, 20, 30], [0, 0, 80, 60]])


def pillow_images() -> list[bytes]:
    """A small picture in every format and mode that Pillow writes and we read."""
    picture = photo(24, 36)
    modes = {mode: picture.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    modes["I;16"] = Image.fromarray(np.arange(864, dtype=np.uint16).reshape(24, 36) * 70)
    modes["F"] = picture.convert("L").convert("F")
    turned = Image.Exif()
    turned[0x0112] = 6
    several = {"save_all": True, "append_images": [photo(24, 36, seed=1)]}
    options: list[dict[str, Any]] = [
        *({"format": name} for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO")),
        *({"format": "JPEG", "exif": turned, **more} for more in ({}, {"progressive": True})),
        *({"format": "PNG", **more} for more in ({"exif": turned}, {"interlace": 1}, several)),
        *({"format": "WEBP", **more} for more in ({"lossless": True}, {"exif": turned}, several)),
        *({"format": name, **several} for name in ("GIF", "TIFF", "MPO")),
        *(
            {"format": "TIFF", "compression": f"tiff_{name}"}
            for name in ("lzw", "deflate", "adobe_deflate", "jpeg", "packbits")
        ),
        *({"format": "TIFF", "compression": name} for name in ("group3", "group4", "packbits")),
        {"format": "HEIF"},
    ]
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    found = []
    for image in modes.values():
        for each in options:
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RuntimeError):
                image.save(buffer, **each)
                found.append(buffer.getvalue())
    return found


def built_images() -> list[bytes]:
    """Kinds that Pillow does not write: few bits, tiles, planes, floats, palettes, bit fields."""
    draw = np.random.default_rng(0)
    found = []
    for bits in (1, 2, 4, 8, 12, 16, 32):
        samples = draw.integers(0, 2 ** min(bits, 31), (17, 19, 3))
        for order in "<>":
            found.append(build_tiff(samples[..., :1], bits, 1, order=order))
            found.append(build_tiff(samples, bits, 2, order=order, planar=2, tile=16))
        if bits <= 16 and bits != 12:
            found.append(build_png(samples[..., :1], bits, 0))
    floats = draw.random((17, 19, 3)).astype(np.float32)
    found += [build_tiff(floats, 32, 2, kind=3, deflate=True), build_tiff(floats, 32, 2, tile=16)]
    values = draw.integers(0, 2**16, (17, 19))
    found += [build_bmp(values & 15, 4, palette=bytes(64)), build_bmp(values, 16, top_down=True)]
    found.append(build_bmp(values, 32, header=108, masks=(255 << 16, 255 << 8, 255, 255 << 24)))
    return found


def real_photos(real: Path | None) -> list[bytes]:
    """Some real photos that are not large."""
    paths = sorted(real.glob("**/*.jp*g")) + sorted(real.glob("photos/*")) if real else []
    small = [path for path in paths if path.stat().st_size < MOST_PHOTO_BYTES]
    return [path.read_bytes() for path in small[:: max(1, len(small) // MOST_PHOTOS)]]


def npz_files() -> list[bytes]:
    """Archives as numpy writes them."""
    found = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **{"a.jpg": BOXES, "000007": BOXES[:0], "c": BOXES.astype(np.float32)})
        found.append(buffer.getvalue())
    return found


def hostile_npz(draw: Random) -> bytes:
    """A whole archive of arrays whose headers say anything."""
    kinds = ("<f8", "<f8", ">f4", "<i8", "|O", "|V8", "<U5", "|b1", "<c16", "<f16", "<m8[s]", "|S0")
    shapes = (
        "(2, 4)", "(4, 2)", "(8,)", "()", "(0, 4)", "(-2, -4)", "(True, 8)", "(2.0, 4)", "('2', 4)",
        "(10**12, 4)", "(1000000000000, 4)", "(" * 300 + ")" * 300, "(2, 4, )", "2", "None",
        "(1,) * 10", "(" + "1, " * 100 + ")", "(18446744073709551616, 4)",
    )  # fmt: skip
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw.choice((0, 8, 12, 14))) as archive:
        for _ in range(draw.choice((1, 1, 2, 40))):
            kind, shape = draw.choice(kinds), draw.choice(shapes)
            fortran = draw.choice(("False", "True", "0", "'no'", "None"))
            text = f"{{'descr': {kind!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
            text = draw.choice((text, text, text, text.replace("descr", "x"), "[]", "{" * 200))
            head = text.encode().ljust(117) + b"\n"
            version = draw.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\xff\xff"))
            size = struct.pack("<H" if version == b"\1\0" else "<I", len(head))
            data = b"\x93NUMPY" + version + size + head + BOXES.astype("<f8").tobytes()
            name = draw.choice(
                ("a.jpg", "000007", "", "../a", "/a", "a\nb", "é", "7.npy", "x" * 70_000)
            )
            with contextlib.suppress(ValueError, RuntimeError, IndexError), _no_warnings():
                archive.writestr(name[:60_000] + draw.choice(("", ".npy")), data)
    data = buffer.getvalue()
    return spoil_bytes(draw, data) if draw.random() < 0.3 else data


@contextlib.contextmanager
def _no_warnings() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def mat_files() -> list[bytes]:
    """MAT files as SciPy writes them: plain, compressed, of several types of numbers."""
    from scipy.io import savemat

    found = []
    for kind in (np.float64, np.uint16, np.int32):
        for packed in (False, True):
            cells = [np.empty((3, 1), object) for _ in range(2)]
            cells[0][:, 0] = ["a", "000007", "é" * 20]
            cells[1][:, 0] = [(BOXES + 1).astype(kind), np.zeros((0, 4), kind), BOXES[:1] + 1]
            buffer = io.BytesIO()
            savemat(buffer, {"images": cells[0], "boxes": cells[1].T}, do_compression=packed)
            found.append(buffer.getvalue())
    return found


def repacked_mat(draw: Random, data: bytes) -> bytes:
    """A MAT file whose packed variables were changed inside: the checksums of zlib fit again."""
    variables, place = b"", 128
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, place)
        body = data[place + 8 : place + 8 + size]
        body = zlib.decompress(body) if kind == 15 else data[place : place + 8 + size]
        if draw.random() < 0.7:
            body = spoil_bytes(draw, body)
        if draw.random() < 0.02:
            body += bytes(draw.choice((10**6, 10**8)))
        packed = zlib.compress(body, 1)
        variables += struct.pack("<II", 15, len(packed)) + packed
        place += 8 + size
    return data[:128] + variables


def proposal_texts() -> list[bytes]:
    """Both shapes of JSON."""
    entries = [{"image_id": 7, "bbox": [x, 4, 17, 26], "score": x / 8} for x in range(3)]
    images = [{"id": 7, "file_name": "x/a.jpg"}]
    return [
        json.dumps(each).encode() for each in (entries, {"images": images, "annotations": entries})
    ]


def detection_results(draw: Random, ending: str) -> bytes:
    """Some detections near and far from the objects of the samples."""
    names = ["7", "traffic light", "Straßen-Schild \u732b"]
    rows = []
    for _ in range(draw.choice((0, 1, 3, 12))):
        x, y = draw.randrange(40), draw.randrange(30)
        box = [x, y, x + draw.randrange(1, 30), y + draw.randrange(1, 20)]
        rows.append((draw.choice("abc"), draw.choice(names), round(draw.random(), 2), *box))
    if ending == ".csv":
        lines = [",".join(map(str, row)) for row in rows]
        return "\n".join(["image,class,score,x1,y1,x2,y2", *lines]).encode()
    if ending == ".txt":
        return "\n".join(" ".join(map(str, row[1:])) for row in rows).encode()
    keys = {"a": 1, "b": 2, "c": 3}
    return json.dumps(
        [
            {
                "image_id": draw.choice((keys[image], f"{image}.jpg")),
                **({"category_name": name} if draw.random() < 0.5 else {"category_id": 2}),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for image, name, score, x1, y1, x2, y2 in rows
        ]
    ).encode()
