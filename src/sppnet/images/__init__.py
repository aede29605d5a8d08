"""Images and annotated data sets: untrusted files in, checked tensors out.

- ``decode.py``: one image file becomes one tensor, within limits. Start here; ``formats.py`` looks
  at the bytes before any decoder does.
- ``transforms.py``: resizing, cropping, flipping, stacking. ``listing.py``: files from folders.
- ``readers/``: VOC, COCO, YOLO, label stores and class folders, read into the classes of
  ``dataset.py``.
- ``video.py``: videos and cameras frame by frame.
- ``check.py``: what is wrong with a data set, file and line.
- ``synthetic/``: data sets that are drawn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sppnet.images.listing import Listing, list_images

if TYPE_CHECKING:
    from sppnet.images.check import CheckReport, check_dataset
    from sppnet.images.dataset import DetectionDataset, LabelledImage
    from sppnet.images.decode import (
        MAX_PIXELS,
        ImageSource,
        decode_image,
        load_compact,
        load_image,
        read_image_size,
        to_image,
    )
    from sppnet.images.readers.class_folders import (
        ClassificationDataset,
        list_class_splits,
        read_class_folders,
        split_per_class,
    )
    from sppnet.images.readers.coco import read_coco
    from sppnet.images.readers.labels import read_labels
    from sppnet.images.readers.layouts import (
        find_layout,
        list_splits,
        open_detection_dataset,
        usual_split,
    )
    from sppnet.images.readers.voc import read_voc
    from sppnet.images.readers.voc_layout import list_voc_splits
    from sppnet.images.readers.yolo import read_yolo
    from sppnet.images.synthetic.scenes import draw_class_folders, draw_detection_set
    from sppnet.images.transforms import (
        as_floats,
        centre_crop,
        flip_left_right,
        group_equal_sizes,
        resize_image,
        resize_short_side,
        short_side_size,
        stack_images,
    )

__all__ = [
    "MAX_PIXELS",
    "CheckReport",
    "ClassificationDataset",
    "DetectionDataset",
    "ImageSource",
    "LabelledImage",
    "Listing",
    "as_floats",
    "centre_crop",
    "check_dataset",
    "decode_image",
    "draw_class_folders",
    "draw_detection_set",
    "find_layout",
    "flip_left_right",
    "group_equal_sizes",
    "list_class_splits",
    "list_images",
    "list_splits",
    "list_voc_splits",
    "load_compact",
    "load_image",
    "open_detection_dataset",
    "read_class_folders",
    "read_coco",
    "read_image_size",
    "read_labels",
    "read_voc",
    "read_yolo",
    "resize_image",
    "resize_short_side",
    "short_side_size",
    "split_per_class",
    "stack_images",
    "to_image",
    "usual_split",
]

# These need torch, which lists of files do not.
_MODULE_OF = {
    "CheckReport": "check",
    "ClassificationDataset": "readers.class_folders",
    "DetectionDataset": "dataset",
    "ImageSource": "decode",
    "LabelledImage": "dataset",
    "MAX_PIXELS": "decode",
    "as_floats": "transforms",
    "centre_crop": "transforms",
    "check_dataset": "check",
    "decode_image": "decode",
    "draw_class_folders": "synthetic.scenes",
    "draw_detection_set": "synthetic.scenes",
    "find_layout": "readers.layouts",
    "flip_left_right": "transforms",
    "group_equal_sizes": "transforms",
    "list_class_splits": "readers.class_folders",
    "list_splits": "readers.layouts",
    "list_voc_splits": "readers.voc_layout",
    "load_compact": "decode",
    "load_image": "decode",
    "open_detection_dataset": "readers.layouts",
    "read_class_folders": "readers.class_folders",
    "read_coco": "readers.coco",
    "read_image_size": "decode",
    "read_labels": "readers.labels",
    "read_voc": "readers.voc",
    "read_yolo": "readers.yolo",
    "resize_image": "transforms",
    "resize_short_side": "transforms",
    "short_side_size": "transforms",
    "split_per_class": "readers.class_folders",
    "stack_images": "transforms",
    "to_image": "decode",
    "usual_split": "readers.layouts",
}


def __getattr__(name: str) -> Any:
    """Load a name that needs torch on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sppnet.images' has no attribute {name!r}")
    return getattr(import_module(f"sppnet.images.{_MODULE_OF[name]}"), name)
