"""Walks over the options of a command, and compares what two runs of it left."""

import json
from pathlib import Path
from typing import Any

import typer

TIMES = ("seconds", "argv")


def options_of(group: str, command: str) -> list[str]:
    """Names of all options of a command, as its parameters say them; the first spelling of each."""
    from sppnet.app import classify, detect, embed

    app = {"classify": classify, "detect": detect, "embed": embed}[group].app
    whole = typer.main.get_command(app)
    found = getattr(whole, "commands", {command: whole})[command]
    return [each.opts[0] for each in found.params if each.param_type_name == "option"]


def compare_folders(one: Path, two: Path) -> None:
    """Assert that all results are equal, apart from times; caches are not looked at."""
    first, second = _results(one), _results(two)
    assert sorted(first) == sorted(second)
    for name, content in first.items():
        assert content == second[name], name


def _results(folder: Path) -> dict[str, Any]:
    """Content of the JSON, CSV and picture files; the page is made of the JSON beside it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): _without_times(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in paths
        if path.suffix in (".json", ".csv", ".jpg")
    }


def _without_times(value: Any) -> Any:
    """Drop what a clock decides."""
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if not k.startswith(TIMES)}
    return [_without_times(each) for each in value] if isinstance(value, list) else value
