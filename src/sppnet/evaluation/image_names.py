"""Which image of a data set a result file means: by number or by any spelling of its name."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

ImageId = str | int


class ImageNames:
    """Finds images by any name that a result file may use for them.

    A name that is an image's id means that image; otherwise the path's ending may be left out, the
    folders too, and leading zeros. A name that fits two images fits none.

    Args:
        images: The images of the data set.

    Example:
        >>> from types import SimpleNamespace
        >>> names = ImageNames([SimpleNamespace(image_id="000005", path="a/000005.jpg")])
        >>> names.find("000005.jpg"), names.find(5), names.find("6")
        ('000005', '000005', None)
    """

    def __init__(self, images: Sequence["LabelledImage"]) -> None:
        self._ids = {image.image_id for image in images}
        self._others: list[dict[ImageId, ImageId | None]] = [{} for _ in range(4)]
        for image in images:
            path = PurePath(image.path)
            spellings: list[ImageId | None] = [
                path.name,
                path.stem,
                str(image.image_id),
                int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else None,
            ]
            for table, spelling in zip(self._others, spellings, strict=True):
                if spelling is not None:
                    taken = table.get(spelling, image.image_id)
                    table[spelling] = image.image_id if taken == image.image_id else None

    def find(self, name: object) -> ImageId | None:
        """Return the ``image_id`` of the image that is meant, or None.

        Args:
            name: What the result file says.
        """
        if isinstance(name, bool) or not isinstance(name, str | int):
            return None
        if name in self._ids:
            return name
        for table in self._others:
            if (found := table.get(name)) is not None:
                return found
        if isinstance(name, str) and PurePath(name).name != name:
            return self.find(PurePath(name).name)
        return None
