"""Cells of proposals, worked out in the form that an exporter can follow."""

import pytest
import torch

from sppnet.detection.onnx.regions import project_to_free_grid
from sppnet.geometry import Projection, project_boxes

PROJECTIONS = [
    Projection.released(),
    Projection.paper_v4(),
    Projection.released(stride=8, centre=3.5),
    Projection(16, -15.5, 0),
]


@pytest.mark.parametrize("projection", PROJECTIONS, ids=str)
@pytest.mark.parametrize("grid_hw", [(1, 1), (1, 40), (38, 50)])
def test_cells_are_those_of_the_projection(projection: Projection, grid_hw) -> None:
    draw = torch.Generator().manual_seed(0)
    corners = torch.randint(-400, 4000, (3000, 2, 2), generator=draw).double() / 4
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    boxes[:600, 2:] = boxes[:600, :2] + boxes[:600, 2:].remainder(12)  # proposals of few pixels
    rows = project_to_free_grid(boxes, projection, torch.zeros(1, 1, *grid_hw))
    assert rows[:, 0].unique().tolist() == [0]
    assert torch.equal(rows[:, 1:], project_boxes(boxes, projection, grid_hw))
