"""Small images in every format, and annotation files, for the tests of the images room."""

import hashlib
import io
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
