"""Reads the fenced blocks of README.md, so that tests can run what it shows.

Kinds of fences, and what makes sure that they are true:

- ``sh``: commands, one a line; each is in the table `RUN_BY` of ``test_readme.py``.
- ``python``: run by ``test_readme.py`` in a folder that holds ``photo.jpg``.
- ``python demo``: run by the test of the demo in the folder where ``sppnet demo --out demo`` ended.
- ``text``: output and drawings; not checked.
"""

import re
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).parents[1] / "README.md"
KINDS = {"sh", "python", "python demo", "text"}
_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```\s*$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block: its kind, its text, and the line of the README where it begins."""

    kind: str
    text: str
    line: int


def fenced_blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    return [
        Block(found["kind"].strip(), found["text"], page.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(page)
    ]


def readme_blocks(kind: str) -> list[Block]:
    """Blocks of one kind in the README."""
    page = README.read_text(encoding="utf-8")
    return [block for block in fenced_blocks(page) if block.kind == kind]


def commands_of(block: Block) -> list[str]:
    """Commands of a block: lines joined at backslashes, without comments, split at ``&&``."""
    lines = block.text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.sub(r"(^|\s)#.*", "", line).split("&&")]
    return [" ".join(part.split()) for part in parts if part.strip()]


def run_python(block: Block) -> dict[str, object]:
    """Run a Python block as a program of its own and give its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    code = compile("\n" * block.line + block.text, str(README), "exec")
    exec(code, names)
    return names


def run_python_page(page: Path) -> dict[str, object]:
    """Run the ``python`` blocks of a page one after the other, as one program; give its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in fenced_blocks(page.read_text(encoding="utf-8")):
        if block.kind == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
    return names
