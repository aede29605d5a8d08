"""Drawn scenes, and how a set read from another layout is held against them."""

import torch

from sppnet.images import DetectionDataset


def assert_same(
    dataset: DetectionDataset, truth: DetectionDataset, tolerance: float = 1e-3
) -> None:
    """The same names, images and boxes, and nothing left out."""
    assert dataset.names == truth.names
    assert dataset.problems == ()
    assert [image.path.stem for image in dataset] == [image.path.stem for image in truth]
    for image, other in zip(dataset, truth, strict=True):
        assert image.size_hw == other.size_hw
        assert image.labels.equal(other.labels)
        assert torch.allclose(image.boxes, other.boxes, atol=tolerance)
