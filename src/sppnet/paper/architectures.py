"""Table 1: the four networks and the sides of their maps."""

from collections.abc import Iterator

from sppnet.classification.network import layer_table
from sppnet.paper.printed import NETWORKS, TABLE_1
from sppnet.paper.results import Finding, Measured
from sppnet.paper.slots import BACKBONES
from sppnet.paper.supplies import Supplies
from sppnet.progress import Track

SIDE = 224
BEFORE_POOLING = {("ZF-5", "conv2")}  # printed as 27, which the map has before its pooling only
NOTE = "conv2 of ZF-5 is the map before its pooling, as the printed number must be; after it 13"


def measure_table_1(supplies: Supplies, track: Track) -> Iterator[Finding]:
    """Give the side of the map after each convolution stage of each network."""
    del supplies
    for network in track(NETWORKS, "networks", total=len(NETWORKS)):
        sides = stage_sides(BACKBONES[network])
        for row in TABLE_1.rows:
            if TABLE_1.value(row, network) is None:
                continue
            before, after = sides[row]
            is_before = (network, row) in BEFORE_POOLING
            value = before if is_before else after
            yield Measured(row, network, float(value), differs=NOTE if is_before else "")


def stage_sides(backbone: str, side: int = SIDE) -> dict[str, tuple[int, int]]:
    """Sides of the map after each convolution, and after the pooling that belongs to it.

    Args:
        backbone: Name of a trunk, such as ``"zf5"``.
        side: Pixels of the square image.

    Example:
        >>> stage_sides("zf5")["conv1"]
        (110, 55)
    """
    sides: dict[str, tuple[int, int]] = {}
    stage = ""
    for row in layer_table(backbone, (side,)):
        cells = row.cells[0]
        if row.layer.startswith("conv"):
            stage = row.layer
            sides[stage] = (cells, cells)
        elif stage and row.layer.startswith("pool"):
            sides[stage] = (sides[stage][0], cells)
    return sides
