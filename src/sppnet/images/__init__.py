"""Images and annotated data sets: untrusted files in, checked tensors out.

- ``decode.py``: one image file becomes one tensor, within limits. Start here; ``formats.py`` looks
  at the bytes before any decoder does.
- ``transforms.py``: resizing, cropping, flipping, stacking. ``listing.py``: files from folders.
- ``readers/``: VOC, COCO, YOLO, label stores and class folders, read into the classes of
  ``dataset.py``.
- ``video.py``: videos and cameras frame by frame.
- ``findings.py``, ``check.py``: what is wrong with a data set, file and line.
- ``synthetic/``: data sets that are drawn.
"""

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
from sppnet.images.listing import Listing, list_images
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
