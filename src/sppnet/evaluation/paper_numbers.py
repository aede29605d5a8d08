"""The paper's detection results on PASCAL VOC 2007, for the one case in which they compare."""

from collections.abc import Mapping, Sequence

VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
NUM_VOC07_TEST_IMAGES = 4952
# Table 11, last row: SPP-net (ZF-5), five scales, fine-tuned fc layers, box regression.
PAPER_AP = (
    0.686, 0.697, 0.571, 0.412, 0.405, 0.663, 0.713, 0.725, 0.344, 0.673, 0.617, 0.631, 0.710,
    0.698, 0.576, 0.297, 0.590, 0.502, 0.652, 0.680,
)  # fmt: skip


def comparable_paper_ap(names: Sequence[str], num_images: int) -> Mapping[str, float]:
    """Average precision of the paper's detector, if the data are the test images of VOC 2007.

    Args:
        names: Class names of the data.
        num_images: How many images were scored.

    Returns:
        VOC07 11-point average precision by class; empty for any other data.

    Example:
        >>> comparable_paper_ap(["raccoon"], 40)
        {}
        >>> comparable_paper_ap(VOC_NAMES, 4952)["cat"]
        0.725

    Source:
        He et al. 2014, table 11: ZF-5, five scales, with box regression (59.2 % on average).
    """
    if num_images != NUM_VOC07_TEST_IMAGES or set(names) != set(VOC_NAMES):
        return {}
    return dict(zip(VOC_NAMES, PAPER_AP, strict=True))
