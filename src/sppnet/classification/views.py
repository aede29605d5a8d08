"""What a network sees of an image: one view, or a plan of 10, 96 or 98 views; and their scores.

Many views are pooled from few feature maps (section 3.1.5).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.network import (
    ROWS,
    AverageAndPyramid,
    SppNet,
    apply_in_blocks,
    device_of,
)
from sppnet.config.classification import LARGEST_SIDE, VIEWS
from sppnet.images import as_floats, centre_crop, resize_image, resize_short_side, short_side_size
from sppnet.pooling import SpatialPyramidPool, pool_regions

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


SCORE_KINDS = ("probability", "margin")
PAIR_PIXELS = 1 << 20  # an image of up to so many pixels goes through the trunk with its mirror


@torch.inference_mode()
def score_rows(network: SppNet, rows: Tensor, score_kind: str = "probability") -> Tensor:
    """Score pooled features; a row's scores have the same bits in any company.

    Args:
        network: Only its head is used; it is in evaluation mode.
        rows: (N, D) on the head's device.
        score_kind: ``"probability"`` passes the logits through softmax; ``"margin"`` leaves them as
            they are.

    Returns:
        (N, K) float32 on the CPU.

    Raises:
        ValueError: If there is no such kind of score.

    Example:
        >>> from sppnet.classification import build_classifier
        >>> score_rows(build_classifier("small5", 3).eval(), torch.rand(2, 4800)).shape
        torch.Size([2, 3])
    """
    if score_kind not in SCORE_KINDS:
        raise ValueError(f"score_kind must be one of {SCORE_KINDS}, got {score_kind!r}")
    logits = apply_in_blocks(network.head, rows)
    scores = logits.softmax(dim=1) if score_kind == "probability" else logits
    return scores.float().cpu()


def score_on_maps(
    network: SppNet, image: Tensor, plan: ViewPlan, score_kind: str = "probability"
) -> Tensor:
    """Score an image by the mean over many views, with one convolution for each scale and mirror.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.
        score_kind: ``"probability"`` averages softmax outputs, ``"margin"`` the logits.

    Returns:
        (K,) float32 on the CPU.

    Raises:
        ValueError: If there is no such kind of score.

    Example:
        >>> from sppnet.classification import build_classifier
        >>> from sppnet.classification.views import NINETY_SIX
        >>> network = build_classifier("small5", num_classes=4).eval()
        >>> score_on_maps(network, torch.rand(3, 60, 90), NINETY_SIX).shape
        torch.Size([4])

    Source:
        SPP-net, section 3.1.5.
    """
    return score_rows(network, pool_on_maps(network, image, plan), score_kind).mean(dim=0)


def score_on_crops(
    network: SppNet,
    image: Tensor,
    plan: ViewPlan,
    score_kind: str = "probability",
    batch: int = ROWS,
) -> Tensor:
    """Score an image by the mean over the same views as :func:`score_on_maps`, each cut out first.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.
        score_kind: As there.
        batch: Most crops that are convolved together.

    Returns:
        (K,) float32 on the CPU.
    """
    return score_rows(network, pool_on_crops(network, image, plan, batch), score_kind).mean(dim=0)


def pool_views(network: SppNet, image: Tensor, plan: ViewPlan) -> Tensor:
    """Pool every view of an image, cut out or from the maps as planned: (3, H, W) -> (views, D)."""
    pool = pool_on_crops if plan.cut else pool_on_maps
    return pool(network, image, plan)


@torch.inference_mode()
def pool_on_maps(network: SppNet, image: Tensor, plan: ViewPlan) -> Tensor:
    """Convolve an image once for each scale and mirror, and pool every window from these maps.

    One scale's maps are in memory at a time. What is convolved together depends on the image's own
    size only, so on a CPU the rows have the same bits in every run.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.

    Returns:
        (views, D) on the network's device: scale by scale, the image before its mirror.
    """
    image = image.to(device_of(network))
    rows = []
    for scale in plan.scales((image.shape[1], image.shape[2])):
        cells = window_cells(network.backbone, scale)  # type: ignore[arg-type]
        for maps in _scale_maps(network.backbone, image, scale, plan.mirrored):
            rows.append(_pool_cells(network.pool, maps, cells))
    return torch.cat(rows)


@torch.inference_mode()
def pool_on_crops(network: SppNet, image: Tensor, plan: ViewPlan, batch: int = ROWS) -> Tensor:
    """Cut every window out of the resized image, convolve and pool it as an image of its own.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.
        batch: Most crops that are convolved together.

    Returns:
        (views, D) on the network's device, in the order of :func:`pool_on_maps`.
    """
    image = image.to(device_of(network))
    rows = []
    for scale in plan.scales((image.shape[1], image.shape[2])):
        resized = resize_image(image, scale.size_hw)
        for side in (resized, resized.flip(-1)) if plan.mirrored else (resized,):
            for crops in _equal_crops(side, scale.windows, batch):
                rows.append(network.pool(network.backbone(crops)))
    return torch.cat(rows)


def window_cells(backbone: Backbone, scale: Scale) -> Tensor:
    """Find the cells of the map of a resized image that stand for each window.

    A window gets as many cells as the trunk makes of it when it is an image of its own, and of all
    places on the map the one that lies nearest: cell 0 of a crop that begins at pixel x lies
    ``x / stride`` cells from cell 0 of the whole image, whatever the centre of that cell. So the
    whole image gets the whole map, and a corner gets what its crop would: 13 x 13 cells for ZF-5
    and 224 pixels.

    Args:
        backbone: The trunk.
        scale: Size of the resized image and windows on it.

    Returns:
        (K, 4) int64 half-open cells x0, y0, x1, y1, never empty.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> zf5 = build_backbone("zf5")
        >>> window_cells(zf5, Scale((256, 341), ((0, 0, 224, 224), (117, 32, 341, 256))))
        tensor([[ 0,  0, 13, 13],
                [ 7,  2, 20, 15]])

    Source:
        SPP-net, section 3.1.5, where the windows go to the map as in detection; the released
        projection of detection gives 13 or 14 cells, at a corner more than the crop for some.
    """
    rows, columns = backbone.grid_hw(scale.size_hw)
    cells = []
    for x0, y0, x1, y1 in scale.windows:
        high, wide = backbone.grid_hw((y1 - y0, x1 - x0))
        left = min(int(x0 / backbone.stride + 0.5), columns - wide)
        top = min(int(y0 / backbone.stride + 0.5), rows - high)
        cells.append((left, top, left + wide, top + high))
    return torch.tensor(cells, dtype=torch.int64)


def _scale_maps(
    backbone: nn.Module, image: Tensor, scale: Scale, mirrored: bool
) -> Iterator[Tensor]:
    """Convolve the resized image and its mirror, together unless they are large."""
    resized = resize_image(image, scale.size_hw)
    sides = torch.stack([resized, resized.flip(-1)] if mirrored else [resized])
    size = len(sides) if resized[0].numel() <= PAIR_PIXELS else 1
    for part in sides.split(size):
        yield backbone(part.contiguous(memory_format=torch.channels_last))


def _pool_cells(pool: nn.Module, maps: Tensor, cells: Tensor) -> Tensor:
    """Pool the same cells of every map: (n, C, h, w) and (K, 4) -> (n * K, D)."""
    if isinstance(pool, SpatialPyramidPool):
        return pool_regions(maps, [cells.to(maps.device)] * len(maps), pool.levels, mode=pool.mode)
    if isinstance(pool, AverageAndPyramid):
        halves = [_pool_cells(part, maps, cells) for part in (pool.average, pool.maxima)]
        return torch.cat(halves, dim=1)
    parts = [maps[:, :, y0:y1, x0:x1] for x0, y0, x1, y1 in cells.tolist()]
    return torch.stack([pool(part) for part in parts], dim=1).flatten(0, 1)  # (n, K, D) -> rows


def _equal_crops(image: Tensor, windows: tuple[Window, ...], batch: int) -> Iterator[Tensor]:
    """Cut windows in their order, as batches of one size."""
    begin = 0
    for end in range(1, len(windows) + 1):
        last = end == len(windows)
        if last or end - begin == batch or _size(windows[end]) != _size(windows[begin]):
            cut = [image[:, y0:y1, x0:x1] for x0, y0, x1, y1 in windows[begin:end]]
            yield torch.stack(cut).contiguous(memory_format=torch.channels_last)
            begin = end


def _size(window: Window) -> tuple[int, int]:
    x0, y0, x1, y1 = window
    return y1 - y0, x1 - x0
