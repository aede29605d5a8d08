"""Rooms import only rooms on the floors under them (``FLOORS`` in ``benchmarks/house.py``)."""

from pathlib import Path

import pytest

from house import FLOORS, House
from planted_house import plant

ROOT = Path(__file__).parents[1]
HOUSE = House(ROOT / "src" / "sppnet")
ROOMS = {room for floor in FLOORS for room in floor}
LOOSE = {"errors", "progress", "__init__", "__main__"}


def test_no_room_imports_one_above_it() -> None:
    assert HOUSE.arrows_up == []


def test_every_folder_is_a_room_and_only_four_modules_are_loose() -> None:
    assert {path.parts[0] for path in HOUSE.sources if len(path.parts) > 1} <= ROOMS
    assert {path.stem for path in HOUSE.sources if len(path.parts) == 1} == LOOSE


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("geometry", "from sppnet.detection.detector import Detector"),
        ("detection", "from sppnet.classification import a"),
        ("classification", "import sppnet.detection.detector"),
        ("pooling", "from sppnet import __version__"),
        ("pooling", "def f():\n    from sppnet.images import a"),
        ("storage", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sppnet.app.a"),
        ("training", "from ..evaluation import a"),
    ],
)
def test_an_arrow_upwards_is_caught(tmp_path: Path, room: str, line: str) -> None:
    files = {f"{place}/a.py": "" for place in ("classification", "images", "app", "evaluation")}
    found = plant(tmp_path, {**files, "detection/detector.py": "", f"{room}/planted.py": line})
    assert found.arrows_up
    assert all(arrow.startswith(f"{room}/planted.py") for arrow in found.arrows_up)


def test_arrows_downwards_are_left_in_peace(tmp_path: Path) -> None:
    files = {"geometry/boxes.py": "", "detection/a.py": "from sppnet.geometry.boxes import iou"}
    found = plant(tmp_path, {**files, "app/main.py": "from sppnet import __version__"})
    assert found.arrows_up == []
