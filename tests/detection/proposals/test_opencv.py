"""What OpenCV is given: colours in its order, thin edges and their directions."""

import types

import cv2
import numpy as np
import torch

from sppnet.detection import propose
from sppnet.detection.proposals.propose import _edges


def test_mirrored_colours_are_not_swapped(monkeypatch) -> None:
    # OpenCV reads blue, green, red: the array handed over must begin with the blue channel
    photo = torch.rand(3, 40, 50, generator=torch.manual_seed(0))
    seen = []

    class Search:
        def setBaseImage(self, pixels):
            seen.append(pixels.copy())

        def switchToSelectiveSearchFast(self):
            pass

        def process(self):
            return [[0, 0, 9, 9]]

    part = types.SimpleNamespace(createSelectiveSearchSegmentation=Search)
    monkeypatch.setattr(cv2.ximgproc, "segmentation", part)
    propose(photo, "selective_search")
    blue = (photo[2] * 255).round().to(torch.uint8)
    assert torch.equal(torch.from_numpy(seen[0][:, :, 0]), blue)


def test_edges_are_thin_and_their_directions_those_of_the_gradient() -> None:
    image = torch.zeros(3, 60, 80)
    image[:, :, 40:] = 1
    strength, direction = _edges(image)
    assert (strength[10:50] > 0).sum(1).max() <= 2  # one or two columns beside the step
    assert set(np.nonzero(strength[30])[0]) <= {39, 40}
    assert np.allclose(np.minimum(direction[30, 38:42], np.pi - direction[30, 38:42]), 0, atol=1e-5)
