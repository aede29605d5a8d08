"""Rooms import only rooms above them, as CONTRIBUTING.md lists them."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "sppnet"
ROOMS = [
    "config",
    "geometry",
    "storage",
    "images",
    "pooling",
    "backbones",
    "training",
    "evaluation",
    "classification",
    "detection",
    "paper",
    "app",
]
LOOSE = {"errors", "progress", "__init__", "__main__"}


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Names of all modules that a source imports, wherever in it; relative ones made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def upward_imports(source: str, room: str) -> list[str]:
    """Imports of a source in a room that point to a room below it in the list."""
    below = ROOMS[ROOMS.index(room) + 1 :]
    modules = imported_modules(source, f"sppnet.{room}")
    return [name for name in modules if name.startswith("sppnet.") and name.split(".")[1] in below]


def test_rooms_import_only_rooms_above_them() -> None:
    wrong = {
        str(path.relative_to(PACKAGE)): found
        for room in ROOMS
        for path in (PACKAGE / room).rglob("*.py")
        if (found := upward_imports(path.read_text(encoding="utf-8"), room))
    }
    assert wrong == {}


def test_every_folder_is_a_listed_room_and_only_four_modules_are_loose() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE


def test_planted_upward_imports_are_caught() -> None:
    planted = [
        "from sppnet.detection import Detector",
        "import sppnet.detection.detector",
        "def f():\n    from sppnet import detection",
        "from ..detection import Detector",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sppnet.app",
    ]
    for source in planted:
        assert upward_imports(source, "geometry"), source
    assert upward_imports("from sppnet.geometry import nms\nimport torch", "detection") == []
    assert upward_imports("from .boxes import box_iou", "geometry") == []
