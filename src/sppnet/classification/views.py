"""What a network sees of an image: one view, or a plan of 10, 96 or 98 views."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from sppnet.config.classification import LARGEST_SIDE, VIEWS
from sppnet.images import as_floats, centre_crop, resize_image, resize_short_side, short_side_size

LONG_SIDE_FACTOR = 8  # bounds the work on a 1 x 20,000 strip; no photo comes near it
BASE_SIDE, BASE_WINDOW = 256, 224  # the paper cuts 224 from images whose short side is 256
BASE_SCALES = (224, 256, 300, 360, 448, 560)
Window = tuple[int, int, int, int]
CENTRE = ((1, 1),)
CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))
GRID = tuple((row, column) for row in range(3) for column in range(3))
PLACES = {"none": (), "centre": CENTRE, "corners": CORNERS, "grid": GRID}


@dataclass(frozen=True)
class View:
    """One way to turn an image of any size into the network's input.

    ``"full"`` keeps the aspect and the whole image: the short side becomes ``short_side``, unless
    the long side would pass 8 times that, in which case the whole image shrinks until it does not.
    ``"crop"`` is the central square at that size. ``"warp"`` squeezes the whole image into that
    square. ``"native"`` leaves the image as it is.

    Args:
        kind: ``"full"``, ``"crop"``, ``"warp"`` or ``"native"``.
        short_side: Pixels of the short side, 1 to 9999.

    Raises:
        ValueError: If the kind is unknown or the side below 1 or above 9999.

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
        if not 1 <= self.short_side <= LARGEST_SIDE:
            rule = f"at least 1 and at most {LARGEST_SIDE}"
            raise ValueError(f"short_side must be {rule}, got {self.short_side}")

    def apply(self, image: Tensor) -> Tensor:
        """Turn a (3, H, W) image, RGB 0..1 or bytes, into the (3, h, w) input of floats."""
        side = self.short_side
        if self.kind == "native":
            return as_floats(image)
        if self.kind == "full":
            return resize_short_side(image, side, max_long_side=LONG_SIDE_FACTOR * side)[0]
        if self.kind == "crop":
            square = min(image.shape[1:])
            image = centre_crop(image, (square, square))
        return resize_image(image, (side, side))

    def config(self) -> dict[str, Any]:
        """The settings as plain values, for files and cache keys."""
        return asdict(self)


@dataclass(frozen=True)
class ViewPlan:
    """Which windows of an image are scored and averaged.

    At every scale the image is resized so that its short side has the given length and a square
    window of one size is laid on it: in the centre, also in the corners, or also in the middles of
    the sides. Windows that fall together count once: where the window is as high as the image, the
    top, the middle and the bottom are one.

    Args:
        short_sides: The scales: pixels of the short side of the resized image.
        window: Side of the square window, in pixels of every resized image; a resized image that is
            smaller (a long strip) is taken whole in that direction.
        places: ``"none"``, ``"centre"``, ``"corners"`` (and centre) or ``"grid"`` (3 x 3).
        mirrored: Whether every view is taken from the mirrored image, too.
        whole_side: Short side at which the whole image is one more view; None leaves it out.
        cut: Whether windows are cut out and convolved one by one, as the paper's 1 and 10 views
            are; else they are pooled from the feature map of the whole image.

    Raises:
        ValueError: If there is no view, a length is below 1 or the places are unknown.

    Example:
        >>> [NINETY_SIX.count((375, 500)), NINETY_EIGHT.count((375, 500)), TEN.count((375, 500))]
        [96, 98, 10]
        >>> NINETY_SIX.count((400, 400))  # both directions degenerate at scale 224
        92

    Source:
        SPP-net, sections 3.1.2 to 3.1.5.
    """

    short_sides: tuple[int, ...] = ()
    window: int = BASE_WINDOW
    places: str = "none"
    mirrored: bool = False
    whole_side: int | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        if self.places not in PLACES:
            raise ValueError(f"places must be one of {', '.join(PLACES)}, got {self.places!r}")
        if (self.places == "none") != (not self.short_sides):
            raise ValueError(
                "short_sides must be given exactly where places are, "
                f"got {self.short_sides} and {self.places!r}"
            )
        lengths = [*self.short_sides, self.window]
        if self.whole_side is not None:
            lengths.append(self.whole_side)
        elif not self.short_sides:
            raise ValueError("whole_side must be given where there are no windows, got None")
        if min(lengths) < 1:
            raise ValueError(
                f"short_sides, window and whole_side must be at least 1, got {lengths}"
            )

    def scales(self, image_size_hw: tuple[int, int]) -> Iterator["Scale"]:
        """List the windows on an image of some (height, width), scale by scale.

        The long side is bounded by 8 times the short side that was asked for, as in :class:`View`.
        """
        whole = () if self.whole_side is None else (self.whole_side,)
        for side in dict.fromkeys(self.short_sides + whole):
            size_hw = short_side_size(image_size_hw, side, LONG_SIDE_FACTOR * side)
            places = PLACES[self.places] if side in self.short_sides else ()
            windows = [_place_window(size_hw, self.window, place) for place in places]
            if side == self.whole_side:
                windows.append((0, 0, size_hw[1], size_hw[0]))
            yield Scale(size_hw, tuple(dict.fromkeys(windows)))

    def count(self, image_size_hw: tuple[int, int]) -> int:
        """Count the views of an image of some (height, width)."""
        windows = sum(len(scale.windows) for scale in self.scales(image_size_hw))
        return windows * (2 if self.mirrored else 1)

    def config(self) -> dict[str, Any]:
        """The settings as plain values, for files and cache keys."""
        return asdict(self)


@dataclass(frozen=True)
class Scale:
    """One size of the image and the windows on it.

    Args:
        size_hw: Height and width of the resized image.
        windows: Distinct (x0, y0, x1, y1) in its pixels, x1 and y1 exclusive.
    """

    size_hw: tuple[int, int]
    windows: tuple[Window, ...]


def _place_window(size_hw: tuple[int, int], side: int, place: tuple[int, int]) -> Window:
    """Lay a square on an image; ``place`` is 0, 1 or 2 for start, middle and end, down and across.

    Example:
        >>> _place_window((256, 341), 224, (1, 2))
        (117, 16, 341, 240)
    """
    height, width = (min(side, length) for length in size_hw)
    top = (size_hw[0] - height) * place[0] // 2
    left = (size_hw[1] - width) * place[1] // 2
    return left, top, left + width, top + height


CROP = ViewPlan((BASE_SIDE,), places="centre", cut=True)
TEN = ViewPlan((BASE_SIDE,), places="corners", mirrored=True, cut=True)
FULL = ViewPlan(whole_side=BASE_SIDE)
NINETY_SIX = ViewPlan(BASE_SCALES, places="grid", mirrored=True)
NINETY_EIGHT = ViewPlan(BASE_SCALES, places="grid", mirrored=True, whole_side=BASE_SIDE)
PLANS = {"crop": CROP, "10": TEN, "full": FULL, "96": NINETY_SIX, "98": NINETY_EIGHT}


def view_plan(name: str, short_side: int = BASE_SIDE, window: int | None = None) -> ViewPlan:
    """Make one of the paper's plans, at the paper's sizes or in proportion to another short side.

    Args:
        name: ``"crop"`` (the centre), ``"10"`` (corners and centre, mirrored), ``"full"`` (the
            whole image), ``"96"`` (3 x 3 windows at six scales, mirrored) or ``"98"`` (these and
            the whole image, mirrored).
        short_side: What stands for the paper's 256; the other lengths follow.
        window: Side of the windows; None keeps the paper's 224 out of 256.

    Returns:
        The plan.

    Raises:
        ValueError: If there is no such plan or a length is below 1.

    Example:
        >>> view_plan("10", 128)
        ViewPlan(short_sides=(128,), window=112, places='corners', mirrored=True, whole_side=None,
                 cut=True)
    """
    if name not in PLANS:
        raise ValueError(f"view must be one of {', '.join(PLANS)}, got {name!r}")
    plan = PLANS[name]
    sides = {side: max(1, round(side * short_side / BASE_SIDE)) for side in (*BASE_SCALES,)}
    return ViewPlan(
        tuple(sides[side] for side in plan.short_sides),
        sides[BASE_WINDOW] if window is None else window,
        plan.places,
        plan.mirrored,
        None if plan.whole_side is None else short_side,
        plan.cut,
    )


def base_short_side(view: View) -> int:
    """Short side of whole images that goes with a model's own view.

    The square input of ``crop`` and ``warp`` stands for the window that is cut from it.

    Example:
        >>> base_short_side(View("full", 256)), base_short_side(View("warp", 224))
        (256, 256)
    """
    if view.kind == "native":
        return BASE_SIDE
    if view.kind == "full":
        return view.short_side
    return round(view.short_side * BASE_SIDE / BASE_WINDOW)
