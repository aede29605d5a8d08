"""Names of results: one for each image, short enough for the file system."""

import os
from pathlib import Path

from sppnet.app.detect.predict import overlay_names


def test_long_stems_that_are_equal_give_names_that_fit(tmp_path):
    stem = "ä" * 125  # 250 bytes
    paths = [Path(folder, f"{stem}.jpg") for folder in ("one", "two", "three")]
    paths += [Path("one", f"{stem}.png"), Path("one", f"{stem[:-1]}x.jpg")]
    names = overlay_names(paths)
    assert len({name.lower() for name in names.values()}) == len(paths)
    for name in names.values():
        assert len(os.fsencode(f"{name}-99.jpg")) <= 255
        (tmp_path / f"{name}.jpg").write_bytes(b"fits")


def test_many_equal_long_stems_of_one_path_are_numbered():
    paths = [Path("a", f"{'s' * 240}{ending}") for ending in (".jpg", ".png", ".bmp")]
    assert list(overlay_names(paths).values()) == ["s" * 240, f"{'s' * 240}-2", f"{'s' * 240}-3"]


def test_short_stems_stay(tmp_path):
    assert list(overlay_names([tmp_path / "x.jpg", tmp_path / "b" / "X.png"]).values()) == [
        "x",
        "X-2",
    ]
