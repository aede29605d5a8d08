"""What README.md shows is true: its Python runs, its commands exist and are run by a test."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from readme_blocks import (
    KINDS,
    README,
    Block,
    commands_of,
    fenced_blocks,
    readme_blocks,
    run_python,
)
from sppnet.app.main import build_app, load_command, main

ROOT = README.parent

# Pattern of a whole command -> the file that runs such a command, and words in it that show this.
RUN_BY = {
    r"sppnet --(help|version)": ("tests/test_readme.py", "main("),
    r"sppnet info.*": ("tests/app/test_info.py", '"info"'),
    r"sppnet export .*": ("tests/app/test_export.py", '"export"'),
    r"sppnet reproduce .*": ("tests/paper/test_tables.py", '"reproduce"'),
    r"sppnet benchmark .*": ("tests/app/benchmark/test_job.py", '"benchmark"'),
    r"sppnet check .*": ("tests/app/test_check.py", '"check"'),
    r"sppnet compare .*": ("tests/app/test_evaluate.py", '"compare"'),
    r"sppnet evaluate .*": ("tests/app/test_evaluate.py", '"evaluate"'),
    r"sppnet demo.*": ("tests/end_to_end/test_demo.py", '"demo"'),
    r"sppnet detect train .*": ("tests/end_to_end/test_detect.py", '"train"'),
    r"sppnet detect val .*": ("tests/end_to_end/test_detect.py", '"val"'),
    r"sppnet detect predict .*": ("tests/end_to_end/test_detect.py", '"predict"'),
    r"sppnet classify fit .*": ("tests/app/classify/test_predict.py", '"fit"'),
    r"sppnet classify train .*": ("tests/app/classify/test_predict.py", '"train"'),
    r"sppnet classify val .*": ("tests/app/classify/test_predict.py", '"val"'),
    r"sppnet classify predict .*": ("tests/app/classify/test_predict.py", '"predict"'),
    r"python3? -m venv \.venv": (".ci/run", "-m venv"),
    r"(\.venv/bin/)?(python -m )?pip install (-e )?('\.\[dev\]'|\.)": (".ci/run", "pip install"),
    r"(\.venv/bin/)?pytest -n 2 --dist loadfile": (".ci/run", "pytest -q -n 2 --dist loadfile"),
    r"\.ci/run": (".ci/run", "set -euo pipefail"),
    r"make (setup|check|test|bench|demo)": ("tests/test_readme.py", "test_makefile"),
}

COMMANDS = [command for block in readme_blocks("sh") for command in commands_of(block)]


def shown_command(command: str) -> str:
    """A command without the folder of the virtual environment and without variables before it."""
    return re.sub(r"^([A-Z_]+=\S+ )*(\.venv/bin/)?(?=sppnet\b)", "", command)


def run_by(command: str) -> tuple[str, str] | None:
    """The file that runs a command and the words in it that show this."""
    matches = [
        by for pattern, by in RUN_BY.items() if re.fullmatch(pattern, shown_command(command))
    ]
    return matches[0] if matches else None


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_run_by_a_test(command: str) -> None:
    by = run_by(command)
    assert by, f"no test runs {command!r}: add one to RUN_BY"
    path, words = by
    assert (ROOT / path).is_file()
    assert words in (ROOT / path).read_text(encoding="utf-8")


def parse(command: str) -> None:
    """Read the words of a command as the command line would, but do not run it."""
    words = shlex.split(shown_command(command))[1:]
    if words[0].startswith("-"):
        return
    found, rest = load_command(words[0]), words[1:]
    while getattr(found, "commands", None):
        found, rest = found.commands[rest[0]], rest[1:]
    if not {"-h", "--help"} & set(rest):
        found.make_context("sppnet", rest)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "sppnet " in c and "install" not in c])
def test_command_has_only_words_that_exist(command: str) -> None:
    parse(command)


def test_commands_with_planted_mistakes_are_caught() -> None:
    assert run_by("curl https://example.org/install.sh") is None
    assert run_by("sppnet detect trian DATA --out RUN") is None
    with pytest.raises(typer.BadParameter.__mro__[2]):
        parse("sppnet info --nonsense")
    with pytest.raises(KeyError):
        parse("sppnet detect trian DATA")


def test_blocks_are_of_known_kinds() -> None:
    blocks = fenced_blocks(README.read_text(encoding="utf-8"))
    assert [block for block in blocks if block.kind not in KINDS] == []


@pytest.mark.parametrize("block", readme_blocks("python"), ids=lambda block: f"line{block.line}")
def test_python_runs(block: Block, tmp_path: Path, monkeypatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    run_python(block)


def test_fences_are_read_as_they_are_written() -> None:
    shell = "```sh\nmake demo && ls  # c\nsppnet info \\\n  --json\n# c\n```\n"
    page = f"a\n{shell}```python\nx = 1\n```\n"
    commands, python = fenced_blocks(page)
    assert commands_of(commands) == ["make demo", "ls", "sppnet info --json"]
    assert python == Block("python", "x = 1\n", 8)
    assert run_python(python)["x"] == 1


def test_help_and_version_end_well(capsys) -> None:
    for words in (["--help"], ["--version"]):
        assert main(words) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in typer.main.get_command(build_app()).commands)


def test_makefile_has_the_plain_words_and_ends_in_real_programs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in ("setup", "check", "test", "docs", "bench", "demo"):
        assert re.search(rf"^{word}:.*##", makefile, re.M), word


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    dead = [
        (page.name, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert dead == []


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 120


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 100
