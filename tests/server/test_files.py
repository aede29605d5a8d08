"""Pictures are upright, limited, made once, and never from outside the folder."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import write_image
from sppnet.errors import InputError
from sppnet.server.files import PhotoDesk


@pytest.fixture
def desk(folder: Path) -> PhotoDesk:
    return PhotoDesk(folder, folder / ".sppnet" / "thumbs")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_camera_photo_is_upright(desk: PhotoDesk) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(desk.folder / "turned.jpg", exif=exif)
    made = opened(desk.picture("turned.jpg").data)
    assert made.size == desk.size_of("turned.jpg") == (20, 40)
    assert not made.getexif()


def test_pixels_are_those_of_the_file(desk: PhotoDesk) -> None:
    truth = np.asarray(Image.open(desk.folder / "b.png").convert("RGB")).astype(float)
    found = np.asarray(opened(desk.picture("b.png").data)).astype(float)
    assert found.shape == truth.shape
    assert np.abs(found - truth).mean() < 12  # a JPEG of noise


def test_sides_are_limited_and_zero_leaves_the_size(desk: PhotoDesk) -> None:
    write_image(desk.folder / "wide.jpg", 30, 300)
    sizes = {side: opened(desk.picture("wide.jpg", side).data).size for side in (0, 100, 2048)}
    assert sizes == {0: (300, 30), 100: (100, 10), 2048: (300, 30)}
    for side in (-1, 10**9):
        with pytest.raises(ValueError, match="side must be in"):
            desk.picture("wide.jpg", side)


def test_the_tag_changes_with_the_file_and_the_side(desk: PhotoDesk) -> None:
    before = desk.picture("a.jpg", 100)
    assert desk.picture("a.jpg", 100) == before
    assert desk.tag("a.jpg", 101) != before.etag
    write_image(desk.folder / "a.jpg", 50, 60, seed=9)
    after = desk.picture("a.jpg", 100)
    assert after.etag != before.etag
    assert opened(after.data).size == (60, 50)


def test_a_thumbnail_is_made_once(desk: PhotoDesk) -> None:
    first = desk.thumb("a.jpg")
    (kept,) = desk.cache.rglob("*.jpg")
    assert kept.read_bytes() == first.data
    kept.write_bytes(b"from the disk")
    assert desk.thumb("a.jpg").data == b"from the disk"


def test_a_full_disk_still_shows_thumbnails(desk: PhotoDesk) -> None:
    desk.cache.parent.mkdir()
    desk.cache.write_text("a file in the way")
    assert opened(desk.thumb("a.jpg").data).size[0] > 0


def test_what_is_no_photo_is_one_error(desk: PhotoDesk) -> None:
    for call in (desk.picture, desk.thumb, desk.size_of):
        with pytest.raises(InputError):
            call("broken.jpg")
    with pytest.raises(InputError, match="does not exist"):
        desk.picture("gone.jpg")


def test_few_pictures_are_kept(desk: PhotoDesk, monkeypatch) -> None:
    monkeypatch.setattr("sppnet.server.files.KEPT_BYTES", 1500)
    for side in range(20, 36):
        desk.picture("a.jpg", side)
    assert sum(map(len, desk._kept.values())) <= 1500
