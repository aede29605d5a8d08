"""Small images in every format, and annotation files, for the tests of the images room."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def photo(height: int = 24, width: int = 36, seed: int = 0) -> Image.Image:
    """A smooth picture with a different corner each, so that JPEG keeps it and turning it shows."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format_name: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def encoded_formats(image: Image.Image) -> dict[str, bytes]:
    """The same picture in each format, lossless or nearly."""
    exact = {"lossless": True}
    return {
        "JPEG": encode(image, "JPEG", quality=95),
        "progressive": encode(image, "JPEG", quality=95, progressive=True),
        "PNG": encode(image, "PNG"),
        "WEBP": encode(image, "WEBP", **exact),
        "GIF": encode(image.quantize(64), "GIF"),
        "BMP": encode(image, "BMP"),
        "TIFF": encode(image, "TIFF"),
        "TIFF-LZW": encode(image, "TIFF", compression="tiff_lzw"),
    }


def write_image(path: Path, height: int = 24, width: int = 36, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(height, width, seed).save(path)
    return path


def voc_xml(objects: str = "", filename: str = "a.jpg", size: str = "") -> str:
    return f"<annotation><filename>{filename}</filename>{size}\n{objects}</annotation>\n"


def voc_object(corners: tuple, name: str = "cat", extra: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>\n"


def make_voc(
    root: Path, annotations: dict[str, str], images: dict[str, tuple] | None = None
) -> Path:
    """A VOC set: stem to XML text, and file name to (height, width)."""
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for stem, text in annotations.items():
        (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    for name, (height, width) in (images or {}).items():
        write_image(root / "JPEGImages" / name, height, width)
    return root


def write_split(root: Path, name: str, text: str) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def tree_hash(root: Path) -> str:
    """One hash of all names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(str(path.relative_to(root)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def pack_samples(samples: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Rows (H, n) of whole numbers, or floats, as a file stores them: each row from a new byte."""
    if samples.dtype.kind == "f" or bits in (8, 16, 32):
        kind = "f" if samples.dtype.kind == "f" else "u"
        return samples.astype(f"{order}{kind}{bits // 8}").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    ones = (samples.astype(np.int64)[..., None] >> shifts) & 1
    return np.packbits(ones.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def build_tiff(
    samples: np.ndarray,
    bits: int,
    colour: int,
    *,
    order: str = "<",
    planar: int = 1,
    rows: int = 5,
    tile: int = 0,
    deflate: bool = False,
    kind: int = 1,
    extra: int | None = None,
    palette: np.ndarray | None = None,
) -> bytes:
    """A TIFF of samples (H, W, S), written tag by tag.

    ``colour`` is PhotometricInterpretation, ``kind`` SampleFormat, ``palette`` (3, 2^bits) of 16
    bits; ``tile`` is the side of its tiles, 0 for strips of ``rows`` rows.
    """
    height, width, count = samples.shape
    planes = [samples] if planar == 1 else [samples[..., i : i + 1] for i in range(count)]
    pieces = []
    for plane in planes:
        if tile:
            padding = [(0, -height % tile), (0, -width % tile), (0, 0)]
            padded = np.pad(plane, padding)
            for top in range(0, height, tile):
                for left in range(0, width, tile):
                    pieces.append(padded[top : top + tile, left : left + tile])
        else:
            pieces += [plane[top : top + rows] for top in range(0, height, rows)]
    data = [pack_samples(piece.reshape(len(piece), -1), bits, order) for piece in pieces]
    data = [zlib.compress(part) for part in data] if deflate else data
    starts = 8 + np.cumsum([0, *map(len, data)])
    tags = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [bits] * count),
        259: (3, [8 if deflate else 1]),
        262: (3, [colour]),
        324 if tile else 273: (4, list(starts[:-1])),
        277: (3, [count]),
        325 if tile else 279: (4, list(map(len, data))),
        284: (3, [planar]),
        339: (3, [kind] * count),
    }
    tags |= {322: (3, [tile]), 323: (3, [tile])} if tile else {278: (3, [rows])}
    tags |= {} if extra is None else {338: (3, [extra])}
    tags |= {} if palette is None else {320: (3, list(palette.reshape(-1)))}
    body = b"".join(data)
    body += bytes(len(body) % 2)
    folder_at = 8 + len(body)
    far_at = folder_at + 2 + 12 * len(tags) + 4
    entries, far = b"", b""
    for tag, (code, values) in sorted(tags.items()):
        packed = np.array(values, f"{order}u{2 if code == 3 else 4}").tobytes()
        if len(packed) > 4:
            place = struct.pack(f"{order}I", far_at + len(far))
            far += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, code, len(values)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, folder_at)
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + far


def build_png(
    samples: np.ndarray, bits: int, colour: int, chunks: dict[bytes, bytes] | None = None
) -> bytes:
    """A PNG of samples (H, W, S) and a colour type of IHDR; ``chunks`` go before the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = samples.shape[:2]
    rows = (pack_samples(row.reshape(1, -1), bits) for row in samples)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0),
        **(chunks or {}),
        b"IDAT": zlib.compress(b"".join(b"\0" + row for row in rows)),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())


def build_bmp(
    values: np.ndarray,
    bits: int,
    *,
    header: int = 40,
    masks: tuple[int, ...] | None = None,
    palette: bytes = b"",
    top_down: bool = False,
) -> bytes:
    """A BMP of pixels (H, W), each one number of so many bits; ``header`` is its header's size.

    With ``masks`` (red, green, blue, alpha) the packing is BITFIELDS.
    """
    height, width = values.shape
    rows = values if top_down else values[::-1]
    if bits == 24:
        packed = rows.astype("<u4").view(np.uint8).reshape(height, width, 4)[..., :3]
        lines = [row.tobytes() for row in packed]
    else:
        lines = [pack_samples(row[None], bits, "<") for row in rows]
    data = b"".join(line + bytes(-len(line) % 4) for line in lines)
    packing = 3 if masks else 0
    size = -height if top_down else height
    colours = len(palette) // 4
    info = struct.pack(
        "<IiiHHIIiiII", header, width, size, 1, bits, packing, len(data), 0, 0, colours, 0
    )
    packed_masks = struct.pack("<4I", *masks) if masks else bytes(16)
    if header == 40:
        info += packed_masks[:12] if masks else b""
    else:
        info = (info + packed_masks)[:header].ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data
