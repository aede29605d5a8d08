"""What of an image the network sees: all of it, its centre, or all of it squeezed into a square."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from sppnet.images import centre_crop, resize_image, resize_short_side

VIEWS = ("full", "crop", "warp", "native")
LONG_SIDE_FACTOR = 8  # bounds the work on a 1 x 20,000 strip; no photo comes near it


@dataclass(frozen=True)
class View:
    """One way to turn an image of any size into the network's input.

    ``"full"`` keeps the aspect and the whole image: the short side becomes ``short_side``, unless
    the long side would pass 8 times that, in which case the whole image shrinks until it does not.
    ``"crop"`` is the central square at that size. ``"warp"`` squeezes the whole image into that
    square. ``"native"`` leaves the image as it is.

    Args:
        kind: ``"full"``, ``"crop"``, ``"warp"`` or ``"native"``.
        short_side: Pixels of the short side, at least 1.

    Raises:
        ValueError: If the kind is unknown or the side below 1.

    Example:
        >>> import torch
        >>> photo = torch.rand(3, 100, 150)
        >>> [tuple(View(kind, 64).apply(photo).shape) for kind in VIEWS]
        [(3, 64, 96), (3, 64, 64), (3, 64, 64), (3, 100, 150)]
    """

    kind: str = "full"
    short_side: int = 224

    def __post_init__(self) -> None:
        if self.kind not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {self.kind!r}")
        if self.short_side < 1:
            raise ValueError(f"short_side must be at least 1, got {self.short_side}")

    def apply(self, image: Tensor) -> Tensor:
        """Turn a (3, H, W) image, RGB 0..1, into the (3, h, w) input."""
        side = self.short_side
        if self.kind == "native":
            return image
        if self.kind == "full":
            return resize_short_side(image, side, max_long_side=LONG_SIDE_FACTOR * side)[0]
        if self.kind == "crop":
            square = min(image.shape[1:])
            image = centre_crop(image, (square, square))
        return resize_image(image, (side, side))

    def description(self) -> dict[str, Any]:
        """The settings as plain values, for files and cache keys."""
        return asdict(self)
