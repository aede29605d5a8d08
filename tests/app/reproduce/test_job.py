"""``sppnet reproduce`` records what decides the numbers, under keys that do not change.

Its texts name options that exist.
"""

import ast
import json
import re
from pathlib import Path

import pytest
import typer

import sppnet.app.reproduce
import sppnet.paper
from reproduce_runs import reproduce
from sppnet.app.main import main
from sppnet.paper import TABLES, Resources


def test_keys_of_the_record_stay_those_of_earlier_runs(tmp_path: Path) -> None:
    _, record = reproduce(1, "--windows", 7, "--out", tmp_path)
    effort = record["configuration"]["effort"]
    assert effort["windows"] == 7
    assert set(effort) == {
        "proposals",
        "windows",
        "updates",
        "widths",
        "timed",
        "share",
        "parts",
        "recipes",
    }
    assert json.loads((tmp_path / "run.json").read_text())["configuration"]["effort"] == effort


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
FOLDERS = [Path(module.__file__).parent for module in (sppnet.paper, sppnet.app.reproduce)]


def _options() -> set[str]:
    """Options of the command."""
    command = typer.main.get_command(sppnet.app.reproduce.app)
    return {"--help"} | {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("path", [p for folder in FOLDERS for p in folder.glob("*.py")], ids=str)
def test_texts_name_options_that_the_command_has(path: Path) -> None:
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docs = {
        ast.get_docstring(each, clean=False)
        for each in ast.walk(tree)
        if isinstance(each, documented)
    }
    texts = [each.value for each in ast.walk(tree) if isinstance(each, ast.Constant)]
    said = [text for text in texts if isinstance(text, str) and text not in docs]
    assert set(OPTION.findall(" ".join(said))) <= _options()


def test_a_planted_option_is_caught() -> None:
    assert OPTION.findall("let --backbone NAME; --no-such fetches") == ["--backbone", "--no-such"]
    assert "--no-such" not in _options()


@pytest.mark.parametrize("number", [n for n in TABLES if n != 1])
def test_what_is_said_when_nothing_is_there_names_options_that_help(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    code, record = reproduce(number, "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 4
    shown = capsys.readouterr()
    said = "\n".join([shown.out, shown.err, *record["not_measured"]])
    assert "needs " in said
    assert set(OPTION.findall(said)) <= _options()
    if number not in (2, 3, 4):  # --train trains for no other table
        assert " or --train" not in said


def test_what_is_there_is_not_called_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    words = ["--data", str(tmp_path / "data"), "--dry-run", "--out", str(tmp_path / "out")]
    assert main(["reproduce", "7", *words, "--backbone", "small5"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[1:]] == ["there", "there"]
    assert main(["reproduce", "7", *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[1:]] == ["there", "missing"]
    assert TABLES[7].missing(Resources(tmp_path)) == [need.text for need in TABLES[7].needs]
