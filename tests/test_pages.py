"""What the pages of the documentation show is true: their commands and their Python run.

A page of ``docs/start`` or ``docs/tasks`` is one script: its ``sh`` and ``python`` blocks run in
their order, in a folder with ``photos`` (boxes) and ``folders`` (a folder per class), both drawn,
and with the model of the first page.
"""

import ast
import dataclasses
import inspect
import json
import shlex
import sys
from pathlib import Path

import pytest

import sppnet
from readme_blocks import commands_of, fenced_blocks
from sppnet.app.main import main
from sppnet.images import draw_class_folders, draw_detection_set

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*(DOCS / "start").glob("*.md"), *(DOCS / "tasks").glob("*.md")])
FIRST = DOCS / "start" / "detect.md"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def run_page(page: Path) -> int:
    """Run the blocks of a page; how many ran."""
    names: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for block in fenced_blocks(page.read_text(encoding="utf-8")):
        if block.kind == "sh":
            for command in commands_of(block):
                program, *words = shlex.split(command)
                assert program == "sppnet", command
                assert main(words) in (0, 3), command  # 3: some numbers of a table are not there
                ran += 1
        elif block.kind == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
            ran += 1
        else:
            assert block.kind == "text", f"{page.name}, line {block.line}: {block.kind}"
    return ran


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages are read in, after the first of them."""
    folder = tmp_path_factory.mktemp("pages")
    draw_detection_set(folder / "photos", count=14, seed=0)
    draw_class_folders(folder / "folders", per_class=6, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_page(FIRST) == 5
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != FIRST], ids=lambda p: p.stem)
def test_page_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert run_page(page) > 0


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


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": tmp_path}}
    ).execute()
