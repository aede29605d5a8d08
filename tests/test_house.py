"""Files, folders and chains of imports stay within their limits; each has a planted violation."""

from pathlib import Path

import pytest

from conftest import BEGUN_FIRST
from house import LONGEST_CHAIN, MOST_FILES, MOST_LINES, MOST_MODULES, House
from planted_house import plant

ROOT = Path(__file__).parents[1]


HOUSE = House(ROOT / "src" / "sppnet", ROOT / "tests")


def test_the_package_is_small_enough() -> None:
    assert len(HOUSE.modules) <= MOST_MODULES


def test_no_folder_holds_too_many_files() -> None:
    crowded = {k: n for k, n in HOUSE.files_per_folder.items() if n > MOST_FILES}
    assert crowded == {}


def test_no_file_is_too_long() -> None:
    assert {path: n for path, n in HOUSE.lines.items() if n > MOST_LINES} == {}


def test_a_small_file_has_a_second_importer_or_a_reason() -> None:
    assert HOUSE.lonely == []


def test_no_chain_inside_a_room_is_too_long() -> None:
    long = {k: c for k, c in HOUSE.chains.items() if len(c) > LONGEST_CHAIN}
    assert long == {}


def test_there_is_no_circle() -> None:
    assert HOUSE.circles == []


def test_every_folder_says_what_lies_in_it() -> None:
    silent = [
        path
        for path, source in HOUSE.sources.items()
        if path.name == "__init__.py" and not source.startswith('"""')
    ]
    assert silent == []


@pytest.mark.parametrize("name", BEGUN_FIRST)
def test_files_of_tests_that_are_begun_first_are_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_a_crowded_folder_is_caught(tmp_path: Path) -> None:
    files = {f"geometry/part{number}.py": "" for number in range(13)}
    assert plant(tmp_path, files).files_per_folder["geometry"] == 13


def test_a_long_chain_is_caught(tmp_path: Path) -> None:
    files = {f"images/a{n}.py": f"from sppnet.images.a{n + 1} import x" for n in range(6)}
    found = plant(tmp_path, {**files, "images/a6.py": "x = 1"})
    assert len(found.chains["images"]) == 7


@pytest.mark.parametrize(
    "line",
    [
        "from sppnet.images import a",
        "from sppnet.images.a import x",
        "import sppnet.images.a",
        "from .a import x",
        "from . import a",
    ],
)
def test_a_circle_is_caught_however_it_is_written(tmp_path: Path, line: str) -> None:
    found = plant(tmp_path, {"images/a.py": "from sppnet.images.b import y", "images/b.py": line})
    assert found.circles == [[Path("images/a.py"), Path("images/b.py")]]


def test_a_lonely_small_file_is_caught_and_a_reason_heard(tmp_path: Path) -> None:
    user = "from sppnet.images.small import x\nfrom sppnet.images.excused import y\n"
    excused = '"""A file of its own: the compiler needs it so."""\ny = 1\n'
    files = {"images/small.py": "x = 1\n", "images/excused.py": excused}
    found = plant(tmp_path, {**files, "images/user.py": user + "\n" * 80})
    assert found.lonely == [Path("images/small.py")]


def test_imports_that_wait_do_not_lengthen_a_chain(tmp_path: Path) -> None:
    late = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sppnet.images.b import x\n"
    )
    later = "def f():\n    from sppnet.images.b import x\n"
    found = plant(tmp_path, {"images/a.py": late + later, "images/b.py": ""})
    assert len(found.chains["images"]) == 1


def test_figures_of_a_known_house(tmp_path: Path) -> None:
    source = '''"""A module."""

from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Area of (K, 4) boxes.

    Raises:
        ValueError: If there are none.
    """
    if not len(boxes):
        raise ValueError("boxes must not be empty")
    # a comment

    return boxes


def silent(boxes: Tensor, a, b) -> None:
    """Nothing of shapes."""
    raise ValueError("planted")
'''
    figures = plant(tmp_path, {"geometry/boxes.py": source}).figures()
    assert figures["modules (without `__init__`)"] == "1"
    assert figures["code lines of a function, median / p90 / max"] == "2 / 1 / 3"
    assert figures["parameters of a function, p90 / max"] == "1 / 3"
    assert figures["documentation of tensors that names a shape"] == "1 of 2 (50 %)"
    assert figures["public functions that raise and say so"] == "1 of 2 (50 %)"
