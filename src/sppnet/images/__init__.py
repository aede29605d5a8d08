"""Decoding, resizing, listing and annotated data sets; untrusted files in, checked tensors out."""

from sppnet.images.class_folders import (
    ClassificationDataset,
    list_class_splits,
    read_class_folders,
    split_per_class,
)
from sppnet.images.coco import read_coco
from sppnet.images.dataset_check import CheckReport, check_dataset
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.decode import (
    MAX_PIXELS,
    ImageSource,
    decode_image,
    load_image,
    read_image_size,
    to_image,
)
from sppnet.images.drawn import draw_class_folders, draw_detection_set
from sppnet.images.layouts import find_layout, list_splits, open_detection_dataset
from sppnet.images.listing import Listing, list_images
from sppnet.images.resizing import (
    centre_crop,
    flip_left_right,
    group_equal_sizes,
    resize_image,
    resize_short_side,
    short_side_size,
    stack_images,
)
from sppnet.images.voc import read_voc
from sppnet.images.voc_folders import list_voc_splits
from sppnet.images.yolo import read_yolo

__all__ = [
    "MAX_PIXELS",
    "CheckReport",
    "ClassificationDataset",
    "DetectionDataset",
    "ImageSource",
    "LabelledImage",
    "Listing",
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
    "load_image",
    "open_detection_dataset",
    "read_class_folders",
    "read_coco",
    "read_image_size",
    "read_voc",
    "read_yolo",
    "resize_image",
    "resize_short_side",
    "short_side_size",
    "split_per_class",
    "stack_images",
    "to_image",
]
