"""What the pages of the documentation show is true: their commands and their Python run.

``benchmarks/site_pages.py`` runs them, and says what a page is run in.
"""

import ast
import dataclasses
import inspect
import json
import sys
from pathlib import Path

import pytest

import sppnet
from readme_blocks import commands_of, fenced_blocks
from site_pages import (
    DEEPER,
    DOCS,
    FIRST,
    NOTEBOOKS,
    OTHERWISE,
    PAGES,
    draw_data,
    run_notebook,
    run_page,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages are read in, after the first of them."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert draw_data() == 1
        assert run_page(FIRST) == 5
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != FIRST], ids=lambda p: p.stem)
def test_page_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert run_page(page) > 0


@pytest.mark.slow
@pytest.mark.parametrize("page", DEEPER, ids=lambda page: page.stem)
def test_python_of_a_deeper_page_runs(page: Path, place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    assert run_page(page, commands=False) > 0


def test_pages_that_need_more_than_a_folder_are_run_by_a_test_of_their_own() -> None:
    for page, path in OTHERWISE.items():
        assert (DOCS / page).is_file()
        assert (ROOT / path).is_file(), path
    assert len(DEEPER) >= 9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_python_of_a_page_can_be_read(page: Path) -> None:
    from test_readme import parse

    blocks = fenced_blocks(page.read_text(encoding="utf-8"))
    assert any(block.kind in {"sh", "python"} for block in blocks)
    for block in blocks:
        assert block.kind in {"sh", "python", "text"}
        if block.kind == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and node.module == "sppnet":
                    assert all(hasattr(sppnet, each.name) for each in node.names)
        elif block.kind == "sh":
            for command in commands_of(block):
                parse(command)


def sections(name: str) -> set[str]:
    """What the documentation of a public name has: of itself and of the methods that it adds."""
    thing = getattr(sppnet, name)
    texts = [inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        own = [value for key, value in vars(thing).items() if not key.startswith("_")]
        texts += [inspect.getdoc(value) or "" for value in own if callable(value)]
    text = "\n".join(texts)
    found = {part for part in ("Args:", "Example:", "Raises:", "Source:") if part in text}
    module = sys.modules[thing.__module__]
    if "Source:" in (inspect.getdoc(module) or ""):
        found.add("Source:")
    return found | ({"docstring"} if texts[0] else set())


PUBLIC = sorted(set(sppnet.__all__) - {"__version__"})


FAILS_IN_ITS_PARTS = {"SppNet"}  # only calls what it was given


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_says_what_it_takes_how_it_fails_and_where_it_is_from(name: str) -> None:
    asked = {"docstring", "Args:", "Raises:", "Example:", "Source:"}
    found = sections(name)
    if dataclasses.is_dataclass(getattr(sppnet, name)):
        found.add("Args:")  # a sentence below each field, which test_settings.py walks
    if name in FAILS_IN_ITS_PARTS:
        found.add("Raises:")
    assert asked - found == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_tensors_of_a_public_name_have_their_shapes(name: str) -> None:
    thing = getattr(sppnet, name)
    called = thing.__init__ if inspect.isclass(thing) else thing
    tensors = [
        each
        for each, parameter in inspect.signature(called).parameters.items()
        if str(parameter.annotation).strip("'\"")
        in {"Tensor", "torch.Tensor", "<class 'torch.Tensor'>"}
    ]
    words = inspect.getdoc(thing) or ""
    said = {line.split(":")[0].strip(): line for line in words.splitlines() if ":" in line}
    assert [each for each in tensors if "(" not in said.get(each, "")] == []


def test_every_public_name_has_its_place_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(":::")]
    shown = [line.removeprefix("::: sppnet.") for line in lines]
    assert sorted(shown) == PUBLIC


def test_every_page_is_in_the_contents_of_the_site() -> None:
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(DOCS).as_posix() for path in (*DOCS.rglob("*.md"), *NOTEBOOKS)]
    assert [page for page in pages if page not in contents] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_executed_and_without_errors(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert str(ROOT.parent) not in path.read_text(encoding="utf-8")  # no paths of a machine


QUICK = "layer_and_bins"  # in seconds; the others take a minute


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem == QUICK else [pytest.mark.slow])
        for path in NOTEBOOKS
    ],
)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    assert run_notebook(path, tmp_path) > 0
