"""docs/coming_from.md: its code runs, and its table counts what each form of the layer gives."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from readme_blocks import fenced_blocks, run_python_page
from sppnet import pool_boxes, spatial_pyramid_pool
from test_docs import rows

PAGE = Path(__file__).parents[1] / "docs" / "coming_from.md"
TEXT = PAGE.read_text(encoding="utf-8")
LEVELS = (1, 2, 3, 6)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return run_python_page(PAGE)


def outcome(form: Callable[[Tensor], Tensor], side: int) -> str:
    """What a form gives for a map, beside what the definition gives."""
    features = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    ours = spatial_pyramid_pool(features, LEVELS)
    try:
        theirs = form(features)
    except (RuntimeError, ValueError, ZeroDivisionError):
        return "an error"
    if theirs.shape != ours.shape:
        return "another length"
    return "the same vector" if torch.equal(theirs, ours) else "as long, other numbers"


def test_the_table_counts_what_the_forms_of_the_page_give(names: dict[str, Any]) -> None:
    def padded(features: Tensor) -> Tensor:
        return names["padded_form"](features, 2, features.shape[2:], LEVELS)

    def rounded(features: Tensor) -> Tensor:
        last = names["tensorflow_form"](features.permute(0, 2, 3, 1).numpy())
        parts = torch.from_numpy(last).split([3 * n * n for n in LEVELS], 1)
        return torch.cat([each.view(2, -1, 3).transpose(1, 2).flatten(1) for each in parts], 1)

    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "a row of `AdaptiveMaxPool2d`": names["adaptive_form"],
        "window ceil(a / n), stride floor(a / n)": names["window_form"],
        "window and stride ceil(a / n), padded (`out_pool_size`)": padded,
        "TensorFlow, bins rounded (NHWC)": rounded,
        "ours": names["pool"],
    }
    header, *table = [row for row in rows(TEXT) if len(row) == 5]
    assert [row[0] for row in table] == list(forms)
    counted = {}
    for name, form in forms.items():
        counts = Counter(outcome(form, side) for side in range(1, 41))
        counted[name] = [str(counts[kind]) for kind in header[1:]]
    assert {row[0]: row[1:] for row in table} == counted


def test_roi_pool_is_ours_on_cells_and_reaches_beyond_a_box_elsewhere() -> None:
    from torchvision.ops import roi_pool

    features = torch.rand(1, 4, 20, 20)
    draw = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 10, (50, 2), generator=draw)
    sizes = torch.randint(1, 11, (50, 2), generator=draw)
    cells = torch.cat([torch.zeros(50, 1), corners, corners + sizes], 1)
    theirs = roi_pool(features, cells - torch.tensor([0.0, 0, 0, 1, 1]), 3, 1.0).flatten(1)
    scaled = cells * torch.tensor([1.0, 8, 8, 8, 8])
    assert torch.equal(pool_boxes(features, scaled, 3, spatial_scale=1 / 8), theirs)
    half = torch.tensor([[0.0, 20, 20, 60, 60]])  # cells 2.5 to 7.5: centres of 3 to 6 are inside
    assert (
        pool_boxes(features, half, 1, spatial_scale=1 / 8)[0, 0] == features[0, 0, 3:7, 3:7].max()
    )
    # 2.5 and 7.5 are rounded to 3 and 8, and cell 8 counts
    assert roi_pool(features, half, 1, 1 / 8)[0, 0, 0, 0] == features[0, 0, 3:9, 3:9].max()


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {block.kind for block in fenced_blocks(TEXT)} == {"python", "sh"}
