"""Photos as a page shows them: upright, by our own decoder, and thumbnails that are made once."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from sppnet.errors import InputError, OutputError
from sppnet.storage.files import read_capped, write_bytes

THUMB_SIDE, LARGEST_SIDE = 160, 16_384
QUALITY, FULL_QUALITY = 88, 95
KEPT_BYTES = 48_000_000  # of pictures that were sent lately
MANY_PIXELS = 6_000_000  # of such photos one is decoded at a time: 16 bytes a pixel at the peak
PICTURE_VERSION = 1  # raise it when the same photo would give other bytes
MOST_THUMB_BYTES = 1_000_000


@dataclass(frozen=True)
class Picture:
    """A JPEG and what it is known by.

    Args:
        data: The file.
        etag: Differs whenever the photo's file or the size does.
    """

    data: bytes
    etag: str


class PhotoDesk:
    """Gives pictures of the photos of a folder; originals are only read.

    Args:
        folder: The photos.
        cache: Folder for the thumbnails.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._large, self._any = threading.Lock(), threading.BoundedSemaphore(2)

    def tag(self, photo: str, side: int) -> str:
        """What a picture is known by, without decoding.

        Args:
            photo: Name of the photo.
            side: Its longest side in pixels at most.

        Raises:
            InputError: If the file is gone.
        """
        try:
            status = (self.folder / photo).stat()
        except OSError:
            raise InputError("the file does not exist", path=photo, code="E_UNREADABLE") from None
        about = (PICTURE_VERSION, photo, status.st_size, status.st_mtime_ns, side)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:32]

    def picture(self, photo: str, side: int = 0) -> Picture:
        """Give an upright JPEG.

        Args:
            photo: Name of the photo.
            side: Its longest side in pixels at most; 0 leaves its size.

        Raises:
            InputError: If the photo cannot be decoded.
            ValueError: If the side is out of range.
        """
        if not 0 <= side <= LARGEST_SIDE:
            raise ValueError(f"side must be in 0..{LARGEST_SIDE}, got {side}")
        etag = self.tag(photo, side)
        with self._lock:
            data = self._kept.get(etag)
            if data is not None:
                self._kept.move_to_end(etag)
        if data is None:
            data = self._decode(photo, side or LARGEST_SIDE * 8, QUALITY if side else FULL_QUALITY)
            self._keep(etag, data)
        return Picture(data, etag)

    def thumb_tag(self, photo: str) -> str:
        """What a thumbnail is known by; raises ``InputError`` if the file is gone."""
        return self.tag(photo, THUMB_SIDE)

    def thumb(self, photo: str) -> Picture:
        """Give a small JPEG, from the disk if it was made before.

        Raises:
            InputError: If the photo cannot be decoded.
        """
        etag = self.thumb_tag(photo)
        path = self.cache / etag[:2] / f"{etag}.jpg"
        try:
            return Picture(read_capped(path, MOST_THUMB_BYTES), etag)
        except InputError:
            data = self._decode(photo, THUMB_SIDE, QUALITY)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
        except (OSError, OutputError):
            return Picture(data, etag)  # the disk is full: the page is shown nevertheless
        return Picture(data, etag)

    def size_of(self, photo: str) -> tuple[int, int]:
        """Width and height of the upright photo, from its header.

        Raises:
            InputError: If it is no image.
        """
        from sppnet.images.decode import read_image_size  # here, so that the page is there at once

        height, width = read_image_size(self.folder / photo)
        return width, height

    def _decode(self, photo: str, side: int, quality: int) -> bytes:
        from sppnet.evaluation.visualize import to_jpeg_bytes
        from sppnet.images.decode import load_compact

        width, height = self.size_of(photo)
        limit = self._large if width * height > MANY_PIXELS else self._any
        with limit:
            return to_jpeg_bytes(load_compact(self.folder / photo), side, quality)

    def _keep(self, etag: str, data: bytes) -> None:
        with self._lock:
            self._kept[etag] = data
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)
