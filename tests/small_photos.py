"""Tiny class folders for tests: four patterns in random colours, of many sizes and aspects."""

from pathlib import Path

import numpy as np
from PIL import Image

PATTERNS = ("checks", "disc", "level", "upright")


def draw_pattern(pattern: str, rng: np.random.Generator) -> Image.Image:
    """Draw one image; colour says nothing about the class."""
    height, width = rng.integers(36, 90, size=2)
    y, x = np.mgrid[:height, :width]
    period = int(rng.integers(6, 12))
    masks = {
        "checks": ((x // period) + (y // period)) % 2 == 0,
        "disc": (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 3) ** 2,
        "level": (y // period) % 2 == 0,
        "upright": (x // period) % 2 == 0,
    }
    colours = rng.integers(0, 256, size=(2, 3))
    colours[1] = (colours[0] + rng.integers(90, 166, size=3)) % 256
    pixels = np.where(masks[pattern][..., None], colours[0], colours[1])
    noisy = np.clip(pixels + rng.normal(0, 8, size=pixels.shape), 0, 255)
    return Image.fromarray(noisy.astype(np.uint8))


def draw_folders(root: Path, per_class: int, seed: int = 0) -> Path:
    """Fill ``root`` with a folder of PNG files for each pattern."""
    rng = np.random.default_rng(seed)
    for pattern in PATTERNS:
        (root / pattern).mkdir(parents=True)
        for number in range(per_class):
            draw_pattern(pattern, rng).save(root / pattern / f"{number:03d}.png")
    return root


def spoil(root: Path) -> list[Path]:
    """Put three files that are no images among the good ones."""
    good = root / "disc" / "000.png"
    bad = [root / "disc" / "cut.png", root / "level" / "text.jpg", root / "checks" / "empty.png"]
    bad[0].write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    bad[1].write_text("this is no image")
    bad[2].write_bytes(b"")
    return bad
