"""A drawn set with the faults that real ones have, each in a file of its own."""

import hashlib
from pathlib import Path

from sppnet.images import draw_detection_set


def spoil_detection_set(folder: Path) -> dict[str, Path]:
    """Spoil four images of the train split of a drawn set; fault -> the file to be named."""
    train = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()
    photos = [folder / "JPEGImages" / f"{stem}.jpg" for stem in train[:3]]
    photos[0].write_bytes(photos[0].read_bytes()[: photos[0].stat().st_size // 2])
    photos[1].write_text("this is no image\n" * 40)
    photos[2].unlink()
    annotation = folder / "Annotations" / f"{train[3]}.xml"
    flat = "<object><name>ball</name><difficult>0</difficult><bndbox><xmin>9</xmin><ymin>9</ymin>"
    flat += "<xmax>8</xmax><ymax>30</ymax></bndbox></object></annotation>"
    annotation.write_text(annotation.read_text().replace("</annotation>", flat))
    faults = ("truncated JPEG", "text named .jpg", "missing file", "zero-area box")
    return dict(zip(faults, [*photos, annotation], strict=True))


def draw_spoiled_set(folder: Path, count: int = 14, seed: int = 0) -> tuple[Path, dict[str, Path]]:
    """Draw a set in VOC layout and spoil four of its files."""
    draw_detection_set(folder, count, seed)
    return folder, spoil_detection_set(folder)


def hash_files(folder: Path) -> dict[str, str]:
    """Path below the folder -> SHA-256, with sizes and times of change."""
    return {
        str(path.relative_to(folder)): (
            f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
