"""At which scale of the image each window is looked at."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sppnet.geometry import box_area

# A window is best seen at the size that the trunk was trained on (section 4.1 of the paper).
TARGET_SIDE = 224


def choose_scales(
    boxes: Tensor,
    image_size_hw: tuple[int, int],
    short_sides: Sequence[int],
    target_side: float = TARGET_SIDE,
) -> Tensor:
    """Pick for each box the scale at which its area comes closest to ``target_side`` squared.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image.
        image_size_hw: Height and width of the original image.
        short_sides: Length of the short side at each scale, in pixels.
        target_side: 224 in the paper; the released code uses 13 * 16 = 208 for ZF-5.

    Returns:
        (K,) int64 index into ``short_sides``; the smaller scale wins a tie.

    Example:
        >>> square = torch.tensor([[0.0, 0.0, 75.0, 75.0], [0.0, 0.0, 300.0, 300.0]])
        >>> choose_scales(square, (375, 500), (480, 688, 1200), target_side=208)
        tensor([2, 0])

    Source:
        SPP-net, section 4.1; spm_expected_scale.m of the authors' code.
    """
    shortest = min(image_size_hw)
    wanted = target_side * shortest / box_area(boxes).double().clamp(min=1e-6).sqrt()
    wanted = (wanted + 0.5).floor()  # halves go up, as in MATLAB; round() would take the even one
    sides = torch.tensor(sorted(short_sides), dtype=torch.float64, device=boxes.device)
    nearest = (sides[None, :] - wanted[:, None]).abs().argmin(1)
    order = torch.tensor(short_sides, device=boxes.device).argsort(stable=True)
    return order[nearest]
