"""Decoding, resizing, listing and annotated data sets; untrusted files in, checked tensors out."""

from sppnet.images.class_folders import (
    ClassificationDataset,
    list_class_splits,
    read_class_folders,
    split_per_class,
)
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.decode import MAX_PIXELS, decode_image, load_image, read_image_size, to_image
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

__all__ = [
    "MAX_PIXELS",
    "ClassificationDataset",
    "DetectionDataset",
    "LabelledImage",
    "Listing",
    "centre_crop",
    "decode_image",
    "flip_left_right",
    "group_equal_sizes",
    "list_class_splits",
    "list_images",
    "list_voc_splits",
    "load_image",
    "read_class_folders",
    "read_image_size",
    "read_voc",
    "resize_image",
    "resize_short_side",
    "short_side_size",
    "split_per_class",
    "stack_images",
    "to_image",
]
