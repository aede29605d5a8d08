"""What works for torch's own pooling works for ours; docs/pooling.md has the table and examples."""

from pathlib import Path

import pytest

from readme_blocks import run_python_page
from test_docs import rows
from torch_behaviours import BEHAVIOURS, MODULES, try_behaviour

PAGE = Path(__file__).parents[2] / "docs" / "pooling.md"
# compilers and exporters, which take seconds each; test_compile.py, test_tracers.py and onnx/ do it
SLOW = ("compile", "export", "jit")
QUICK = [name for name in BEHAVIOURS if not any(word in name for word in SLOW)]

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.mark.parametrize("name", QUICK)
def test_a_behaviour_is_as_the_table_says(name: str) -> None:
    table = [row for row in rows(PAGE.read_text(encoding="utf-8")) if len(row) == 5]
    (row,) = (row for row in table if row[0] == name)
    found = {module: try_behaviour(name, module) for module in MODULES}
    assert ["no" if why else "yes" for why in found.values()] == row[1:], found


def test_the_table_is_complete_and_ours_can_what_theirs_can() -> None:
    table = {row[0]: row[1:] for row in rows(PAGE.read_text(encoding="utf-8")) if len(row) == 5}
    assert set(table) - {""} == set(BEHAVIOURS)
    worse = [name for name, row in table.items() if row[:2] == ["yes", "no"]]
    assert worse == []


def test_the_code_of_the_page_runs() -> None:
    names = run_python_page(PAGE)
    assert names["scores"].shape == (2, 10)
    assert names["loss"].isfinite()
