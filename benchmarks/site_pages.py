"""Execute every page and notebook of the documentation and say how many ran, and how long it took.

    python benchmarks/site_pages.py
    python benchmarks/site_pages.py --only claims --keep   # and write what the notebook shows

A page of ``docs/start`` or ``docs/tasks`` is one script: its ``sh`` and ``python`` blocks run in
their order, in a folder with ``photos`` (boxes) and ``folders`` (a folder per class), which
``docs/index.md`` draws, and with the model of the first page. Of the other pages the ``python``
blocks run, save those that `OTHERWISE` says are run by a test of their own.
"""

import argparse
import contextlib
import io
import os
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nbclient
import nbformat

from sppnet.app.main import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tests"))

from readme_blocks import commands_of, fenced_blocks  # noqa: E402 - it lies among the tests

INDEX = DOCS / "index.md"  # draws the data
FIRST = DOCS / "start" / "detect.md"
PAGES = sorted([*(DOCS / "start").glob("*.md"), *(DOCS / "tasks").glob("*.md")])
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
LONGEST = 3600  # seconds of a cell, on a machine that does other work
# Their blocks need something that is not here, such as a server; the test that runs them.
OTHERWISE = {
    "export.md": "tests/app/test_export.py",
    "keras.md": "tests/pooling/test_keras_layer.py",
    "label_studio.md": "tests/labelling/test_cvat.py",
    "serving.md": "tests/server/test_serve_app.py",
}
DEEPER = [
    page
    for page in sorted(DOCS.glob("*.md"))
    if page.name not in OTHERWISE
    and page != INDEX
    and any(block.kind == "python" for block in fenced_blocks(page.read_text(encoding="utf-8")))
]


def run_page(page: Path, *, commands: bool = True) -> int:
    """Run the blocks of a page in their order, in the working folder; how many ran.

    Args:
        page: The page.
        commands: Run the ``sh`` blocks, too; each must be of commands of ``sppnet``.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for block in fenced_blocks(page.read_text(encoding="utf-8")):
        if block.kind == "sh" and commands:
            for command in commands_of(block):
                program, *words = shlex.split(command)
                if program != "sppnet":
                    raise ValueError(f"{page.name} must have commands of sppnet, got {command!r}")
                code = main(words)
                if code not in (0, 3):  # 3: some numbers of a table are not there
                    raise RuntimeError(f"{page.name}: {command!r} ended with {code}")
                ran += 1
        elif block.kind == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
            ran += 1
        elif commands and block.kind != "text":
            raise ValueError(f"{page.name}, line {block.line}, is {block.kind}, not text")
    return ran


def draw_data() -> int:
    """Draw what the pages speak of into the working folder, as the first page says."""
    return run_page(INDEX)


def run_notebook(path: Path, folder: Path, *, keep: bool = False) -> int:
    """Execute a notebook in a folder; how many cells of code ran.

    Args:
        path: The notebook.
        folder: Where it runs.
        keep: Write it with what it shows.
    """
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    nbclient.NotebookClient(
        notebook, timeout=LONGEST, resources={"metadata": {"path": str(folder)}}
    ).execute()
    if keep:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # hours and minutes
        nbformat.write(notebook, path)
    return len(code)


def seconds_of_processor() -> float:
    """Seconds that this process and those that it has waited for had of a processor."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def timed(name: str, run: Callable[[], int]) -> tuple[int, float, float]:
    """Run one of them without its output, and print its row."""
    begin, spent = time.perf_counter(), seconds_of_processor()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ran = run()
    seconds, spent = time.perf_counter() - begin, seconds_of_processor() - spent
    print(f"| {name} | {ran} | {seconds:.1f} | {spent:.1f} |", flush=True)
    return ran, seconds, spent


def run_all(only: Sequence[str], keep: bool) -> None:
    """Run all of them, or those of some names, and print the table."""
    print("| page | blocks, commands or cells | seconds | of the processor |", flush=True)
    print("| --- | --- | --- | --- |", flush=True)
    rows: list[tuple[int, float, float]] = []
    begin = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            rows.append(timed("index.md", draw_data))
            pages = [page for page in [FIRST, *PAGES] if not only or page.stem in only]
            if pages or any(page.stem in only for page in DEEPER):
                pages = [FIRST, *pages]  # the others use its model
            for page in dict.fromkeys(pages):
                name = page.relative_to(DOCS).as_posix()
                rows.append(timed(name, lambda page=page: run_page(page)))
            for page in DEEPER:
                if not only or page.stem in only:
                    rows.append(timed(page.name, lambda page=page: run_page(page, commands=False)))
            for path in NOTEBOOKS:
                if not only or path.stem in only:
                    run = lambda path=path: run_notebook(path, Path(place), keep=keep)  # noqa: E731
                    rows.append(timed(f"notebooks/{path.name}", run))
        finally:
            os.chdir(begin)
    blocks, seconds, spent = (sum(column) for column in zip(*rows, strict=True))
    print(f"| {len(rows)}, none failed | {blocks} | {seconds:.0f} | {spent:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some of them")
    parser.add_argument("--keep", action="store_true", help="write the executed notebooks")
    arguments = parser.parse_args()
    run_all(arguments.only, arguments.keep)
