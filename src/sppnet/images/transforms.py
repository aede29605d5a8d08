"""Changing the size of images and putting equal sizes together."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def resize_image(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize by bilinear interpolation with antialiasing, as Pillow's BILINEAR does.

    Args:
        image: (C, H, W) or (N, C, H, W), floating point.
        size_hw: New (height, width), each at least 1.

    Returns:
        The image in the new size; the same tensor if it has that size already.

    Raises:
        ValueError: If a side is below 1 or the image has another number of dimensions.

    Example:
        >>> resize_image(torch.ones(3, 5, 7), (2, 3)).shape
        torch.Size([3, 2, 3])
    """
    height, width = size_hw
    if height < 1 or width < 1:
        raise ValueError(f"size_hw must have sides of at least 1, got {tuple(size_hw)}")
    if image.ndim not in (3, 4):
        raise ValueError(f"image must have 3 or 4 dimensions, got {tuple(image.shape)}")
    if tuple(image.shape[-2:]) == (height, width):
        return image
    batch = image if image.ndim == 4 else image[None]
    resized = functional.interpolate(
        batch, (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized if image.ndim == 4 else resized[0]


def short_side_size(
    size_hw: tuple[int, int], short_side: int, max_long_side: int | None = None
) -> tuple[int, int]:
    """The size that an image gets when its short side is set and its aspect kept.

    Args:
        size_hw: (height, width) of the image.
        short_side: Length that the shorter side gets, in pixels.
        max_long_side: If the longer side would exceed this, the scale is taken from it instead.

    Returns:
        (height, width), rounded to the nearest, each at least 1.

    Raises:
        ValueError: If a length is below 1.

    Example:
        >>> short_side_size((300, 400), 600), short_side_size((300, 1200), 600, 1000)
        ((600, 800), (250, 1000))
        >>> short_side_size((1, 5000), 10, 1000)
        (1, 1000)
    """
    height, width = size_hw
    for name, value in (("size_hw", min(size_hw)), ("short_side", short_side)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    scale = short_side / min(height, width)
    if max_long_side is not None:
        if max_long_side < 1:
            raise ValueError(f"max_long_side must be at least 1, got {max_long_side}")
        scale = min(scale, max_long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_short_side(
    image: Tensor, short_side: int, max_long_side: int | None = None
) -> tuple[Tensor, tuple[float, float]]:
    """Resize so that the shorter side has a given length, aspect kept.

    Args:
        image: (C, H, W), floating point.
        short_side: Length that the shorter side gets, in pixels.
        max_long_side: Longest that the other side may get.

    Returns:
        The resized image and the scales (scale_y, scale_x) that it really got, rounding included:
        a box of the original times these is the box in the result.

    Raises:
        ValueError: If a length is below 1.

    Example:
        >>> image, scales = resize_short_side(torch.zeros(3, 100, 150), 50)
        >>> image.shape, scales
        (torch.Size([3, 50, 75]), (0.5, 0.5))
    """
    height, width = image.shape[-2:]
    new_height, new_width = short_side_size((height, width), short_side, max_long_side)
    scales = (new_height / height, new_width / width)
    return resize_image(image, (new_height, new_width)), scales


def centre_crop(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Cut the middle out of an image.

    Args:
        image: (..., H, W).
        size_hw: (height, width) of the crop, at most the image's.

    Returns:
        A view of (..., height, width); of an odd rest, the larger part is left at the end.

    Raises:
        ValueError: If the crop is empty or larger than the image.

    Example:
        >>> centre_crop(torch.arange(25).reshape(1, 5, 5), (2, 1))
        tensor([[[ 7],
                 [12]]])
    """
    height, width = size_hw
    rows, columns = image.shape[-2:]
    if not (1 <= height <= rows and 1 <= width <= columns):
        rule = f"size_hw must be within 1 and the image's {rows} x {columns}"
        raise ValueError(f"{rule}, got {height} x {width}")
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[..., top : top + height, left : left + width]


def flip_left_right(image: Tensor) -> Tensor:
    """Mirror an image.

    Args:
        image: (..., H, W).

    Returns:
        The same shape, columns reversed.
    """
    return image.flip(-1)


def group_equal_sizes(sizes_hw: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Put images of one size into batches, so that no batch needs padding.

    Args:
        sizes_hw: (height, width) of every image.
        batch_size: Most images in a batch, at least 1.

    Returns:
        Lists of indices; every index once, batches in the order of their first image.

    Raises:
        ValueError: If ``batch_size`` is below 1.

    Example:
        >>> group_equal_sizes([(2, 3), (4, 4), (2, 3), (2, 3)], batch_size=2)
        [[0, 2], [1], [3]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches: list[list[int]] = []
    filling: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes_hw):
        batch = filling.get(size)
        if batch is None or len(batch) == batch_size:
            batch = filling[size] = []
            batches.append(batch)
        batch.append(index)
    return batches


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images of one size into a batch.

    Args:
        images: (C, H, W) each, all alike, at least one.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: If there are none or their shapes differ.
    """
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) != 1:
        raise ValueError(f"images must have one shape, got {sorted(shapes)}")
    return torch.stack(list(images))
