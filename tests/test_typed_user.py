"""A user's file that names everything public passes the rules of ``mypy --strict``.

Its wrong calls carry ``type: ignore``, and mypy refuses one that is not needed. The cache is of
``mypy`` in the root, which ``.ci/run`` fills before the tests: seconds instead of a minute.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import sppnet

ROOT = Path(__file__).parents[1]
USER = ROOT / "tests" / "typed_user.py"


def test_mypy_passes_the_file() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy", str(USER)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "Success" in result.stdout


def test_pyright_is_asked_where_everything_is() -> None:
    """`.ci/run` has the node that it needs, and the version is pinned there."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = (line for line in script.splitlines() if "bin/pyright" in line)
    assert line.split()[-1] == USER.relative_to(ROOT).as_posix()
    pinned = json.loads((ROOT / "web" / "package.json").read_text(encoding="utf-8"))
    assert pinned["devDependencies"]["pyright"][0].isdigit()


def test_it_uses_every_public_name() -> None:
    tree = ast.parse(USER.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(sppnet.__all__) - used == set()


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(sppnet.__file__).parent / "py.typed").is_file()


def test_every_name_is_loaded_and_has_words_and_an_example() -> None:
    for name in set(sppnet.__all__) - {"__version__"}:
        words = getattr(sppnet, name).__doc__
        assert words, name
        assert ">>>" in words, name
